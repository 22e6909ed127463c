/* The bytes of a pool segment: its header, its slots, and this process's own note beside each slot.
 *
 * This is the layout contract between processes. Any change to it raises WDKM_LAYOUT, so that a process of another
 * version gets a LayoutMismatch instead of nonsense. docs/explanation/architecture.md explains the life of a slot.
 *
 *   offset  size  who writes             what
 *        0    48  pthread                the robust, process-shared, error-checking mutex
 *       48     8  holder                 held_by: 0 when free, else the thread that holds, see wdkm_holder()
 *       56     4  waiters, atomically    how many waiters are past 1 ms ("starving"), and WDKM_UNSETTLED; also a futex word
 *       60     4  holder                 acquisitions, low half
 *   ---- cache line ----
 *       64     8  allocator              generation: odd = a tenant lives here, even = free or in quarantine
 *       72     8  holder                 commit word: number of commits, whose low bit names the current buffer
 *       80     8  allocator              serial: order of registration in the pool
 *       88     8  holder                 length of the msgpack bytes in buffer 0, buffer 1
 *       96    16  holder                 id of the data segment of buffer 0, buffer 1 (0: none)
 *      112     8  allocator              hash of T's full name
 *      120     8  allocator              kind, type code, length of name, length of label, acquisitions high half
 *   ---- cache line ----
 *      128   144  holder                 inline buffer 0, inline buffer 1
 *      272    44  mixed                  counters, and what a repair or an observer needs
 *      316     4  tellers, atomically    watch: a futex word that moves on when watchers are told; see `watched`
 *   ---- cache line ----
 *      320     4  watchers, atomically   watched: who wants to be told of a release or a commit; 0 when nobody does
 *      324    20  allocator              label: T's short name, for people
 *      344   104  allocator              name
 *
 * A buffer holds T inline when its length is at most WDKM_INLINE and in its data segment otherwise.
 */
#ifndef WDKM_SLOT_H
#define WDKM_SLOT_H

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define WDKM_MAGIC UINT64_C(0x314d4853584d4b57) /* "WKMXSHM1" */
#define WDKM_DATA_MAGIC UINT64_C(0x314154414d4b57) /* "WKMATA1" */
#define WDKM_LAYOUT 5u
#define WDKM_INLINE 72
#define WDKM_NAME 104
#define WDKM_LABEL 20
#define WDKM_HEADER 4096
#define WDKM_DATA_HEADER 64
#define WDKM_SERVER_PATH 108

#if defined(__GLIBC__)
#define WDKM_LIBC 1u
#else
#error "wdkmutex_shm needs glibc 2.30 or newer (pthread_mutex_clocklock, robust mutex words)"
#endif

typedef struct {
    union {
        pthread_mutex_t mutex;
        unsigned char room[48];
    };
    uint64_t held_by;
    uint32_t starving;
    uint32_t acquired_low;

    uint64_t generation;
    uint64_t commit;
    uint64_t serial;
    uint32_t length[2];
    uint64_t data[2];
    uint64_t type_hash;
    uint8_t kind;
    uint8_t type_code;
    uint8_t name_length;
    uint8_t label_length;
    uint32_t acquired_high;

    unsigned char payload[2][WDKM_INLINE];

    uint64_t first_commit; /* commit word when the tenant moved in */
    uint64_t pending; /* id of a data segment in the making; or a note, see wdkm_journal */
    uint64_t seen;    /* first sight of the present hold: low 24 bits of acquisitions << 40 | milliseconds since boot */
    uint32_t contended;
    uint32_t abandoned;
    uint32_t abandoned_pid;
    uint32_t timeouts;
    uint32_t refused; /* first attempt turned away from a free lock: low 12 bits of acquisitions << 20 | milliseconds */
    uint32_t watch;

    uint32_t watched; /* low 30 bits of the commit word that commit watchers know << 2 | WDKM_ON_COMMIT | WDKM_ON_RELEASE */
    char label[WDKM_LABEL];
    char name[WDKM_NAME];
} wdkm_slot;

typedef struct {
    uint64_t magic; /* published last */
    uint32_t layout;
    uint32_t mutex_size;
    uint32_t slot_size;
    uint32_t slots;
    uint32_t word_size;
    uint32_t libc;
    uint64_t pid_namespace;
    unsigned char boot_id[16];
    uint64_t nonce;
    uint64_t creator_start;
    uint32_t creator_pid;
    uint32_t destroyed;
    uint64_t next_serial;
    uint32_t server_pid;
    char server_path[WDKM_SERVER_PATH];
} wdkm_header;

