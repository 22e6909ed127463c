"""What lock_async() returns."""

from libc.stdint cimport int64_t, uint64_t

from ._guard cimport Guard, vectorcallfunc
from ._handle cimport Handle


cdef class LockRequest:
    cdef vectorcallfunc enter_or_exit  # called by `async with`, see `_bound_with.pyx`
    cdef Handle handle
    cdef Guard guard         # what was got, until it is handed out, or until the `async with` is left
    cdef object task         # weak reference to the task that asks; None: the one that awaits it
    cdef object timeout
    cdef uint64_t thread     # serial of the thread that asks
    cdef bint begun          # it was awaited
    cdef bint entered        # by an `async with`

    cdef object who(self)


cdef LockRequest new_request(Handle handle, object timeout)
# The lock for who owner_now() says that calls; `first` as a starving waiter. None if it was not had in time.
cdef Guard lock_for(Handle handle, object task, int64_t wait, bint first)
# Whether the thread, task or greenlet that calls holds the lock.
cdef bint holds_itself(Handle handle) except -1
