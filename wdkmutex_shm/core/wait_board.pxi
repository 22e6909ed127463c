"""The wait board: who waits for which lock, written by the waiters and read by everybody; see `wait_board.h`.

Whoever waits in a way of its own writes a record as well: :meth:`Wait.show` once it has waited for a while (1 ms is usual),
and :meth:`Wait.end` when the wait is over, however it ends. Neither raises anything, waits, or runs Python code; a record
is never needed for a lock to work.

    wait = _board.Wait(_board.WAIT_ANY)
    ...
    wait.show(mutexes)
    ...
    wait.end()
"""

cdef extern from "wait_board.h":
    enum:
        WDKM_WAIT_LOCK
        WDKM_WAIT_ANY
        WDKM_WAIT_VALUE
        WDKM_WAIT_TASK
        WDKM_WAIT_BACK
        WDKM_RECORDS
        WDKM_TALES
        WDKM_TALE
        WDKM_BOARD_HEADER
        WDKM_BOARD_LAYOUT
        FUTEX_TID_MASK
    uint64_t WDKM_BOARD_MAGIC
    ctypedef struct wdkm_wait:
        uint64_t owner
        uint32_t sequence
        uint32_t kind
        uint32_t of
        uint64_t start
        int64_t since
        uint64_t nonce
        uint64_t generation
        uint32_t slot
        char segment[72]
    ctypedef struct wdkm_board:
        pass
    int wdkm_taking_back
    uint32_t wdkm_wait_next(uint32_t, uint64_t, uint32_t, uint64_t, wdkm_wait *)
    wdkm_board *wdkm_board_mapped
    int wdkm_board_stays
    int wdkm_board_watch_forks()
    void wdkm_board_path(char *, size_t)
    wdkm_board *wdkm_board_now(uint32_t, int)
    wdkm_board *wdkm_board_still(uint32_t)
    void wdkm_board_unmap()
    int wdkm_wait_read(const wdkm_wait *, wdkm_wait *)
    uint64_t wdkm_wait_note(uint64_t, uint32_t, uint32_t, int64_t, const char *, uint64_t, uint32_t, uint64_t)
    uint64_t wdkm_wait_note_here(uint64_t, uint32_t, uint32_t, int64_t, const char *, uint64_t, uint32_t, uint64_t)
    wdkm_wait *wdkm_wait_of(uint64_t, uint32_t)
    void wdkm_wait_forget(uint64_t, uint32_t)
    void wdkm_board_tell(const char *, size_t)
    uint32_t wdkm_wait_any_by(uint32_t, uint64_t, wdkm_wait *)
    bint wdkm_wait_by(uint64_t, wdkm_wait *, uint32_t *)
    bint wdkm_slot_of(const char *, uint64_t, uint32_t, uint64_t, wdkm_slot *)

if wdkm_board_watch_forks():
    raise MemoryError("pthread_atfork: no memory for a fork handler")
wdkm_board_stays = lock_memory

#: What a waiter waits for: the lock, asleep until it has it; any of several locks; a value; the lock, as a task of a loop;
#: a lock that it takes back. Only the first two and the last are taken for blocked when deadlocks are looked for.
WAIT_LOCK = WDKM_WAIT_LOCK
WAIT_ANY = WDKM_WAIT_ANY
WAIT_VALUE = WDKM_WAIT_VALUE
WAIT_TASK = WDKM_WAIT_TASK
WAIT_BACK = WDKM_WAIT_BACK

#: How many waits the board has room for.
BOARD_RECORDS = WDKM_RECORDS
#: Of the page at its head: what it begins with, its bytes, how many deadlocks it tells of, and the bytes of the words for each.
BOARD_START = (WDKM_BOARD_MAGIC, WDKM_BOARD_LAYOUT)
BOARD_HEADER = WDKM_BOARD_HEADER
BOARD_TALES = WDKM_TALES
BOARD_TALE = WDKM_TALE