typedef struct {
    uint64_t magic; /* published last */
    uint64_t id;
    uint64_t capacity; /* bytes after this header */
    uint64_t creator_start;
    uint64_t pid_namespace;
    uint32_t creator_pid;
    uint32_t layout;
    unsigned char boot_id[16];
} wdkm_data_header;

/* What this process knows of a slot: the thread that holds it and how often, and its mappings of T's data segments. */
typedef struct {
    uint64_t id;
    unsigned char *base;
    size_t size;
} wdkm_mapping;

/* A hold belongs to a thread or, with this bit in the thread's serial, to one task of the event loop that it runs. */
#define WDKM_OF_TASK (1ull << 63)

typedef struct {
    void *root;      /* the outermost guard of a KMutex, or of any mutex that a task holds; borrowed */
    uint64_t thread; /* serial of the thread that holds */
    uint32_t depth;  /* CriticalSection: how often it was entered */
    uint32_t abandoned_pid; /* CriticalSection: dead owner before this hold, plus one */
    wdkm_mapping *maps; /* two of them, or NULL */
    uint64_t lent;      /* views of a box that point into one of them */
} wdkm_local;

/* One thread of this process. */
typedef struct {
    uint64_t serial; /* unique in this process; 0 = not set up yet */
    uint64_t owner;  /* pid << 32 | thread id */
    uint64_t word;   /* what it writes into a slot that it holds, see wdkm_holder() */
    int irql;        /* level set by raise_irql */
    int fast_held;   /* FastMutexes held: each keeps the thread at APC or above */
    int level;       /* effective level at the last check */
    int apart;       /* at the last check: in an event loop, or in a greenlet, which own for themselves */
} wdkm_thread;

/* Several slots published as one. Each process that does that has a journal; a slot's `pending` then holds a note instead of a
 * data segment's id: WDKM_NOTE, the low bit of the commit word that is to come, and pid and start time of the process, which
 * name its journal together with the pid namespace in the segment's header. In this order, with no call in between:
 *
 *   every buffer that is not current is written; every slot gets its note; `decided` becomes 1 (this store publishes all);
 *   every commit word is raised; every note is cleared; `decided` becomes 0.
 *
 * A note that outlives its process is settled by whoever takes the lock over: the commit word is raised if the journal is
 * decided and the word's low bit is not yet the one in the note, and left as it is otherwise. Who takes it over may be
 * unable to (no descriptor is free, Ctrl-C), and then lets go of a lock that looks like any other. So that the next one
 * does not take the fast path past the note, `starving` has the bit WDKM_UNSETTLED, from before the journal is asked until
 * the note is settled. It is no part of the count: a waiter that is served or gives up, and a newcomer that sets the
 * count to zero, leave it alone. Only a holder of the lock writes it.
 */
#define WDKM_UNSETTLED (UINT32_C(1) << 31)
#define WDKM_NOTE (UINT64_C(1) << 63)
#define WDKM_NOTE_COMMIT 62 /* where in a note the low bit of the commit word is */
#define WDKM_NOTE_PID 40    /* where the pid begins, which is below 2**22; the start time is below it */
#define WDKM_JOURNAL_MAGIC UINT64_C(0x314c4e4a4d4b57) /* "WKMJNL1" */

typedef struct {
    uint64_t magic; /* published last */
    uint64_t decided;
    uint64_t creator_start;
    uint64_t pid_namespace;
    uint32_t creator_pid;
    uint32_t layout;
    unsigned char boot_id[16];
} wdkm_journal;

_Static_assert(sizeof(wdkm_journal) == 56, "journal");
_Static_assert(sizeof(wdkm_slot) == 448, "slot size");
_Static_assert(sizeof(pthread_mutex_t) <= 48, "pthread_mutex_t outgrew its room");
_Static_assert(offsetof(wdkm_slot, held_by) == 48, "lock line");
_Static_assert(offsetof(wdkm_slot, generation) == 64, "commit line");
_Static_assert(offsetof(wdkm_slot, payload) == 128, "payload");
_Static_assert(offsetof(wdkm_slot, watched) == 320, "a line that is not written while a lock is taken, or T committed");
_Static_assert(sizeof(wdkm_header) <= WDKM_HEADER, "header");
_Static_assert(sizeof(wdkm_data_header) <= WDKM_DATA_HEADER, "data header");

