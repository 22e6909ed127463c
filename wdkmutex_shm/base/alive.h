/* Who is alive: what the kernel itself says of a process, and when the process began.
 *
 * A process is dead when the kernel says so: no process has its pid, or all of its threads have ended. That a file in
 * /proc is not there proves nothing: it may be hidden (hidepid, ProtectProc), or /proc may be another namespace's. Start
 * times tell a process from a later one of the same pid; `identity.py` says when they can be compared.
 */
#ifndef WDKM_ALIVE_H
#define WDKM_ALIVE_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

/* In a start time: it is counted from an instant that other processes may not know, and so is compared with none. */
#define WDKM_START_OF_ITS_OWN (UINT64_C(1) << 37)
/* Start times have one bit more than that, wherever they are stored beside a pid. */
#define WDKM_START_MASK (WDKM_START_OF_ITS_OWN - 1)

#define WDKM_ALIVE 0
#define WDKM_GONE 1
#define WDKM_CANNOT_ASK 2 /* it exists, and whether it has ended cannot be asked for */

/* Whether the process has no such thread. tgkill(2) and not kill(2), which takes the id of any thread for a process's. */
static int wdkm_thread_gone(uint32_t pid, uint32_t tid) {
    int saved = errno;
    int gone = pid == 0 || tid == 0 || (syscall(SYS_tgkill, (long)pid, (long)tid, 0L) && errno == ESRCH);
    errno = saved;
    return gone;
}

static int wdkm_process_gone(uint32_t pid) {
    int saved = errno, fd, state = WDKM_CANNOT_ASK;
    if (wdkm_thread_gone(pid, pid)) return WDKM_GONE;
    fd = (int)syscall(SYS_pidfd_open, (long)pid, 0L);
    if (fd >= 0) {
        struct pollfd ended = {.fd = fd, .events = POLLIN};
        int found = poll(&ended, 1, 0);
        if (found == 0) state = WDKM_ALIVE;
        if (found == 1 && ended.revents & POLLIN) state = WDKM_GONE;
        close(fd);
    } else if (errno == ESRCH) {
        state = WDKM_GONE;
    }
    errno = saved;
    return state;
}

static ssize_t wdkm_read_text(const char *path, char *text, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length;
    if (fd < 0) return -1;
    length = read(fd, text, size - 1);
    close(fd);
    if (length >= 0) text[length] = 0;
    return length;
}

/* By how many ticks this process's time namespace moves start times. 0 if that cannot be told exactly, -1 for an error. */
static int wdkm_clock_shift(int64_t *ticks) {
    char mine[32] = {0}, childrens[32] = {0}, text[256];
    const char *at;
    long long seconds, nanoseconds, tick = 1000000000 / sysconf(_SC_CLK_TCK);
    *ticks = 0;
    if (readlink("/proc/self/ns/time", mine, sizeof mine - 1) < 0) return errno == ENOENT; /* none in this kernel */
    if (!strcmp(mine, "time:[4026531834]")) return 1; /* the first one, of all machines */
    /* The file tells those of the namespace that children will be in. */
    if (readlink("/proc/self/ns/time_for_children", childrens, sizeof childrens - 1) < 0 || strcmp(mine, childrens)) return 0;
    if (wdkm_read_text("/proc/self/timens_offsets", text, sizeof text) < 0) return -1;
    at = strstr(text, "boottime");
    if (!at || sscanf(at, "boottime %lld %lld", &seconds, &nanoseconds) != 2 || nanoseconds % tick) return 0;
    *ticks = seconds * (1000000000 / tick) + nanoseconds / tick;
    return 1;
}

/* When a process began, in clock ticks since boot (proc(5), field 22); 0 and errno if that cannot be read. The same number
 * in all time namespaces, or else marked with WDKM_START_OF_ITS_OWN. */
static uint64_t wdkm_start_of(uint32_t pid) {
    char path[32], text[1024], *at;
    int64_t shift, start;
    int field, told = wdkm_clock_shift(&shift);
    if (pid == (uint32_t)getpid()) /* which is found in another namespace's /proc, too */
        snprintf(path, sizeof path, "/proc/self/stat");
    else
        snprintf(path, sizeof path, "/proc/%u/stat", pid);
    if (told < 0 || wdkm_read_text(path, text, sizeof text) < 0) return 0;
    at = strrchr(text, ')'); /* the command may hold spaces and parentheses */
    for (field = 2; at && field < 22; ++field) at = strchr(at + 1, ' ');
    if (!at) {
        errno = ESRCH;
        return 0;
    }
    start = strtoll(at + 1, NULL, 10);
    if (told && start > shift) return (uint64_t)(start - shift) & WDKM_START_MASK;
    return ((uint64_t)start & WDKM_START_MASK) | WDKM_START_OF_ITS_OWN;
}

/* As before, of the calling process, whose pid it is. */
static uint64_t wdkm_my_start(uint32_t pid) {
    static uint32_t known = 0;
    static uint64_t start;
    if (known != pid || start == 0) {
        start = wdkm_start_of(pid);
        known = pid;
    }
    return start;
}

#endif
