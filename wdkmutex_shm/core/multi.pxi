"""Several mutexes at once: locked all or none, and any one of several taken. `multi_commit.pxi` publishes them.

All who lock several at once take them in one order over all processes, that of segment name and slot, so that they never
wait for each other in a circle.
"""

cdef bint comes_before(Handle one, Handle other):
    """The order in which several are locked, the same in every process."""
    if one.segment_ is other.segment_:
        return one.index < other.index
    if one.segment_.name == other.segment_.name:  # and one of the two is gone
        return one.segment_.nonce < other.segment_.nonce
    return one.segment_.name < other.segment_.name


cdef int put_in_order(tuple mutexes, Py_ssize_t *order, str operation) except -1:
    """Fill in the order in which to lock them. Refuses what cannot be locked together."""
    cdef Py_ssize_t at, place
    cdef Handle handle, other
    if not 0 < len(mutexes) <= MOST:
        raise ValueError(f"{operation} takes from 1 to {MOST} mutexes, not {len(mutexes)}")
    for at in range(len(mutexes)):
        if not isinstance(mutexes[at], (Mutex, CriticalSection)):
            raise TypeError(f"{operation} takes KMutexes, FastMutexes and CriticalSections, not {type(mutexes[at]).__name__}")
        handle = <Handle>mutexes[at]
        place = at
        while place > 0:
            other = <Handle>mutexes[order[place - 1]]
            if other.slot == handle.slot:
                if wdkm_load64(&handle.slot.generation) != other.generation_:
                    gone(other.segment_, other.slot)
                if other.generation_ != handle.generation_:
                    gone(handle.segment_, handle.slot)
                raise ValueError(f"{operation}: {handle!r} is passed more than once")
            if comes_before(other, handle):
                break
            order[place] = order[place - 1]
            place -= 1
        order[place] = at
    return 0


cdef wdkm_thread *at_level(tuple mutexes, str operation, bint waits) except NULL:
    """The calling thread, if its IRQL allows the operation for each of them; checked before anything is locked."""
    cdef wdkm_thread *me = thread_at_level()
    cdef int limit
    cdef Handle handle
    if me.level > APC:
        for handle in mutexes:
            limit = APC if waits or handle.kind == KIND_FAST else DISPATCH
            if me.level > limit:
                refuse_level(operation, slot_name(handle.slot), me.level, limit, handle.kind)
    if deferred_guards:
        finish_deferred(me)
    return me


cdef Guard guard_of(Mutex mutex, wdkm_thread *me, int64_t wait, int64_t deadline):
    """Lock one of several; None when the time was up."""
    cdef wdkm_slot *slot = mutex.slot
    cdef Guard root
    cdef int code
    if me.apart:
        task = owner_now()
        if task is not None:
            return lock_for(mutex, task, max(0, deadline - wdkm_now()) if wait > 0 else wait, False)
    if mutex.kind == KIND_K:
        root = mutex.own_root(me)
        if root is not None:
            return inner_guard(root)
    code = try_acquire(slot)
    if code == 0 and wdkm_load64(&slot.generation) == mutex.generation_:
        wdkm_acquired(slot, me)
        return new_guard(mutex, me, False)
    if wait > 0:
        wait = max(0, deadline - wdkm_now())
    code = lock_slow(mutex.segment_, mutex.index, mutex.generation_, me, code, wait)
    if code == OF_TASK and wait != 0:
        raise_of_task(slot, False)
    if code >= EXPIRED:
        return None
    return new_guard(mutex, thread_state(), code == ABANDONED)


def lock_all(*mutexes, timeout=None):
    """Wait for the locks of all of the mutexes, and return their guards: ``with lock_all(a, b) as (of_a, of_b):``

    All or nothing: after an error none is held. The locks are acquired in a fixed order, whatever the order of the
    arguments, so calls of this function never deadlock with each other; a call while already holding another mutex
    breaks that order. A KMutex that the thread holds returns an inner guard. A CriticalSection is entered and returns
    a SectionGuard.

    Leaving the ``with`` encodes and writes every T that was set or changed, and only then publishes all of them
    together. An exception rolls back all of them; so does a single T that cannot be committed.

    IRQL: up to APC; with ``timeout=0`` the limit of ``try_lock`` of each.

    Args:
        mutexes: from 1 to 64 (MAXIMUM_WAIT_OBJECTS) KMutexes, FastMutexes and CriticalSections, each at most once.
        timeout: seconds to wait for all of them together, None for no limit, 0 to not wait.

    Raises:
        LockTimeout: not all were acquired in time; the error names the missing one.
        AlreadyOwned: the calling thread holds one of the FastMutexes. MutexDestroyed: one of them no longer exists.
        IrqlTooHigh, ValueError, TypeError: checked before anything is locked.
        KeyboardInterrupt, or what a signal handler raises, while waiting.
    """
    cdef Py_ssize_t order[MOST]
    cdef Py_ssize_t at, place
    cdef int64_t deadline = 0
    cdef int64_t wait = -1
    cdef wdkm_thread *me
    cdef tuple taken
    cdef object guard
    cdef Handle handle
    cdef Guards guards
    if timeout is not None:
        wait = nanoseconds(timeout)
    put_in_order(mutexes, order, "lock_all")
    me = at_level(mutexes, "lock_all", wait != 0)
    if wait > 0:
        deadline = wdkm_now() + wait
    taken = PyTuple_New(len(mutexes))
    try:
        for place in range(len(mutexes)):
            at = order[place]
            handle = <Handle>mutexes[at]
            if isinstance(handle, Mutex):
                guard = guard_of(<Mutex>handle, me, wait, deadline)
                me = thread_state()
            else:
                guard = enter_section(<CriticalSection>handle, wait, deadline)
            if guard is None:
                raise_timeout(handle.segment_, handle.index, handle.generation_, timeout)
            Py_INCREF(guard)
            PyTuple_SET_ITEM(taken, at, guard)
    except BaseException:
        give_all_back(taken)
        raise
    guards = Guards.__new__(Guards)
    guards.enter_or_exit = call_guards
    guards.guards = taken
    return guards


