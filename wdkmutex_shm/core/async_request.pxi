"""The lock as a task of an event loop asks for it: one attempt here, and the waiting in :mod:`wdkmutex_shm.wait.task_queue`.

Every call that locks comes here where a task, a callback of an event loop or a greenlet makes it: all of them own for
themselves. Only a greenlet may wait in such a call, which stops its whole thread: so it never waits for another one.

To the kernel the loop's thread holds the lock. Which of its tasks does, the guard knows by a weak reference: a strong one
would be a cycle through the task's own frame, and guards are not known to the garbage collector.

============================  ==========================================================================================
state of the slot             what a task's attempt does
============================  ==========================================================================================
free, nobody starving         takes it, unless other tasks of this process wait for it already
free, a waiter is starving    fails; a task that starves itself takes it
held by this task             KMutex, CriticalSection: an inner guard; FastMutex: AlreadyOwned
held by another task          fails, also where both tasks are of one thread
held by this thread, no task  taken before the thread ran its loop: AlreadyOwned, since waiting would stop who has to release
                              it
held by a callback of a loop  fails, also for the callbacks of that loop: one cannot be told from the next
held by another thread        fails
owner died                    takes it, repairs the slot, is told
generation moved on           MutexDestroyed
============================  ==========================================================================================
"""

cdef extern from *:
    """
    /* What awaits an iterator asks for this first; without it, each result travels in a StopIteration. */
    static void wdkm_send_through(PyTypeObject *type, sendfunc send) {
        type->tp_as_async->am_send = send;
        PyType_Modified(type);
    }
    """
    ctypedef int (*sendfunc)(PyObject *, PyObject *, PyObject **)
    void wdkm_send_through(PyTypeObject *, void *)
    int PYGEN_RETURN


#: Of each mutex that tasks of this process wait for, its queue; see :mod:`wdkmutex_shm.wait.task_queue`.
waiting = queues


cdef Guard own_hold(Handle handle, wdkm_thread *me, object task, bint *wait):
    """The outermost guard if the task holds the mutex; `wait` says whether it must wait for another task of its thread."""
    cdef wdkm_local *local = &handle.segment_.local[handle.index]
    cdef Guard root = task_root(handle, me)
    wait[0] = False
    if root is None:
        if handle.kind == KIND_FAST or local.thread != me.serial:
            return None
        if (local.root == NULL or (<Guard>local.root).depth == 0) and local.depth == 0:
            return None
    if wdkm_load64(&handle.slot.generation) != handle.generation_:
        gone(handle.segment_, handle.slot)
    if root is not None:
        held_by = root.task()
        if held_by is not None and held_by is task():
            if handle.kind == KIND_FAST:
                raise_of_task(handle.slot, True)
            return root
    else:
        raise_before_loop(handle, me)
    wait[0] = True
    return None


cdef Guard attempt_for(Handle handle, object task, bint first):
    """One attempt for a task (a weak reference). None: it has to wait. `first`: also if others starve."""
    cdef wdkm_thread *me = thread_state()
    cdef wdkm_slot *slot = handle.slot
    cdef int got
    cdef int code = EBUSY
    cdef bint wait = False
    cdef Guard root
    if deferred_guards:
        finish_deferred(me)
    if first or slot.starving == 0:
        code = pthread_mutex_trylock(&slot.mutex)
    # Who passes those that starve by takes a lock whose `starving` may say more than that: what it says is settled below.
    if code == 0 and not first and not slot.starving & WDKM_UNSETTLED and (
            wdkm_load64(&slot.generation) == handle.generation_):
        wdkm_acquired(slot, me)
        return task_guard(handle, me, False, task)
    if code != 0:
        root = own_hold(handle, me, task, &wait)
        if root is not None:
            return inner_guard(root)
        if wait:
            return None
    got = lock_slow(handle.segment_, handle.index, handle.generation_, me, code, 0)
    if got >= EXPIRED:
        return None
    return task_guard(handle, thread_state(), got == ABANDONED, task)


cdef Guard lock_for(Handle handle, object task, int64_t wait, bint first):
    """The guard of a call of :func:`owner_now`'s, which may wait if it is a greenlet's. None: it was not had in time."""
    cdef wdkm_thread *me
    cdef int got
    cdef Guard guard = attempt_for(handle, task, first)
    if guard is not None or wait == 0:
        return guard
    me = thread_state()
    if task_root(handle, me) is not None:
        raise_of_task(handle.slot, False)
    got = lock_slow(handle.segment_, handle.index, handle.generation_, me, EBUSY, wait)
    if got == OF_TASK:
        raise_of_task(handle.slot, False)
    if got == EXPIRED:
        return None
    return task_guard(handle, thread_state(), got == ABANDONED, task)


