"""The wait board; see `wait_board.h`."""

from libc.stdint cimport int64_t, uint64_t

from ._segment cimport Segment


# Write down that the calling thread has waited for a lock (to take it `back`) since then. Returns a ticket, 0 if there is
# no board or no room.
cdef uint64_t note_lock(Segment segment, Py_ssize_t index, uint64_t generation, int64_t since, bint back) except? 0
# Whether the wait that begins now is for what the thread takes back; asked once for each wait.
cdef bint takes_back() noexcept
# Whether the ticket is of a record that stands: not in a forked child, nor when somebody has removed the board.
cdef bint is_noted(uint64_t ticket) noexcept
cdef void forget(uint64_t ticket) noexcept
# Whether a thread (an owner word) waits for a lock itself. Who asks `again` is content with what another thread of this
# process found within a second: thousands may wait for one thread.
cdef bint is_waiting(uint64_t owner, bint again) noexcept
