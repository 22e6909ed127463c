"""The guard: the only way to T.

One object holds the lock and the T that is being worked on. Leaving its ``with`` commits, an exception rolls back, and
a guard that is merely dropped commits what was set. A KMutex locked again by its holder gives inner guards, which work
on the T of the outermost one; the lock is released and T committed when the last of them goes.

Here is what users call, and the release. What is done to T meanwhile: `transaction.pxi`. Who may use a guard:
`ownership.pxi`. What a guard of a task does otherwise: `ownership.pxi`. Guards that are dropped in another thread:
`ownership.pxi`.
"""

cdef enum:  # flags of a guard
    HELD = 1        # this guard has not been released
    LOADED = 2      # `held` is T
    SET = 4         # `held` was set: a release commits it
    INNER_ENCODED = 16  # inner: `before` is msgpack bytes, because a container may be changed in place
    INNER_LOADED = 32   # flags of the outermost guard when this inner lock was taken
    INNER_SET = 64
    NUMBER = 128    # T is an int and `number` is it; always with SET
    WRITING = 256   # a commit is under way: it stays held, and no other commit begins
    UNDONE = 512    # with WRITING: rolled back meanwhile
    IN_WRITING = 2048   # an inner lock of a signal handler in a commit: its rollback leaves alone what is being written
    DROPPED = 4096  # with WRITING: the last guard of the hold was dropped meanwhile, and the lock goes after the commit
    FAILED = 1024   # an exception left its `with` in another thread: dropping it rolls back


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class Guard:
    """Holds the lock of a mutex, and its T. Only the locking methods return one.

    Only the thread that locked may use the guard and release it: by leaving a ``with``, by :meth:`drop_safe`, or by
    garbage collection. If a task of an event loop or a greenlet locked, by any call, the guard belongs to that task or
    greenlet, and no other one of the thread may use it; if a callback of an event loop locked, it belongs to the
    callbacks of that thread. A guard inherited by a forked child does nothing there.
    """

    cdef vectorcallfunc enter_or_exit  # called by `with`, see `bound_with.pxi`
    cdef Handle handle
    cdef int64_t number      # the same as `held`, where NUMBER says so
    cdef object held         # T as handed out or set, not committed
    cdef Guard root          # the outermost guard, when this one is an inner lock of a KMutex
    cdef object before       # inner: what `held` was when this lock was taken; its bytes once it was handed out
    cdef uint64_t thread     # serial of the holder; with WDKM_OF_TASK where `task` is it
    cdef object task         # weak reference to the task that holds
    cdef uint32_t tid        # its thread id
    cdef uint32_t flags
    cdef uint32_t depth      # outermost: how many guards of this hold there are
    cdef int dead_pid        # pid of the owner that died holding, 0 if it is not known, -1 if nobody died

    def __init__(self):
        raise TypeError("a guard is returned by lock() or try_lock()")

    @property
    def value(self):
        """T. Read on first use; set it, or change the container that it is in place; committed on release.

        Raises:
            NotOwned: the guard was released, is another thread's, or was inherited over fork.
            TypeError: (when set) the value is not a T. The old T stands.
            OverflowError: (when set) an int beyond 64 bits.
            MutexDamaged: (when first read) the bytes in shared memory are not a T.
            MutexDestroyed: (when first read) the mutex was destroyed meanwhile.
        """
        if not (self.flags & HELD and self.thread == thread_state().serial):
            must_hold(self, "value")
        return get_value(self)

    @value.setter
    def value(self, object value):
        if not (self.flags & HELD and self.thread == thread_state().serial):
            must_hold(self, "value")
        set_value(self, value)

    @property
    def abandoned(self):
        """Whether the last holder died holding the lock. T is whole: as it was last committed."""
        return self.dead_pid >= 0

    @property
    def abandoned_by(self):
        """Pid of that dead holder; None if there was none, or it died before it could write its pid down."""
        return self.dead_pid if self.dead_pid > 0 else None

    @property
    def fence(self):
        """A number that rises strictly from one hold of the mutex to the next: pass it along with effects outside of T.

        What receives them refuses those with a smaller number than it has seen, and so those of a holder that was stopped
        until others had their turn. Inner guards have the fence of their hold. A mutex that is registered again under the same
        name is a new one, and begins at 1.

        Raises:
            NotOwned: see :attr:`value`.
        """
        must_hold(self, "fence")
        return acquisitions(self.handle.slot)

    @property
    def lost(self):
        """Whether the lock was lost while this guard held it, because the lease of this machine ended. Never of a mutex in the
        shared memory of one machine: its lock is held until the guard releases it."""
        return False

    @property
    def mutex(self):
        """The mutex that this guard locked."""
        return self.handle

    @property
    def is_inner(self):
        """Whether this guard comes from locking a KMutex that the thread already held."""
        return self.root is not None

    @property
    def released(self):
        """Whether the guard holds nothing any more."""
        return not self.flags & HELD

    def commit(self):
        """Publish the current T and keep the lock.

        An inner guard also publishes the changes of the outer guards. After any error the last committed T is
        unchanged.

        Raises:
            NotOwned: see :attr:`value`. TypeError, OverflowError: msgpack cannot hold it.
            MutexBusy: a signal handler called this during a commit of the same lock; that commit continues.
            PagedPoolAllocFailed: shared memory is full. MutexDestroyed: the mutex no longer exists.
        """
        cdef Guard top = self if self.root is None else self.root
        must_hold(self, "commit")
        write(top)
        committed(self)

    def wait_for(self, predicate, object timeout=None):
        """Commit, release the lock, wait until the predicate is true for T, and return with the lock held and that T.

        If the predicate is already true for the committed T, the lock is not released. The predicate works as in
        :meth:`KMutex.lock_when`. After any error except MutexDestroyed the guard holds the lock again, however long
        that takes, as with ``threading.Condition``; a second Ctrl-C stops this and leaves the guard released.
        :attr:`abandoned` refers to the new acquisition. Containers returned before are no longer connected to T: read
        :attr:`value` again.

        IRQL: up to APC, the level of the holder of a FastMutex.

        Args:
            timeout: seconds to wait, None for no limit.

        Raises:
            LockTimeout: no such T was committed in time. The guard holds the lock.
            AlreadyOwned: this thread has locked the KMutex more than once, so an outer guard still uses T. Nothing is
                released.
            MutexDestroyed: the mutex is gone. The guard is released.
            IrqlTooHigh: nothing is committed or released. Anything that :meth:`commit` raises: nothing is released.
        """
        cdef wdkm_thread *me = thread_at_level()
        nanoseconds(timeout)
        must_hold(self, "wait_for")
        if me.level > APC:
            refuse_level("guard.wait_for", slot_name(self.handle.slot), me.level, APC, self.handle.kind)
        self.must_be_only()
        return above().wait_in_guard(self, predicate, timeout)

    cdef int must_be_only(self) except -1:
        cdef Guard top = self if self.root is None else self.root
        name = slot_name(self.handle.slot)
        if top.depth != 1 or self.root is not None:
            raise AlreadyOwned(
                f"wait_for: this thread holds mutex {name!r} more than once, and others cannot change T until all locks "
                "are released; use the guard of a mutex that is locked once", name=name)
        if self.flags & WRITING:
            raise_writing(self.handle, "would release the lock in it")
        return 0

    def _let_go(self):
        """Release the lock for a while; for the only guard of a hold, whose T is committed. See :meth:`_adopt`."""
        must_hold(self, "wait_for")
        while self.flags & SET:  # by a signal handler, since the commit
            write(self)
        self.must_be_only()
        self.flags = 0
        self.depth = 0
        self.held = None
        self.let_go(self, thread_state())

    def _adopt(self, Guard fresh not None):
        """Hold what another new guard of the same mutex holds; that one holds nothing then."""
        cdef wdkm_local *local = &self.handle.segment_.local[self.handle.index]
        must_hold(fresh, "wait_for")
        fresh.must_be_only()
        self.thread = fresh.thread
        self.task = fresh.task
        self.tid = fresh.tid
        self.dead_pid = fresh.dead_pid
        self.held = fresh.held
        self.number = fresh.number
        self.flags = fresh.flags
        self.depth = 1
        fresh.flags = 0
        fresh.depth = 0
        if local.root == <void *>fresh:
            local.root = <void *>self

    def rollback(self):
        """Discard the changes to T since the last commit (an inner guard: since its own lock); keep the lock.

        Containers returned before are no longer connected to T: read :attr:`value` again.

        Raises:
            NotOwned: see :attr:`value`.
        """
        must_hold(self, "rollback")
        undo(self)

    cdef int let_go(self, Guard top, wdkm_thread *me) except -1:
        """Release the lock of the hold; the last step of every way out."""
        if top.thread & WDKM_OF_TASK:
            return let_task_go(top)
        if self.handle.kind == KIND_FAST:
            me.fast_held -= 1
        elif self.handle.segment_.local[self.handle.index].root == <void *>top:
            self.handle.segment_.local[self.handle.index].root = NULL
        wdkm_unlock(self.handle.slot)
        return 0

    cdef int finish(self, bint commit) except -1:
        """Release this guard, which must be held by the calling thread."""
        cdef Guard top = self if self.root is None else self.root
        cdef wdkm_thread *me
        if top.flags & WRITING and top.depth == 1:
            raise_writing(self.handle, "would release the lock in it")
        self.flags &= ~HELD
        top.depth -= 1
        try:
            if not commit:
                undo(self)
            if top.depth == 0:
                write(top)
        finally:
            if top.depth == 0:
                top.held = None
                top.flags &= ~(LOADED | SET | NUMBER)
                me = thread_state()
                if me.serial == top.thread & ~WDKM_OF_TASK:  # else a signal handler forked while this wrote, and the parent holds the lock
                    self.let_go(top, me)
        return 0

    cdef int finish_dropped(self) except -1:
        """Release the lock of an outermost guard after a commit in which its last inner guard was dropped."""
        self.flags = self.flags & ~DROPPED | HELD
        return self.finish(True)

    cdef int enter(self) except -1:
        if not (self.flags & HELD and self.thread == thread_state().serial):
            must_hold(self, "with")
        return 0

    cdef int leave(self, bint commit) except -1:
        cdef wdkm_thread *me
        cdef bint fast
        if not self.flags & HELD:
            return 0
        fast = self.handle.kind == KIND_FAST
        # The level is asked for only after the release: asking may run Python code (Trio's), and so a signal handler.
        me = thread_state()
        if self.thread != me.serial and leave_elsewhere(self, commit, me):
            return 0
        if commit and self.root is None and self.depth == 1 and not self.flags & ~(HELD | LOADED | SET | NUMBER) and (
                self.flags & NUMBER and publish_number(self.handle.slot, self.handle.generation_, self.number)):
            # The common case without the detours: an int was set. The next to read it may well be this process.
            self.handle.number = self.held
            self.handle.number_commit = self.handle.slot.commit
            self.flags = 0
            self.depth = 0
            self.let_go(self, me)
        elif commit and self.root is not None and self.root.depth > 1:
            # An inner guard that is not the last of its hold: what was set stays with the outermost.
            self.flags = 0
            self.root.depth -= 1
        else:
            self.finish(commit)
        if not commit or self.thread & WDKM_OF_TASK:
            return 0  # an exception is under way; or a task's guard, which is not bound to a level
        me = thread_at_level()
        if me.level >= DISPATCH:
            # A lock that stays locked is worse than a rule that is broken: it is released, and then told.
            if fast:
                self.refuse_apc("leaving the with", me.level)
            elif me.level > DISPATCH:
                refuse_level("leaving the with", slot_name(self.handle.slot), me.level, DISPATCH, self.handle.kind)
        return 0

    def __enter__(self):
        """Return the guard itself; the lock is held already. Raises NotOwned as :attr:`value` does."""
        self.enter()
        return self

    def __exit__(self, kind, error, traceback):
        """Release the lock; commit first, or roll back when an exception leaves the ``with``.

        Does nothing for a guard that was released already, or was inherited over fork. When a generator that is suspended in
        the ``with`` is closed in another thread, as by the garbage collector, the guard rolls back as soon as it is dropped,
        and its own thread releases the lock at its next locking.

        Raises:
            IrqlTooHigh, IrqlNotAPCLevel: the thread's level is too high; it is committed and released all the same.
            MutexBusy: a signal handler leaves it in the midst of a commit, which goes on; the lock is not released.
            TypeError, PagedPoolAllocFailed, MutexDestroyed: as :meth:`commit`; the lock is released, and the old T is
                unchanged.
        """
        self.leave(kind is None)
        return False

    def refuse_apc(self, str operation, int level):
        name = slot_name(self.handle.slot)
        raise IrqlNotAPCLevel(
            f"{operation} of FastMutex {name!r}: this thread is at IRQL {level}, and a FastMutex is released at APC (1) "
            "exactly; lower the IRQL first", name=name, operation=operation, level=level)

    def drop_safe(self):
        """Check that the IRQL allows a release (KMutex: up to DISPATCH; FastMutex: exactly APC), then commit and
        release.

        The guard of a task is released at any level.

        Raises:
            IrqlTooHigh, IrqlNotAPCLevel: nothing is committed or released.
            MutexBusy: a signal handler called this during a commit, which continues; the lock is not released.
            NotOwned: released already, in another thread, or in a forked child.
            TypeError, PagedPoolAllocFailed, MutexDestroyed: as :meth:`commit`; the lock is released, and the old T is
                unchanged.
        """
        cdef wdkm_thread *me = thread_at_level()
        if not (self.flags & HELD and self.thread == me.serial):
            must_hold(self, "drop_safe")
        if not self.thread & WDKM_OF_TASK:
            self.must_be_at_release_level(me.level)
        self.finish(True)

    cdef int must_be_at_release_level(self, int level) except -1:
        if self.handle.kind == KIND_FAST:
            if level != APC:
                self.refuse_apc("drop_safe", level)
        elif level > DISPATCH:
            refuse_level("drop_safe", slot_name(self.handle.slot), level, DISPATCH, self.handle.kind)
        return 0

    def __dealloc__(self):
        cdef wdkm_local *local
        if self.flags & HELD:
            if self.thread & ~WDKM_OF_TASK == thread_state().serial:
                if self.root is not None and self.root.flags & WRITING and self.root.depth == 1:
                    # By a signal handler, which has released the outermost: an error here would be told to nobody.
                    self.flags &= ~HELD
                    self.root.flags |= DROPPED
                    return
                self.finish(not self.handle.segment_.closed and not self.flags & FAILED)
            elif not before_fork(self.thread):
                defer_to_owner(self)
        if self.root is None and self.handle is not None:
            # A guard that goes without having been released (an ancestor of this process or an ended thread holds, or held, the
            # lock) must not be found again.
            local = &self.handle.segment_.local[self.handle.index]
            if local.root == <void *>self:
                local.root = NULL

    def __str__(self):
        must_hold(self, "str")
        return str(get_value(self))

    def __format__(self, spec):
        must_hold(self, "format")
        return format(get_value(self), spec)

    def __repr__(self):
        if self.handle is None:
            return "<Guard of nothing>"
        name = slot_name(self.handle.slot)
        state = "released" if not self.flags & HELD else "inherited over fork" if before_fork(self.thread) else "held"
        return f"<Guard of {type(self.handle).__name__} {name!r}, {state}>"

    def __reduce__(self):
        raise TypeError("a guard cannot be pickled: it belongs to one thread or task; pickle the mutex")

    @classmethod
    def __class_getitem__(cls, item):
        return cls


cdef Guard new_guard(Handle handle, wdkm_thread *me, bint abandoned):
    cdef Guard guard = Guard.__new__(Guard)
    guard.enter_or_exit = call_guard
    guard.handle = handle
    guard.thread = me.serial
    guard.tid = <uint32_t>me.owner
    guard.flags = HELD
    guard.depth = 1
    guard.dead_pid = <int>handle.slot.abandoned_pid if abandoned else -1
    if handle.kind == KIND_FAST:
        me.fast_held += 1
    else:
        handle.segment_.local[handle.index].root = <void *>guard
        handle.segment_.local[handle.index].thread = me.serial
    return guard


cdef object call_guard(object self, PyObject *const *args, size_t count, PyObject *names):
    """What `with` calls; see `bound_with.pxi`."""
    count = PyVectorcall_NARGS(count)
    if names == NULL and count == 3:
        (<Guard>self).leave(args[0] == <PyObject *>None)
        return False
    if names == NULL and count == 0:
        (<Guard>self).enter()
        return self
    raise TypeError("a guard is not callable; use it with `with`")


bind_with(<PyTypeObject *>Guard, <ptrdiff_t>&(<Guard>NULL).enter_or_exit)