WaitRecord = namedtuple("WaitRecord", "number sequence pid tid start since kind segment nonce slot generation")
Hold = namedtuple("Hold", "state pid tid acquisitions held_for kind name")


# Write down that the calling thread has waited for a lock (to take it `back`) since then. Returns a ticket, 0 if there is
# no board or no room.
cdef uint64_t note_lock(Segment segment, Py_ssize_t index, uint64_t generation, int64_t since, bint back) except? 0:
    return wdkm_wait_note(thread_state().owner, WDKM_WAIT_BACK if back else WDKM_WAIT_LOCK, 1, since,
                          PyUnicode_AsUTF8(segment.name), segment.header.nonce, <uint32_t>index, generation)


# Whether the wait that begins now is for what the thread takes back; asked once for each wait.
cdef bint takes_back() noexcept:
    global wdkm_taking_back
    cdef bint back = wdkm_taking_back
    wdkm_taking_back = 0
    return back


def taking_back(bint is_so):
    """Say that the calling thread's next wait for a lock is for one that it had, and cannot go on without: such as the end
    of Condition.wait(). No DeadlockError comes out of that wait; another thread of the circle is told in its place.

    Say False when the lock is had: it may not have needed a wait.
    """
    global wdkm_taking_back
    wdkm_taking_back = is_so


def process_start(uint32_t pid):
    """Return the start time of a process in clock ticks since boot, 0 if there is none such, or it cannot be read."""
    return identity.start_time(pid) or 0


# Whether the ticket is of a record that stands: not in a forked child, nor when somebody has removed the board.
cdef bint is_noted(uint64_t ticket) noexcept:
    cdef uint32_t pid = <uint32_t>(thread_state().owner >> 32)
    return ticket != 0 and wdkm_board_still(pid) != NULL and wdkm_wait_of(ticket, pid) != NULL


cdef void forget_wait(uint64_t ticket) noexcept:
    wdkm_wait_forget(ticket, <uint32_t>(thread_state().owner >> 32))


cdef uint64_t busy_owner = 0
cdef int64_t busy_since = 0


# Whether a thread (an owner word) waits for a lock itself. Who asks `again` is content with what another thread of this
# process found within a second: thousands may wait for one thread.
cdef bint is_waiting(uint64_t owner, bint again) noexcept:
    global busy_owner, busy_since
    cdef wdkm_wait found
    cdef uint32_t number
    cdef int64_t now
    if owner == 0:
        return False
    now = wdkm_now()
    if again and owner == busy_owner and now - busy_since < 1000000000:
        return False
    if wdkm_wait_by(owner, &found, &number) or wdkm_wait_any_by(0, owner, &found) < <uint32_t>WDKM_RECORDS:
        return True
    busy_owner = owner
    busy_since = now
    return False


def begin_wait(handle not None, uint32_t kind, int64_t since):
    """Write down that the calling thread, or a task of it, waits for a mutex.

    Args:
        handle: of the mutex.
        kind: WAIT_ANY, WAIT_VALUE or WAIT_TASK; WAIT_LOCK only if the thread can do nothing else before it has the lock.
        since: when the wait began, as time.monotonic_ns().

    Returns:
        What :func:`end_wait` takes; 0, which it takes as well, if there is no board or no room on it.
    """
    cdef str segment = handle.segment
    return wdkm_wait_note(thread_state().owner, kind, 1, since, PyUnicode_AsUTF8(segment), handle.nonce,
                          handle.slot_index, handle.generation)


