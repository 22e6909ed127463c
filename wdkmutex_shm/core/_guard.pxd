"""The guard: the only way to T."""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from ._handle cimport Handle
from ._slot cimport wdkm_thread


cdef extern from "Python.h":
    ctypedef object (*vectorcallfunc)(object, PyObject *const *, size_t, PyObject *)


cdef enum:  # flags of a guard
    HELD = 1        # this guard has not been released
    LOADED = 2      # `held` is T
    SET = 4         # `held` was set: a release commits it
    INNER_ENCODED = 16  # inner: `before` is msgpack bytes, because a container may be changed in place
    INNER_LOADED = 32   # flags of the outermost guard when this inner lock was taken
    INNER_SET = 64
    NUMBER = 128    # T is an int and `number` is it; always with SET
    WRITING = 256   # a commit is under way: it stays held, and no other commit begins
    UNDONE = 512    # with WRITING: rolled back meanwhile
    IN_WRITING = 2048   # an inner lock of a signal handler in a commit: its rollback leaves alone what is being written
    DROPPED = 4096  # with WRITING: the last guard of the hold was dropped meanwhile, and the lock goes after the commit
    FAILED = 1024   # an exception left its `with` in another thread: dropping it rolls back


cdef class Guard:
    cdef vectorcallfunc enter_or_exit  # called by `with`, see `_bound_with.pyx`
    cdef Handle handle
    cdef int64_t number      # the same as `held`, where NUMBER says so
    cdef object held         # T as handed out or set, not committed
    cdef Guard root          # the outermost guard, when this one is an inner lock of a KMutex
    cdef object before       # inner: what `held` was when this lock was taken; its bytes once it was handed out
    cdef uint64_t thread     # serial of the holder; with WDKM_OF_TASK where `task` is it
    cdef object task         # weak reference to the task that holds
    cdef uint32_t tid        # its thread id
    cdef uint32_t flags
    cdef uint32_t depth      # outermost: how many guards of this hold there are
    cdef int dead_pid        # pid of the owner that died holding, 0 if it is not known, -1 if nobody died

    cdef int finish(self, bint commit) except -1
    cdef int enter(self) except -1
    cdef int leave(self, bint commit) except -1
    cdef int let_go(self, Guard top, wdkm_thread *me) except -1
    cdef int must_be_only(self) except -1
    cdef int must_be_at_release_level(self, int level) except -1
    cdef int finish_dropped(self) except -1


cdef Guard new_guard(Handle handle, wdkm_thread *me, bint abandoned)
# What `with` calls: `enter_or_exit` of every guard.
cdef object call_guard(object self, PyObject *const *args, size_t count, PyObject *names)
