"""T while its lock is held: read, set, committed, rolled back.

All guards of a hold work on one T, that of the outermost. An inner guard is a transaction within that of the
outermost: it carries a savepoint, what T was when it was made, to which it rolls back. Several T that are published
together are the matter of `multi_commit.pxi`; how T comes into shared memory that of `payload.pxi`.

Encoding may run Python code, and so a signal handler, which may use the very guard. While T is being written the
outermost guard is marked WRITING: no other commit begins, and what the handler sets or rolls back is not part of it.
"""

# All of these are for a guard that holds; `top` is the outermost guard of its hold.
cdef object get_value(Guard guard):
    cdef Guard top = guard if guard.root is None else guard.root
    cdef Codec codec = guard.handle.codec
    cdef const unsigned char *data
    cdef Py_ssize_t length = 0
    cdef int64_t number = 0
    if not top.flags & LOADED:
        if codec.code == T_INT and wdkm_load64(&guard.handle.slot.generation) == guard.handle.generation_:
            if guard.handle.number is not None and guard.handle.number_commit == guard.handle.slot.commit:
                top.held = guard.handle.number
                top.flags |= LOADED
                return top.held
            if current_number(guard.handle.slot, &number):
                top.held = PyLong_FromLongLong(number)
                top.flags |= LOADED
                return top.held
        if codec.code == T_SECTION:
            return None
        data = current(guard.handle.segment_, guard.handle.index, &length)
        value = codec.decode_from(data, length)
        if wdkm_load64(&guard.handle.slot.generation) != guard.handle.generation_:
            gone(guard.handle.segment_, guard.handle.slot)
        top.held = value
        top.flags |= LOADED
    return top.held


cdef int set_value(Guard guard, object value) except -1:
    cdef Guard top = guard if guard.root is None else guard.root
    cdef int overflow = 0
    cdef int64_t number
    if guard.handle.codec.code == T_INT and PyLong_CheckExact(value):
        # Not into `top.number` at once: an int that is refused must leave alone what was set before it.
        number = PyLong_AsLongLongAndOverflow(value, &overflow)
        if overflow == 0:
            top.number = number
            top.held = value
            top.flags |= LOADED | SET | NUMBER
            return 0
    value = guard.handle.codec.admit(value)
    top.held = value
    top.flags = top.flags & ~NUMBER | LOADED | SET
    return 0


# Commit T if it was set, or is a container that changed. After an error it is as before.
cdef int write(Guard top) except -1:
    cdef Codec codec = top.handle.codec
    cdef Encoded encoded
    cdef uint32_t was = top.flags & (SET | NUMBER | WRITING)
    if not was and not (codec.mutable and top.flags & LOADED):
        return 0
    if was == (SET | NUMBER) and publish_number(top.handle.slot, top.handle.generation_, top.number):
        top.flags &= ~(SET | NUMBER)
        return 0
    if was & WRITING:
        raise_writing(top.handle, "asked for another; T stands")
    # What a signal handler sets while this writes is not part of it, and stays to be committed.
    top.flags = top.flags & ~(SET | NUMBER) | WRITING
    try:
        value = top.held  # that, though a handler sets or rolls back meanwhile
        keep = codec.encode_into(value, &encoded)
        if not was & SET:
            if current_equals(top.handle.segment_, top.handle.index, &encoded):
                return 0
            if codec.frozen:
                codec.admit(value)
        if thread_state().serial != top.thread & ~WDKM_OF_TASK:
            not_in_child(top.handle.slot, top.thread & ~WDKM_OF_TASK)
        publish(top.handle.segment_, top.handle.index, top.handle.generation_, &encoded)
    except BaseException:
        if not top.flags & (SET | UNDONE):
            top.flags |= was
        raise
    finally:
        top.flags &= ~(WRITING | UNDONE)
        if top.flags & DROPPED:
            top.finish_dropped()
    return 0


# Raise MutexBusy: what a signal handler asks for cannot be done in the midst of a commit.
cdef int raise_writing(Handle handle, str what) except -1:
    name = slot_name(handle.slot)
    raise MutexBusy(f"mutex {name!r}: a commit is in progress, and a signal handler {what}", name=name)


# To be called after a commit that keeps the lock.
cdef int committed(Guard guard) except -1:
    wdkm_tell_commit(guard.handle.slot)
    if guard.root is not None:
        # The state to go back to is now the committed one.
        guard.before = None
        guard.flags &= ~(INNER_ENCODED | INNER_SET | INNER_LOADED)
    return 0


cdef int undo(Guard guard) except -1:
    cdef Guard top = guard if guard.root is None else guard.root
    if top.flags & WRITING and not guard.flags & IN_WRITING:
        # By a signal handler: not to be taken for set again if the commit fails.
        top.flags |= UNDONE
    top.flags &= ~(LOADED | SET | NUMBER)
    if guard.root is None:
        guard.held = None
        return 0
    if guard.flags & INNER_ENCODED:
        guard.before = guard.handle.codec.decode(guard.before)
        guard.flags &= ~INNER_ENCODED
    guard.root.held = guard.before
    if guard.flags & INNER_LOADED:
        guard.root.flags |= LOADED
    if guard.flags & INNER_SET:
        guard.root.flags |= SET
    return 0


# A further guard of a hold: a transaction within that of its outermost guard, `root`.
cdef Guard inner_guard(Guard root):
    cdef Guard guard = Guard.__new__(Guard)
    cdef uint32_t flags = HELD
    guard.enter_or_exit = root.enter_or_exit
    guard.handle = root.handle
    guard.root = root
    guard.thread = root.thread
    guard.task = root.task
    guard.tid = root.tid
    guard.before = root.held
    if root.flags & WRITING:
        flags |= IN_WRITING
    if root.flags & SET:
        flags |= INNER_SET
    if root.flags & LOADED:
        flags |= INNER_LOADED
        if root.handle.codec.mutable:
            # The container may be changed in place from now on, through any guard; its bytes are what a rollback needs.
            guard.before = root.handle.codec.encode_unchecked(root.held)
            flags |= INNER_ENCODED
    guard.flags = flags
    guard.dead_pid = root.dead_pid
    root.depth += 1
    return guard
