# cython: language_level=3, boundscheck=False, wraparound=False
"""The journal of this process: how the commits of several mutexes become one.

`slot.h` says what is stored in which order. The journal is one word of shared memory, made at the first need, mapped once
and used for one publication after the other; they do not overlap, because no Python code runs within one. A forked child
makes its own.
"""

import os

from libc.errno cimport ENOENT, errno
from libc.stdint cimport uint64_t
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mlock, mmap, munmap
from posix.stat cimport fstat, stat, struct_stat

from ._handle cimport Handle
from ._payload cimport not_in_child
from ._segment cimport Segment, lock_memory
from ._slot cimport (WDKM_JOURNAL_MAGIC, WDKM_LAYOUT, WDKM_NOTE, WDKM_NOTE_COMMIT, WDKM_NOTE_PID, WDKM_UNSETTLED,
                     wdkm_journal, wdkm_load32, wdkm_load64, wdkm_lock_word, wdkm_planted, wdkm_slot, wdkm_store64,
                     wdkm_word_abandoned)
from ._thread cimport fork_count, thread_state
from ..base import identity
from ..memory import journal_files as journals, shm
from ._thread import times_forked

cdef extern from "slot.h":
    size_t offsetof_pending "offsetof(wdkm_slot, pending)"
    size_t size_of_slot "sizeof(wdkm_slot)"

MAGIC = WDKM_JOURNAL_MAGIC
LAYOUT = WDKM_LAYOUT
NOTE = WDKM_NOTE
NOTE_COMMIT = WDKM_NOTE_COMMIT
NOTE_PID = WDKM_NOTE_PID
PENDING_AT = offsetof_pending
SLOT_BYTES = size_of_slot

cdef wdkm_journal *mine = NULL
cdef uint64_t my_note = 0
cdef uint64_t forks_seen = 0
cdef object maker = None        # the process that made it
cdef object user = ""           # what the names of its user's segments begin with
cdef object known_prefix = None # of the pool that was asked about last
cdef object path = None         # where it is to be found, and which file that is
cdef unsigned long long device = 0, inode = 0
cdef unsigned int asked = 0     # how often it was asked for

cdef enum:
    LOOK_EVERY = 256


cdef int journal_for(Segment segment) except -1:
    global asked
    asked += 1
    if mine != NULL and forks_seen == fork_count() and segment.prefix is known_prefix and asked % LOOK_EVERY:
        return 0
    return look_closer(segment)


cdef bint has_lost_its_name() except -1:
    """Whether somebody has removed the journal: whoever comes for it when we are dead would find nothing decided."""
    cdef struct_stat found
    if stat(<bytes>path, &found) != 0:
        return errno == ENOENT
    return found.st_dev != device or found.st_ino != inode


cdef object me_now():
    return os.getpid(), times_forked()  # a child of a child may have the pid of the first


cdef int look_closer(Segment segment) except -1:
    global forks_seen, known_prefix
    if mine == NULL or maker != me_now() or not segment.prefix.startswith(user) or has_lost_its_name():
        make(segment)
    forks_seen = fork_count()
    known_prefix = segment.prefix
    return 0


cdef int make(Segment segment) except -1:
    global mine, my_note, maker, user, path, device, inode
    cdef struct_stat status
    cdef void *base
    cdef int fd, code
    forget_journal()
    prefix = journals.user_of(segment.prefix)
    note, file = journals.make(prefix, forget_journal)
    path = (shm.FOLDER + journals.name_of(note, prefix, identity.pid_namespace())).encode()
    fd = file
    base = mmap(NULL, sizeof(wdkm_journal), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
    code = errno
    if fstat(fd, &status) == 0:
        device, inode = status.st_dev, status.st_ino
    if base != MAP_FAILED and lock_memory and mlock(base, sizeof(wdkm_journal)) != 0:
        code = errno
        munmap(base, sizeof(wdkm_journal))
        base = MAP_FAILED
    file.close()
    if base == MAP_FAILED:
        raise journals.no_room(prefix, code)
    mine = <wdkm_journal *>base
    my_note = note
    maker = me_now()
    user = prefix
    return 0


cdef bint has_journal() noexcept:
    return mine != NULL


def forget_journal():
    """Unmap the journal; the next publication of several makes it again, and so does one that is under way."""
    global mine, known_prefix
    cdef wdkm_journal *old = mine
    mine = NULL
    known_prefix = None
    if old != NULL:
        munmap(old, sizeof(wdkm_journal))


cdef void decide(wdkm_slot **slots, const uint64_t *commits, Py_ssize_t count) noexcept:
    cdef Py_ssize_t at
    if wdkm_planted("no-journal"):
        for at in range(count):
            wdkm_store64(&slots[at].commit, commits[at])
        return
    for at in range(count):
        wdkm_store64(&slots[at].pending, my_note | (commits[at] & 1) << WDKM_NOTE_COMMIT)
    wdkm_store64(&mine.decided, 1)
    for at in range(count):
        if at == count - 1 and wdkm_planted("journal-early"):
            wdkm_store64(&mine.decided, 0)
        wdkm_store64(&slots[at].commit, commits[at])
    for at in range(count):
        wdkm_store64(&slots[at].pending, 0)
    wdkm_store64(&mine.decided, 0)


def left_by_the_dead(Handle handle not None):
    """Whether a holder was killed while it published this mutex with others, and nobody has settled that: the next holder
    does. Once somebody tried to in vain the lock looks like any other, and WDKM_UNSETTLED tells."""
    cdef wdkm_slot *slot = handle.slot
    return bool(wdkm_load64(&slot.pending) & WDKM_NOTE) and bool(
        wdkm_word_abandoned(wdkm_lock_word(slot)) or wdkm_load32(&slot.starving) & WDKM_UNSETTLED)


cdef int settle_note(Segment segment, wdkm_slot *slot) except -1:
    cdef uint64_t serial = thread_state().serial
    cdef uint64_t note = slot.pending
    cdef bint decided = journals.decided(note, journals.user_of(segment.prefix), segment.namespace)
    not_in_child(slot, serial)
    if decided and slot.commit & 1 != (note >> WDKM_NOTE_COMMIT) & 1:
        wdkm_store64(&slot.commit, slot.commit + 1)
    wdkm_store64(&slot.pending, 0)
    return 0
