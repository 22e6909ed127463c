"""The guard: the only way to T."""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from ._handle cimport Handle
from ._slot cimport wdkm_thread


cdef extern from "Python.h":
    ctypedef object (*vectorcallfunc)(object, PyObject *const *, size_t, PyObject *)


cdef class Guard:
    cdef vectorcallfunc enter_or_exit  # called by `with`, see `_bound.pyx`
    cdef Handle handle
    cdef int64_t number      # the same as `held`, where NUMBER says so
    cdef object held         # T as handed out or set, not committed
    cdef Guard root          # the outermost guard, when this one is an inner lock of a KMutex
    cdef object before       # inner: what `held` was when this lock was taken; its bytes once it was handed out
    cdef uint64_t thread     # serial of the holder
    cdef uint32_t tid        # its thread id
    cdef uint32_t flags
    cdef uint32_t depth      # outermost: how many guards of this hold there are
    cdef int dead_pid        # pid of the owner that died holding, 0 if it is not known, -1 if nobody died

    cdef int must_hold(self, str what) except -1
    cdef object get_value(self)
    cdef int set_value(self, object value) except -1
    cdef int write(self, Guard top) except -1
    cdef int undo(self) except -1
    cdef int finish(self, bint commit) except -1
    cdef int enter(self) except -1
    cdef int leave(self, bint commit) except -1
    cdef int let_go(self, Guard top, wdkm_thread *me) except -1
    cdef int leave_behind(self) except -1


cdef Guard new_guard(Handle handle, wdkm_thread *me, bint abandoned)
cdef Guard inner_guard(Guard root)
