"""KMutex and FastMutex."""

from libc.stdint cimport int64_t

from ._guard cimport Guard
from ._handle cimport Handle
from ._slot cimport wdkm_thread


cdef class Mutex(Handle):
    cdef int take(self, wdkm_thread *me, int64_t timeout) except -1
    cdef Guard own_root(self, wdkm_thread *me)
    cdef int not_had(self, int got, object timeout) except -1
    cdef Guard guard_apart(self, wdkm_thread *me, int64_t wait, object timeout)
    cdef object change_apart(self, Guard guard, object value, bint add)
    cdef wdkm_thread *at_level(self, str operation, bint waits) except NULL


cdef class KMutex(Mutex):
    pass


cdef class FastMutex(Mutex):
    pass
