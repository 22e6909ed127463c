# cython: language_level=3, boundscheck=False, wraparound=False
"""The guard: the only way to T.

One object holds the lock and the T that is being worked on. Leaving its ``with`` commits, an exception rolls back, and
a guard that is merely dropped commits what was set. A KMutex locked again by its holder gives inner guards, which work
on the T of the outermost one; the lock is released and T committed when the last of them goes.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from ._codec cimport Codec, Encoded
from ._handle cimport Handle
from ._lock cimport leave_orphan
from ._payload cimport current, current_equals, publish
from ._segment cimport slot_name
from ._slot cimport wdkm_load64, wdkm_slot, wdkm_thread, wdkm_unlock
from ._thread cimport APC, DISPATCH, before_fork, refuse_level, thread_at_level, thread_state
from .errors import IrqlNotAPCLevel, MutexDestroyed, NotOwned

cdef enum:
    KIND_FAST = 1

    HELD = 1        # this guard has not been released
    LOADED = 2      # `held` is T
    SET = 4         # `held` was set: a release commits it
    INNER_SAVED = 8     # inner: `before` holds what to go back to
    INNER_ENCODED = 16  # inner: as msgpack bytes, because the container may since have been changed in place
    INNER_LOADED = 32   # flags of the outermost guard when this inner lock was taken
    INNER_SET = 64


cdef Guard new_guard(Handle handle, wdkm_thread *me, bint abandoned):
    cdef Guard guard = Guard.__new__(Guard)
    guard.handle = handle
    guard.thread = me.serial
    guard.flags = HELD
    guard.depth = 1
    guard.dead_pid = <int>handle.slot.abandoned_pid if abandoned else -1
    if handle.kind == KIND_FAST:
        me.fast_held += 1
    else:
        handle.segment_.local[handle.index].root = <void *>guard
    return guard


cdef Guard inner_guard(Guard root):
    cdef Guard guard = Guard.__new__(Guard)
    guard.handle = root.handle
    guard.root = root
    guard.thread = root.thread
    guard.flags = HELD | INNER_SAVED
    guard.before = root.held
    if root.flags & LOADED:
        guard.flags |= INNER_LOADED
    if root.flags & SET:
        guard.flags |= INNER_SET
    guard.dead_pid = root.dead_pid
    root.depth += 1
    return guard


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class Guard:
    """Holds the lock of a mutex, and its T. Made by ``lock()`` and ``try_lock()`` only.

    Used by the thread that locked, and released by it: by leaving a ``with``, by :meth:`drop_safe`, or by going out of
    use. A guard that a fork copied into a child does nothing there.
    """

    def __init__(self):
        raise TypeError("a guard comes from lock() or try_lock()")

    cdef int must_hold(self, str what) except -1:
        if self.flags & HELD and self.thread == thread_state().serial:
            return 0
        name = slot_name(self.handle.slot)
        if not self.flags & HELD:
            raise NotOwned(f"{what}: this guard of mutex {name!r} was released already; lock it again", name=name)
        if before_fork(self.thread):
            raise NotOwned(f"{what}: this guard of mutex {name!r} was inherited over fork(); the parent holds the lock. "
                           "Lock it in this process", name=name)
        raise NotOwned(f"{what}: this guard of mutex {name!r} belongs to another thread; lock it in this one", name=name)

    cdef object get_value(self):
        cdef Guard top = self if self.root is None else self.root
        cdef Codec codec = self.handle.codec
        cdef const unsigned char *data
        cdef Py_ssize_t length = 0
        cdef Encoded snapshot
        if not top.flags & LOADED:
            data = current(self.handle.segment_, self.handle.index, &length)
            top.held = codec.decode_from(data, length)
            top.flags |= LOADED
        elif codec.mutable and self.flags & INNER_LOADED and not self.flags & INNER_ENCODED:
            # What is handed out now may be changed in place; keep the bytes for a rollback of this inner lock.
            keep = codec.encode_into(self.before, &snapshot)
            self.before = (<const char *>snapshot.head)[:snapshot.head_length] + (
                snapshot.body[:snapshot.body_length] if snapshot.body != NULL else b"")
            self.flags |= INNER_ENCODED
        return top.held

    cdef int set_value(self, object value) except -1:
        cdef Guard top = self if self.root is None else self.root
        self.handle.codec.check(value)
        top.held = value
        top.flags |= LOADED | SET
        return 0

    @property
    def value(self):
        """T. Read on first use; set it, or change the container that it is in place; committed on release.

        Raises:
            NotOwned: the guard was released, is another thread's, or was inherited over fork.
            TypeError: (when set) the value is not a T. The old T stands.
            OverflowError: (when set) an int beyond 64 bits.
            MutexDamaged: (when read) the bytes in shared memory are not a T.
        """
        if not (self.flags & HELD and self.thread == thread_state().serial):
            self.must_hold("value")
        return self.get_value()

    @value.setter
    def value(self, object value):
        if not (self.flags & HELD and self.thread == thread_state().serial):
            self.must_hold("value")
        self.set_value(value)

    @property
    def abandoned(self):
        """Whether the last holder died holding the lock. T is whole: as it was last committed."""
        return self.dead_pid >= 0

    @property
    def abandoned_by(self):
        """Pid of that dead holder; None if there was none, or it died before it could write its pid down."""
        return self.dead_pid if self.dead_pid > 0 else None

    @property
    def mutex(self):
        """The mutex that this guard locked."""
        return self.handle

    @property
    def is_inner(self):
        """Whether this guard came of locking a KMutex that the thread held already."""
        return self.root is not None

    @property
    def released(self):
        """Whether the guard holds nothing any more."""
        return not self.flags & HELD

    def commit(self):
        """Publish T as it is now, and keep the lock.

        An inner guard publishes what the outer ones did, too. After any error the last committed T stands.

        Raises:
            NotOwned: see :attr:`value`. TypeError, OverflowError: msgpack cannot hold it.
            PagedPoolAllocFailed: no room in shared memory. MutexDestroyed: the mutex is gone.
        """
        cdef Guard top = self if self.root is None else self.root
        self.must_hold("commit")
        self.write(top)
        top.flags &= ~SET
        if self.root is not None:
            # The state to go back to is now the committed one.
            self.before = top.held
            self.flags &= ~(INNER_ENCODED | INNER_SET)
            if top.flags & LOADED:
                self.flags |= INNER_LOADED

    def rollback(self):
        """Forget what was done to T since the last commit (an inner guard: since its own lock); keep the lock.

        Containers handed out before are dead after this: read :attr:`value` again.

        Raises:
            NotOwned: see :attr:`value`.
        """
        self.must_hold("rollback")
        self.undo()

    cdef int undo(self) except -1:
        if self.root is None:
            self.held = None
            self.flags &= ~(LOADED | SET)
            return 0
        self.root.flags &= ~(LOADED | SET)
        if self.flags & INNER_ENCODED:
            self.before = self.handle.codec.decode(self.before)
            self.flags &= ~INNER_ENCODED
        self.root.held = self.before
        if self.flags & INNER_LOADED:
            self.root.flags |= LOADED
        if self.flags & INNER_SET:
            self.root.flags |= SET
        return 0

    cdef int write(self, Guard top) except -1:
        """Commit T of the outermost guard if it was set, or is a container that changed."""
        cdef Codec codec = self.handle.codec
        cdef Encoded encoded
        if not top.flags & SET and not (codec.mutable and top.flags & LOADED):
            return 0
        keep = codec.encode_into(top.held, &encoded)
        if not top.flags & SET:
            if current_equals(self.handle.segment_, self.handle.index, &encoded):
                return 0
            if codec.frozen:
                codec.check(top.held)
        publish(self.handle.segment_, self.handle.index, self.handle.generation_, &encoded)
        return 0

    cdef int let_go(self, Guard top, wdkm_thread *me) except -1:
        """Release the lock of the hold; the last step of every way out."""
        if self.handle.kind == KIND_FAST:
            me.fast_held -= 1
        elif self.handle.segment_.local[self.handle.index].root == <void *>top:
            self.handle.segment_.local[self.handle.index].root = NULL
        wdkm_unlock(self.handle.slot)
        return 0

    cdef int finish(self, bint commit) except -1:
        """Release this guard, which must be held by the calling thread."""
        cdef Guard top = self if self.root is None else self.root
        self.flags &= ~HELD
        top.depth -= 1
        try:
            if not commit:
                self.undo()
            if top.depth == 0:
                self.write(top)
        finally:
            if top.depth == 0:
                top.held = None
                top.flags &= ~(LOADED | SET)
                self.let_go(top, thread_state())
        return 0

    def __enter__(self):
        if not (self.flags & HELD and self.thread == thread_state().serial):
            self.must_hold("with")
        return self

    def __exit__(self, kind, error, traceback):
        cdef wdkm_thread *me
        cdef bint fast = self.handle.kind == KIND_FAST
        if not self.flags & HELD:
            return False
        me = thread_at_level()
        if self.thread != me.serial:
            if before_fork(self.thread):
                self.flags &= ~HELD
                return False
            self.must_hold("leaving the with")
        self.finish(kind is None)
        if kind is None and me.level >= DISPATCH:
            # A lock that stays locked is worse than a rule that is broken: it is released, and then told.
            if fast:
                self.refuse_apc("leaving the with", me.level)
            elif me.level > DISPATCH:
                refuse_level("leaving the with", slot_name(self.handle.slot), me.level, DISPATCH)
        return False

    def refuse_apc(self, str operation, int level):
        name = slot_name(self.handle.slot)
        raise IrqlNotAPCLevel(
            f"{operation} of FastMutex {name!r}: this thread is at IRQL {level}, and a FastMutex is released at APC (1) "
            "exactly; lower the IRQL first", name=name, operation=operation, level=level)

    def drop_safe(self):
        """Commit and release now, after the IRQL is found to allow it (KMutex: up to DISPATCH; FastMutex: exactly APC).

        Raises:
            IrqlTooHigh, IrqlNotAPCLevel: nothing is committed or released.
            NotOwned: released already, in another thread, or in a forked child.
            Anything that :meth:`commit` raises: the lock is released then, and the old T stands.
        """
        cdef wdkm_thread *me = thread_at_level()
        self.must_hold("drop_safe")
        if self.handle.kind == KIND_FAST:
            if me.level != APC:
                self.refuse_apc("drop_safe", me.level)
        elif me.level > DISPATCH:
            refuse_level("drop_safe", slot_name(self.handle.slot), me.level, DISPATCH)
        self.finish(True)

    def __dealloc__(self):
        cdef Guard top
        if not self.flags & HELD:
            return
        if self.thread == thread_state().serial:
            self.finish(True)
        elif before_fork(self.thread):
            # Not ours: the parent holds the lock. Only forget that a root guard was here.
            if self.root is None and self.handle.segment_.local[self.handle.index].root == <void *>self:
                self.handle.segment_.local[self.handle.index].root = NULL
        else:
            # Only the thread that locked can unlock. Commit for it, and leave it the rest.
            self.flags &= ~HELD
            top = self if self.root is None else self.root
            top.depth -= 1
            if top.depth == 0:
                try:
                    self.write(top)
                finally:
                    if self.handle.segment_.local[self.handle.index].root == <void *>top:
                        self.handle.segment_.local[self.handle.index].root = NULL
                    leave_orphan(self.handle.segment_, self.handle.index, self.thread,
                                 self.handle.kind == KIND_FAST)

    def __str__(self):
        self.must_hold("str")
        return str(self.get_value())

    def __format__(self, spec):
        self.must_hold("format")
        return format(self.get_value(), spec)

    def __repr__(self):
        name = slot_name(self.handle.slot)
        state = "released" if not self.flags & HELD else "inherited over fork" if before_fork(self.thread) else "held"
        return f"<Guard of {type(self.handle).__name__} {name!r}, {state}>"

    def __reduce__(self):
        raise TypeError("a guard cannot be pickled: it belongs to one thread; pickle the mutex")

    @classmethod
    def __class_getitem__(cls, item):
        return cls
