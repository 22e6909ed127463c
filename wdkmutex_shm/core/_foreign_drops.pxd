"""Guards that were dropped in another thread than their holder's."""

from ._guard cimport Guard
from ._slot cimport wdkm_thread

# How many there are. Looked at by every lock, so it is a plain C variable.
cdef int orphans
# Finish those that are the calling thread's.
cdef int reap_orphans(wdkm_thread *me) except -1
# A guard that holds goes in another thread than its holder's, which alone can unlock: leave it a copy.
cdef int leave_behind(Guard guard) except -1
