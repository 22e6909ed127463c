/* Leads a traced, stopped process from instruction to instruction, see ptrace(2). Compiled and loaded by stepping.py.
 *
 * The victim marks the beginning and the end of what is looked at by stopping itself with SIGSTOP. A place in between is
 * told by the system calls made since the beginning, then by how often an address was come to, then by single steps: so it
 * is reached from system call to system call, then with a breakpoint, and only the rest instruction by instruction.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__x86_64__)
#define PC rip
#define CALL 0x050f
#define CALL_MASK 0xffff
#define BREAK 0xcc
#define BREAK_MASK 0xff
#define BREAK_LENGTH 1 /* the program counter is behind it then */
#elif defined(__aarch64__)
#define PC pc
#define CALL 0xd4000001
#define CALL_MASK 0xffffffff
#define BREAK 0xd4200000
#define BREAK_MASK 0xffffffff
#define BREAK_LENGTH 0
#else
#error "only x86-64 and aarch64"
#endif

enum { ARRIVED = 0, AT_END = 1, ENDED = 2, ELSEWHERE = 3 }; /* else a negative errno */
enum { IS_CALL = 1, HAS_CHANGED = 2 };

/* What others can see change: some shared memory, as this process has it mapped, and the victim's list of robust mutexes,
 * which the kernel walks when the victim dies. */
typedef struct {
    const unsigned char *shared;
    unsigned char *last; /* as long as `shared` */
    size_t size;
    void *head; /* of the list, in the victim */
    uint64_t last_head[3];
} watch;

static int next_stop(pid_t pid, long request, int *status) {
    long signal = 0;
    for (;;) {
        if (ptrace(request, pid, 0, (void *)signal) != 0) return errno == ESRCH ? ENDED : -errno;
        while (waitpid(pid, status, __WALL) < 0)
            if (errno != EINTR) return -errno;
        if (!WIFSTOPPED(*status)) return ENDED;
        signal = WSTOPSIG(*status);
        if (signal == SIGSTOP) return AT_END;
        if (signal == SIGTRAP || signal == (SIGTRAP | 0x80)) return ARRIVED;
        /* Any other signal is the victim's own affair. */
    }
}

static int registers(pid_t pid, long request, struct user_regs_struct *found) {
    struct iovec io = {found, sizeof *found};
    return ptrace(request, pid, (void *)NT_PRSTATUS, &io) != 0 ? -errno : 0;
}

static int changed(pid_t pid, watch *w) {
    uint64_t head[3] = {0, 0, 0};
    struct iovec here = {head, sizeof head}, there = {w->head, sizeof head};
    int found;
    if (w->head) process_vm_readv(pid, &here, 1, &there, 1, 0);
    found = memcmp(head, w->last_head, sizeof head) != 0 || memcmp(w->last, w->shared, w->size) != 0;
    if (found) {
        memcpy(w->last_head, head, sizeof head);
        memcpy(w->last, w->shared, w->size);
    }
    return found;
}

/* Wait until `pid`, which runs, stops: AT_END at a mark. From the first mark on it dies with its tracer. */
int wdkm_await(pid_t pid) {
    int status;
    while (waitpid(pid, &status, __WALL) < 0)
        if (errno != EINTR) return -errno;
    if (!WIFSTOPPED(status)) return ENDED;
    if (ptrace(PTRACE_SETOPTIONS, pid, 0, (void *)(long)(PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL)) != 0) return -errno;
    return WSTOPSIG(status) == SIGSTOP ? AT_END : ARRIVED;
}

/* Let it run, and do not wait. */
int wdkm_let_go(pid_t pid) { return ptrace(PTRACE_CONT, pid, 0, 0) != 0 ? -errno : 0; }

/* Let it run until `calls` more system calls were made. */
int wdkm_leap(pid_t pid, uint64_t calls) {
    int status, code;
    for (calls *= 2; calls; --calls)
        if ((code = next_stop(pid, PTRACE_SYSCALL, &status)) != ARRIVED) return code;
    return ARRIVED;
}

/* Execute `steps` instructions. */
int wdkm_step(pid_t pid, uint64_t steps) {
    int status, code;
    for (; steps; --steps)
        if ((code = next_stop(pid, PTRACE_SINGLESTEP, &status)) != ARRIVED) return code;
    return ARRIVED;
}

/* Let it run until it is about to execute the instruction at `where` for the `times`th time, counting from now. ELSEWHERE
 * when it makes a system call before that. */
int wdkm_run_to(pid_t pid, uint64_t where, uint64_t times) {
    struct user_regs_struct r;
    long word;
    int status, code;
    for (;;) {
        if ((code = registers(pid, PTRACE_GETREGSET, &r)) != 0) return code;
        if (r.PC == where) {
            if (--times == 0) return ARRIVED;
            if ((code = wdkm_step(pid, 1)) != ARRIVED) return code;
            continue;
        }
        errno = 0;
        word = ptrace(PTRACE_PEEKTEXT, pid, (void *)where, 0);
        if (errno != 0) return -errno;
        if (ptrace(PTRACE_POKETEXT, pid, (void *)where, (void *)((word & ~(long)BREAK_MASK) | BREAK)) != 0) return -errno;
        if ((code = next_stop(pid, PTRACE_SYSCALL, &status)) == ENDED) return code;
        if (ptrace(PTRACE_POKETEXT, pid, (void *)where, (void *)word) != 0) return -errno;
        if (code != ARRIVED) return code;
        if (WSTOPSIG(status) != SIGTRAP) return ELSEWHERE;
        if ((code = registers(pid, PTRACE_GETREGSET, &r)) != 0) return code;
        r.PC -= BREAK_LENGTH;
        if ((code = registers(pid, PTRACE_SETREGSET, &r)) != 0) return code;
    }
}

/* Step up to the next mark. For each instruction, its address and whether it is a system call and whether the watch had
 * changed after it are noted. AT_END, or ARRIVED when there was room for no more. */
int wdkm_trace(pid_t pid, watch *w, uint64_t *where, unsigned char *flags, size_t room, size_t *count) {
    struct user_regs_struct r;
    int status, code, call;
    long word;
    size_t size;
    w->head = NULL;
    syscall(SYS_get_robust_list, pid, &w->head, &size);
    changed(pid, w);
    for (*count = 0; *count < room; ++*count) {
        if ((code = registers(pid, PTRACE_GETREGSET, &r)) != 0) return code;
        errno = 0;
        word = ptrace(PTRACE_PEEKTEXT, pid, (void *)r.PC, 0);
        if (errno != 0) return -errno;
        call = ((uint32_t)word & CALL_MASK) == CALL;
        if ((code = next_stop(pid, PTRACE_SINGLESTEP, &status)) != ARRIVED) return code;
        where[*count] = r.PC;
        flags[*count] = (call ? IS_CALL : 0) | (changed(pid, w) ? HAS_CHANGED : 0);
    }
    return ARRIVED;
}
