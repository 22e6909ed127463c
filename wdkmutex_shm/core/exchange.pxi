"""T changed without a guard: compared with what the caller saw of it, and set, in one short hold of the lock.

No Python code runs while the lock is held (unless T is so large that it needs another data segment), so a signal handler
never finds it taken by its own thread, and a thread in an event loop never waits longer than for such a hold. Whoever
changes T this way reads the commit word, peeks, thinks, and tries again if T was committed meanwhile.
"""

cdef wdkm_thread *allowed(Mutex mutex, str operation, bint waits) except NULL:
    cdef wdkm_thread *me = thread_at_level()
    cdef int limit = APC if waits else DISPATCH
    if me.level > limit:
        refuse_level(operation, slot_name(mutex.slot), me.level, limit, 0)
    return me


def exchange_if(Mutex mutex not None, int64_t expected, int64_t number, str operation="change", bint waits=False, list done=None):
    """Set a T of int to ``number`` if it is ``expected``. Return what it was.

    Args:
        operation: what the caller does, for the error. waits: whether it goes on to wait if this fails.
        done: gets an item once T is set. So it is known, although a signal handler may raise before this has returned.

    Raises:
        IrqlTooHigh: above APC if it ``waits``, else above DISPATCH. MutexDestroyed.
        TypeError: T is not an int.
    """
    cdef wdkm_thread *me = allowed(mutex, operation, waits)
    cdef int64_t found = 0
    cdef int code
    if mutex.codec.code != T_INT:
        raise TypeError(f"exchange_if needs a T of int, not {mutex.codec.label.decode()}")
    code = try_acquire(mutex.slot)
    if code == 0 and wdkm_load64(&mutex.slot.generation) == mutex.generation_:
        wdkm_acquired(mutex.slot, me)
    else:
        lock_slow(mutex.segment_, mutex.index, mutex.generation_, me, code, -1)
    try:
        if not current_number(mutex.slot, &found):
            raise TypeError("T is not an int of 64 bits")
        if found == expected and not publish_number(mutex.slot, mutex.generation_, number):
            gone(mutex.segment_, mutex.slot)
    finally:
        wdkm_unlock(mutex.slot)
    if done is not None and found == expected:
        done.append(True)
    return found


def commit_if(Mutex mutex not None, uint64_t commit, object value, list done=None):
    """Set T if nobody committed since :func:`commits` returned ``commit``. Return whether it was set.

    Args:
        done: as that of :func:`exchange_if`.

    Raises:
        IrqlTooHigh: above DISPATCH. MutexDestroyed. PagedPoolAllocFailed: T stands.
        TypeError, OverflowError: ``value`` is not a T.
    """
    cdef wdkm_thread *me
    cdef Encoded encoded
    cdef uint64_t serial
    value = mutex.codec.admit(value)
    keep = mutex.codec.encode_into(value, &encoded)
    me = allowed(mutex, "change", False)
    mutex.take(me, -1)
    serial = thread_state().serial
    try:
        if mutex.slot.commit != commit:
            return False
        not_in_child(mutex.slot, serial)
        publish(mutex.segment_, mutex.index, mutex.generation_, &encoded)
    finally:
        if thread_state().serial == serial:
            wdkm_unlock(mutex.slot)
    if done is not None:
        done.append(True)
    return True
