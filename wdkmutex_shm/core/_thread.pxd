"""The calling thread: who it is to other processes, and its IRQL."""

from libc.stdint cimport uint64_t

from ._slot cimport wdkm_thread

cdef enum:
    PASSIVE = 0
    APC = 1
    DISPATCH = 2
    HIGH = 15

# The calling thread, set up.
cdef wdkm_thread *thread_state() noexcept nogil
# The same, with its `level` brought up to date: the raised level, APC while it holds a FastMutex, DISPATCH in an event loop.
cdef wdkm_thread *thread_at_level() except NULL
# How many fork() this process has made, plus how many made it.
cdef uint64_t fork_count() noexcept nogil
# Whether a thread serial was given out before the last fork: it then belongs to an ancestor.
cdef bint before_fork(uint64_t serial) noexcept nogil
# The task of asyncio or Trio that the calling thread runs now, or None.
cdef object running_task()
# The same, or the greenlet that it runs, if that is not its main one.
cdef object running_owner()
# For a thread that thread_at_level() found to be `apart`: a weak reference to the task or greenlet that owns what it locks
# now; `nobody` in a callback of an event loop; None if it is the thread itself after all.
cdef object owner_now()
cdef object nobody
# `kind` of the mutex, 0 where it is none that users see; see :mod:`wdkmutex_shm.core.irql_advice`.
cdef int refuse_level(str operation, object name, int level, int limit, int kind) except -1
