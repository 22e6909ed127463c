# cython: language_level=3, boundscheck=False, wraparound=False
"""One request and its reply over a socket, with a deadline, in as few system calls as that takes.

Waking a process that sleeps takes longer than the daemon needs for a request, above all where the processor that it
would wake on sleeps too. So the caller looks for its reply for a moment (SPIN_NS) before it sleeps, and offers its
processor to others between two looks. When somebody takes that, or the reply does not come meanwhile, then sleeping is
the better way: the next few calls do so at once, and ever more of them while that goes on.
"""

from _thread import allocate_lock

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcpy

cdef extern from "slot.h":
    int64_t wdkm_now() nogil

cdef extern from *:
    """
    #include <arpa/inet.h>
    #include <poll.h>
    #include <sched.h>
    #include <sys/socket.h>
    """
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *, unsigned long, int) nogil
    int POLLIN
    int POLLOUT
    int MSG_DONTWAIT
    int MSG_NOSIGNAL
    Py_ssize_t recv(int, void *, size_t, int) nogil
    Py_ssize_t send(int, const void *, size_t, int) nogil
    int sched_yield() nogil
    uint32_t ntohl(uint32_t) nogil

cdef enum:
    FIRST = 4096
    SPIN_NS = 100000
    TAKEN_NS = 50000  # somebody else has run if offering the processor takes that long
    MOST_SKIPPED = 1024
    BROKEN = -1
    LATE = -2

# How many calls from now on do not look before they sleep, and how many it will be the next time.
cdef int skip = 0
cdef int penalty = 1

# What `exchange` returns instead of a reply.
UNSENT, LOST, LATE_UNSENT, LATE_REPLY, TOO_LONG = range(5)


