# cython: language_level=3, boundscheck=False, wraparound=False
"""Guards that were dropped in another thread than their holder's, which alone can unlock.

The garbage collector runs in any thread. A guard that it finds there is copied and left to its holder, which commits
(or rolls back, if an exception has left the guard's ``with``: a generator that is collected is closed by one) and
releases at its next locking; a main thread is told between two bytecodes. When the holder ends first, the kernel
releases the lock, and T stays as it was last committed: nobody but the holder ever writes T.
"""

import os

from ._guard cimport FAILED, HELD, Guard
from ._slot cimport WDKM_OF_TASK, wdkm_local, wdkm_thread
from ._tasks cimport poke
from ._thread cimport before_fork, thread_state
from ..base._alive import thread_gone

cdef extern from "Python.h":
    void PyErr_WriteUnraisable(object)
    int Py_AddPendingCall(int (*)(void *) except -1, void *)

# Serial of a thread -> (its thread id, guards that it has to finish).
cdef dict left = {}
orphans = 0


cdef int leave_behind(Guard guard) except -1:
    cdef Guard copy = Guard.__new__(Guard)
    cdef wdkm_local *local = &guard.handle.segment_.local[guard.handle.index]
    copy.enter_or_exit = guard.enter_or_exit
    copy.handle = guard.handle
    copy.number = guard.number
    copy.held = guard.held
    copy.root = guard.root
    copy.before = guard.before
    copy.thread = guard.thread
    copy.task = guard.task
    copy.flags = guard.flags
    copy.depth = guard.depth
    copy.dead_pid = guard.dead_pid
    copy.tid = guard.tid
    guard.flags = 0
    if local.root == <void *>guard:
        local.root = <void *>copy
    leave_to_thread(copy)
    if copy.thread & WDKM_OF_TASK:
        poke(copy.handle)  # a task of that thread which tries to lock releases it first
    return 0


cdef int leave_to_thread(Guard guard) except -1:
    global orphans
    left.setdefault(guard.thread & ~WDKM_OF_TASK, (guard.tid, []))[1].append(guard)
    orphans += 1
    if guard.tid == thread_state().owner >> 32:
        Py_AddPendingCall(reap_in_main, NULL)
    forget_ended()
    return 0


cdef int reap_in_main(void *nothing) except -1 with gil:
    """Called by the interpreter between two bytecodes of the main thread."""
    return reap_orphans(thread_state())


cdef int reap_orphans(wdkm_thread *me) except -1:
    global orphans
    cdef Guard guard
    found = left.pop(me.serial, None)
    if found is None:
        return 0
    guards = found[1]
    while guards:
        guard = guards.pop()
        orphans -= 1
        try:
            guard.finish(not guard.flags & FAILED)
        except Exception:
            # As from a finalizer: whoever locks something else now has nothing to do with it.
            PyErr_WriteUnraisable(guard)
    return 0


cdef int forget_ended() except -1:
    """Drop what was left to threads that have ended."""
    global orphans
    for serial, (tid, _) in list(left.items()):
        if before_fork(serial) or thread_gone(os.getpid(), tid):
            for guard in left.pop(serial, (0, ()))[1]:
                orphans -= 1
                (<Guard>guard).flags &= ~HELD
    return 0
