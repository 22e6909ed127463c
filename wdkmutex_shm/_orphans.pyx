# cython: language_level=3, boundscheck=False, wraparound=False
"""Guards that were dropped in another thread than their holder's, which alone can unlock.

The garbage collector runs in any thread. A guard that it finds there is copied and left to its holder, which commits (or rolls
back, if an exception has left the guard's ``with``: a generator that is collected is closed by one) and releases at its
next locking; a main thread is told between two bytecodes. When the holder ends first, the kernel releases
the lock, and T stays as it was last committed: nobody but the holder ever writes T.
"""

import os

from libc.stdint cimport uint32_t, uint64_t

from ._slot cimport wdkm_thread
from ._thread cimport before_fork, thread_state

cdef extern from "Python.h":
    void PyErr_WriteUnraisable(object)
    int Py_AddPendingCall(int (*)(void *) except -1, void *)

# Serial of a thread -> (its thread id, guards that it has to finish).
cdef dict left = {}
orphans = 0

cdef int (*finish_guard)(object) except -1
cdef int (*forget_guard)(object) except -1


cdef void set_actions(int (*finish)(object) except -1, int (*forget)(object) except -1) noexcept:
    global finish_guard, forget_guard
    finish_guard = finish
    forget_guard = forget


cdef int leave_to(uint64_t thread, uint32_t tid, object guard) except -1:
    global orphans
    left.setdefault(thread, (tid, []))[1].append(guard)
    orphans += 1
    if tid == thread_state().owner >> 32:
        Py_AddPendingCall(reap_in_main, NULL)
    forget_ended()
    return 0


cdef int reap_in_main(void *nothing) except -1 with gil:
    """Called by the interpreter between two bytecodes of the main thread."""
    return reap_orphans(thread_state())


cdef int reap_orphans(wdkm_thread *me) except -1:
    global orphans
    found = left.pop(me.serial, None)
    if found is None:
        return 0
    guards = found[1]
    while guards:
        guard = guards.pop()
        orphans -= 1
        try:
            finish_guard(guard)
        except Exception:
            PyErr_WriteUnraisable(guard)  # as from a finalizer: whoever locks something else now has nothing to do with it
    return 0


cdef int forget_ended() except -1:
    """Drop what was left to threads that have ended."""
    global orphans
    for serial, (tid, _) in list(left.items()):
        if before_fork(serial) or not os.path.exists(f"/proc/self/task/{tid}"):
            for guard in left.pop(serial, (0, ()))[1]:
                orphans -= 1
                forget_guard(guard)
    return 0
