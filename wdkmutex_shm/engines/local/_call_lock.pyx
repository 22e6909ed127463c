# cython: language_level=3, boundscheck=False, wraparound=False
"""Whose turn it is to use something that one thread uses at a time, and that signal handlers may ask for as well.

A plain lock is not enough there. A handler that raises just after ``acquire()`` leaves it locked for ever, for the ``try``
was not reached; and one that asks for the lock in the midst of its own thread's turn waits for itself. Here a turn is an
object, which ends it when it goes, and a thread can ask whether the turn is its own. Neither leaves a gap: no Python code runs
between the acquisition and its being noted.
"""

cimport cython

from _thread import allocate_lock

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
