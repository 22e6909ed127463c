/* The wait board: who waits for which lock, for everybody to read.
 *
 * One segment for each user and pid namespace, shared by all processes of that user. Made by the first thread that has
 * waited for a millisecond; nobody looks at it before that, so neither an uncontended lock nor a short wait pays for it.
 * Nothing depends on it: where it cannot be had, locks work, and nobody is told who waits.
 *
 * A record is claimed by a compare-and-swap of its owner, within WDKM_WINDOW places of where the thread's id says, so
 * that a thread's record is found without looking at all of them. `sequence` is odd while the record means something; a
 * reader copies it and looks at the sequence again. A killed process leaves its records; they carry its start time, so
 * that readers can tell, and their places are taken again. Whatever bytes are found in here, nothing is read through
 * them but other shared memory, by name, with the checks that any segment gets.
 */
#ifndef WDKM_BOARD_H
#define WDKM_BOARD_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "alive.h"
#include "slot.h"

#define WDKM_BOARD_MAGIC UINT64_C(0x3144524f424d4b57) /* "WKMBORD1" */
#define WDKM_BOARD_LAYOUT 3u
#define WDKM_BOARD_HEADER 4096
#define WDKM_RECORDS 2048u
#define WDKM_WINDOW 64u
#define WDKM_SEGMENT_NAME 72
#define WDKM_TALES 7u
#define WDKM_TALE 508

typedef struct {
    uint64_t owner; /* pid << 32 | thread id, as in a slot; 0 = nobody's */
    uint32_t sequence;
    uint32_t kind;  /* WDKM_WAIT_* */
    uint64_t start; /* start time of the process */
    int64_t since;  /* CLOCK_MONOTONIC, nanoseconds */
    uint64_t nonce; /* of the segment */
    uint64_t generation;
    uint32_t slot;
    uint32_t of; /* how many records the wait has, of which this is one: of WDKM_WAIT_ANY, one for each mutex */
    char segment[WDKM_SEGMENT_NAME]; /* ends with a zero byte */
} wdkm_wait;

/* A deadlock that was broken, in words, for whoever keeps a log. The latest ones stay; see wdkm_board_tell. */
typedef struct {
    uint32_t number; /* which one it is, from 1 on; 0 while it is written */
    char text[WDKM_TALE]; /* ends with a zero byte */
} wdkm_tale;

typedef struct {
    union {
        struct {
            uint64_t magic;
            uint32_t layout;
            uint32_t records;
            uint32_t told; /* how many deadlocks were */
            uint32_t unused;
            wdkm_tale tales[WDKM_TALES];
        };
        char room[WDKM_BOARD_HEADER];
    };
    wdkm_wait waits[WDKM_RECORDS];
} wdkm_board;

_Static_assert(sizeof(wdkm_wait) == 128, "record size");

/* What a waiter waits for: the lock, by sleeping on it; one lock of several; a value; the lock, for a task of a loop; a lock
 * that it had and takes back, and that it cannot go on without. */
#define WDKM_WAIT_LOCK 1u
#define WDKM_WAIT_ANY 2u
#define WDKM_WAIT_VALUE 3u
#define WDKM_WAIT_TASK 4u
#define WDKM_WAIT_BACK 5u

/* Whether the thread's next wait is of that kind. */
static __thread int wdkm_taking_back = 0;

static inline int wdkm_sleeps(uint32_t kind) { return kind == WDKM_WAIT_LOCK || kind == WDKM_WAIT_BACK; }

/* This process's mapping, made since its last fork; the file that it is of. Used with the GIL held. */
static wdkm_board *wdkm_board_mapped = NULL;
static dev_t wdkm_board_device;
static ino_t wdkm_board_inode;
static int64_t wdkm_board_again = 0; /* not to be tried before: it could not be had */
static int wdkm_board_stays = 0;     /* to be locked into memory, as far as that is allowed */

static void wdkm_board_unmap(void) {
    if (wdkm_board_mapped) munmap(wdkm_board_mapped, sizeof(wdkm_board));
    wdkm_board_mapped = NULL;
}

/* The parent's records are not the child's, and its mapping holds the parent's flock. */
static void wdkm_board_forked(void) {
    wdkm_board_unmap();
    wdkm_board_again = 0;
}
static int wdkm_board_watch_forks(void) { return pthread_atfork(NULL, NULL, wdkm_board_forked); }

/* As open(2), and never one of the standard three: what is written to the standard error must not come to lie in a file
 * of ours. */
static int wdkm_open(const char *path, int flags) {
    int low = open(path, flags | O_CLOEXEC, 0600), fd;
    if (low < 0 || low > 2) return low;
    fd = fcntl(low, F_DUPFD_CLOEXEC, 3);
    close(low);
    return fd;
}

