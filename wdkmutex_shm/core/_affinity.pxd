"""Thread affinity: who may use a guard, and what happens when another does."""

from ._guard cimport Guard
from ._slot cimport wdkm_thread

# Raise NotOwned unless the calling thread, or the task that runs in it, may use the guard. `what`: what it asks for.
cdef int must_hold(Guard guard, str what) except -1
# The `with` is not left by the thread that holds, or it is a task's. Tells whether nothing is left to do.
cdef bint leave_elsewhere(Guard guard, bint commit, wdkm_thread *me) except -1
