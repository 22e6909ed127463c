"""The hold of a critical section as an object, where several objects are locked at once.

Compiled, because Python code is where signal handlers raise: between entering and having a guard, or as a guard is dropped,
there must be none, or the section stays entered.
"""

@cython.final
@cython.no_gc
cdef class SectionGuard:
    """Holds a :class:`CriticalSection` entered by ``lock_all`` or ``lock_any``, as a guard holds a mutex, but without
    a T.

    The section is left by leaving the ``with``, by :meth:`drop_safe`, or by garbage collection in the thread that
    entered.
    """

    cdef CriticalSection section
    cdef Guard apart         # the hold, where a task or greenlet has entered
    cdef uint64_t thread
    cdef bint entered

    def __init__(self):
        raise TypeError("section guards are returned by lock_all() and lock_any()")

    cdef int leave(self) except -1:
        if self.apart is not None:
            self.apart.leave(True)
            self.entered = self.apart.flags & HELD
        elif self.entered:
            self.section.let_go()
            self.entered = False
        return 0

    @property
    def mutex(self):
        """The section."""
        return self.section

    @property
    def released(self):
        """Whether this left it already."""
        return not self.entered

    @property
    def abandoned(self):
        """See :attr:`CriticalSection.abandoned`."""
        if self.apart is not None:
            return self.entered and self.apart.abandoned
        return self.entered and self.section.abandoned

    @property
    def abandoned_by(self):
        """See :attr:`CriticalSection.abandoned_by`."""
        if self.apart is not None:
            return self.apart.abandoned_by if self.entered else None
        return self.section.abandoned_by if self.entered else None

    @property
    def fence(self):
        """See :attr:`Guard.fence`. Raises NotOwned as :attr:`CriticalSection.fence`, and when this has left the section."""
        if self.apart is not None:
            return self.apart.fence
        if not self.entered:
            self.section.not_owned()
        return self.section.fence

    @property
    def lost(self):
        """See :attr:`Guard.lost`."""
        return False

    def drop_safe(self):
        """Leave the section, once. At any IRQL.

        Raises:
            NotOwned: the calling thread is not inside.
        """
        self.leave()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        self.leave()
        return False

    def __dealloc__(self):
        cdef wdkm_local *local
        if self.apart is None and self.entered and self.thread == thread_state().serial:
            local = &self.section.segment_.local[self.section.index]
            if local.depth != 0 and local.thread == self.thread:
                self.section.let_go()

    def __repr__(self):
        return f"<SectionGuard of {self.section!r}{'' if self.entered else ', released'}>"

    def __reduce__(self):
        raise TypeError("a section guard cannot be pickled: it belongs to one thread; pickle the section")


cdef SectionGuard guard_for(CriticalSection section):
    cdef SectionGuard guard = SectionGuard.__new__(SectionGuard)
    guard.section = section
    guard.thread = thread_state().serial
    return guard


cdef bint enter_apart(SectionGuard guard, int64_t wait, bint starving) except -1:
    """Enter if a task, a callback of a loop or a greenlet calls, which own for themselves. Tells whether one does."""
    task = owner_now() if thread_state().apart else None
    if task is None:
        return False
    guard.apart = lock_for(guard.section, task, wait, starving)
    guard.entered = guard.apart is not None
    return True


# Enter, waiting until `deadline` if `wait` is above 0, without limit if it is below; None when the time was up.
cdef SectionGuard enter_section(CriticalSection section, int64_t wait, int64_t deadline):
    cdef SectionGuard guard = guard_for(section)
    if wait > 0:
        wait = max(0, deadline - wdkm_now())
    if enter_apart(guard, wait, False):
        return guard if guard.entered else None
    guard.entered = section.take(wait)
    guard.thread = thread_state().serial  # waiting runs signal handlers, and one may have forked
    return guard if guard.entered else None


# Enter if that needs no waiting, else None. Who starves for it does not let other starving waiters go first.
cdef SectionGuard try_section(CriticalSection section, bint starving):
    cdef SectionGuard guard = guard_for(section)
    if enter_apart(guard, 0, starving):
        return guard if guard.entered else None
    guard.entered = section.take_now(starving)
    guard.thread = thread_state().serial
    return guard if guard.entered else None