static void wdkm_board_path(char *path, size_t size) {
    struct stat namespace;
    if (stat("/proc/self/ns/pid", &namespace)) namespace.st_ino = 0;
    snprintf(path, size, "/dev/shm/wdkm.%u.@waits%u.%llu", (unsigned)geteuid(), WDKM_BOARD_LAYOUT,
             (unsigned long long)namespace.st_ino);
}

/* Make the board without a name, and name it when it is whole: nobody ever meets half of one. */
static int wdkm_board_make(const char *path) {
    char self[32];
    struct {
        uint64_t magic;
        uint32_t layout, records;
    } head = {WDKM_BOARD_MAGIC, WDKM_BOARD_LAYOUT, WDKM_RECORDS};
    int fd = wdkm_open("/dev/shm", O_TMPFILE | O_RDWR);
    if (fd < 0) return 0;
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    int made = !fchmod(fd, 0600) && !posix_fallocate(fd, 0, sizeof(wdkm_board)) &&
               pwrite(fd, &head, sizeof head, 0) == sizeof head &&
               (!linkat(AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW) || errno == EEXIST);
    close(fd);
    return made;
}

static wdkm_board *wdkm_board_map(const char *path, int make) {
    int tries;
    for (tries = 0; tries < 8; ++tries) {
        struct stat status;
        wdkm_board *board;
        int fd = wdkm_open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK);
        if (fd < 0) {
            if (errno != ENOENT || !make || !wdkm_board_make(path)) return NULL;
            continue;
        }
        /* The mapping keeps the lock when the descriptor is closed. Who removes the board has it to himself. */
        if (fstat(fd, &status) || status.st_uid != geteuid() || !S_ISREG(status.st_mode) ||
            status.st_size != sizeof(wdkm_board)) {
            close(fd);
            return NULL;
        }
        if (flock(fd, LOCK_SH | LOCK_NB) || fstat(fd, &status) || status.st_nlink == 0) {
            close(fd); /* somebody is removing it */
            continue;
        }
        board = (wdkm_board *)mmap(NULL, sizeof(wdkm_board), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        close(fd);
        if (board == MAP_FAILED) return NULL;
        if (board->magic != WDKM_BOARD_MAGIC || board->layout != WDKM_BOARD_LAYOUT || board->records != WDKM_RECORDS) {
            munmap(board, sizeof(wdkm_board));
            return NULL;
        }
        if (wdkm_board_stays) (void)!mlock(board, sizeof(wdkm_board));
        wdkm_board_device = status.st_dev;
        wdkm_board_inode = status.st_ino;
        return board;
    }
    return NULL;
}

static void wdkm_wait_end(wdkm_wait *wait) {
    if (wait->sequence & 1) __atomic_store_n(&wait->sequence, wait->sequence + 1, __ATOMIC_RELEASE);
    wdkm_store64(&wait->owner, 0);
}

/* The board as it is now, NULL if there is none (and it is not to be made, or cannot be). */
static wdkm_board *wdkm_board_now(uint32_t pid, int make) {
    char path[96];
    struct stat status;
    unsigned at;
    int64_t now;
    wdkm_board_path(path, sizeof path);
    if (wdkm_board_mapped) {
        if (!stat(path, &status) && status.st_dev == wdkm_board_device && status.st_ino == wdkm_board_inode)
            return wdkm_board_mapped;
        wdkm_board_unmap(); /* somebody has removed it */
    }
    now = wdkm_now();
    if (make && now < wdkm_board_again) return NULL;
    wdkm_board_mapped = wdkm_board_map(path, make);
    if (!wdkm_board_mapped) {
        if (make) wdkm_board_again = now + 1000000000;
        return NULL;
    }
    /* No thread of this program waits yet: what is there in the name of this process another has left, before an exec. */
    for (at = 0; at < WDKM_RECORDS; ++at)
        if (wdkm_load64(&wdkm_board_mapped->waits[at].owner) >> 32 == pid) wdkm_wait_end(&wdkm_board_mapped->waits[at]);
    return wdkm_board_mapped;
}

/* The same, for a waiter that looks whether it is there still, as thousands do: asked of the file once a second for all of them. */
static wdkm_board *wdkm_board_still(uint32_t pid) {
    static int64_t seen = 0;
    int64_t now = wdkm_now();
    if (wdkm_board_mapped && now - seen < 1000000000) return wdkm_board_mapped;
    seen = now;
    return wdkm_board_now(pid, 0);
}