cdef int wait_for(int fd, short events, int64_t deadline) except -3:
    """Sleep until the socket is ready (0), is broken (BROKEN) or it is too late (LATE)."""
    cdef pollfd what
    cdef int64_t left
    cdef int ready
    what.fd = fd
    what.events = events
    while True:
        left = deadline - wdkm_now()
        if left <= 0:
            return LATE
        with nogil:
            ready = poll(&what, 1, <int>min(left // 1000000 + 1, 1000000))
        if ready > 0:
            return 0
        if ready < 0:
            if errno != EINTR:
                return BROKEN
            PyErr_CheckSignals()


cdef Py_ssize_t spin(int fd, char *into, Py_ssize_t room) noexcept nogil:
    """Look for something to receive, for a moment: as recv(2)."""
    cdef Py_ssize_t got
    cdef int64_t now = wdkm_now()
    cdef int64_t until = now + SPIN_NS
    cdef int64_t before = now
    while True:
        got = recv(fd, into, room, MSG_DONTWAIT)
        if got >= 0 or errno != EAGAIN or now - before > TAKEN_NS or now > until:
            return got
        before = wdkm_now()
        sched_yield()
        now = wdkm_now()


cdef Py_ssize_t receive(int fd, char *into, Py_ssize_t room, int64_t deadline, bint eager) except -3:
    """Receive at least a byte: how many, BROKEN or LATE. ``eager``: look for a moment before sleeping."""
    global skip, penalty
    cdef Py_ssize_t got
    cdef int state
    if eager and skip > 0:
        skip -= 1
        eager = False
    while True:
        if eager:
            with nogil:
                got = spin(fd, into, room)
            eager = False
            if got < 0 and errno == EAGAIN:
                skip = penalty
                penalty = min(2 * penalty, MOST_SKIPPED)
            else:
                penalty = max(penalty // 2, 1)
        else:
            with nogil:
                got = recv(fd, into, room, MSG_DONTWAIT)
        if got > 0:
            return got
        if got == 0:
            return BROKEN
        if errno == EAGAIN:
            state = wait_for(fd, POLLIN, deadline)
            if state != 0:
                return state
        elif errno == EINTR:
            PyErr_CheckSignals()
        else:
            return BROKEN


cdef int send_all(int fd, const char *data, Py_ssize_t length, int64_t deadline) except -3:
    """Send all of it: 0, BROKEN or LATE."""
    cdef Py_ssize_t done
    cdef int state
    while length > 0:
        with nogil:
            done = send(fd, data, length, MSG_DONTWAIT | MSG_NOSIGNAL)
        if done >= 0:
            data += done
            length -= done
        elif errno == EAGAIN:
            state = wait_for(fd, POLLOUT, deadline)
            if state != 0:
                return state
        elif errno == EINTR:
            PyErr_CheckSignals()
        else:
            return BROKEN
    return 0


def exchange(int fd, bytes request not None, int64_t deadline, Py_ssize_t cap):
    """Send a frame and return the frame that comes back, without its length.

    Args:
        fd: a connected stream socket on which nothing else is going on.
        request: the frame to send, with its length.
        deadline: nanoseconds of CLOCK_MONOTONIC after which this ends in any case.
        cap: the longest reply.

    Returns:
        The reply, or why there is none: ``UNSENT`` and ``LATE_UNSENT`` (the connection broke, or it was too late,
        before all was sent), ``LOST`` and ``LATE_REPLY`` (after that), ``TOO_LONG`` (over the cap, empty, or followed
        by more). Anything but a reply, as anything that a signal handler raises, leaves the socket of no more use.
    """
    cdef char first[FIRST]
    cdef uint32_t word
    cdef Py_ssize_t length, have, got
    cdef bytes reply
    cdef char *body
    cdef int state = send_all(fd, PyBytes_AS_STRING(request), PyBytes_GET_SIZE(request), deadline)
    if state != 0:
        return LATE_UNSENT if state == LATE else UNSENT
    have = 0
    while have < 4:
        got = receive(fd, first + have, FIRST - have, deadline, have == 0)
        if got < 0:
            return LATE_REPLY if got == LATE else LOST
        have += got
    memcpy(&word, first, 4)
    length = ntohl(word)
    have -= 4
    if not 0 < length <= cap or have > length:
        return TOO_LONG
    reply = PyBytes_FromStringAndSize(NULL, length)
    body = PyBytes_AS_STRING(reply)
    memcpy(body, first + 4, have)
    while have < length:
        got = receive(fd, body + have, length - have, deadline, False)
        if got < 0:
            return LATE_REPLY if got == LATE else LOST
        have += got
    return reply


# Whose turn it is to use something that one thread uses at a time, and that signal handlers may ask for as well.
#
# A plain lock is not enough there. A handler that raises just after ``acquire()`` leaves it locked for ever, for the ``try``
# was not reached; and one that asks for the lock in the midst of its own thread's turn waits for itself. Here a turn is an
# object, which ends it when it goes, and a thread can ask whether the turn is its own. Neither leaves a gap: no Python code runs
# between the acquisition and its being noted.

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident() nogil


@cython.final
@cython.no_gc
cdef class Turns:
    """One turn after the other, in no order."""

    cdef object lock
    cdef unsigned long holder  # its thread, 0 between two turns

    def __cinit__(self):
        self.lock = allocate_lock()

    def mine(self):
        """Whether the calling thread has its turn: the caller is a signal handler or a finalizer that came in between."""
        return self.holder == PyThread_get_thread_ident()

    def take(self, double timeout):
        """Wait for a turn and return it, None if that takes more than ``timeout`` seconds (-1: no limit)."""
        cdef Turn turn = Turn.__new__(Turn)
        if not (self.lock.acquire(False) or self.lock.acquire(True, timeout)):
            return None
        self.holder = PyThread_get_thread_ident()
        turn.turns = self
        return turn


@cython.final
@cython.no_gc
cdef class Turn:
    """A turn that was had. It ends by :meth:`end`, or when nothing refers to it any more."""

    cdef Turns turns

    def end(self):
        """Let the next one have a turn. Does nothing the second time."""
        cdef Turns turns = self.turns
        self.turns = None
        if turns is not None:
            turns.holder = 0
            turns.lock.release()

    def __dealloc__(self):
        if self.turns is not None:
            self.turns.holder = 0
            self.turns.lock.release()
