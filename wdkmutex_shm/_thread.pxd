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
# Whether a level that thread_at_level() found comes of an event loop.
cdef inline bint at_loop_level(wdkm_thread *me) noexcept nogil:
    return me.level == DISPATCH and me.irql < DISPATCH
cdef int refuse_level(str operation, object name, int level, int limit) except -1
