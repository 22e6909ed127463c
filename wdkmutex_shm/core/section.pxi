"""CriticalSection: a recursive, thread-owned lock without a T."""

cdef double TIMEOUT_MAX = 9223372036.0  # threading.TIMEOUT_MAX
cdef bint INTS_ONLY = sys.version_info < (3, 12)


def as_blocking(blocking):
    """Return what an argument ``blocking`` of a lock means to the locks of this Python: TypeError where they raise that."""
    return bool(as_index(blocking) if INTS_ONLY else blocking)


# Of each section that a task, a callback of a loop or a greenlet has entered without lock_async(): the guards of that, the
# last one last.
cdef dict entered = {}


@cython.final
@cython.no_gc
cdef class CriticalSection(Handle):
    """CriticalSection()
--

    A lock between processes without a T, like a Windows CRITICAL_SECTION between threads.

    It is recursive and owned by a thread, or by the task or greenlet that enters it. It has ``with section:``,
    ``enter()``/``leave()`` and the complete protocol of ``threading.RLock``, so ``threading.Condition`` and code that
    expects a lock object accept it. The constructor makes an anonymous one, ``Grt.register_critical_section`` a named
    one. If a holder dies, it is released; see :attr:`abandoned`.

    IRQL: created at any level, entered up to APC, tried up to DISPATCH.

    Raises:
        PagedPoolAllocFailed: no room.
    """

    def __init__(self):
        hooks_.create_anonymous_section(self)

    cdef int take(self, int64_t timeout) except -1:
        """Enter once more. False when the time was up."""
        cdef wdkm_local *local = &self.segment_.local[self.index]
        cdef wdkm_slot *slot = self.slot
        cdef wdkm_thread *me = thread_at_level()
        if me.level > APC and (timeout != 0 or me.level > DISPATCH):
            refuse_level("entering", slot_name(slot), me.level, DISPATCH if timeout == 0 else APC, self.kind)
        if me.apart:
            task = owner_now()
            if task is not None:
                return self.take_apart(task, timeout)
        if local.thread == me.serial and local.depth != 0:
            if wdkm_load64(&slot.generation) != self.generation_:
                gone(self.segment_, slot)
            local.depth += 1
            return True
        return self.take_first(me, try_acquire(slot), timeout)

    cdef bint take_apart(self, object task, int64_t timeout) except -1:
        """Enter once more, for a task, a callback of a loop or a greenlet. False when the time was up."""
        cdef Guard guard = lock_for(self, task, timeout, False)
        if guard is None:
            return False
        if guard.root is None:
            entered[self] = []  # what was there is a parent's, before fork()
        entered.setdefault(self, []).append(guard)
        return True

    cdef Guard last_apart(self):
        """The guard of the last entry, if the task, callback or greenlet that calls has entered the section; else None."""
        cdef list guards
        cdef Guard guard
        if not entered or self.segment_.local[self.index].thread != thread_state().serial | WDKM_OF_TASK:
            return None
        guards = entered.get(self)
        if not guards:
            return None
        guard = guards[len(guards) - 1]
        return guard if guard.flags & HELD and is_own_task(guard) else None

    cdef bint leave_apart(self) except -1:
        """Leave once, if the task, callback or greenlet that calls has entered the section. Tells whether it has."""
        cdef Guard guard = self.last_apart()
        if guard is None:
            return False
        entered[self].pop()
        if guard.root is None or not entered[self]:
            del entered[self]
        guard.finish(True)
        return True

    cdef bint take_now(self, bint starving) except -1:
        """Enter once more if that needs no waiting. Who starves for it does not let other starving waiters go first."""
        if not starving or self._is_owned():
            return self.take(0)
        return self.take_first(thread_state(), pthread_mutex_trylock(&self.slot.mutex), 0)

    cdef int take_first(self, wdkm_thread *me, int code, int64_t timeout) except -1:
        """Enter after an attempt at the lock that returned `code`. False when the time was up."""
        cdef wdkm_local *local = &self.segment_.local[self.index]
        cdef wdkm_slot *slot = self.slot
        if code == 0 and wdkm_load64(&slot.generation) == self.generation_:
            wdkm_acquired(slot, me)
            code = 0
        else:
            code = lock_slow(self.segment_, self.index, self.generation_, me, code, timeout)
            if code == EXPIRED:
                return False
            if code == OF_TASK:
                if timeout != 0:
                    raise_of_task(slot, False)
                return False
            me = thread_state()
        if local.depth == 0:
            # The kernel's list of held locks points into the mapping: it must stay as long as the lock is held. A depth
            # left by a thread that died holding has its reference already.
            Py_INCREF(self.segment_)
        local.thread = me.serial
        local.depth = 1
        local.abandoned_pid = slot.abandoned_pid + 1 if code == ABANDONED else 0
        return True

    cdef int let_go(self) except -1:
        cdef wdkm_local *local = &self.segment_.local[self.index]
        if local.depth == 0 or local.thread != thread_state().serial:
            if not self.leave_apart():
                self.not_owned()
            return 0
        local.depth -= 1
        if local.depth == 0:
            wdkm_unlock(self.slot)
            Py_DECREF(self.segment_)
        return 0

    cdef int not_owned(self) except -1:
        cdef wdkm_local *local = &self.segment_.local[self.index]
        name = slot_name(self.slot)
        if task_root(self, thread_state()) is not None:
            why = "another task or greenlet entered it, or a guard of lock_async() did, with which it is left"
        elif local.thread & WDKM_OF_TASK and local.root != NULL and not before_fork(local.thread):
            why = "a task or greenlet of another thread of this process entered it"
        elif local.depth != 0 and before_fork(local.thread):
            why = "it was entered before fork(), by the parent"
        elif local.depth != 0:
            why = "another thread of this process entered it"
        else:
            why = "it was not entered, or was left already"
        raise NotOwned(f"cannot release critical section {name!r}: {why}", name=name)

    def __enter__(self):
        self.take(-1)
        return True

    def __exit__(self, kind, error, traceback):
        self.let_go()
        return False

    def enter(self, object timeout=None):
        """Wait for the section and enter it (EnterCriticalSection). It may be entered again; leave it as often as it
        was entered.

        IRQL: up to APC; with ``timeout=0`` up to DISPATCH.

        Args:
            timeout: seconds to wait, None for no limit.

        Raises:
            IrqlTooHigh, LockTimeout, MutexDestroyed, KeyboardInterrupt while waiting.
        """
        if not self.take(nanoseconds(timeout)):
            raise_timeout(self.segment_, self.index, self.generation_, timeout)

    def lock_async(self, object timeout=None):
        """Enter in a task of asyncio or Trio: ``async with section.lock_async() as hold:``, or ``await``.

        Like :meth:`KMutex.lock_async`. It returns a guard whose ``value`` is None, with ``abandoned`` and all other
        attributes. Releasing the guard leaves the section; :meth:`leave` and :attr:`abandoned` of the section are for
        the other ways to enter it. The task that is inside may enter again, in either way.
        """
        return new_request(self, timeout)

    def try_enter(self):
        """Enter if that needs no waiting (TryEnterCriticalSection) and tell whether it did. IRQL: up to DISPATCH."""
        return bool(self.take(0))

    def leave(self):
        """Leave once (LeaveCriticalSection). At any IRQL.

        Raises:
            NotOwned: the calling thread is not inside. It is a RuntimeError, which RLock raises, too.
        """
        self.let_go()

    def acquire(self, object blocking=True, object timeout=-1):
        """Like ``threading.RLock.acquire``: return True if entered.

        Args:
            blocking: whether to wait; accepts what RLock accepts: an int, and from Python 3.12 on any object.
            timeout: seconds, any real number; -1 or None for no limit. (RLock rejects None, Decimal and numpy.float32.)

        Raises:
            ValueError: the timeout is negative or NaN, or given although ``blocking`` is false.
            OverflowError: the timeout is above ``threading.TIMEOUT_MAX``. TypeError: it is not a number.
            IrqlTooHigh, MutexDestroyed, DeadlockError, KeyboardInterrupt: as :meth:`enter`.
        """
        cdef int64_t wait = -1
        cdef double seconds
        if timeout is not None and timeout != -1:
            seconds = timeout
            if not as_blocking(blocking):
                raise ValueError("can't specify a timeout for a non-blocking call")
            if seconds > TIMEOUT_MAX or seconds < -TIMEOUT_MAX:
                raise OverflowError(f"timeout value is too large: {timeout!r} s, and at most {TIMEOUT_MAX} are possible")
            if not seconds >= 0:
                raise ValueError(f"timeout value must be a non-negative number, not {timeout!r}")
            wait = nanoseconds(seconds)
        elif not as_blocking(blocking):
            wait = 0
        return bool(self.take(wait))

    def release(self):
        """As :meth:`leave`."""
        self.let_go()

    def locked(self):
        """Whether any thread of any process is in the section. Never blocks."""
        return self.owner is not None

    @property
    def abandoned(self):
        """Whether the holder before the calling thread's present hold died in the section."""
        cdef wdkm_local *local = &self.segment_.local[self.index]
        cdef Guard guard = self.last_apart()
        if guard is not None:
            return (guard if guard.root is None else guard.root).dead_pid >= 0
        return local.depth != 0 and local.thread == thread_state().serial and local.abandoned_pid != 0

    @property
    def abandoned_by(self):
        """Pid of that dead holder; None if there was none, or it is not known."""
        cdef Guard guard = self.last_apart()
        if not self.abandoned:
            return None
        if guard is not None:
            return (guard if guard.root is None else guard.root).abandoned_by
        return self.segment_.local[self.index].abandoned_pid - 1 or None

    @property
    def fence(self):
        """Of the calling thread's present hold, see :attr:`Guard.fence`.

        Raises:
            NotOwned: the calling thread is not inside.
        """
        if not self._is_owned():
            self.not_owned()
        return acquisitions(self.slot)

    def _is_owned(self):
        cdef wdkm_local *local = &self.segment_.local[self.index]
        return local.depth != 0 and local.thread == thread_state().serial or self.last_apart() is not None

    def _recursion_count(self):
        if self.last_apart() is not None:
            return len(entered[self])
        return self.segment_.local[self.index].depth if self._is_owned() else 0

    def _release_save(self):
        cdef wdkm_local *local = &self.segment_.local[self.index]
        cdef uint32_t depth = local.depth
        if not self._is_owned():
            self.not_owned()
        if self.last_apart() is not None:
            depth = len(entered[self])
            while self.leave_apart():
                pass
            return depth
        local.depth = 1
        self.let_go()
        return depth

    def _acquire_restore(self, uint32_t depth):
        # As RLock: Condition.wait() must not return, nor raise, without the lock. Ctrl-C is raised once it is had, and of a
        # deadlock another thread in it is told. Only where there is no lock any more this says so.
        late = None
        while True:
            try:
                taking_back(True)
                self.take(-1)
                break
            except DeadlockError:  # of a wait of a signal handler's, or because such a wait had the note above
                continue
            except DriverMutexError:
                raise
            except BaseException as error:
                late = late or error
            finally:
                taking_back(False)
        if self.last_apart() is None:
            self.segment_.local[self.index].depth = depth
        for _ in range(depth - 1 if self.last_apart() is not None else 0):
            self.take(0)
        if late is not None:
            raise late

    def _at_fork_reinit(self):
        """In a forked child: forget that the parent's thread was in it. The parent still is."""
        cdef wdkm_local *local = &self.segment_.local[self.index]
        if local.depth != 0 and before_fork(local.thread):
            local.depth = 0
            Py_DECREF(self.segment_)
