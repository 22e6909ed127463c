# cython: language_level=3, boundscheck=False, wraparound=False
"""Holds of tasks: what differs where a task of an event loop holds a lock, and not its thread.

The kernel knows only the thread. The guard knows the task, by a weak reference, and its `thread` is marked
WDKM_OF_TASK. A greenlet owns as a task does. A callback of an event loop, which no task runs, cannot be told from the next
one: it owns as `nobody`, whose guards all callbacks may use, and who never has an inner guard. How a task asks for the
lock and waits for it: `_async_request.pyx`, :mod:`wdkmutex_shm.wait.task_queue`.
"""

from libc.stdint cimport uint32_t

from ._guard cimport HELD, Guard, call_guard
from ._handle cimport Handle
from ._slot cimport WDKM_OF_TASK, wdkm_local, wdkm_thread, wdkm_unlock
from ._thread cimport nobody, running_owner

cdef extern from "Python.h":
    void PyErr_WriteUnraisable(object)


queues = {}


cdef Guard task_guard(Handle handle, wdkm_thread *me, bint abandoned, object task):
    cdef Guard guard = Guard.__new__(Guard)
    guard.enter_or_exit = call_guard
    guard.handle = handle
    # Never equal to a serial: what is quick for a thread's guard asks for the task.
    guard.thread = me.serial | WDKM_OF_TASK
    guard.task = task
    guard.tid = <uint32_t>me.owner
    guard.flags = HELD
    guard.depth = 1
    guard.dead_pid = <int>handle.slot.abandoned_pid if abandoned else -1
    handle.segment_.local[handle.index].root = <void *>guard
    handle.segment_.local[handle.index].thread = guard.thread
    return guard


cdef Guard task_root(Handle handle, wdkm_thread *me):
    cdef wdkm_local *local = &handle.segment_.local[handle.index]
    if local.thread != me.serial | WDKM_OF_TASK or local.root == NULL or (<Guard>local.root).depth == 0:
        return None
    return <Guard>local.root


cdef bint is_own_task(Guard guard) except -1:
    if guard is None:
        return False
    owner = running_owner()
    if owner is None:
        return guard.task is nobody
    return guard.task() is owner


cdef bint has_lost_task(Guard guard, wdkm_thread *me) except -1:
    return guard.thread == me.serial | WDKM_OF_TASK and (guard.task() is None or running_owner() is None)


cdef int let_task_go(Guard guard) except -1:
    if guard.handle.segment_.local[guard.handle.index].root == <void *>guard:
        guard.handle.segment_.local[guard.handle.index].root = NULL
    wdkm_unlock(guard.handle.slot)
    poke(guard.handle)
    return 0


cdef int poke(Handle handle) except -1:
    if queues:
        try:
            queue = queues.get(handle)
            if queue is not None:
                queue.poke()
        except Exception:
            PyErr_WriteUnraisable(handle)  # what goes wrong with another task's loop is not the caller's
    return 0
