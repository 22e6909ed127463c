/* Holders that are dead, although the lock says that it is held.
 *
 * As a thread ends, the kernel releases what it holds: it walks the thread's list of robust mutexes, and marks each word
 * FUTEX_OWNER_DIED. It walks 2,048 of them (ROBUST_LIST_LIMIT), the youngest first, for the list might be a circle. What a
 * thread holds beyond that stays locked in the name of a thread that is no more. Whoever meets such a lock does here what the
 * kernel would have done, once the death is proven; then everything goes on as after any other death.
 *
 *   proof                                                      what it rests on
 *   no thread has the id in the lock word                      kill(id, 0) says ESRCH, for any thread's id
 *   the thread has ended, and its process was not waited for   its state is Z or X; or a pidfd of the process is readable
 *   a thread has the id, which began at another time than      the holder wrote down when it began, together with its ids
 *   the one that locked
 *   this thread has the id, and did not write itself down      it does so before any of its Python code can run
 *
 * A process that cannot be seen, of a hidden /proc or another user's, is alive. So is whoever is of another pid namespace: a child
 * may be forked into one, with all mappings. Thread ids mean something else there, so it has WDKM_ELSEWHERE for its beginning, and
 * neither concludes anything nor is concluded about. Until a holder has written itself down, any may be of another one: hence
 * nothing is concluded of the id alone, or only after a second look.
 *
 * The third one needs care: the word's thread may be a new one that has just taken the lock over from a dead thread of the
 * same id, and is about to write itself down. Between the two it makes no system call, and glibc marks the mutex as
 * inconsistent meanwhile. So glibc's owner must be the thread as well, and the thread must sleep, or have changed nothing
 * between two looks of the caller.
 */
#ifndef WDKM_DEAD_H
#define WDKM_DEAD_H

#include "alive.h"
#include "slot.h"
#include <signal.h>

/* How closely to look. */
#define WDKM_GLANCE 0   /* one system call */
#define WDKM_LOOK 1     /* opens a file */
#define WDKM_SECOND 2   /* the same, and the caller has seen this hold some time before */

/* State and start of a thread; start is 0 where it cannot be told. -1: the thread cannot be seen. */
static int wdkm_life(const char *path, char *state, uint64_t *start) {
    char text[1024], *at;
    unsigned long long ticks;
    if (wdkm_read_text(path, text, sizeof text) <= 0) return -1;
    /* The command, in parentheses, may itself hold anything: count the fields from its end. */
    at = strrchr(text, ')');
    if (!at || sscanf(at + 1, " %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu", state,
                      &ticks) != 2)
        return -1;
    *start = ticks % (WDKM_ELSEWHERE - 1) + 1;
    return 0;
}

/* Whether start times mean anything to this process: they count from the same boot as those that others wrote down, and the
 * pids in /proc are those of its pid namespace. */
static int wdkm_starts_compare(void) {
    static uint32_t known = 0;
    static int ours;
    char text[4096], *at, *end;
    int64_t shift;
    uint32_t pid = (uint32_t)getpid();
    if (wdkm_clock_shift(&shift) != 1 || shift != 0) return 0;
    if (known != pid) {
        if (wdkm_read_text("/proc/self/status", text, sizeof text) < 0) return 0;
        at = strstr(text, "\nNSpid:");
        ours = at && strtoul(at + 7, &end, 10) == pid && *end == '\n';
        known = pid;
    }
    return ours;
}

/* Whether a process was not waited for yet. A thread that is not its process's first has no pidfd: that proves nothing. */
static int wdkm_process_ended(pid_t pid) {
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    struct pollfd ended = {.fd = fd, .events = POLLIN};
    int yes;
    if (fd < 0) return 0;
    yes = poll(&ended, 1, 0) == 1 && ended.revents & POLLIN;
    close(fd);
    return yes;
}

/* Whether the calling thread began when it wrote down that it did; not so after it was restored from a checkpoint. */
static int wdkm_began_then(const wdkm_thread *me) {
    char state;
    uint64_t start;
    return !wdkm_life("/proc/thread-self/stat", &state, &start) && start == wdkm_began(me->word);
}

