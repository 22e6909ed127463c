"""The lock itself: acquired, waited for, taken over from the dead."""

from libc.stdint cimport int64_t, uint64_t

from ._segment cimport Segment
from ._slot cimport EBUSY, WDKM_UNSETTLED, pthread_mutex_trylock, wdkm_slot, wdkm_thread, wdkm_unlock

cdef enum:
    # What acquire() returns: the lock was had, and its last owner died holding it.
    LIVE = 0
    ABANDONED = 1
    # The lock was not had in time.
    EXPIRED = 2
    # The calling thread has the lock, but one of the tasks of its event loop got it, with lock_async(). From EXPIRED on
    # the caller got nothing: who makes no difference between the two must test for `>= EXPIRED`.
    OF_TASK = 3


# One attempt without waiting. 0, EBUSY, EDEADLK (this thread has it), EOWNERDEAD. A starving waiter goes first.
cdef inline int attempt(wdkm_slot *slot) noexcept nogil:
    cdef int code
    if slot.starving != 0:
        return EBUSY
    code = pthread_mutex_trylock(&slot.mutex)
    if code == 0 and slot.starving & WDKM_UNSETTLED:
        # Between the two somebody took it from a dead owner, and let go of it without having settled its note.
        wdkm_unlock(slot)
        return EBUSY
    return code


# Everything after an attempt that did not return 0, and the check of the generation after one that did.
# `timeout` in nanoseconds, -1 for no limit. Returns one of the above, raises AlreadyOwned or MutexDestroyed.
cdef int settle(Segment segment, Py_ssize_t index, uint64_t generation, wdkm_thread *me, int code,
                int64_t timeout) except -1

# Nanoseconds of a timeout argument: None or infinite is -1.
cdef int64_t nanoseconds(object timeout) except -2
cdef int raise_timeout(Segment segment, Py_ssize_t index, uint64_t generation, object timeout) except -1
# What became of OF_TASK where there is no way to wait; `own`: it is the calling task itself.
cdef int raise_of_task(wdkm_slot *slot, bint own) except -1

# A waiter that declared itself starving is served, or gives up.
cdef int serve(wdkm_slot *slot) noexcept nogil

# How long this thread may sleep without looking for signals, in nanoseconds.
cdef int64_t alert() noexcept
