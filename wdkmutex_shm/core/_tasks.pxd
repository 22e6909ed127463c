"""Holds of tasks: what differs where a task of an event loop holds a lock, and not its thread."""

from ._guard cimport Guard
from ._handle cimport Handle
from ._slot cimport wdkm_thread

# The guard of a hold by one task of the calling thread; `task` is a weak reference to it.
cdef Guard task_guard(Handle handle, wdkm_thread *me, bint abandoned, object task)
# The guard of a mutex that a task of the calling thread holds, borrowed from `wdkm_local`; None if no task holds it.
cdef Guard task_root(Handle handle, wdkm_thread *me)
# Whether the task or greenlet that runs now is the guard's; where none runs, what a callback of a loop locked is its own.
cdef bint is_own_task(Guard guard) except -1
# Whether it is the guard of a task of this thread that is being destroyed: its coroutine is closed by nobody's task.
cdef bint has_lost_task(Guard guard, wdkm_thread *me) except -1
# Release the lock of an outermost guard, and tell the tasks of this process that wait for it.
cdef int let_task_go(Guard guard) except -1
# Tell the tasks of this process that wait for a lock that it may be free.
cdef int poke(Handle handle) except -1

# Of each mutex that tasks of this process wait for, who waits: something with `poke()`, called after a task let go.
cdef dict queues
