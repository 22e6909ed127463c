"""T in its two buffers: read, committed, peeked at."""

from libc.stdint cimport uint64_t

from ._codec cimport Codec, Encoded
from ._segment cimport Segment
from ._slot cimport wdkm_slot

# All but peek are for the holder of the lock only.
cdef const unsigned char *current(Segment segment, Py_ssize_t index, Py_ssize_t *length) except NULL
cdef bint current_equals(Segment segment, Py_ssize_t index, const Encoded *value) except -1
# Writes the other buffer and publishes it. On any error the old T stands.
cdef int publish(Segment segment, Py_ssize_t index, uint64_t generation, const Encoded *value) except -1
# Removes what a holder that died while it committed left behind.
cdef int remove_pending(Segment segment, wdkm_slot *slot) except -1
# The last committed T, without the lock.
cdef object peek(Segment segment, Py_ssize_t index, uint64_t generation, Codec codec)
cdef int gone(Segment segment, wdkm_slot *slot) except -1
