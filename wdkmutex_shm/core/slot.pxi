"""The layout of slots and segments, and the few atomic operations on them, as `slot.h` defines them."""


cdef extern from "faults.h" nogil:
    bint wdkm_planted(const char *)  # see faults.h


cdef extern from "slot.h" nogil:
    enum:
        WDKM_INLINE
        WDKM_NAME
        WDKM_LABEL
        WDKM_HEADER
        WDKM_DATA_HEADER
        WDKM_SERVER_PATH
        WDKM_LAYOUT
        WDKM_ON_RELEASE
        WDKM_ON_COMMIT
        WDKM_LIBC
    const uint64_t WDKM_OF_TASK
    int EBUSY
    int EDEADLK
    int ENOTRECOVERABLE
    int EOWNERDEAD
    int ETIMEDOUT
    const uint64_t WDKM_MAGIC
    const uint64_t WDKM_DATA_MAGIC
    const uint64_t WDKM_JOURNAL_MAGIC
    const uint64_t WDKM_NOTE
    const uint32_t WDKM_UNSETTLED
    enum:
        WDKM_NOTE_COMMIT
        WDKM_NOTE_PID

    ctypedef struct pthread_mutex_t:
        pass

    ctypedef struct wdkm_slot:
        pthread_mutex_t mutex
        uint64_t held_by
        uint32_t starving
        uint32_t acquired_low
        uint64_t generation
        uint64_t commit
        uint64_t serial
        uint32_t length[2]
        uint64_t data[2]
        uint64_t type_hash
        uint8_t kind
        uint8_t type_code
        uint8_t name_length
        uint8_t label_length
        uint32_t acquired_high
        unsigned char payload[2][72]
        uint64_t first_commit
        uint64_t pending
        uint64_t seen
        uint32_t contended
        uint32_t abandoned
        uint32_t abandoned_pid
        uint32_t timeouts
        uint32_t refused
        uint32_t watch
        uint32_t watched
        char label[20]
        char name[104]

    ctypedef struct wdkm_header:
        uint64_t magic
        uint32_t layout
        uint32_t mutex_size
        uint32_t slot_size
        uint32_t slots
        uint32_t word_size
        uint32_t libc
        uint64_t pid_namespace
        unsigned char boot_id[16]
        uint64_t nonce
        uint64_t creator_start
        uint32_t creator_pid
        uint32_t destroyed
        uint64_t next_serial
        uint32_t server_pid
        char server_path[108]

    ctypedef struct wdkm_data_header:
        uint64_t magic
        uint64_t id
        uint64_t capacity
        uint64_t creator_start
        uint64_t pid_namespace
        uint32_t creator_pid
        uint32_t layout
        unsigned char boot_id[16]

    ctypedef struct wdkm_journal:
        uint64_t magic
        uint64_t decided
        uint64_t creator_start
        uint64_t pid_namespace
        uint32_t creator_pid
        uint32_t layout
        unsigned char boot_id[16]

    ctypedef struct wdkm_mapping:
        uint64_t id
        unsigned char *base
        size_t size

    ctypedef struct wdkm_local:
        void *root
        uint64_t thread
        uint32_t depth
        uint32_t abandoned_pid
        wdkm_mapping *maps
        uint64_t lent

    ctypedef struct wdkm_thread:
        uint64_t serial
        uint64_t owner
        uint64_t word
        int irql
        int fast_held
        int level
        int apart

    uint64_t wdkm_load64(const uint64_t *)
    uint32_t wdkm_load32(const uint32_t *)
    void wdkm_store64(uint64_t *, uint64_t)
    void wdkm_store32(uint32_t *, uint32_t)
    void wdkm_relaxed64(uint64_t *, uint64_t)
    uint32_t wdkm_add32(uint32_t *, uint32_t)
    void wdkm_set32(uint32_t *, uint32_t)
    void wdkm_keep32(uint32_t *, uint32_t)
    uint32_t wdkm_starving(const wdkm_slot *)
    bint wdkm_cas32(uint32_t *, uint32_t, uint32_t)
    bint wdkm_cas64(uint64_t *, uint64_t, uint64_t)
    void wdkm_fence_acquire()
    void wdkm_fence_release()
    void wdkm_pause()
    uint32_t wdkm_lock_word(const wdkm_slot *)
    bint wdkm_word_held(uint32_t)
    bint wdkm_word_abandoned(uint32_t)
    void wdkm_leave_to_the_next(wdkm_slot *s) nogil
    int wdkm_mutex_init(wdkm_slot *)
    uint64_t wdkm_holder(const wdkm_slot *)
    void wdkm_acquired(wdkm_slot *, const wdkm_thread *)
    int wdkm_unlock(wdkm_slot *)
    void wdkm_tell_end(wdkm_slot *)
    void wdkm_tell_commit(wdkm_slot *)
    uint32_t wdkm_watch(wdkm_slot *, uint32_t, uint64_t)
    int64_t wdkm_now()
    void wdkm_futex_wait(uint32_t *, uint32_t, int64_t)
    void wdkm_futex_wake_all(uint32_t *)
    int pthread_mutex_trylock(pthread_mutex_t *)
    int pthread_mutex_consistent(pthread_mutex_t *)
    int pthread_mutex_unlock(pthread_mutex_t *)


# Holders that are dead although the lock says that it is held.
cdef extern from "dead.h" nogil:
    enum:
        WDKM_GLANCE
        WDKM_LOOK
        WDKM_SECOND
    bint wdkm_holder_dead(const wdkm_slot *, uint32_t, uint64_t, const wdkm_thread *, int)
    ctypedef struct wdkm_looks:
        uint32_t count

    void wdkm_look(wdkm_slot *, const wdkm_thread *, int64_t, wdkm_looks *)
    bint wdkm_try_look(wdkm_slot *, const wdkm_thread *, int64_t)
    bint wdkm_free_dead(wdkm_slot *, const wdkm_thread *, int)
    bint wdkm_free_predecessor(wdkm_slot *, const wdkm_thread *)


cdef extern from "park_any.h" nogil:
    enum:
        MOST "WDKM_SEVERAL"  # MAXIMUM_WAIT_OBJECTS
    const int64_t WDKM_APART
    const int64_t WDKM_NAP_ANY
    ctypedef struct wdkm_waiter:
        uint64_t value
    ctypedef struct wdkm_several:
        wdkm_slot *slots[64]
        uint64_t generations[64]
        unsigned int count
    void wdkm_wait_for(wdkm_waiter *, uint32_t *, uint32_t)
    int wdkm_wait_any(wdkm_waiter *, unsigned int, int64_t)
    bint wdkm_cannot(int)
    int wdkm_park_any(const wdkm_several *, unsigned int, int64_t)
    void wdkm_leave_any(const wdkm_several *)

cdef extern from "slot.h":
    size_t offsetof_pending "offsetof(wdkm_slot, pending)"

if (layout.LAYOUT, layout.HEADER_BYTES, layout.SLOT_BYTES, layout.DATA_HEADER_BYTES, layout.JOURNAL_MAGIC, layout.PENDING_AT,
        layout.NOTE, layout.NOTE_COMMIT, layout.NOTE_PID) != (
        WDKM_LAYOUT, WDKM_HEADER, sizeof(wdkm_slot), WDKM_DATA_HEADER, WDKM_JOURNAL_MAGIC, offsetof_pending,
        WDKM_NOTE, WDKM_NOTE_COMMIT, WDKM_NOTE_PID):
    raise ImportError("wdkmutex_shm: base/layout.py and the compiled core are not of one version; install the package again")
