"""A waiter for any of several locks, which sleeps on all of their lock words at once; see `park_any.h`."""


@cython.final
@cython.no_gc
cdef class Sleeper:
    """Waits for any of at most 64 mutexes. From its first sleep on it counts among the waiters that each of them serves next.

    It must :meth:`leave` when the wait is over, however that ends, and does so with this object at the latest: what it was told
    and does not use others sleep for.
    """

    cdef wdkm_several several
    cdef tuple mutexes
    cdef uint64_t pid
    cdef bint there

    def __cinit__(self, tuple mutexes not None):
        cdef Handle handle
        if not 0 < len(mutexes) <= MOST:
            raise ValueError(f"from 1 to {MOST} objects can be waited for together, not {len(mutexes)}")
        self.mutexes = mutexes  # which keep the slots mapped
        self.pid = thread_state().owner >> 32
        for handle in mutexes:
            self.several.slots[self.several.count] = handle.slot
            self.several.generations[self.several.count] = handle.generation_
            self.several.count += 1

    @property
    def starving(self):
        """Whether it counts among the waiters that are served next."""
        return self.there

    def sleep(self, unsigned int first, double seconds):
        """Sleep until one of the locks can be had, for at most so many seconds and never much longer than a second. Releases
        the GIL.

        Args:
            first: the one to begin with, where several can be had.

        Returns:
            The index of one to try; another may have been faster. None when there is none, or for no reason.

        Raises:
            KeyboardInterrupt, or what a signal handler raises.
        """
        cdef unsigned int at
        cdef int found
        cdef int64_t until = wdkm_now() + min(<int64_t>(min(seconds, 9.0) * 1e9), WDKM_NAP_ANY, alert())
        if not self.there:
            self.there = True
            for at in range(self.several.count):
                wdkm_add32(&self.several.slots[at].starving, 1)
        with nogil:
            found = wdkm_park_any(&self.several, first % self.several.count, until)
        PyErr_CheckSignals()
        return None if found < 0 else found

    def all_wait(self, bint again):
        """Whether each of the holders waits for a lock itself, which is quickly seen: else none of this is a deadlock.

        Args:
            again: be content with what was found within a second.
        """
        cdef unsigned int at
        for at in range(self.several.count):
            if not is_waiting(wdkm_holder(self.several.slots[at]), again):
                return False
        return True

    cdef void go(self) noexcept:
        cdef unsigned int at
        if not self.there or self.pid != thread_state().owner >> 32:  # in a forked child: the parent waits, not this one
            return
        self.there = False
        wdkm_leave_any(&self.several)
        for at in range(self.several.count):
            served(self.several.slots[at])

    def leave(self):
        """It has one of the locks, or wants none any more."""
        self.go()

    def __dealloc__(self):
        self.go()
