"""Several T published together: all of them or none, whatever fails and whenever the process is killed.

Three steps: every T is encoded; then each is written into its buffer that is not current; then all commit words are stored,
with nothing in between that could fail. What a process leaves that is killed among these stores is settled by means of
its journal, see `journal.pxi`.

Encoding and writing may run Python code, and so a signal handler, which may use the guards. From before the first T is
encoded all of them are marked WRITING: none can be committed or released until all are published, and what is set or rolled
back meanwhile is no part of it. Before that, while the journal is made, a handler is free to do either: what it commits or
releases by itself is published by itself, and left out here.
"""

cdef Guard to_write(Guard guard, wdkm_thread *me):
    """The guard whose T must be published with this one, if there may be anything to publish; else None."""
    cdef Guard top
    if not guard.flags & HELD:
        return None
    if guard.thread != me.serial:
        if before_fork(guard.thread):
            return None
        must_hold(guard, "leaving lock_all")  # a task's own passes
    top = guard if guard.root is None else guard.root
    if top.flags & SET or (top.flags & LOADED and top.handle.codec.mutable):
        return top
    return None


cdef bint encode(Guard top, uint32_t was, int64_t number, object value, Encoded *encoded, list keep) except -1:
    """Encode what was the T of a guard. False for a container that did not change."""
    cdef Codec codec = top.handle.codec
    if was & NUMBER:
        encoded.head_length = wdkm_encode_int(number, encoded.head)
        encoded.body = NULL
        encoded.body_length = 0
        return True
    if not was & SET and not (was & LOADED and codec.mutable):
        return False
    keep.append(codec.encode_into(value, encoded))
    if not was & SET:
        if current_equals(top.handle.segment_, top.handle.index, encoded):
            return False
        if codec.frozen:
            codec.admit(value)
    return True


cdef int have_journal(PyObject **tops, Py_ssize_t count, uint64_t serial) except -1:
    """Have a journal, and be in the process still that began this: making it runs Python code."""
    cdef Py_ssize_t at
    if count > 1:
        while True:
            for at in range(count):
                journal_for((<Guard>tops[at]).handle.segment_)
            not_in_child((<Guard>tops[0]).handle.slot, serial)
            if has_journal():
                break
    return 0


cdef int publish_all(PyObject **tops, Py_ssize_t count) except -1:
    """Publish the T of each of these guards, together. After an error no T was published, and all are as before."""
    cdef uint32_t was[MOST]
    cdef int64_t numbers[MOST]
    cdef bint dirty[MOST]
    cdef uint64_t commits[MOST]
    cdef Encoded encoded[MOST]
    cdef Guard top
    cdef Py_ssize_t at
    cdef Py_ssize_t begun = 0
    cdef list values, keep
    cdef bint done = False
    cdef uint64_t serial = thread_state().serial
    have_journal(tops, count, serial)
    if publish_numbers(tops, count):
        return 0
    keep = []
    values = []
    try:
        for at in range(count):  # no Python code runs in here
            top = <Guard>tops[at]
            if top.flags & WRITING:
                raise_writing(top.handle, "asked for another; T stands")
            was[at] = top.flags & (LOADED | SET | NUMBER)
            numbers[at] = top.number
            values.append(top.held)
            if top.depth != 0:  # else it was released while the journal was made, and nothing is set
                top.flags = top.flags & ~(SET | NUMBER) | WRITING
            begun = at + 1
        for at in range(count):
            dirty[at] = encode(<Guard>tops[at], was[at], numbers[at], values[at], &encoded[at], keep)
        write_together(tops, dirty, encoded, commits, count, serial)
        done = True
    finally:
        for at in range(begun):
            top = <Guard>tops[at]
            if not done and not top.flags & (SET | UNDONE):
                top.flags |= was[at] & (SET | NUMBER)
            top.flags &= ~(WRITING | UNDONE)
        for at in range(begun):
            if (<Guard>tops[at]).flags & DROPPED:
                (<Guard>tops[at]).finish_dropped()
    for at in range(count):
        top = <Guard>tops[at]
        if dirty[at]:
            published(top.handle.segment_, top.handle.index, &encoded[at], commits[at], serial)
    return 0


cdef bint publish_numbers(PyObject **tops, Py_ssize_t count) noexcept:
    """The whole of publish_all() where each T is an int that was set; False, with nothing done, where that does not do."""
    cdef wdkm_slot *slots[MOST]
    cdef uint64_t commits[MOST]
    cdef wdkm_slot *slot
    cdef Py_ssize_t at
    cdef int buffer
    for at in range(count):
        slots[at] = slot = (<Guard>tops[at]).handle.slot
        if ((<Guard>tops[at]).flags & (NUMBER | WRITING) != NUMBER or slot.data[0] | slot.data[1] | slot.pending != 0
                or wdkm_load64(&slot.generation) != (<Guard>tops[at]).handle.generation_):
            return False
    commits[0] = 0  # gcc does not know that there is one
    wdkm_fence_release()
    for at in range(count):
        slot = slots[at]
        commits[at] = slot.commit + 1
        buffer = commits[at] & 1
        slot.length[buffer] = wdkm_encode_int((<Guard>tops[at]).number, slot.payload[buffer])
    store_commits(slots, commits, count)
    for at in range(count):
        (<Guard>tops[at]).flags &= ~(SET | NUMBER)
        # The next to read it may well be this process.
        (<Guard>tops[at]).handle.number = (<Guard>tops[at]).held
        (<Guard>tops[at]).handle.number_commit = commits[at]
    return True


cdef int write_together(PyObject **tops, const bint *dirty, const Encoded *encoded, uint64_t *commits, Py_ssize_t count,
                        uint64_t serial) except -1:
    """Write and publish those that are dirty, and fill in the commit word of each."""
    cdef wdkm_slot *slots[MOST]
    cdef uint64_t words[MOST]
    cdef Py_ssize_t at
    cdef Py_ssize_t found = 0
    cdef Handle handle
    cdef bint again = True
    while again:
        found = 0
        for at in range(count):
            if dirty[at]:
                handle = (<Guard>tops[at]).handle
                not_in_child(handle.slot, serial)
                slots[found] = handle.slot
                words[found] = prepare(handle.segment_, handle.index, handle.generation_, &encoded[at])
                commits[at] = words[found]
                remove_pending(handle.segment_, handle.slot)
                found += 1
        again = False
        for at in range(found):
            not_in_child(slots[at], serial)
            # Making room runs Python code. No guard commits meanwhile, but what is written must fit what is there.
            if slots[at].commit + 1 != words[at] or slots[at].pending != 0:
                again = True
        # And meanwhile the interpreter may have begun to end, which takes the journal away.
        if found > 1 and not has_journal():
            have_journal(tops, count, serial)
            again = True
    store_commits(slots, words, found)
    return 0


cdef void store_commits(wdkm_slot **slots, const uint64_t *commits, Py_ssize_t count) noexcept:
    """Publish what was written. No Python code runs in here."""
    cdef Py_ssize_t at
    if count > 1:
        decide(slots, commits, count)
    elif count == 1:
        wdkm_store64(&slots[0].commit, commits[0])
