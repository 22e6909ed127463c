# cython: language_level=3, boundscheck=False, wraparound=False
"""Thread affinity: who may use a guard, and what happens when another does.

A guard belongs to the thread that locked, or to the task. Any other is refused: another thread, another task of the
same thread, a child that inherited the guard over fork(). The one exception is a `with` that an exception leaves there,
as when the garbage collector closes a generator: there may be nobody to tell, and T must be rolled back all the same.
A guard that is dropped there: `_foreign_drops.pyx`.
"""

import sys

from ._guard cimport FAILED, HELD, Guard
from ._segment cimport slot_name
from ._slot cimport WDKM_OF_TASK, wdkm_thread
from ._tasks cimport has_lost_task, is_own_task
from ._thread cimport before_fork, thread_state
from ._transaction cimport undo
from ..errors import NotOwned


cdef int must_hold(Guard guard, str what) except -1:
    if guard.flags & HELD:
        if guard.thread == thread_state().serial:
            return 0
        if guard.thread == thread_state().serial | WDKM_OF_TASK and is_own_task(guard):
            return 0
    name = slot_name(guard.handle.slot) if guard.handle is not None else ""
    if not guard.flags & HELD:
        raise NotOwned(f"{what}: this guard of mutex {name!r} was already released; lock the mutex again", name=name)
    if before_fork(guard.thread):
        raise NotOwned(f"{what}: this guard of mutex {name!r} was inherited over fork(); the parent holds the lock. "
                       "Lock it in this process", name=name)
    if guard.thread == thread_state().serial | WDKM_OF_TASK:
        raise NotOwned(f"{what}: this guard of mutex {name!r} belongs to another task or greenlet, the one that "
                       "locked it; lock it in this one. A guard whose task has ended is released by dropping it",
                       name=name)
    raise NotOwned(f"{what}: this guard of mutex {name!r} belongs to another thread; lock the mutex in this one", name=name)


cdef bint leave_elsewhere(Guard guard, bint commit, wdkm_thread *me) except -1:
    if before_fork(guard.thread):
        return True  # the parent holds the lock; nothing happens here
    if commit or not has_lost_task(guard, me):
        if not commit and fail_elsewhere(guard, me):
            return True
        must_hold(guard, "leaving the with")
    return False


cdef bint fail_elsewhere(Guard guard, wdkm_thread *me) except -1:
    """An exception leaves the `with` in another task or thread than its own. Tells whether nobody needs to know."""
    if guard.thread == me.serial | WDKM_OF_TASK:
        # Another task closes an async generator, say. It may not release the lock, but whoever drops the guard would
        # commit what is half done.
        undo(guard)
        return False
    # Not undone here: its own thread may be using T. The collector closes generators in any thread, and has nobody to
    # tell; it drops the guard next.
    guard.flags |= FAILED
    return sys.exc_info()[0] is GeneratorExit
