# cython: language_level=3, boundscheck=False, wraparound=False
"""One pass over the slots of a segment, without a lock: what :mod:`wdkmutex_shm.observe.snapshot` is made of.

Compiled because of 100,000 names. The only thing that is written is "first seen held", as every observer of a hold does.
"""

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap

import os

cdef extern from "Python.h":
    void PyObject_GC_UnTrack(void *)

cdef extern from *:
    """
    #include "dead.h"
    #include <sys/mman.h>
    #include <sys/stat.h>

    /* The two parts of a slot that are looked at; T, which is between them, is not. */
    #define WDKM_LOCK_PART offsetof(wdkm_slot, payload)
    #define WDKM_COUNTS_PART offsetof(wdkm_slot, first_commit)

    /* Copy a tenant as it was at one instant, as far as one can be met: a lock that changes hands all the time has facts that
     * are each right by themselves. Returns its generation, 0 if the slot has no tenant. */
    static uint64_t wdkm_copy_tenant(const wdkm_slot *s, wdkm_slot *copy) {
        uint64_t generation = wdkm_load64(&s->generation), now;
        int tries = 0;
        while (generation % 2) {
            memcpy(copy, s, WDKM_LOCK_PART);
            memcpy((char *)copy + WDKM_COUNTS_PART, (const char *)s + WDKM_COUNTS_PART, sizeof *s - WDKM_COUNTS_PART);
            wdkm_fence_acquire();
            now = wdkm_load64(&s->generation);
            if (now == generation && copy->generation == generation) {
                if (++tries == 16 || (wdkm_lock_word(s) == wdkm_lock_word(copy) && wdkm_load64(&s->held_by) == copy->held_by &&
                                      s->acquired_low == copy->acquired_low && wdkm_load64(&s->commit) == copy->commit))
                    return generation;
            }
            generation = now;
        }
        return 0;
    }

    /* Milliseconds since the present hold was first seen by anyone; of a copy that says that it is held. */
    static int64_t wdkm_seen_for(wdkm_slot *s, const wdkm_slot *copy, int64_t now) {
        uint64_t hold = copy->acquired_low & 0xffffff, seen = copy->seen;
        int64_t since = (int64_t)(seen & ((UINT64_C(1) << 40) - 1));
        if (seen != 0 && seen >> 40 == hold) return now > since ? now - since : 0;
        wdkm_cas64(&s->seen, seen, hold << 40 | (uint64_t)now);
        return 0;
    }

    /* Whether the bytes are none that a tenant can have. */
    static int wdkm_is_damaged(const wdkm_slot *s) {
        unsigned current = s->commit & 1;
        return s->kind < 1 || s->kind > 4 || s->name_length > WDKM_NAME || s->label_length > WDKM_LABEL ||
               (s->data[current] == 0 && s->length[current] > WDKM_INLINE);
    }

    /* Who looks, as far as it is asked for whether another is dead. */
    static void wdkm_observer(wdkm_thread *me) {
        char state;
        uint64_t began = 0;
        uint64_t tid = (uint64_t)syscall(SYS_gettid);
        if (wdkm_life("/proc/thread-self/stat", &state, &began)) began = 0;
        memset(me, 0, sizeof *me);
        me->word = wdkm_held_word((uint64_t)getpid() << 32 | tid, began, 0);
    }

    static uint64_t wdkm_size_of(const char *prefix, uint64_t id) {
        char path[192];
        struct stat status;
        snprintf(path, sizeof path, "/dev/shm%s.d%016llx", prefix, (unsigned long long)id);
        return stat(path, &status) ? 0 : (uint64_t)status.st_size;
    }
    """
    enum:
        WDKM_HEADER
        WDKM_NAME
        WDKM_LABEL
        WDKM_LOOK
        FUTEX_TID_MASK
    const uint64_t WDKM_IDS
    ctypedef struct wdkm_thread:
        pass
    ctypedef struct wdkm_slot:
        uint64_t held_by
        uint32_t acquired_low
        uint64_t commit
        uint64_t serial
        uint32_t length[2]
        uint64_t data[2]
        uint8_t kind
        uint8_t name_length
        uint8_t label_length
        uint32_t acquired_high
        uint64_t first_commit
        uint32_t contended
        uint32_t abandoned
        uint32_t abandoned_pid
        uint32_t timeouts
        char label[20]
        char name[104]
    uint64_t wdkm_copy_tenant(const wdkm_slot *, wdkm_slot *) nogil
    int64_t wdkm_seen_for(wdkm_slot *, const wdkm_slot *, int64_t) nogil
    bint wdkm_is_damaged(const wdkm_slot *) nogil
    void wdkm_observer(wdkm_thread *) nogil
    bint wdkm_holder_dead(const wdkm_slot *, uint32_t, uint64_t, const wdkm_thread *, int) nogil
    uint64_t wdkm_size_of(const char *, uint64_t) nogil
    uint32_t wdkm_lock_word(const wdkm_slot *) nogil
    bint wdkm_word_held(uint32_t) nogil
    bint wdkm_word_abandoned(uint32_t) nogil
    int64_t wdkm_now() nogil


