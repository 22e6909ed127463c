"""T in its two buffers: read, committed, peeked at."""

from libc.stdint cimport int64_t, uint64_t

from ._codec cimport Codec, Encoded
from ._segment cimport Segment
from ._codec cimport wdkm_decode_int, wdkm_encode_int
from ._slot cimport wdkm_fence_release, wdkm_load64, wdkm_mapping, wdkm_planted, wdkm_slot, wdkm_store64

# For the holder of the lock only, but for what is said to be for anyone.
cdef const unsigned char *current(Segment segment, Py_ssize_t index, Py_ssize_t *length) except NULL
cdef bint current_equals(Segment segment, Py_ssize_t index, const Encoded *value) except -1
# Writes the other buffer and publishes it. On any error the old T stands.
cdef int publish(Segment segment, Py_ssize_t index, uint64_t generation, const Encoded *value) except -1
# The same in parts, for several mutexes at once: everything before the store of the commit word, which it returns (no Python
# code may run between the last of these and the stores), and what is done after it by the thread with this serial, as long as
# that commit is the last and the lock is held.
cdef uint64_t prepare(Segment segment, Py_ssize_t index, uint64_t generation, const Encoded *value) except? 0
cdef int published(Segment segment, Py_ssize_t index, const Encoded *value, uint64_t commit, uint64_t serial) except -1
# Removes what a holder that died while it committed left behind.
cdef int remove_pending(Segment segment, wdkm_slot *slot) except -1
# Unmaps the data segments that a slot has no more. At any time, by anyone.
cdef void forget_stale(Segment segment, Py_ssize_t index) noexcept
cdef int gone(Segment segment, wdkm_slot *slot) except -1
# For anyone: MutexDamaged; a data segment as it is mapped here, to be used before any Python code runs, FileNotFoundError when it
# is gone; how many bytes of T it has room for.
cdef int broken(Segment segment, wdkm_slot *slot, str what) except -1
cdef bint is_mapped(Segment segment, Py_ssize_t index, int buffer, uint64_t ident) noexcept
cdef wdkm_mapping *mapped(Segment segment, Py_ssize_t index, int buffer, uint64_t ident) except NULL
cdef uint64_t capacity(const wdkm_mapping *mapping) noexcept
# Raises NotOwned in a child that a signal handler forked since the thread had this serial.
cdef int not_in_child(wdkm_slot *slot, uint64_t serial) except -1


# Whether T is an int that fits 64 bits with sign; if so, it is stored in `number`.
cdef inline bint current_number(wdkm_slot *slot, int64_t *number) noexcept:
    cdef int buffer = slot.commit & 1
    cdef unsigned int length = slot.length[buffer]
    return length <= 9 and wdkm_decode_int(slot.payload[buffer], length, number) == 0


# The whole of publish() for a T that is an int; False, with nothing done, where that does not do.
cdef inline bint publish_number(wdkm_slot *slot, uint64_t generation, int64_t number) noexcept:
    cdef uint64_t commit = slot.commit
    cdef int buffer = (commit & 1) ^ 1
    if wdkm_load64(&slot.generation) != generation or slot.data[0] | slot.data[1] != 0:
        return False
    wdkm_fence_release()
    if wdkm_planted("publish-first"):
        wdkm_store64(&slot.commit, commit + 1)
    slot.length[buffer] = wdkm_encode_int(number, slot.payload[buffer])
    wdkm_store64(&slot.commit, commit + 1)
    return True
