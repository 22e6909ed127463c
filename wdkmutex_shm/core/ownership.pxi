"""Who owns a hold, and what happens to it when another thread or task has its guard."""


# Thread affinity: who may use a guard, and what happens when another does.
#
# A guard belongs to the thread that locked, or to the task. Any other is refused: another thread, another task of the
# same thread, a child that inherited the guard over fork(). The one exception is a `with` that an exception leaves there,
# as when the garbage collector closes a generator: there may be nobody to tell, and T must be rolled back all the same.
# A guard that is dropped there: `ownership.pxi`.

# Raise NotOwned unless the calling thread, or the task that runs in it, may use the guard. `what`: what it asks for.
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


# The `with` is not left by the thread that holds, or it is a task's. Tells whether nothing is left to do.
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


# Holds of tasks: what differs where a task of an event loop holds a lock, and not its thread.
#
# The kernel knows only the thread. The guard knows the task, by a weak reference, and its `thread` is marked
# WDKM_OF_TASK. A greenlet owns as a task does. A callback of an event loop, which no task runs, cannot be told from the next
# one: it owns as `nobody`, whose guards all callbacks may use, and who never has an inner guard. How a task asks for the
# lock and waits for it: `async_request.pxi`, :mod:`wdkmutex_shm.wait.task_queue`.

# Of each mutex that tasks of this process wait for, who waits: something with `poke()`, called after a task let go.
cdef dict queues

queues = {}


# The guard of a hold by one task of the calling thread; `task` is a weak reference to it.
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


# The guard of a mutex that a task of the calling thread holds, borrowed from `wdkm_local`; None if no task holds it.
cdef Guard task_root(Handle handle, wdkm_thread *me):
    cdef wdkm_local *local = &handle.segment_.local[handle.index]
    if local.thread != me.serial | WDKM_OF_TASK or local.root == NULL or (<Guard>local.root).depth == 0:
        return None
    return <Guard>local.root


# Whether the task or greenlet that runs now is the guard's; where none runs, what a callback of a loop locked is its own.
cdef bint is_own_task(Guard guard) except -1:
    if guard is None:
        return False
    owner = running_owner()
    if owner is None:
        return guard.task is nobody
    return guard.task() is owner


# Whether it is the guard of a task of this thread that is being destroyed: its coroutine is closed by nobody's task.
cdef bint has_lost_task(Guard guard, wdkm_thread *me) except -1:
    return guard.thread == me.serial | WDKM_OF_TASK and (guard.task() is None or running_owner() is None)


# Release the lock of an outermost guard, and tell the tasks of this process that wait for it.
cdef int let_task_go(Guard guard) except -1:
    if guard.handle.segment_.local[guard.handle.index].root == <void *>guard:
        guard.handle.segment_.local[guard.handle.index].root = NULL
    wdkm_unlock(guard.handle.slot)
    poke(guard.handle)
    return 0


# Tell the tasks of this process that wait for a lock that it may be free.
cdef int poke(Handle handle) except -1:
    if queues:
        try:
            queue = queues.get(handle)
            if queue is not None:
                queue.poke()
        except Exception:
            PyErr_WriteUnraisable(handle)  # what goes wrong with another task's loop is not the caller's
    return 0


# Guards that were dropped in another thread than their holder's, which alone can unlock.
#
# The garbage collector runs in any thread. A guard that it finds there is copied and left to its holder, which commits
# (or rolls back, if an exception has left the guard's ``with``: a generator that is collected is closed by one) and
# releases at its next locking; a main thread is told between two bytecodes. When the holder ends first, the kernel
# releases the lock, and T stays as it was last committed: nobody but the holder ever writes T.

# How many there are. Looked at by every lock, so it is a plain C variable.
cdef int deferred_guards

# Serial of a thread -> (its thread id, guards that it has to finish).
cdef dict left = {}
deferred_guards = 0


# A guard that holds goes in another thread than its holder's, which alone can unlock: leave it a copy.
cdef int defer_to_owner(Guard guard) except -1:
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
    global deferred_guards
    left.setdefault(guard.thread & ~WDKM_OF_TASK, (guard.tid, []))[1].append(guard)
    deferred_guards += 1
    if guard.tid == thread_state().owner >> 32:
        Py_AddPendingCall(finish_in_main, NULL)
    forget_ended()
    return 0


cdef int finish_in_main(void *nothing) except -1 with gil:
    """Called by the interpreter between two bytecodes of the main thread."""
    return finish_deferred(thread_state())


# Finish those that are the calling thread's.
cdef int finish_deferred(wdkm_thread *me) except -1:
    global deferred_guards
    cdef Guard guard
    found = left.pop(me.serial, None)
    if found is None:
        return 0
    guards = found[1]
    while guards:
        guard = guards.pop()
        deferred_guards -= 1
        try:
            guard.finish(not guard.flags & FAILED)
        except Exception:
            # As from a finalizer: whoever locks something else now has nothing to do with it.
            PyErr_WriteUnraisable(guard)
    return 0


cdef int forget_ended() except -1:
    """Drop what was left to threads that have ended."""
    global deferred_guards
    for serial, (tid, _) in list(left.items()):
        if before_fork(serial) or thread_gone(os.getpid(), tid):
            for guard in left.pop(serial, (0, ()))[1]:
                deferred_guards -= 1
                (<Guard>guard).flags &= ~HELD
    return 0