/* A consistent copy of a record. 0 if it means nothing. */
static int wdkm_wait_read(const wdkm_wait *wait, wdkm_wait *copy) {
    uint32_t sequence = wdkm_load32(&wait->sequence);
    if (!(sequence & 1)) return 0;
    memcpy(copy, (const void *)wait, sizeof *copy);
    wdkm_fence_acquire();
    if (wdkm_load32(&wait->sequence) != sequence || copy->sequence != sequence || copy->owner == 0) return 0;
    copy->segment[WDKM_SEGMENT_NAME - 1] = 0;
    return 1;
}

static uint32_t wdkm_wait_place(uint64_t owner, uint32_t kind, uint64_t generation, uint32_t slot) {
    /* Only those of threads that sleep are looked up by their thread. It may have many of the others, and so may those with the
     * next ids: they are spread over all of the board. */
    return wdkm_sleeps(kind) ? (uint32_t)owner : ((uint32_t)owner * 40503u + (uint32_t)(generation * 31 + slot)) * UINT32_C(2654435769) >> 16;
}

static int wdkm_wait_take(wdkm_wait *wait, uint64_t owner, int from_the_dead) {
    uint64_t had = __atomic_load_n(&wait->owner, __ATOMIC_RELAXED);
    if (had != 0 && !(from_the_dead && wdkm_process_gone((uint32_t)(had >> 32)) == WDKM_GONE)) return 0;
    return wdkm_cas64(&wait->owner, had, owner);
}

/* When places of the dead may be looked for again: that asks for each of a window, and a board may be full of the living. */
static int64_t wdkm_wait_search = 0;

static int wdkm_wait_may_search(void) {
    int64_t now = wdkm_now();
    if (now < wdkm_wait_search) return 0;
    wdkm_wait_search = now + 1000000000;
    return 1;
}

/* Write a record on the board that is mapped; returns what wdkm_wait_forget needs, 0 if there is no room for it. */
static uint64_t wdkm_wait_note_here(uint64_t owner, uint32_t kind, uint32_t of, int64_t since, const char *segment,
                                    uint64_t nonce, uint32_t slot, uint64_t generation) {
    wdkm_board *board = wdkm_board_mapped;
    uint32_t first = wdkm_wait_place(owner, kind, generation, slot);
    int from_the_dead;
    unsigned step;
    if (!board || strlen(segment) >= WDKM_SEGMENT_NAME) return 0;
    for (from_the_dead = 0; from_the_dead < 2; ++from_the_dead) {
        if (from_the_dead && !wdkm_wait_may_search()) break;
        for (step = 0; step < WDKM_WINDOW; ++step) {
            uint32_t at = (first + step) % WDKM_RECORDS;
            wdkm_wait *wait = &board->waits[at];
            if (!wdkm_wait_take(wait, owner, from_the_dead)) continue;
            if (from_the_dead) wdkm_wait_search = 0; /* there may be more of them */
            if (wait->sequence & 1) __atomic_store_n(&wait->sequence, wait->sequence + 1, __ATOMIC_SEQ_CST);
            __atomic_thread_fence(__ATOMIC_SEQ_CST);
            wait->kind = kind;
            wait->of = of;
            wait->start = wdkm_my_start((uint32_t)(owner >> 32));
            wait->since = since;
            wait->nonce = nonce;
            wait->generation = generation;
            wait->slot = slot;
            memset(wait->segment, 0, sizeof wait->segment);
            memcpy(wait->segment, segment, strlen(segment));
            __atomic_store_n(&wait->sequence, wait->sequence + 1, __ATOMIC_RELEASE);
            return (uint64_t)wait->sequence << 32 | at;
        }
    }
    return 0;
}

/* The same on the board as it is now, which costs system calls. */
static uint64_t wdkm_wait_note(uint64_t owner, uint32_t kind, uint32_t of, int64_t since, const char *segment, uint64_t nonce,
                               uint32_t slot, uint64_t generation) {
    if (!wdkm_board_now((uint32_t)(owner >> 32), 1)) return 0;
    return wdkm_wait_note_here(owner, kind, of, since, segment, nonce, slot, generation);
}

/* Leave word of a deadlock that was broken. Who is killed in here leaves a tale that says 0, and nobody reads it. */
static void wdkm_board_tell(const char *text, size_t length) {
    uint32_t number;
    wdkm_tale *tale;
    if (!wdkm_board_mapped) return;
    number = __atomic_add_fetch(&wdkm_board_mapped->told, 1, __ATOMIC_RELAXED);
    tale = &wdkm_board_mapped->tales[number % WDKM_TALES];
    __atomic_store_n(&tale->number, 0, __ATOMIC_SEQ_CST);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    memset(tale->text, 0, WDKM_TALE);
    memcpy(tale->text, text, length < WDKM_TALE - 1 ? length : WDKM_TALE - 1);
    __atomic_store_n(&tale->number, number, __ATOMIC_RELEASE);
}