cdef bint holds_itself(Handle handle) except -1:
    """Whether the thread, task or greenlet that calls holds the lock."""
    cdef Guard root
    cdef wdkm_thread *me = thread_state()
    if wdkm_holder(handle.slot) != me.owner or not wdkm_word_held(wdkm_lock_word(handle.slot)):
        return False
    root = task_root(handle, me)
    return root is None or is_own_task(root)


def attempt_for_task(Handle handle not None, object task not None, bint first=False):
    """One attempt to get the lock for a task that waits for it. For :mod:`wdkmutex_shm.wait.task_queue`.

    Args:
        task: weak reference to it.
        first: it counts as starving, and need not let starving waiters go first.

    Returns:
        The guard; None if the task has to wait.

    Raises:
        AlreadyOwned, MutexDestroyed, MutexDamaged.
    """
    cdef Guard guard = attempt_for(handle, task, first)
    if guard is not None and guard.root is None:
        handle.slot.contended += 1
    return guard


cdef Guard behind_others(Handle handle, object task):
    """What a task gets without waiting where others wait already: a further guard of its own hold."""
    cdef bint wait = False
    cdef Guard root = own_hold(handle, thread_state(), task, &wait)
    return None if root is None else inner_guard(root)


def at_once(Handle handle not None, object task not None):
    """What a task that comes new gets without waiting, as :func:`attempt`: None also where others wait already."""
    if queues and handle in queues and queues[handle].waiters:
        return behind_others(handle, task)
    return attempt_for(handle, task, False)


def holds(Handle handle not None, object task not None):
    """Whether the task (a weak reference) holds the lock.

    Raises:
        AlreadyOwned: it is a FastMutex of the task's, or was locked before the thread ran its loop. MutexDestroyed.
    """
    cdef bint wait = False
    cdef wdkm_thread *me = thread_state()
    if own_hold(handle, me, task, &wait) is not None:
        return True
    if (not wait and handle.kind == KIND_FAST and task_root(handle, me) is None
            and wdkm_holder(handle.slot) == me.owner and wdkm_word_held(wdkm_lock_word(handle.slot))):
        raise_before_loop(handle, me)
    return False


cdef int raise_before_loop(Handle handle, wdkm_thread *me) except -1:
    name = slot_name(handle.slot)
    raise AlreadyOwned(
        f"this thread locked mutex {name!r} before it ran this event loop (or greenlet), and continues only after it: waiting "
        "would never end; release it first, or pass its guard on", name=name, owner_pid=me.owner >> 32,
        owner_tid=me.owner & 0xffffffff)


def expire(Handle handle not None, object timeout):
    """Raise LockTimeout, and count it."""
    raise_timeout(handle.segment_, handle.index, handle.generation_, timeout)


def note_timeout(Handle handle not None):
    """Count a LockTimeout that is raised without :func:`expire`."""
    wdkm_add32(&handle.slot.timeouts, 1)


def held_by_task(Handle handle not None, bint here=False):
    """Whether a task of this process, or of this thread, holds the lock: then :attr:`waiting` is told of its release."""
    cdef wdkm_local *local = &handle.segment_.local[handle.index]
    if here and local.thread != thread_state().serial | WDKM_OF_TASK:
        return False
    # The lock word: a hold of a thread that ended is over, though its guard may still be there.
    return (local.thread & WDKM_OF_TASK and local.root != NULL and not before_fork(local.thread)
            and wdkm_word_held(wdkm_lock_word(handle.slot)))


def ticket(Handle handle not None):
    """What :func:`_watch.sleep` needs, without asking to be told of anything: who asks later is told for both."""
    return wdkm_load32(&handle.slot.watch)


def anyone_starves(Handle handle not None):
    """Whether anybody counts among the waiters that are served next."""
    return wdkm_starving(handle.slot) != 0


@cython.final
@cython.no_gc
@cython.freelist(8)
cdef class Settled:
    """Awaitable that is done: what leaving an ``async with`` returns."""

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        raise StopIteration


cdef Settled settled = Settled.__new__(Settled)


