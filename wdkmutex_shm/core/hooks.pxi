"""What the core asks of the layers above it, which it does not import.

``wdkmutex_shm/_ready.py`` fills the slots when this process makes its first handle: what is called on a mutex
afterwards imports nothing.
"""


@cython.final
cdef class Hooks:
    """One slot for each question. All are filled before there is a handle, the first two when the package is imported."""

    cdef readonly bint ready
    #: How an anonymous mutex is made, and a section.
    cdef public object create_anonymous, create_anonymous_section
    #: Called once, to fill the others.
    cdef public object fill
    #: How a handle is pickled, and ended.
    cdef public object rebuild, portable_type, consume
    #: Who holds a lock and who waits for it, as errors and properties tell it; counters as users see them.
    cdef public object holder_of, waiters_of, statistics_of
    #: What becomes of a wait: LockTimeout; DeadlockError, if its graph has a cycle.
    cdef public object raise_timeout, refuse_deadlock
    #: Waiting for a value.
    cdef public object lock_when, wait_for, wait_in_guard, changes, lock_when_async, wait_for_async
    #: How a task of an event loop waits for a lock.
    cdef public object contend


hooks = Hooks()
cdef Hooks hooks_ = hooks  # the same, of a known type


cdef Hooks above():
    """The slots, filled."""
    if not hooks_.ready:
        hooks_.fill()
        hooks_.ready = True
    return hooks_