/* Whether the thread that a slot names as its holder is dead. `word` and `held_by` as they were read. */
static int wdkm_holder_dead(const wdkm_slot *s, uint32_t word, uint64_t held_by, const wdkm_thread *me, int how) {
    pid_t tid = (pid_t)(word & FUTEX_TID_MASK);
    char path[64], state;
    uint64_t start, began = wdkm_began(held_by);
    if (tid == 0 || tid == (pid_t)wdkm_holder_tid(me->word)) return 0;
    if (began == WDKM_ELSEWHERE || wdkm_began(me->word) == WDKM_ELSEWHERE) return 0;
    if (wdkm_holder_tid(held_by) != (uint32_t)tid && how != WDKM_SECOND) return 0;
    if (kill(tid, 0) && errno == ESRCH) return 1;
    if (how == WDKM_GLANCE) return 0;
    snprintf(path, sizeof path, "/proc/%d/task/%d/stat", (int)tid, (int)tid);
    if (!wdkm_starts_compare() || wdkm_life(path, &state, &start)) return wdkm_process_ended(tid);
    if (state == 'Z' || state == 'X') return 1;
    if (began == 0 || start == began || wdkm_holder_tid(held_by) != (uint32_t)tid) return 0;
    if ((state != 'S' && how != WDKM_SECOND) || !wdkm_began_then(me)) return 0;
    /* Last, since files were read meanwhile. */
    return __atomic_load_n(&s->mutex.__data.__owner, __ATOMIC_ACQUIRE) == tid;
}

/* As the kernel does for a thread that ends (handle_futex_death). 1 if the lock was in the hands of the dead, and is not. */
static int wdkm_bury(wdkm_slot *s, uint32_t word) {
    if (!wdkm_cas32((uint32_t *)&s->mutex.__data.__lock, word, (word & FUTEX_WAITERS) | FUTEX_OWNER_DIED)) return 0;
    if (word & FUTEX_WAITERS) syscall(SYS_futex, &s->mutex.__data.__lock, FUTEX_WAKE, 1, NULL, NULL, 0);
    wdkm_tell_watchers(s, WDKM_ON_RELEASE);
    return 1;
}

static __attribute__((noinline, cold)) int wdkm_free_dead(wdkm_slot *s, const wdkm_thread *me, int how) {
    uint32_t word = wdkm_lock_word(s);
    uint64_t held_by = wdkm_load64(&s->held_by);
    if (!wdkm_word_held(word) || !wdkm_holder_dead(s, word, held_by, me, how)) return 0;
    if (wdkm_load64(&s->held_by) != held_by) return 0;
    return wdkm_bury(s, word);
}

/* What a waiter knows of its looks; all 0 when it begins to wait. */
typedef struct {
    uint64_t held_by;
    uint32_t acquired;
    uint32_t count;
} wdkm_looks;

/* To be called after each slice of waiting: looks at once, after 50 ms, and then every second, now and then closely. */
static inline void wdkm_look(wdkm_slot *s, const wdkm_thread *me, int64_t waited, wdkm_looks *looks) {
    uint64_t held_by;
    int how = WDKM_GLANCE;
    if (waited < (looks->count < 2 ? looks->count * INT64_C(50000000) : (looks->count - 1) * INT64_C(1000000000))) return;
    held_by = wdkm_load64(&s->held_by);
    if (looks->count == 1) how = WDKM_LOOK;
    if (looks->count == 2 || looks->count % 8 == 7)
        how = looks->held_by == held_by && looks->acquired == s->acquired_low ? WDKM_SECOND : WDKM_LOOK;
    looks->held_by = held_by;
    looks->acquired = s->acquired_low;
    ++looks->count;
    wdkm_free_dead(s, me, how);
}

/* After a try that was in vain; `since` as held_since() tells. Who tries again and again pays for a look every 4 ms. */
static __attribute__((noinline)) int wdkm_try_look(wdkm_slot *s, const wdkm_thread *me, int64_t since) {
    static uint64_t alive; /* the thread that was looked at last << 32 | when */
    static uint32_t closely;
    struct timespec t;
    uint64_t word = wdkm_lock_word(s) & FUTEX_TID_MASK, seen;
    int how = WDKM_GLANCE;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    seen = word << 32 | (uint32_t)((uint64_t)t.tv_sec * 250 + (uint64_t)t.tv_nsec / 4000000);
    if (__atomic_load_n(&alive, __ATOMIC_RELAXED) == seen) return 0;
    if (since >= 0 && (uint64_t)since / 4 + 12 < (uint32_t)seen && (uint32_t)seen - closely >= 5) {
        closely = (uint32_t)seen;
        how = WDKM_LOOK;
    }
    if (wdkm_free_dead(s, me, how)) return 1;
    wdkm_relaxed64(&alive, seen);
    return 0;
}

/* The kernel says EDEADLK: this thread's id is in the word. Whether that is of a dead thread, and freed. */
static __attribute__((noinline, cold)) int wdkm_free_predecessor(wdkm_slot *s, const wdkm_thread *me) {
    uint32_t word = wdkm_lock_word(s);
    uint64_t held_by = wdkm_load64(&s->held_by);
    if ((word & FUTEX_TID_MASK) != wdkm_holder_tid(me->word) || wdkm_holder_tid(held_by) != wdkm_holder_tid(me->word) ||
        held_by == me->word || wdkm_began(held_by) == WDKM_ELSEWHERE || wdkm_began(me->word) == WDKM_ELSEWHERE)
        return 0;
    return wdkm_bury(s, word);
}

#endif