@cython.final
@cython.no_gc
@cython.freelist(32)
cdef class LockRequest:
    """What ``lock_async()`` returns: to be used once, as ``async with request as guard:`` or ``guard = await request``.

    The guard belongs to the task that called ``lock_async()``, even if another one awaits it on its behalf, as
    ``asyncio.wait_for`` may do. See :meth:`KMutex.lock_async` for what awaiting it raises.
    """

    cdef vectorcallfunc enter_or_exit  # called by `async with`, see `bound_with.pxi`
    cdef Handle handle
    cdef Guard guard         # what was got, until it is handed out, or until the `async with` is left
    cdef object task         # weak reference to the task that asks; None: the one that awaits it
    cdef object timeout
    cdef uint64_t thread     # serial of the thread that asks
    cdef bint begun          # it was awaited
    cdef bint entered        # by an `async with`

    def __init__(self):
        raise TypeError("a lock request is returned by lock_async()")

    cdef object who(self):
        """A weak reference to the task that the guard will belong to."""
        if self.task is None or self.thread != thread_state().serial:
            task = running_task()
            if task is None:
                raise RuntimeError("lock_async() needs a task of asyncio or Trio, and none runs in this thread")
            self.task = PyWeakref_NewRef(task, None)
        return self.task

    def begin(self):
        """Await it: a weak reference to the task that the guard will belong to. RuntimeError the second time, or without a
        task. For :class:`wdkmutex_shm.wait.value_async.LockWhen`.
        """
        if self.begun:
            raise RuntimeError("this lock request was already awaited; call lock_async() again")
        self.begun = True
        return self.who()

    def __await__(self):
        if self.begun:
            raise RuntimeError("this lock request was already awaited; call lock_async() again")
        self.begun = True
        task = self.who()
        if queues and self.handle in queues and queues[self.handle].waiters:
            self.guard = behind_others(self.handle, task)
        else:
            self.guard = attempt_for(self.handle, task, False)
        if self.guard is not None:
            return self
        return above().contend(self, self.handle, task, self.timeout).__await__()

    def hand_over(self, Guard guard not None):
        """Take the guard that was waited for. For :mod:`wdkmutex_shm.wait.task_queue`."""
        if self.entered:
            self.guard = guard

    def __iter__(self):
        return self

    def __next__(self):
        guard = self.guard
        if not self.entered:
            self.guard = None
        raise StopIteration(guard)

    def __aenter__(self):
        """Wait for the lock and give its guard."""
        self.entered = True
        return self

    def __aexit__(self, kind, error, traceback):
        """Release the lock; commit first, or roll back when an exception leaves the ``async with``.

        Raises:
            NotOwned: another task leaves it, as the one that closes an async generator does. What an exception leaves is
                rolled back then, too; the lock is released when the guard is dropped.
            Anything that :meth:`Guard.commit` raises: the lock is released then.
        """
        return self.leave(kind is None)

    def leave(self, bint commit):
        guard = self.guard
        self.guard = None
        if guard is not None:
            (<Guard>guard).leave(commit)
        return settled

    def __dealloc__(self):
        if not self.begun and self.handle is not None:
            try:
                PyErr_WarnFormat(RuntimeWarning, 1, b"a lock_async() or lock_when_async() was never awaited, and has locked nothing")
            except BaseException:
                PyErr_WriteUnraisable(None)

    def __repr__(self):
        state = "awaited" if self.begun else "not awaited yet"
        return f"<LockRequest for {self.handle!r}, {state}>"

    @classmethod
    def __class_getitem__(cls, item):
        return cls


cdef LockRequest new_request(Handle handle, object timeout):
    cdef LockRequest request
    if timeout is not None:
        nanoseconds(timeout)
    task = running_task()
    request = LockRequest.__new__(LockRequest)
    request.enter_or_exit = call_request
    request.handle = handle
    request.timeout = timeout
    request.thread = thread_state().serial
    if task is not None:
        request.task = PyWeakref_NewRef(task, None)
    return request


cdef object call_request(object self, PyObject *const *args, size_t count, PyObject *names):
    """What `async with` calls; see `bound_with.pxi`."""
    count = PyVectorcall_NARGS(count)
    if names == NULL and count == 3:
        return (<LockRequest>self).leave(args[0] == <PyObject *>None)
    if names == NULL and count == 0:
        (<LockRequest>self).entered = True
        return self
    raise TypeError("a lock request is not callable; use it with `async with`, or await it")


cdef int send_request(PyObject *self, PyObject *value, PyObject **result) noexcept:
    cdef LockRequest request = <LockRequest>self
    result[0] = <PyObject *>request.guard
    Py_INCREF(request.guard)
    if not request.entered:
        request.guard = None
    return PYGEN_RETURN


cdef int send_settled(PyObject *self, PyObject *value, PyObject **result) noexcept:
    result[0] = <PyObject *>None
    Py_INCREF(None)
    return PYGEN_RETURN


bind_with(<PyTypeObject *>LockRequest, <ptrdiff_t>&(<LockRequest>NULL).enter_or_exit, (b"__aenter__", b"__aexit__"))
wdkm_send_through(<PyTypeObject *>LockRequest, <void *>send_request)
wdkm_send_through(<PyTypeObject *>Settled, <void *>send_settled)
