"""The committed T, for readers without the lock."""

from libc.stdint cimport uint64_t

from ._codec cimport Codec
from ._segment cimport Segment


cdef object peek(Segment segment, Py_ssize_t index, uint64_t generation, Codec codec)
