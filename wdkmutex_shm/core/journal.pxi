"""The journal of this process: how the commits of several mutexes become one.

`slot.h` says what is stored in which order. The journal is one word of shared memory, made at the first need, mapped once
and used for one publication after the other; they do not overlap, because no Python code runs within one. A forked child
makes its own.
"""

cdef wdkm_journal *my_journal = NULL
cdef uint64_t my_note = 0
cdef uint64_t forks_seen = 0
cdef object journal_maker = None        # the process that made it
cdef object journal_user = ""           # what the names of its journal_user's segments begin with
cdef object journal_prefix = None # of the pool that was journal_asked about last
cdef object journal_path = None         # where it is to be found, and which file that is
cdef unsigned long long journal_device = 0, journal_inode = 0
cdef unsigned int journal_asked = 0     # how often it was journal_asked for

cdef enum:
    LOOK_EVERY = 256


# Have a journal that those who lock mutexes of this segment can find. Before anything is written: it may run Python code.
cdef int journal_for(Segment segment) except -1:
    global journal_asked
    journal_asked += 1
    if my_journal != NULL and forks_seen == fork_count() and segment.prefix is journal_prefix and journal_asked % LOOK_EVERY:
        return 0
    return look_closer(segment)


cdef bint has_lost_its_name() except -1:
    """Whether somebody has removed the journal: whoever comes for it when we are dead would find nothing decided."""
    cdef struct_stat found
    if stat(<bytes>journal_path, &found) != 0:
        return errno == ENOENT
    return found.st_dev != journal_device or found.st_ino != journal_inode


cdef object me_now():
    return os.getpid(), times_forked()  # a child of a child may have the pid of the first


cdef int look_closer(Segment segment) except -1:
    global forks_seen, journal_prefix
    if my_journal == NULL or journal_maker != me_now() or not segment.prefix.startswith(journal_user) or has_lost_its_name():
        make_journal(segment)
    forks_seen = fork_count()
    journal_prefix = segment.prefix
    return 0


cdef int make_journal(Segment segment) except -1:
    global my_journal, my_note, journal_maker, journal_user, journal_path, journal_device, journal_inode
    cdef struct_stat status
    cdef void *base
    cdef int fd, code
    forget_journal()
    prefix = journals.user_of(segment.prefix)
    note, file = journals.make(prefix, forget_journal)
    journal_path = (shm.FOLDER + journals.name_of(note, prefix, identity.pid_namespace())).encode()
    fd = file
    base = mmap(NULL, sizeof(wdkm_journal), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
    code = errno
    if fstat(fd, &status) == 0:
        journal_device, journal_inode = status.st_dev, status.st_ino
    if base != MAP_FAILED and lock_memory and mlock(base, sizeof(wdkm_journal)) != 0:
        code = errno
        munmap(base, sizeof(wdkm_journal))
        base = MAP_FAILED
    file.close()
    if base == MAP_FAILED:
        raise journals.no_room(prefix, code)
    my_journal = <wdkm_journal *>base
    my_note = note
    journal_maker = me_now()
    journal_user = prefix
    return 0


# Whether it is still there: it is taken away as the interpreter ends, while other threads may run.
cdef bint has_journal() noexcept:
    return my_journal != NULL


def forget_journal():
    """Unmap the journal; the next publication of several makes it again, and so does one that is under way."""
    global my_journal, journal_prefix
    cdef wdkm_journal *old = my_journal
    my_journal = NULL
    journal_prefix = None
    if old != NULL:
        munmap(old, sizeof(wdkm_journal))


# Publish all of these slots, whose buffers are written, as one. Runs no Python code, and makes no system call.
cdef void decide(wdkm_slot **slots, const uint64_t *commits, Py_ssize_t count) noexcept:
    cdef Py_ssize_t at
    if wdkm_planted("no-journal"):
        for at in range(count):
            wdkm_store64(&slots[at].commit, commits[at])
        return
    for at in range(count):
        wdkm_store64(&slots[at].pending, my_note | (commits[at] & 1) << WDKM_NOTE_COMMIT)
    wdkm_store64(&my_journal.decided, 1)
    for at in range(count):
        if at == count - 1 and wdkm_planted("journal-early"):
            wdkm_store64(&my_journal.decided, 0)
        wdkm_store64(&slots[at].commit, commits[at])
    for at in range(count):
        wdkm_store64(&slots[at].pending, 0)
    wdkm_store64(&my_journal.decided, 0)


def left_by_the_dead(Handle handle not None):
    """Whether a holder was killed while it published this mutex with others, and nobody has settled that: the next holder
    does. Once somebody tried to in vain the lock looks like any other, and WDKM_UNSETTLED tells."""
    cdef wdkm_slot *slot = handle.slot
    return bool(wdkm_load64(&slot.pending) & WDKM_NOTE) and bool(
        wdkm_word_abandoned(wdkm_lock_word(slot)) or wdkm_load32(&slot.starving) & WDKM_UNSETTLED)


# Settle the note that a dead process left in a slot. For the holder of its lock. On an error the note stands.
cdef int settle_note(Segment segment, wdkm_slot *slot) except -1:
    cdef uint64_t serial = thread_state().serial
    cdef uint64_t note = slot.pending
    cdef bint decided = journals.decided(note, journals.user_of(segment.prefix), segment.namespace)
    not_in_child(slot, serial)
    if decided and slot.commit & 1 != (note >> WDKM_NOTE_COMMIT) & 1:
        wdkm_store64(&slot.commit, slot.commit + 1)
    wdkm_store64(&slot.pending, 0)
    return 0