static inline uint64_t wdkm_load64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline uint32_t wdkm_load32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void wdkm_store64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline void wdkm_store32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline void wdkm_relaxed64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline uint32_t wdkm_add32(uint32_t *p, uint32_t v) { return __atomic_add_fetch(p, v, __ATOMIC_ACQ_REL); }
static inline void wdkm_set32(uint32_t *p, uint32_t bits) { __atomic_fetch_or(p, bits, __ATOMIC_ACQ_REL); }
static inline void wdkm_keep32(uint32_t *p, uint32_t bits) { __atomic_fetch_and(p, bits, __ATOMIC_ACQ_REL); }
static inline int wdkm_cas32(uint32_t *p, uint32_t old, uint32_t v) {
    return __atomic_compare_exchange_n(p, &old, v, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}
static inline int wdkm_cas64(uint64_t *p, uint64_t old, uint64_t v) {
    return __atomic_compare_exchange_n(p, &old, v, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}
static inline void wdkm_fence_acquire(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
static inline void wdkm_fence_release(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }

/* Who holds a slot, as `held_by` says: pid << 32 | thread id. Neither is above 2**22 (PID_MAX_LIMIT), so each half has ten bits
 * more. They tell a thread from a later one with the same ids: 16 of them when it began (0: unknown; WDKM_ELSEWHERE: its ids are
 * of another pid namespace than those that its segments are of), 4 which program it runs.
 */
#define WDKM_ELSEWHERE 0xffffu
#define WDKM_IDS UINT64_C(0x003fffff003fffff)
static inline uint64_t wdkm_held_word(uint64_t owner, uint64_t began, uint64_t program) {
    uint64_t more = (program & 15) << 16 | (began & 0xffff);
    return (owner & WDKM_IDS) | (more & 0x3ff) << 22 | more >> 10 << 54;
}
static inline uint64_t wdkm_began(uint64_t held_by) { return ((held_by >> 54) << 10 | (held_by >> 22 & 0x3ff)) & 0xffff; }
static inline uint32_t wdkm_holder_tid(uint64_t held_by) { return (uint32_t)(held_by & WDKM_IDS); }
static inline uint64_t wdkm_holder(const wdkm_slot *s) { return wdkm_load64(&s->held_by) & WDKM_IDS; }

/* How many waiters count as starving; the whole word is not 0 where the fast path is not to be taken. */
static inline uint32_t wdkm_starving(const wdkm_slot *s) { return wdkm_load32(&s->starving) & ~WDKM_UNSETTLED; }

static inline void wdkm_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
}

/* The lock word of glibc's robust mutex: thread id of the owner, with the kernel's bits for waiters and dead owners. */
static inline uint32_t wdkm_lock_word(const wdkm_slot *s) {
    return (uint32_t)__atomic_load_n(&s->mutex.__data.__lock, __ATOMIC_RELAXED);
}
static inline uint32_t *wdkm_lock_futex(wdkm_slot *s) { return (uint32_t *)&s->mutex.__data.__lock; }
static inline int wdkm_word_held(uint32_t w) { return (w & FUTEX_TID_MASK) != 0 && !(w & FUTEX_OWNER_DIED); }
static inline int wdkm_word_abandoned(uint32_t w) { return (w & FUTEX_OWNER_DIED) != 0; }

/* Leave the lock as the kernel leaves that of a holder that it has killed. For who is alone with the slot: whoever held it is
 * dead, and whoever waited for it, too. */
static inline void wdkm_leave_to_the_next(wdkm_slot *s) {
    if (wdkm_lock_word(s) != 0) __atomic_store_n(&s->mutex.__data.__lock, (int)FUTEX_OWNER_DIED, __ATOMIC_RELEASE);
    __atomic_fetch_and(&s->starving, WDKM_UNSETTLED, __ATOMIC_ACQ_REL);
    s->refused = 0;
    wdkm_store32(&s->watched, 0);
}

static inline int wdkm_mutex_init(wdkm_slot *s) {
    pthread_mutexattr_t attr;
    int rc = pthread_mutexattr_init(&attr);
    if (rc) return rc;
    if (!(rc = pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED)) &&
        !(rc = pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST)) &&
        !(rc = pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ERRORCHECK)))
        rc = pthread_mutex_init(&s->mutex, &attr);
    pthread_mutexattr_destroy(&attr);
    return rc;
}

static inline void wdkm_acquired(wdkm_slot *s, const wdkm_thread *me) {
    wdkm_relaxed64(&s->held_by, me->word);
    if (__builtin_expect(++s->acquired_low == 0, 0)) ++s->acquired_high;
}

