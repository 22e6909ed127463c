"""The journal of this process: how the commits of several mutexes become one."""

from libc.stdint cimport uint64_t

from ._segment cimport Segment
from ._slot cimport wdkm_slot

# Have a journal that those who lock mutexes of this segment can find. Before anything is written: it may run Python code.
cdef int journal_for(Segment segment) except -1
# Whether it is still there: it is taken away as the interpreter ends, while other threads may run.
cdef bint has_journal() noexcept
# Publish all of these slots, whose buffers are written, as one. Runs no Python code, and makes no system call.
cdef void decide(wdkm_slot **slots, const uint64_t *commits, Py_ssize_t count) noexcept
# Settle the note that a dead process left in a slot. For the holder of its lock. On an error the note stands.
cdef int settle_note(Segment segment, wdkm_slot *slot) except -1