/* The record that a ticket is for, if this process still has it: not after a fork, nor on another board. */
static wdkm_wait *wdkm_wait_of(uint64_t ticket, uint32_t pid) {
    wdkm_wait *wait;
    if (!wdkm_board_mapped || !(ticket >> 32 & 1)) return NULL;
    wait = &wdkm_board_mapped->waits[(uint32_t)ticket % WDKM_RECORDS];
    return wdkm_load64(&wait->owner) >> 32 == pid && wait->sequence == ticket >> 32 ? wait : NULL;
}

static void wdkm_wait_forget(uint64_t ticket, uint32_t pid) {
    wdkm_wait *wait = wdkm_wait_of(ticket, pid);
    if (wait) wdkm_wait_end(wait);
}

/* The next record from a place on that means something: of any tenant, or (nonce not 0) of one. Its place, or WDKM_RECORDS.
 * The board may be unmapped between two calls: by Python code, in which a signal handler may fork, or by another thread. */
static uint32_t wdkm_wait_next(uint32_t at, uint64_t nonce, uint32_t slot, uint64_t generation, wdkm_wait *copy) {
    for (; wdkm_board_mapped && at < WDKM_RECORDS; ++at) {
        const wdkm_wait *wait = &wdkm_board_mapped->waits[at];
        if (wdkm_load32(&wait->sequence) & 1 && wdkm_wait_read(wait, copy) &&
            (nonce == 0 || (copy->nonce == nonce && copy->slot == slot && copy->generation == generation)))
            return at;
    }
    return WDKM_RECORDS;
}

/* What a thread sleeps for: of its records of that kind the latest, for a signal handler may wait in the midst of a wait. */
static int wdkm_wait_by(uint64_t owner, wdkm_wait *found, uint32_t *number) {
    uint32_t first = wdkm_wait_place(owner, WDKM_WAIT_LOCK, 0, 0);
    wdkm_wait copy;
    unsigned step;
    int any = 0;
    if (!wdkm_board_mapped) return 0;
    for (step = 0; step < WDKM_WINDOW; ++step) {
        uint32_t at = (first + step) % WDKM_RECORDS;
        wdkm_wait *wait = &wdkm_board_mapped->waits[at];
        if (wdkm_load64(&wait->owner) != owner || !wdkm_wait_read(wait, &copy)) continue;
        if (copy.owner != owner || !wdkm_sleeps(copy.kind) || (any && copy.since <= found->since)) continue;
        *found = copy;
        *number = at;
        any = 1;
    }
    return any;
}

/* The next record of a thread that waits for any of several. Its place, or WDKM_RECORDS. */
static uint32_t wdkm_wait_any_by(uint32_t at, uint64_t owner, wdkm_wait *copy) {
    for (; wdkm_board_mapped && at < WDKM_RECORDS; ++at) {
        const wdkm_wait *wait = &wdkm_board_mapped->waits[at];
        if (wdkm_load64(&wait->owner) == owner && wdkm_wait_read(wait, copy) && copy->owner == owner &&
            copy->kind == WDKM_WAIT_ANY)
            return at;
    }
    return WDKM_RECORDS;
}

/* A copy of a slot of any segment of this user, without mapping it. 0 if there is no such tenant. */
static int wdkm_slot_of(const char *segment, uint64_t nonce, uint32_t slot, uint64_t generation, wdkm_slot *copy) {
    char path[128], ours[32];
    wdkm_header header;
    struct stat status;
    int fd, got;
    snprintf(ours, sizeof ours, "/wdkm.%u.", (unsigned)geteuid());
    if (strncmp(segment, ours, strlen(ours)) || strchr(segment + 1, '/')) return 0;
    snprintf(path, sizeof path, "/dev/shm%s", segment);
    fd = wdkm_open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) return 0;
    got = !fstat(fd, &status) && status.st_uid == geteuid() && S_ISREG(status.st_mode) &&
          pread(fd, &header, sizeof header, 0) == sizeof header && header.magic == WDKM_MAGIC &&
          header.layout == WDKM_LAYOUT && header.nonce == nonce && slot < header.slots &&
          pread(fd, copy, sizeof *copy, WDKM_HEADER + (off_t)slot * (off_t)sizeof *copy) == sizeof *copy &&
          copy->generation == generation;
    close(fd);
    return got;
}

#endif
