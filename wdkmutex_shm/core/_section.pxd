"""CriticalSection."""

from libc.stdint cimport int64_t

from ._guard cimport Guard
from ._handle cimport Handle
from ._slot cimport wdkm_thread


cdef class CriticalSection(Handle):
    cdef int take(self, int64_t timeout) except -1
    cdef bint take_apart(self, object task, int64_t timeout) except -1
    cdef Guard last_apart(self)
    cdef bint leave_apart(self) except -1
    cdef bint take_now(self, bint starving) except -1
    cdef int take_first(self, wdkm_thread *me, int code, int64_t timeout) except -1
    cdef int let_go(self) except -1
    cdef int not_owned(self) except -1