cdef int give_all_back(tuple taken) except -1:
    """Release what was had, and commit nothing: nothing was set yet."""
    cdef Py_ssize_t at
    cdef PyObject *guard
    for at in range(len(taken)):
        guard = PyTuple_GET_ITEM(taken, at)
        if guard != NULL and isinstance(<object>guard, Guard):
            (<Guard>guard).leave(False)
        elif guard != NULL:
            (<SectionGuard>guard).leave()
    return 0


cdef bint leave_clean(Guard guard, wdkm_thread *me) except -1:
    """Leave a guard that has nothing to publish, the common case without the detours. False where that does not do."""
    if (guard.root is not None or guard.depth != 1 or guard.thread != me.serial or me.level >= DISPATCH
            or guard.flags & ~LOADED != HELD or (guard.flags & LOADED and guard.handle.codec.mutable)):
        return False
    guard.flags = 0
    guard.depth = 0
    guard.let_go(guard, me)
    return True


@cython.final
@cython.no_gc
cdef class Guards:
    """Holds the locks of several mutexes. Only :func:`lock_all` returns it; use it with ``with``.

    Its guards can also be used individually. A guard that is committed or released individually is published
    individually; if the guards are taken out without a ``with``, each of them is independent.
    """

    cdef vectorcallfunc enter_or_exit  # called by `with`, see `bound_with.pxi`
    cdef tuple guards

    def __init__(self):
        raise TypeError("guards are returned by lock_all()")

    cdef Py_ssize_t find_tops(self, PyObject **tops, wdkm_thread *me, bint leaving) except -1:
        """Find the guards whose T is to be published: all, or those that end a hold as they are left."""
        cdef Py_ssize_t at, count = 0
        cdef Guard top
        for at in range(len(self.guards)):
            if isinstance(self.guards[at], Guard):
                top = to_write(<Guard>self.guards[at], me)
                if top is not None and (top.depth == 1 or not leaving):
                    tops[count] = <PyObject *>top  # kept by one of the guards
                    count += 1
        return count

    cdef int leave(self, bint commit) except -1:
        cdef PyObject *tops[MOST]
        cdef Py_ssize_t at, count = 0
        cdef wdkm_thread *me
        error = None
        if commit:
            try:
                me = thread_at_level()
                count = self.find_tops(tops, me, True)
                if count > 1:  # one commits by itself as it leaves
                    publish_all(tops, count)
            except BaseException as failed:
                error = failed
                commit = False
            if error is None and count > 1:
                for at in range(count):
                    if not (<Guard>tops[at]).flags & SET:
                        (<Guard>tops[at]).held = None
                        (<Guard>tops[at]).flags &= ~LOADED
        me = thread_state()
        for guard in self.guards:
            if commit and isinstance(guard, Guard) and leave_clean(<Guard>guard, me):
                continue
            try:
                if isinstance(guard, Guard):
                    (<Guard>guard).leave(commit)
                else:
                    (<SectionGuard>guard).leave()
            except BaseException as failed:
                if error is None:
                    error = failed
            me = thread_state()
        if error is not None:
            raise error
        return 0

    def __enter__(self):
        """Return the guards as a tuple, in the order in which the mutexes were given."""
        return self.guards

    def __exit__(self, kind, error, traceback):
        """Release all the locks; first publish all T together, or roll them back when an exception leaves the ``with``.

        Raises:
            What :meth:`commit` raises, and then every T stands; or what a guard's own ``with`` raises. All are released.
        """
        self.leave(kind is None)
        return False

    def commit(self):
        """Publish the current T of every mutex, all together, and keep the locks.

        Raises:
            NotOwned: one of them was released, or locked by another thread, or before fork().
            Any error of a guard's commit: every T stays as last committed.
        """
        cdef PyObject *tops[MOST]
        cdef Py_ssize_t count
        for guard in self.guards:
            if isinstance(guard, Guard):
                must_hold(<Guard>guard, "commit")
        count = self.find_tops(tops, thread_state(), False)
        publish_all(tops, count)
        for guard in self.guards:
            if isinstance(guard, Guard):
                committed(<Guard>guard)

    def rollback(self):
        """Roll each guard back, as its own :meth:`Guard.rollback` does; keep the locks. Raises NotOwned."""
        for guard in self.guards:
            if isinstance(guard, Guard):
                must_hold(<Guard>guard, "rollback")
        for guard in self.guards:
            if isinstance(guard, Guard):
                undo(<Guard>guard)

    def drop_safe(self):
        """Publish and release all now, after the IRQL is found to allow it for each of them, as :meth:`Guard.drop_safe`.

        Raises:
            IrqlTooHigh, IrqlNotAPCLevel, NotOwned: nothing is published or released.
            TypeError, PagedPoolAllocFailed, MutexDestroyed: as :meth:`commit`; all are released, and every T stands.
        """
        cdef wdkm_thread *me = thread_at_level()
        for guard in self.guards:
            if isinstance(guard, Guard):
                must_hold(<Guard>guard, "drop_safe")
                (<Guard>guard).must_be_at_release_level(me.level)
        self.leave(True)

    def __len__(self):
        return len(self.guards)

    def __getitem__(self, index):
        return self.guards[index]

    def __iter__(self):
        return iter(self.guards)

    def __repr__(self):
        return f"<Guards of {len(self.guards)}: {', '.join(map(repr, self.guards))}>"

    def __reduce__(self):
        raise TypeError("guards cannot be pickled: they belong to one thread; pickle the mutexes")

    @classmethod
    def __class_getitem__(cls, item):
        return cls