cdef object make = tuple.__new__


cdef inline object new(type kind, tuple facts):
    # It holds numbers, words and tuples of these, so it is in no cycle: the collector need not visit it. Of 100,000, it
    # would take as long as all the rest.
    made = make(kind, facts)
    PyObject_GC_UnTrack(<void *>made)
    return made


def look(int fd, Py_ssize_t count, str segment not None, bytes prefix not None, type info not None, type statistics not None,
         dict kinds not None, dict waits not None, holder not None, list found not None, list serials not None):
    """Append an ``info`` for each tenant of a segment to ``found``, and its serial to ``serials``.

    Args:
        fd: the segment, open for reading and writing; its header was checked. count: of its slots.
        segment, prefix: its name, and that of its pool.
        info, statistics: :class:`wdkmutex_shm.base.records.MutexInfo` and ``Statistics``.
        kinds: number of a kind -> its word.
        waits: (slot, generation) -> who waits for that tenant.
        holder: called with pid, tid, seconds and whether it lives, for who holds a lock.

    Raises:
        OSError: it cannot be mapped.
    """
    cdef size_t size = WDKM_HEADER + count * sizeof(wdkm_slot)
    cdef void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
    cdef wdkm_slot *slots
    cdef wdkm_slot copy
    cdef wdkm_thread me
    cdef Py_ssize_t index
    cdef uint64_t generation, owner, memory
    cdef uint32_t word
    cdef int current
    cdef int64_t now = wdkm_now() // 1000000
    cdef dict labels = {}
    cdef dict ended = {}
    cdef tuple nobody = ()
    cdef bint dead, abandoned, damaged
    if base == MAP_FAILED:
        raise OSError(errno, os.strerror(errno), segment)
    try:
        wdkm_observer(&me)
        slots = <wdkm_slot *>(<char *>base + WDKM_HEADER)
        for index in range(count):
            generation = wdkm_copy_tenant(&slots[index], &copy)
            if generation == 0:
                continue
            damaged = wdkm_is_damaged(&copy)
            word = wdkm_lock_word(&copy)
            abandoned = wdkm_word_abandoned(word)
            who = None
            state = "free"
            if abandoned or wdkm_word_held(word):
                owner = copy.held_by & WDKM_IDS
                dead = abandoned
                if not abandoned:
                    if (owner & 0xffffffff) != (word & <uint32_t>FUTEX_TID_MASK):
                        owner = 0  # it is just being acquired or released
                    key = copy.held_by, word & <uint32_t>FUTEX_TID_MASK
                    known = ended.get(key)
                    if known is None:
                        # Of the slot itself: who has acquired it since is not taken for the one that was met.
                        known = ended[key] = wdkm_holder_dead(&slots[index], word, copy.held_by, &me, WDKM_LOOK)
                    dead = known
                state = "abandoned" if dead else "held"
                if owner:
                    who = holder(owner >> 32, owner & 0xffffffff,
                                 0.0 if abandoned else wdkm_seen_for(&slots[index], &copy, now) / 1000.0, not dead)
            if damaged:
                state = "damaged"
            current = copy.commit & 1
            memory = sizeof(wdkm_slot)
            if copy.data[0]:
                memory += wdkm_size_of(prefix, copy.data[0])
            if copy.data[1]:
                memory += wdkm_size_of(prefix, copy.data[1])
            raw = copy.label[:min(copy.label_length, WDKM_LABEL)]
            label = labels.get(raw)
            if label is None:
                label = labels[raw] = raw.decode("utf-8", "replace")
            kind = kinds.get(copy.kind)
            counts = new(statistics, (
                (<uint64_t>copy.acquired_high << 32) + copy.acquired_low, copy.contended, copy.abandoned, copy.timeouts,
                copy.commit - copy.first_commit, copy.length[current], memory))
            found.append(new(info, (
                copy.name[:min(copy.name_length, WDKM_NAME)].decode("utf-8", "replace"),
                f"kind {copy.kind}" if kind is None else kind, label, state, who,
                nobody if not waits else waits.get((index, generation), nobody),
                copy.abandoned_pid or None, counts, segment, index, generation)))
            serials.append(copy.serial)
    finally:
        munmap(base, size)
