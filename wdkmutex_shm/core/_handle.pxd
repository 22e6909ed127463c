"""What a process has of a mutex: the slot it lives in, and which tenant of it is meant."""

from libc.stdint cimport uint64_t

from ._codec cimport Codec
from ._segment cimport Segment
from ._slot cimport wdkm_slot


cdef class Handle:
    cdef Segment segment_
    cdef wdkm_slot *slot
    cdef Py_ssize_t index
    cdef int kind
    cdef uint64_t generation_
    cdef Codec codec
    # T as this process last committed it, if it is an int; it still is T while the commit word is `number_commit`.
    cdef object number
    cdef uint64_t number_commit
    # The pool to give the slot back to when this handle goes: set for the first handle of an anonymous mutex.
    cdef object pool
    cdef object __weakref__
    cdef uint64_t forks

    cdef int forget_section(self) except -1
    cdef int give_back(self) except -1
