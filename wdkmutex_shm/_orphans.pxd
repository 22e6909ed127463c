"""Guards that were dropped in another thread than their holder's."""

from libc.stdint cimport uint32_t, uint64_t

from ._slot cimport wdkm_thread

# How many there are. Looked at by every lock, so it is a plain C variable.
cdef int orphans
# Finish those that are the calling thread's.
cdef int reap_orphans(wdkm_thread *me) except -1
# Leave a guard (a copy of the dropped one) to the thread with that serial and thread id.
cdef int leave_to(uint64_t thread, uint32_t tid, object guard) except -1
# How a guard is finished, and how it is made to forget that it holds anything. Told by the module that knows guards.
cdef void set_actions(int (*finish)(object) except -1, int (*forget)(object) except -1) noexcept
