"""To be told of a release or a commit, without waiting for the lock; see `slot.h` for how that cannot be missed.

A watcher does, in this order: :func:`watch`, then look whether what it wants is so already, then :func:`sleep`, then
look again. A sleep may end for no reason, and the death of a holder is not told by anybody: who must learn of that
sleeps for short whiles and looks at :func:`is_free`.
"""


cdef double LONGEST = 1e6  # seconds: who sleeps without limit looks again then

ON_RELEASE = WDKM_ON_RELEASE
ON_COMMIT = WDKM_ON_COMMIT

#: How many handles :func:`sleep_any` takes (MAXIMUM_WAIT_OBJECTS).
MOST_OBJECTS = MOST


def commits(Handle handle not None):
    """The commit word: a number that every commit changes. Raises MutexDestroyed."""
    cdef uint64_t commit = wdkm_load64(&handle.slot.commit)
    if wdkm_load64(&handle.slot.generation) != handle.generation_:
        gone(handle.segment_, handle.slot)
    return commit


def is_free(Handle handle not None):
    """Whether the lock could be had now: it is free, or its holder died. Raises MutexDestroyed."""
    if wdkm_load64(&handle.slot.generation) != handle.generation_:
        gone(handle.segment_, handle.slot)
    return not wdkm_word_held(wdkm_lock_word(handle.slot)) or bool(wdkm_free_dead(handle.slot, thread_state(), WDKM_LOOK))


def watch(Handle handle not None, uint32_t of, uint64_t commit=0):
    """Ask to be told once of the next release (ON_RELEASE), commit (ON_COMMIT), or either; and of the mutex's end.

    Args:
        of: what to be told of.
        commit: what :func:`commits` returned before; any other commit is told.

    Returns:
        What :func:`sleep` needs. Look between the two whether it has happened already.

    Raises:
        MutexDestroyed.
    """
    cdef uint32_t ticket = wdkm_watch(handle.slot, of, commit)
    if wdkm_load64(&handle.slot.generation) != handle.generation_:
        gone(handle.segment_, handle.slot)
    return ticket


def sleep_until_told(Handle handle not None, uint32_t ticket, double seconds):
    """Sleep until told since ``ticket``, for at most so many seconds, or for no reason. Releases the GIL.

    Raises:
        KeyboardInterrupt, or what a signal handler raises.
    """
    cdef int64_t until = <int64_t>(min(seconds, LONGEST) * 1e9)
    cdef wdkm_slot *slot = handle.slot
    if until > 0:
        with nogil:
            wdkm_futex_wait(&slot.watch, ticket, until)
    PyErr_CheckSignals()


def sleep_until_any_told(list handles not None, list tickets not None, double seconds):
    """As :func:`sleep`, until any of at most 64 handles is told of. Raises ValueError for more."""
    cdef wdkm_waiter waiters[MOST]
    cdef Py_ssize_t at
    cdef Py_ssize_t count = len(handles)
    cdef int64_t until = wdkm_now() + <int64_t>(min(seconds, LONGEST) * 1e9)
    cdef Handle handle
    if not 0 < count <= MOST or len(tickets) != count:
        raise ValueError(f"from 1 to {MOST} objects can be waited for together, not {count}")
    for at in range(count):
        handle = handles[at]
        wdkm_wait_for(&waiters[at], &handle.slot.watch, tickets[at])
    handle = handles[0]
    with nogil:
        if wdkm_cannot(wdkm_wait_any(waiters, <unsigned int>count, until)):
            wdkm_futex_wait(&handle.slot.watch, <uint32_t>waiters[0].value, min(WDKM_APART, until - wdkm_now()))
    PyErr_CheckSignals()


def begin_starving(Handle handle not None):
    """Count the caller among the waiters that are served next: newcomers wait up to 4 ms for them. Undo with :func:`served`."""
    wdkm_add32(&handle.slot.starving, 1)


def end_starving(Handle handle not None):
    """Undo one :func:`starve`: the lock was had, or is not wanted any more."""
    served(handle.slot)