@cython.final
@cython.no_gc
cdef class Wait:
    """The records of one wait: for a mutex, or for any of several. They go with this object at the latest, so that whatever
    an exception of a signal handler interrupts leaves no waiter behind that nobody is.

    Args:
        kind: as :func:`enter`. It begins now, and is the calling thread's, or one of its tasks'; any thread may show or end it.
    """

    cdef uint32_t kind
    cdef uint64_t owner
    cdef int64_t since
    cdef int64_t again
    cdef bint over
    cdef list tickets

    def __cinit__(self, uint32_t kind):
        self.kind = kind
        self.owner = thread_state().owner
        self.since = wdkm_now()
        self.tickets = []

    @property
    def waited(self):
        """Seconds since it began."""
        return (wdkm_now() - self.since) / 1e9

    def show(self, mutexes not None):
        """Write a record for each of the mutexes, or see to it that those which were written are still there.

        Where there is no room for one, this ends, and is tried again once the wait has lasted twice as long: looking for room is
        not for nothing.
        """
        cdef uint32_t pid = <uint32_t>(thread_state().owner >> 32)
        cdef int64_t now = wdkm_now()
        cdef Py_ssize_t at
        cdef uint64_t ticket
        cdef bint looked = False
        if self.over or self.owner >> 32 != pid:  # it ended meanwhile; or this is a forked child
            return
        if now < self.again:
            return
        for at in range(len(mutexes)):
            ticket = self.tickets[at] if at < len(self.tickets) else 0
            if ticket != 0 and is_noted(ticket):
                continue
            if not looked and wdkm_board_now(pid, 1) == NULL:
                return
            looked = True
            ticket = self.note(mutexes[at], <uint32_t>len(mutexes))
            if at < len(self.tickets):
                self.tickets[at] = ticket
            else:
                self.tickets.append(ticket)
            if ticket == 0:
                self.again = 2 * now - self.since
                return

    cdef uint64_t note(self, handle, uint32_t of) except? 0:
        cdef str segment = handle.segment
        return wdkm_wait_note_here(self.owner, self.kind, of, self.since, PyUnicode_AsUTF8(segment), handle.nonce,
                                   handle.slot_index, handle.generation)

    def ticket(self):
        """Any of its records' tickets, as :func:`enter` returns them; 0 if it has none."""
        return self.tickets[0] if self.tickets else 0

    def end(self):
        """Remove the records, for good."""
        self.over = True
        while self.tickets:
            forget_wait(self.tickets.pop())

    def __dealloc__(self):
        for ticket in self.tickets:
            forget_wait(ticket)


def end_wait(uint64_t ticket):
    """Remove the record, in any thread of the process that made it. In a forked child nothing happens."""
    forget_wait(ticket)


cdef object as_record(uint32_t number, wdkm_wait *wait):
    return WaitRecord(number, wait.sequence, wait.owner >> 32, wait.owner & 0xffffffff, wait.start, wait.since, wait.kind,
                  (<bytes>(<const char *>wait.segment)).decode("ascii", "replace"), wait.nonce, wait.slot,
                  wait.generation)


def tell_deadlock(bytes words not None):
    """Leave word of a deadlock that was broken, for :func:`wdkmutex_shm.observe.deadlock.told`. More than BOARD_TALE bytes are cut off."""
    wdkm_board_tell(words, len(words))


def wait_record(uint64_t ticket):
    """Return the :class:`Record` of a ticket, None if it does not stand any more."""
    cdef wdkm_wait *wait = wdkm_wait_of(ticket, <uint32_t>(thread_state().owner >> 32))
    cdef wdkm_wait copy
    return as_record(<uint32_t>ticket, &copy) if wait != NULL and wdkm_wait_read(wait, &copy) else None


def wait_record_by(uint32_t pid, uint32_t tid):
    """Return the :class:`Record` of what a thread waits for, None if it waits for no lock. Of the dead, too."""
    cdef wdkm_wait found
    cdef uint32_t number
    if wdkm_wait_by(<uint64_t>pid << 32 | tid, &found, &number):
        return as_record(number, &found)
    return None