static inline int64_t wdkm_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline struct timespec wdkm_timespec(int64_t ns) {
    struct timespec t = {.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
    return t;
}

static inline void wdkm_futex_wait(uint32_t *word, uint32_t value, int64_t ns) {
    struct timespec t = wdkm_timespec(ns);
    syscall(SYS_futex, word, FUTEX_WAIT, value, &t, NULL, 0);
}
static inline void wdkm_futex_wake_all(uint32_t *word) { syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0); }

/* Watchers: who waits for a release or a commit without waiting for the lock.
 *
 * A watcher reads `watch`, writes down in `watched` what it wants to be told of, looks whether that is so already, and
 * sleeps on `watch` while it has the value that was read. Who releases or commits looks at `watched` afterwards; if it
 * wants that, it clears it, moves `watch` on and wakes everybody, who then look for themselves. Either the watcher's look
 * comes after the release or commit, or the teller's look comes after the watcher's note: each of them does its store and
 * its look in that order, with a full barrier between. A teller that is killed in between tells nobody, so watchers do not
 * sleep for more than a second at a time. What a watcher that went away left in `watched` costs one wake for nobody.
 */
#define WDKM_ON_RELEASE 1u
#define WDKM_ON_COMMIT 2u

static __attribute__((noinline, cold)) void wdkm_tell(wdkm_slot *s) {
    __atomic_exchange_n(&s->watched, 0, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&s->watch, 1, __ATOMIC_SEQ_CST);
    wdkm_futex_wake_all(&s->watch);
}

static inline void wdkm_tell_watchers(wdkm_slot *s, uint32_t of) {
    uint32_t wanted = __atomic_load_n(&s->watched, __ATOMIC_ACQUIRE);
    if (__builtin_expect(wanted != 0, 0) &&
        (wanted & of & WDKM_ON_RELEASE || (wanted & WDKM_ON_COMMIT && ((s->commit ^ wanted >> 2) & 0x3fffffff) != 0)))
        wdkm_tell(s);
}

/* After a commit that keeps the lock. */
static inline void wdkm_tell_commit(wdkm_slot *s) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    wdkm_tell_watchers(s, 0);
}

/* After the end of a tenancy: send away all who sleep on the lock (`park.h`). Whoever is about to sleep finds the word changed. */
static __attribute__((noinline, cold)) void wdkm_send_sleepers(wdkm_slot *s) {
    __atomic_fetch_and(wdkm_lock_futex(s), ~FUTEX_WAITERS, __ATOMIC_SEQ_CST);
    wdkm_futex_wake_all(wdkm_lock_futex(s));
}

/* After the end of a tenancy: whatever is waited for, it will not come. */
static inline void wdkm_tell_end(wdkm_slot *s) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (__atomic_load_n(&s->watched, __ATOMIC_RELAXED) != 0) wdkm_tell(s);
    if (wdkm_lock_word(s) & FUTEX_WAITERS || wdkm_starving(s)) wdkm_send_sleepers(s);
}

/* Write down what to be told of, `commit` being the commit word that the watcher knows; returns what to sleep on. */
static inline uint32_t wdkm_watch(wdkm_slot *s, uint32_t of, uint64_t commit) {
    for (;;) {
        uint32_t watch = __atomic_load_n(&s->watch, __ATOMIC_SEQ_CST);
        uint32_t old = __atomic_load_n(&s->watched, __ATOMIC_RELAXED);
        uint32_t wanted = old | of;
        if (of & WDKM_ON_COMMIT) {
            wanted = (old & WDKM_ON_RELEASE) | of | (uint32_t)(commit & 0x3fffffff) << 2;
            if (old & WDKM_ON_COMMIT && old >> 2 != wanted >> 2) {
                wdkm_tell(s); /* others know another commit, and would not be told of this one */
                continue;
            }
        }
        /* Written even if nothing changes: the barrier is needed, and who clears it now must see it again. */
        if (__atomic_compare_exchange_n(&s->watched, &old, wanted, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
            __atomic_thread_fence(__ATOMIC_SEQ_CST);
            return watch;
        }
    }
}

static inline int wdkm_unlock(wdkm_slot *s) {
    int rc;
    wdkm_relaxed64(&s->held_by, 0);
    rc = pthread_mutex_unlock(&s->mutex);
#if !defined(__x86_64__) && !defined(__i386__)
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* there the unlock is one */
#endif
    wdkm_tell_watchers(s, WDKM_ON_RELEASE);
    return rc;
}

#endif
