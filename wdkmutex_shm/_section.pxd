"""CriticalSection."""

from libc.stdint cimport int64_t

from ._handle cimport Handle


cdef class CriticalSection(Handle):
    cdef int take(self, int64_t timeout) except -1
    cdef int let_go(self) except -1
    cdef int not_owned(self) except -1
