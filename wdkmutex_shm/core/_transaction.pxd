"""T while its lock is held: read, set, committed, rolled back."""

from ._guard cimport Guard
from ._handle cimport Handle

# All of these are for a guard that holds; `top` is the outermost guard of its hold.
cdef object get_value(Guard guard)
cdef int set_value(Guard guard, object value) except -1
# Commit T if it was set, or is a container that changed. After an error it is as before.
cdef int write(Guard top) except -1
# To be called after a commit that keeps the lock.
cdef int committed(Guard guard) except -1
cdef int undo(Guard guard) except -1
# A further guard of a hold: a transaction within that of its outermost guard, `root`.
cdef Guard inner_guard(Guard root)
# Raise MutexBusy: what a signal handler asks for cannot be done in the midst of a commit.
cdef int raise_writing(Handle handle, str what) except -1
