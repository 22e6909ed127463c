"""KMutex and FastMutex."""

@cython.final
@cython.no_gc
cdef class KMutex(Mutex):
    """KMutex(value, *, type=...)
--

    A recursive mutex that owns its T (KMUTEX).

    ``KMutex(value)`` makes an anonymous mutex, for this process and the processes that receive the object: forked
    children, and processes it is pickled to. It lives until its first handle is deleted, or, once shared, until the
    process that made it ends.

    IRQL: created at any level, locked up to APC, tried up to DISPATCH.

    Args:
        value: the first T.
        type: T's type; by default ``type(value)``. None allows any value that msgpack supports.

    Raises:
        TypeError, OverflowError: msgpack cannot hold the value. PagedPoolAllocFailed: shared memory is full.
    """

    def __init__(self, value, *, type=UNSET):
        hooks_.create_anonymous(self, KIND_K, value, type)


@cython.final
@cython.no_gc
cdef class FastMutex(Mutex):
    """FastMutex(value, *, type=...)
--

    A non-recursive mutex that owns its T, with the least work per lock (FAST_MUTEX).

    Constructed like :class:`KMutex`. A thread that holds one is at APC.

    IRQL: created up to DISPATCH, locked and tried up to APC.

    Raises:
        IrqlTooHigh: the thread is above DISPATCH. Other errors as for :class:`KMutex`.
    """

    def __init__(self, value, *, type=UNSET):
        cdef wdkm_thread *me = thread_at_level()
        if me.level > DISPATCH:
            refuse_level("creation", None, me.level, DISPATCH, KIND_FAST)
        hooks_.create_anonymous(self, KIND_FAST, value, type)
