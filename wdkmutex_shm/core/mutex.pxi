"""KMutex and FastMutex: mutexes that own their T."""

cdef extern from *:
    bint __builtin_add_overflow(int64_t, int64_t, int64_t *) nogil


@cython.no_gc
cdef class Mutex(Handle):
    """Base of KMutex and FastMutex."""

    @cython.final
    cdef int take(self, wdkm_thread *me, int64_t timeout) except -1:
        """Acquire the lock: LIVE or ABANDONED; EXPIRED or OF_TASK if it was not had."""
        cdef wdkm_slot *slot = self.slot
        cdef int code
        code = try_acquire(slot)
        if code == 0 and (wdkm_load64(&slot.generation) == self.generation_ or wdkm_planted("no-generation")):
            wdkm_acquired(slot, me)
            return 0
        return lock_slow(self.segment_, self.index, self.generation_, me, code, timeout)

    @cython.final
    cdef Guard own_root(self, wdkm_thread *me):
        """The outermost guard if this thread holds this KMutex, else None."""
        cdef wdkm_local *local = &self.segment_.local[self.index]
        cdef Guard guard
        # The serial first: only the thread that stored the pointer may follow it. A guard that goes takes it along.
        if local.thread != me.serial or local.root == NULL:
            return None
        guard = <Guard>local.root
        if guard.depth == 0:
            return None
        if wdkm_load64(&self.slot.generation) != self.generation_:
            gone(self.segment_, self.slot)
        return guard

    @cython.final
    cdef int not_had(self, int got, object timeout) except -1:
        """After `take` was in vain: the error."""
        if got == OF_TASK and (timeout is None or timeout != 0):
            raise_of_task(self.slot, False)
        raise_timeout(self.segment_, self.index, self.generation_, timeout)

    @cython.final
    cdef Guard guard_apart(self, wdkm_thread *me, int64_t wait, object timeout):
        """The guard if a task, a callback of a loop or a greenlet calls, which own for themselves; None if none does."""
        cdef Guard guard
        task = owner_now()
        if task is None:
            return None
        guard = lock_for(self, task, wait, False)
        if guard is None:
            raise_timeout(self.segment_, self.index, self.generation_, timeout)
        return guard

    @cython.final
    cdef object read_or_none(self):
        """T as committed, None where it cannot be read; for the holder of the lock."""
        try:
            return self._committed()
        except MutexDamaged:
            return None

    @cython.final
    cdef object change_apart(self, Guard guard, object value, bint add):
        """``fetch_add`` and ``replace`` with a guard of guard_apart()."""
        cdef bint done = False
        try:
            if add:
                old = get_value(guard)
                set_value(guard, old + value)
            else:
                old = get_value(guard) if guard.root is not None else self.read_or_none()
                set_value(guard, value)
            done = True
        finally:
            guard.leave(done)
        return old

    @cython.final
    cdef wdkm_thread *at_level(self, str operation, bint waits) except NULL:
        """The calling thread, if its IRQL allows the operation."""
        cdef wdkm_thread *me = thread_at_level()
        cdef int limit = APC if waits or self.kind == KIND_FAST else DISPATCH
        if me.level > limit:
            refuse_level(operation, slot_name(self.slot), me.level, limit, self.kind)
        if deferred_guards:
            finish_deferred(me)
        return me

    def lock(self, object timeout=None):
        """Wait for the lock and return its guard; use it as ``with mutex.lock() as guard:``.

        IRQL: up to APC; a KMutex with ``timeout=0`` up to DISPATCH. (KeWaitForSingleObject, ExAcquireFastMutex.)

        Args:
            timeout: seconds to wait, None for no limit, 0 to not wait.

        Raises:
            IrqlTooHigh: checked first; in an event loop's thread always.
            LockTimeout: the lock was not acquired in time; the error names the holder.
            AlreadyOwned: the calling thread holds this FastMutex. A KMutex returns an inner guard instead.
            MutexDestroyed: the mutex was destroyed, before the call or during the wait.
            KeyboardInterrupt, or what a signal handler raises, while waiting.
        """
        cdef wdkm_thread *me
        cdef int got
        cdef int64_t wait = -1
        cdef Guard root
        if timeout is not None:
            wait = nanoseconds(timeout)
        me = self.at_level("lock", wait != 0)
        if me.apart:
            root = self.guard_apart(me, wait, timeout)
            if root is not None:
                return root
        if self.kind == KIND_K:
            root = self.own_root(me)
            if root is not None:
                return inner_guard(root)
        got = self.take(me, wait)
        if got >= EXPIRED:
            self.not_had(got, timeout)
        return new_guard(self, thread_state(), got == ABANDONED)

    def try_lock(self):
        """Return a guard if the lock is free (or, for a KMutex, held by this thread), otherwise None. Never waits.

        A free lock counts as taken, for at most 4 ms, while a starving waiter (over 1 ms) is about to acquire it.

        IRQL: KMutex up to DISPATCH, FastMutex up to APC (ExTryToAcquireFastMutex).

        Raises:
            IrqlTooHigh, AlreadyOwned, MutexDestroyed: as :meth:`lock`.
        """
        cdef wdkm_thread *me = self.at_level("try_lock", False)
        cdef int got
        cdef Guard root
        if me.apart:
            task = owner_now()
            if task is not None:
                return lock_for(self, task, 0, False)
        if self.kind == KIND_K:
            root = self.own_root(me)
            if root is not None:
                return inner_guard(root)
        got = self.take(me, 0)
        if got >= EXPIRED:
            return None
        return new_guard(self, thread_state(), got == ABANDONED)

    def lock_when(self, predicate, object timeout=None):
        """Lock when the predicate is true for T, in one step: ``with mutex.lock_when(lambda v: v >= 10) as guard:``

        No notification is needed: every commit wakes the waiters. The predicate is called first without the lock, on
        the last committed T, and again with the lock. It gets its own copy of T, may be called any number of
        times, and should have no side effects. A predicate that depends on more than T (such as the time) is
        called at least once a second.

        IRQL: as :meth:`lock`.

        Args:
            predicate: called with T; an error it raises is raised here, and nothing is locked.
            timeout: seconds to wait, for value and lock together; None for no limit, 0 to not wait.

        Raises:
            LockTimeout: no such T was committed, or the lock was not acquired, in time.
            AlreadyOwned: the calling thread holds the lock, so no other thread can change T. Use
                :meth:`Guard.wait_for`.
            IrqlTooHigh, MutexDestroyed, MutexDamaged, KeyboardInterrupt while waiting.
        """
        self.at_level("lock_when", nanoseconds(timeout) != 0)
        return above().lock_when(self, predicate, timeout)

    def wait_for(self, predicate, object timeout=None):
        """Wait until the predicate is true for T, and return that T. Takes no lock; T may have changed by then.

        IRQL, arguments and errors as for :meth:`lock_when`, except that a thread that holds the lock may call it if
        the predicate is already true.
        """
        self.at_level("wait_for", nanoseconds(timeout) != 0)
        return above().wait_for(self, predicate, timeout)

    def lock_when_async(self, predicate, object timeout=None):
        """As :meth:`lock_when`, in a task of asyncio or Trio: ``async with mutex.lock_when_async(bool) as guard:``, or ``await``.

        The guard belongs to the calling task, as with :meth:`lock_async`. If the predicate is true and the lock is
        free, there is no wait and no other task runs. Otherwise the loop keeps running.

        IRQL: any level. The predicate is called in the loop's thread, both without and with the lock, and must not
        block.

        Args:
            predicate, timeout: as for :meth:`lock_when`.

        Returns:
            A :class:`~wdkmutex_shm.LockWhen`, to be awaited once.

        Raises:
            ValueError: the timeout is negative. When awaited:
            LockTimeout, MutexDestroyed, MutexDamaged, and any error of the predicate: nothing is locked.
            AlreadyOwned: the task holds the lock, or its thread locked it before it ran the loop.
            RuntimeError: no task runs in this thread, or it was awaited before.
            The loop's cancellation error; the task then holds nothing and no longer waits.
        """
        return above().lock_when_async(new_request(self, timeout), self, predicate, timeout)

    def wait_for_async(self, predicate, object timeout=None):
        """As :meth:`wait_for`, for a task of asyncio or Trio, whose loop goes on: ``await mutex.wait_for_async(bool)``.

        At any IRQL. Whoever holds the lock, this thread included: another of its tasks may commit.

        Raises:
            LockTimeout, MutexDestroyed, MutexDamaged, what the predicate raises, and what cancels the task.
            RuntimeError: no task runs in this thread.
        """
        nanoseconds(timeout)
        return above().wait_for_async(self, predicate, timeout)

    def changes(self, object timeout=None):
        """Return an iterator over T as it is committed: first the current T, then the latest one after each wait.

        A slow reader misses intermediate values, never the last one. A commit that leaves T equal counts as a change;
        a release that commits nothing does not. Takes no lock. In a task of asyncio or Trio: ``async for``.

        IRQL: for each step as :meth:`lock`; with ``async for`` any.

        Args:
            timeout: seconds to wait for the next commit, after which the iteration ends; None for no limit.

        Raises:
            MutexDestroyed: from the step that finds the mutex destroyed.
            AlreadyOwned: from a step that would wait while the calling thread holds the lock.
            IrqlTooHigh, MutexDamaged, KeyboardInterrupt: from any step.
        """
        nanoseconds(timeout)
        return above().changes(self, timeout)

    def _is_mine(self):
        """Whether the thread, task or greenlet that calls holds the lock."""
        return holds_itself(self)

    def lock_async(self, object timeout=None):
        """Wait for the lock in a task of asyncio or Trio: ``async with mutex.lock_async() as guard:``, or ``await``.

        The guard belongs to the calling task: other tasks of the thread wait like other processes and cannot use it. A
        KMutex that the task already holds returns an inner guard. A free lock is acquired immediately, without a
        task switch. Otherwise the tasks of a process are served first come, first served, and the loop keeps
        running.

        IRQL: any level. The guard does not raise the thread's level, and can be released at any level.

        Args:
            timeout: seconds to wait, None for no limit, 0 to not wait.

        Returns:
            A :class:`LockRequest`, to be awaited once.

        Raises:
            ValueError: the timeout is negative. When awaited:
            LockTimeout, AlreadyOwned, MutexDestroyed: as :meth:`lock`. AlreadyOwned also for a mutex that the thread locked
                before it ran the loop.
            RuntimeError: no task runs in this thread, or it was awaited before.
            The loop's cancellation error; the task then holds nothing and no longer waits.
        """
        return new_request(self, timeout)

    def peek(self):
        """Return the last committed T without the lock, whoever holds it. Waits for nobody and stops nobody.

        At any IRQL.

        Raises:
            MutexDestroyed, MutexDamaged.
        """
        return peek(self.segment_, self.index, self.generation_, self.codec)

    def fetch_add(self, object n=1, object timeout=None):
        """Add ``n`` to a T of int or float and return the previous T, in one call.

        IRQL and errors as :meth:`lock`. While the thread holds the KMutex, it works on the uncommitted T.

        Raises:
            TypeError: T is neither int nor float, or ``n`` has another type (for a float T, an int is accepted).
            OverflowError: the sum does not fit into 64 bits; T is unchanged.
        """
        cdef wdkm_thread *me
        cdef int got
        cdef int64_t wait = -1
        cdef Guard root
        cdef const unsigned char *data
        cdef Py_ssize_t length = 0
        cdef Encoded encoded
        cdef uint64_t serial
        cdef int64_t amount = 0
        cdef int64_t number = 0
        cdef int overflow = 0
        if self.codec.code != T_INT and self.codec.code != T_FLOAT:
            raise TypeError(f"fetch_add needs a T of int or float, not {self.codec.label.decode()}")
        if self.codec.code == T_FLOAT and PyLong_CheckExact(n):
            n = float(n)
        if self.codec.code == T_INT and PyLong_CheckExact(n):
            amount = PyLong_AsLongLongAndOverflow(n, &overflow)
        else:
            overflow = 1
        if overflow != 0:
            n = self.codec.admit(n)
        if timeout is not None:
            wait = nanoseconds(timeout)
        me = self.at_level("fetch_add", wait != 0)
        if me.apart:
            root = self.guard_apart(me, wait, timeout)
            if root is not None:
                return self.change_apart(root, n, True)
        if self.kind == KIND_K:
            root = self.own_root(me)
            if root is not None:
                old = get_value(root)
                set_value(root, old + n)
                return old
        got = self.take(me, wait)
        if got >= EXPIRED:
            self.not_had(got, timeout)
        serial = thread_state().serial
        try:
            if overflow == 0 and current_number(self.slot, &number):
                old = PyLong_FromLongLong(number)
                if not __builtin_add_overflow(number, amount, &number) and (
                        publish_number(self.slot, self.generation_, number)):
                    return old
            data = current(self.segment_, self.index, &length)
            old = self.codec.decode_from(data, length)
            self.codec.encode_into(old + n, &encoded)
            not_in_child(self.slot, serial)
            publish(self.segment_, self.index, self.generation_, &encoded)
        finally:
            if thread_state().serial == serial:
                wdkm_unlock(self.slot)
        return old

    def replace(self, object value, object timeout=None):
        """Set T and return the previous T, in one call.

        IRQL and errors as for :meth:`lock` and for setting ``guard.value``. Use it to repair a damaged T: if the old T
        cannot be read, it returns None.
        """
        cdef wdkm_thread *me
        cdef int got
        cdef int64_t wait = -1
        cdef Guard root
        cdef Encoded encoded
        cdef uint64_t serial
        value = self.codec.admit(value)
        keep = self.codec.encode_into(value, &encoded)
        if timeout is not None:
            wait = nanoseconds(timeout)
        me = self.at_level("replace", wait != 0)
        if me.apart:
            root = self.guard_apart(me, wait, timeout)
            if root is not None:
                return self.change_apart(root, value, False)
        if self.kind == KIND_K:
            root = self.own_root(me)
            if root is not None:
                old = get_value(root)
                set_value(root, value)
                return old
        got = self.take(me, wait)
        if got >= EXPIRED:
            self.not_had(got, timeout)
        serial = thread_state().serial
        try:
            old = self.read_or_none()
            not_in_child(self.slot, serial)
            publish(self.segment_, self.index, self.generation_, &encoded)
        finally:
            if thread_state().serial == serial:
                wdkm_unlock(self.slot)
        return old

    def _committed(self):
        """T as committed; for the holder of the lock only."""
        cdef Py_ssize_t length = 0
        cdef const unsigned char *data = current(self.segment_, self.index, &length)
        return self.codec.decode_from(data, length)

    def _committed_bytes(self):
        """The msgpack bytes of T as committed; for the holder of the lock only."""
        cdef Py_ssize_t length = 0
        cdef const unsigned char *data = current(self.segment_, self.index, &length)
        return (<const char *>data)[:length]

    def to_owned(self):
        """Consume the mutex: return T and free its memory. All other handles then raise MutexDestroyed.

        IRQL: up to APC for a FastMutex, up to DISPATCH for a KMutex: it does not wait for the lock.

        Raises:
            MutexBusy: another thread holds the lock. AlreadyOwned: the calling thread holds it. T is unchanged.
            MutexDestroyed: it was consumed or destroyed already.
            DaemonUnavailable: the mutex is registered and its daemon does not answer. T is unchanged.
        """
        return above().consume(self, None)

    def to_owned_box(self):
        """Consume the mutex, but leave T in the pool: return the :class:`~wdkmutex_shm.Box` that owns it.

        IRQL and errors as :meth:`to_owned`, and PagedPoolAllocFailed.
        """
        return above().consume(self, self.codec)

    @classmethod
    def __class_getitem__(cls, item):
        return cls