cdef object call_guards(object self, PyObject *const *args, size_t count, PyObject *names):
    """What `with` calls; see `bound_with.pxi`."""
    count = PyVectorcall_NARGS(count)
    if names == NULL and count == 3:
        (<Guards>self).leave(args[0] == <PyObject *>None)
        return False
    if names == NULL and count == 0:
        return (<Guards>self).guards
    raise TypeError("guards are not callable; use them with `with`")


bind_with(<PyTypeObject *>Guards, <ptrdiff_t>&(<Guards>NULL).enter_or_exit)


def check_several(tuple mutexes not None, str operation not None, timeout):
    """Refuse what cannot be locked together, and an IRQL that does not allow it, as :func:`lock_all` does."""
    cdef Py_ssize_t order[MOST]
    cdef int64_t wait = nanoseconds(timeout)
    put_in_order(mutexes, order, operation)
    at_level(mutexes, operation, wait != 0)


def must_not_wait_for_itself(tuple mutexes not None):
    """Raise AlreadyOwned if all of the mutexes are held by other tasks or greenlets of this thread, which wait for this call.

    For who has had none of them, and would wait.
    """
    cdef Handle handle
    cdef wdkm_thread *me = thread_state()
    for handle in mutexes:
        if task_root(handle, me) is None or wdkm_load64(&handle.slot.generation) != handle.generation_:
            return
    raise_of_task(handle.slot, False)


def take_any(tuple mutexes not None, Py_ssize_t first, bint starving):
    """Take the first lock that is free, beginning at ``first``: (index, guard), or None when there is none.

    Args:
        starving: the caller is counted among the starving waiters of each, and need not let them go first.

    Raises:
        AlreadyOwned, MutexDestroyed: as ``try_lock``, and no lock is taken then.
    """
    cdef Py_ssize_t count = len(mutexes)
    cdef Py_ssize_t step, at
    cdef Handle handle
    for step in range(count):
        at = (first + step) % count
        handle = <Handle>mutexes[at]
        if isinstance(handle, Mutex):
            guard = try_one(<Mutex>handle, starving)
        else:
            guard = try_section(<CriticalSection>handle, starving)
        if guard is not None:
            return at, guard
    return None


cdef int try_code(Handle handle, wdkm_thread *me, bint starving) except -1:
    cdef int code = pthread_mutex_trylock(&handle.slot.mutex) if starving else try_acquire(handle.slot)
    if code == 0 and not starving and wdkm_load64(&handle.slot.generation) == handle.generation_:
        wdkm_acquired(handle.slot, me)
        return 0
    return lock_slow(handle.segment_, handle.index, handle.generation_, me, code, 0)


cdef Guard try_one(Mutex mutex, bint starving):
    cdef wdkm_thread *me = thread_state()
    cdef Guard root
    cdef int code
    if me.apart:
        task = owner_now()
        if task is not None:
            return lock_for(mutex, task, 0, starving)
    if mutex.kind == KIND_K:
        root = mutex.own_root(me)
        if root is not None:
            return inner_guard(root)
    code = try_code(mutex, me, starving)
    if code >= EXPIRED:
        return None
    return new_guard(mutex, thread_state(), code == ABANDONED)
