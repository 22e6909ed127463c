/* The bytes of a pool segment: its header, its slots, and this process's own note beside each slot.
 *
 * This is the layout contract between processes. Any change to it raises WDKM_LAYOUT, so that a process of another
 * version gets a LayoutMismatch instead of nonsense. docs/architecture.md explains the life of a slot.
 *
 *   offset  size  who writes             what
 *        0    48  pthread                the robust, process-shared, error-checking mutex
 *       48     8  holder                 owner: pid in the high half, thread id in the low half, 0 when free
 *       56     4  waiters, atomically    how many waiters are past 1 ms ("starving"); also a futex word
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
 *      272    48  mixed                  counters, and what a repair or an observer needs
 *      320    24  allocator              label: T's short name, for people
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
#define WDKM_LAYOUT 1u
#define WDKM_INLINE 72
#define WDKM_NAME 104
#define WDKM_LABEL 24
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
    uint64_t owner;
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
    uint64_t contended;
    uint64_t pending; /* id of a data segment in the making */
    uint64_t seen;    /* first sight of the present hold: low 24 bits of acquisitions << 40 | milliseconds since boot */
    uint32_t abandoned;
    uint32_t abandoned_pid;
    uint32_t timeouts;
    uint32_t refused; /* first attempt turned away from a free lock: low 12 bits of acquisitions << 20 | milliseconds */

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

typedef struct {
    void *root;      /* the outermost guard of a KMutex, borrowed */
    uint64_t thread; /* serial of the thread that holds */
    uint32_t depth;  /* CriticalSection: how often it was entered */
    uint32_t abandoned_pid; /* CriticalSection: dead owner before this hold, plus one */
    wdkm_mapping *maps; /* two of them, or NULL */
    uint64_t lent;      /* views of a box that point into one of them */
} wdkm_local;

/* One thread of this process. */
typedef struct {
    uint64_t serial; /* unique in this process; 0 = not set up yet */
    uint64_t owner;  /* pid << 32 | thread id, as in a slot */
    int irql;        /* level set by raise_irql */
    int fast_held;   /* FastMutexes held: each keeps the thread at APC or above */
    int level;       /* effective level at the last check */
    int unused;
} wdkm_thread;

_Static_assert(sizeof(wdkm_slot) == 448, "slot size");
_Static_assert(sizeof(pthread_mutex_t) <= 48, "pthread_mutex_t outgrew its room");
_Static_assert(offsetof(wdkm_slot, owner) == 48, "lock line");
_Static_assert(offsetof(wdkm_slot, generation) == 64, "commit line");
_Static_assert(offsetof(wdkm_slot, payload) == 128, "payload");
_Static_assert(sizeof(wdkm_header) <= WDKM_HEADER, "header");
_Static_assert(sizeof(wdkm_data_header) <= WDKM_DATA_HEADER, "data header");

static inline uint64_t wdkm_load64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline uint32_t wdkm_load32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void wdkm_store64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline void wdkm_store32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline void wdkm_relaxed64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline uint32_t wdkm_add32(uint32_t *p, uint32_t v) { return __atomic_add_fetch(p, v, __ATOMIC_ACQ_REL); }
static inline int wdkm_cas32(uint32_t *p, uint32_t old, uint32_t v) {
    return __atomic_compare_exchange_n(p, &old, v, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}
static inline int wdkm_cas64(uint64_t *p, uint64_t old, uint64_t v) {
    return __atomic_compare_exchange_n(p, &old, v, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}
static inline void wdkm_fence_acquire(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
static inline void wdkm_fence_release(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }

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
static inline int wdkm_word_held(uint32_t w) { return (w & FUTEX_TID_MASK) != 0 && !(w & FUTEX_OWNER_DIED); }
static inline int wdkm_word_abandoned(uint32_t w) { return (w & FUTEX_OWNER_DIED) != 0; }

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

static inline void wdkm_acquired(wdkm_slot *s, uint64_t owner) {
    wdkm_relaxed64(&s->owner, owner);
    if (__builtin_expect(++s->acquired_low == 0, 0)) ++s->acquired_high;
}

static inline int wdkm_unlock(wdkm_slot *s) {
    wdkm_relaxed64(&s->owner, 0);
    return pthread_mutex_unlock(&s->mutex);
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

static inline int wdkm_lock_until(wdkm_slot *s, int64_t ns) {
    struct timespec t = wdkm_timespec(ns);
    return pthread_mutex_clocklock(&s->mutex, CLOCK_MONOTONIC, &t);
}

static inline void wdkm_futex_wait(uint32_t *word, uint32_t value, int64_t ns) {
    struct timespec t = wdkm_timespec(ns);
    syscall(SYS_futex, word, FUTEX_WAIT, value, &t, NULL, 0);
}
static inline void wdkm_futex_wake_all(uint32_t *word) { syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0); }

#endif
