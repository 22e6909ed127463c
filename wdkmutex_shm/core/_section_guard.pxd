"""The hold of a critical section as an object."""

from libc.stdint cimport int64_t, uint64_t

from ._guard cimport Guard
from ._section cimport CriticalSection


cdef class SectionGuard:
    cdef CriticalSection section
    cdef Guard apart         # the hold, where a task or greenlet has entered
    cdef uint64_t thread
    cdef bint entered

    cdef int leave(self) except -1

# Enter, waiting until `deadline` if `wait` is above 0, without limit if it is below; None when the time was up.
cdef SectionGuard enter_section(CriticalSection section, int64_t wait, int64_t deadline)
# Enter if that needs no waiting, else None. Who starves for it does not let other starving waiters go first.
cdef SectionGuard try_section(CriticalSection section, bint starving)
