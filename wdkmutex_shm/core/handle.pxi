"""What a process has of a mutex: the slot it lives in, and which tenant of it is meant.

A handle is small, holds nothing of T, and can be pickled to any process of the same user. It pins the mapping of its
segment. The first handle of an anonymous mutex also owns the mutex: the slot is given back when that handle goes,
unless the handle was pickled or the process forked meanwhile, because others may then be using it.
"""

# Where a handle points that was never bound: a slot that never has a tenant, so that every use raises MutexDestroyed.
cdef Segment unbound = Segment.nowhere()


@cython.no_gc
cdef class Handle:
    """Base of KMutex, FastMutex and CriticalSection."""

    cdef Segment segment_
    cdef wdkm_slot *slot
    cdef Py_ssize_t index
    cdef int kind
    cdef uint64_t generation_
    cdef Codec codec
    # T as this process last committed it, if it is an int; it still is T while the commit word is `number_commit`.
    cdef object number
    cdef uint64_t number_commit
    # The pool to give the slot back to when this handle goes: set for the first handle of an anonymous mutex.
    cdef object pool
    cdef object __weakref__
    cdef uint64_t forks

    def __cinit__(self):
        self.segment_ = unbound
        self.slot = unbound.at(0)
        self.generation_ = 1
        self.codec = SECTION

    def _bind(self, Segment segment not None, Py_ssize_t index, uint64_t generation, int kind, Codec codec not None,
              pool=None):
        """Point this new handle at a tenant. For :mod:`wdkmutex_shm.objects.handles` only."""
        self._must_be_new()
        above()
        codec.get_ready()
        self.slot = segment.at(index)
        self.segment_ = segment
        self.index = index
        self.generation_ = generation
        self.kind = kind  # the slot says so too, but shared bytes may change under us
        self.codec = codec
        self.pool = pool
        self.forks = fork_count()
        if codec is not SECTION:
            self.forget_section()

    cdef int forget_section(self) except -1:
        """Where a section was in this slot before, and a thread of this process ended inside, forget that: who lives here now
        will note another thread in its place, and the next section would take that thread to be inside."""
        cdef wdkm_local *local = &self.segment_.local[self.index]
        if local.depth != 0 and wdkm_load64(&self.slot.generation) == self.generation_:
            local.depth = 0
            Py_DECREF(self.segment_)  # of the hold, see CriticalSection.take_first()
        return 0

    def _must_be_new(self):
        if self.segment_ is not unbound:
            raise TypeError(f"this {type(self).__name__} already exists: it cannot be initialised again")

    @property
    def name(self):
        """The registered name, ``""`` for an anonymous mutex."""
        name = slot_name(self.slot)
        if wdkm_load64(&self.slot.generation) != self.generation_:
            raise MutexDestroyed("this mutex was destroyed, overwritten, unregistered or moved out")
        return name

    @property
    def segment(self):
        """Name of the pool segment that contains the mutex."""
        return self.segment_.name

    @property
    def slot_index(self):
        """Number of its slot in that segment."""
        return self.index

    @property
    def generation(self):
        """Which tenant of the slot this handle means."""
        return self.generation_

    @property
    def nonce(self):
        """Which segment of that name."""
        return self.segment_.nonce

    def _vacate(self):
        """End the tenancy; for the holder of the lock of an anonymous mutex. False if it had ended."""
        return vacate(self.segment_, self.index, self.generation_)

    def _empty(self):
        """Give T's data segments back; for the holder of the lock, after the tenancy ended."""
        free_data(self.segment_, self.index)

    def _collect(self):
        """Give the vacated slot back to the pool, if this handle is the one that owns it."""
        if self.pool is not None and not self.pool.closed and self.pool.pid == os.getpid():
            self.give_back()

    def _free(self):
        """End the tenancy and give the slot back; for a box. Nothing happens in a forked child, and at the very end."""
        if self.pool is not None and not self.pool.closed and self.pool.pid == os.getpid():
            if vacate(self.segment_, self.index, self.generation_):
                self.give_back()

    cdef int give_back(self) except -1:
        """Give the vacated slot back. No Python code: what a signal handler raised in it would lose the slot."""
        pool = self.pool
        self.pool = None
        place = self.segment_, self.index
        if reclaim(self.segment_, self.index):
            pool._free.append(place)
        else:
            pool._quarantine.append(place)
        pool._used -= 1
        return 0

    @property
    def destroyed(self):
        """Whether the mutex no longer exists. Never blocks."""
        return wdkm_load64(&self.slot.generation) != self.generation_

    @property
    def owner(self):
        """The :class:`~wdkmutex_shm.Holder` of the lock, or None while it is free. Never blocks.

        ``alive`` is False while the lock is abandoned and not yet acquired again. At any IRQL.

        Raises:
            MutexDestroyed: the mutex no longer exists.
        """
        cdef uint32_t word = wdkm_lock_word(self.slot)
        cdef uint64_t owner = wdkm_holder(self.slot)
        cdef bint dead
        held = held_for(self.slot)
        if wdkm_load64(&self.slot.generation) != self.generation_:
            raise MutexDestroyed("this mutex was destroyed, overwritten, unregistered or moved out")
        if owner == 0 or not (wdkm_word_held(word) or wdkm_word_abandoned(word)):
            return None
        dead = wdkm_word_abandoned(word) or wdkm_holder_dead(self.slot, word, self.slot.held_by, thread_state(), WDKM_LOOK)
        return above().holder_of(owner >> 32, owner & 0xffffffff, held, abandoned=dead)

    def waiters(self):
        """Return the waiters of the mutex as a tuple of :class:`~wdkmutex_shm.Waiter`, longest wait first.

        Waits of less than a millisecond are not shown, nor more than a few hundred waiters at once if memory is short.
        Never blocks. At any IRQL.

        Raises:
            MutexDestroyed: the mutex no longer exists.
        """
        if wdkm_load64(&self.slot.generation) != self.generation_:
            raise MutexDestroyed("this mutex was destroyed, overwritten, unregistered or moved out")
        return above().waiters_of(self.segment_.nonce, self.index, self.generation_)

    def statistics(self):
        """Return a frozen :class:`~wdkmutex_shm.Statistics`, read without the lock. At any IRQL.

        Raises:
            MutexDestroyed: the mutex no longer exists.
        """
        facts = snapshot(self.segment_, self.index, self.generation_)
        if facts is None:
            raise MutexDestroyed("this mutex was destroyed, overwritten, unregistered or moved out")
        return above().statistics_of(self.segment_.prefix, facts)

    def __reduce__(self):
        self.pool = None  # from now on another process may be using it
        return above().rebuild, (
            self.segment_.name, self.segment_.prefix, self.segment_.nonce, self.index, self.generation_,
            self.kind, above().portable_type(self.codec))

    def __repr__(self):
        kind = type(self).__name__
        name = slot_name(self.slot)
        what = f"{name!r}" if name else "anonymous"
        label = f"[{self.codec.label.decode()}]" if self.codec.code != 10 else ""
        if wdkm_load64(&self.slot.generation) != self.generation_:
            return f"<{kind}{label}, destroyed>"
        word = wdkm_lock_word(self.slot)
        owner = wdkm_holder(self.slot)
        if wdkm_word_abandoned(word) or wdkm_holder_dead(
                self.slot, word, self.slot.held_by, thread_state(), WDKM_GLANCE):
            state = "abandoned"
        elif wdkm_word_held(word):
            state = f"held by process {owner >> 32}" if owner else "held"
        else:
            state = "free"
        return f"<{kind}{label} {what}, {state}>"

    def __eq__(self, other):
        if not isinstance(other, Handle):
            return NotImplemented
        return (self.slot == (<Handle>other).slot and self.generation_ == (<Handle>other).generation_
                and type(self) is type(other))

    def __hash__(self):
        return hash((<uint64_t>self.slot, self.generation_))

    def __dealloc__(self):
        # No Python code: a signal handler could raise in it, and its exception would be lost here.
        if self.pool is not None and self.forks == fork_count() and not self.pool.closed:
            # Vacated already: by this handle, which was interrupted before it came to give the slot back.
            if (vacate(self.segment_, self.index, self.generation_)
                    or wdkm_load64(&self.slot.generation) == self.generation_ + 1):
                self.give_back()
        forget_stale(self.segment_, self.index)