def waits_of(uint32_t pid, uint32_t tid):
    """Return the records of what a thread waits for and can go on with: one of a lock, or those of the locks of which it
    takes any. None if it waits for neither, or not all of them are to be found. Of the dead, too.
    """
    cdef uint64_t owner = <uint64_t>pid << 32 | tid
    cdef wdkm_wait single, copy
    cdef uint32_t number = 0
    cdef uint32_t of = 0
    cdef int64_t since = -1
    cdef list found = []
    if wdkm_wait_by(owner, &single, &number):
        found.append(as_record(number, &single))
        since = single.since
        of = 1
    number = 0
    while True:
        number = wdkm_wait_any_by(number, owner, &copy)
        if number >= <uint32_t>WDKM_RECORDS:
            break
        # A signal handler may wait in the midst of a wait: the latest is the one that counts.
        if copy.since > since:
            found = []
            since = copy.since
            of = copy.of
        if copy.since == since and copy.of == of:
            found.append(as_record(number, &copy))
        number += 1
    return found if found and <uint32_t>len(found) == of else None


def wait_records(uint64_t nonce=0, uint32_t slot=0, uint64_t generation=0):
    """Return all records, or those of one tenant of a slot; of processes that died, too."""
    cdef wdkm_wait copy
    cdef uint32_t number = 0
    found = []
    wdkm_board_now(<uint32_t>(thread_state().owner >> 32), 0)
    while True:
        number = wdkm_wait_next(number, nonce, slot, generation, &copy)
        if number >= <uint32_t>WDKM_RECORDS:
            return found
        found.append(as_record(number, &copy))
        number += 1


def waiting_processes(uint64_t nonce, uint32_t slot, uint64_t generation):
    """Return how many records of a tenant each process has, as {(pid, start time): number}; of processes that died, too."""
    cdef wdkm_wait copy
    cdef uint32_t number = 0
    cdef uint64_t pid = 0, start = 0
    cdef Py_ssize_t count = 0
    cdef dict found = {}
    wdkm_board_now(<uint32_t>(thread_state().owner >> 32), 0)
    while True:
        number = wdkm_wait_next(number, nonce, slot, generation, &copy)
        if count and (number >= <uint32_t>WDKM_RECORDS or copy.owner >> 32 != pid or copy.start != start):
            found[pid, start] = found.get((pid, start), 0) + count
            count = 0
        if number >= <uint32_t>WDKM_RECORDS:
            return found
        pid = copy.owner >> 32
        start = copy.start
        count += 1
        number += 1


def hold_of(str segment not None, uint64_t nonce, uint32_t slot, uint64_t generation):
    """Return the :class:`Hold` of a tenant of any slot of this user, without mapping it; None if there is none such.

    ``state`` is ``held`` only if the kernel's word and ours name the same thread: not while it is just being acquired
    or released, nor when its holder has died.
    """
    cdef wdkm_slot slot_
    cdef uint32_t word, tid
    cdef uint64_t owner
    if not segment.isascii() or not wdkm_slot_of(PyUnicode_AsUTF8(segment), nonce, slot, generation, &slot_):
        return None
    word = wdkm_lock_word(&slot_)
    owner = wdkm_holder(&slot_)
    tid = owner & 0xffffffff
    if wdkm_word_abandoned(word):
        state = "abandoned"
    elif not wdkm_word_held(word):
        state = "free"
    elif wdkm_holder_dead(&slot_, word, slot_.held_by, thread_state(), WDKM_GLANCE):
        state = "abandoned"
    else:
        state = "held" if word & <uint32_t>FUTEX_TID_MASK == tid else "changing"
    return Hold(state, owner >> 32, tid, slot_.acquired_low, seen_for(&slot_), slot_.kind, slot_name(&slot_))


cdef object seen_for(wdkm_slot *slot):
    """Seconds since the hold was first seen by anyone; of a copy of a slot."""
    cdef int64_t since = held_since(slot)
    return None if since < 0 else max(0, time.monotonic_ns() // 1000000 - since) / 1000


def wait_board_path():
    """Return where the board is, as a path."""
    cdef char found[96]
    wdkm_board_path(found, sizeof(found))
    return (<bytes>found).decode()


def close_wait_board():
    """Unmap the board, unless a thread of this process waits. Tells whether it is unmapped."""
    cdef uint32_t pid = <uint32_t>(thread_state().owner >> 32)
    if wdkm_board_mapped != NULL and any(record.pid == pid for record in wait_records()):
        return False
    wdkm_board_unmap()
    return True
