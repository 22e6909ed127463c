"""The lock itself: acquired, waited for, taken over from the dead.

============================  ==========================================================================================
state of the slot             what a locker does
============================  ==========================================================================================
free, nobody starving         takes it: one compare-and-swap, no system call
free, a waiter is starving    waits politely, at most POLITE, so that the starving waiter is served first; who may not wait
                              is turned away, unless the starving one has not come for POLITE
held by this thread           FastMutex: AlreadyOwned; KMutex and CriticalSection never come here
held by a task of this thread tells the caller, who knows which task it is (OF_TASK)
held by a thread that is dead  frees it, see `dead.h`: who waits after 1 ms, who may not wait at once
held in another process       spins for a microsecond or two, then parks
held in this process          parks at once: the holder may need the GIL
owner died                    takes it, repairs the slot, marks the mutex consistent, is told
WDKM_UNSETTLED, a note        takes it and settles what a dead owner left and those before could not
generation moved on           MutexDestroyed, found after acquiring and after each slice of waiting
============================  ==========================================================================================

A waiter sleeps on the lock word (`park.h`) until the lock can be had, its tenant is gone, its time is up or a signal comes: the
kernel wakes it for each of these, so it need not look for them. It looks around once it has waited STARVE, when it declares
itself starving and writes down on the board what it waits for; a few times from SUSPECT on, whether who holds the lock waits
for it in turn; and then ever more rarely, at most every SELDOM. Waiters that were woken in vain, because a newcomer lost its
patience with those who starve, declare themselves anew.
"""

cdef enum:
    # What acquire() returns: the lock was had, and its last owner died holding it.
    LIVE = 0
    ABANDONED = 1
    # The lock was not had in time.
    EXPIRED = 2
    # The calling thread has the lock, but one of the tasks of its event loop got it, with lock_async(). From EXPIRED on
    # the caller got nothing: who makes no difference between the two must test for `>= EXPIRED`.
    OF_TASK = 3


# One attempt without waiting. 0, EBUSY, EDEADLK (this thread has it), EOWNERDEAD. A starving waiter goes first.
cdef inline int try_acquire(wdkm_slot *slot) noexcept nogil:
    cdef int code
    if slot.starving != 0:
        return EBUSY
    code = pthread_mutex_trylock(&slot.mutex)
    if code == 0 and slot.starving & WDKM_UNSETTLED:
        # Between the two somebody took it from a dead owner, and let go of it without having settled its note.
        wdkm_unlock(slot)
        return EBUSY
    return code

cdef extern from "park.h" nogil:
    int EINTR
    int64_t wdkm_nap(const wdkm_slot *, int64_t)
    bint wdkm_park_fits()
    int wdkm_park(wdkm_slot *, uint64_t, uint32_t, int64_t, bint, int *)
    void wdkm_others_may_sleep(wdkm_slot *)

if not wdkm_park_fits():
    raise ImportError(
        "wdkmutex_shm: robust mutexes of this C library are not those that it knows (glibc 2.30 and later have): it cannot "
        "wait for them; please report this with the output of `ldd --version`")

cdef int64_t STARVE = 1000000      # 1 ms: after this a waiter is served next
cdef int64_t POLITE = 4000000      # how long a newcomer lets starving waiters go first
cdef int64_t SUSPECT = 50000000    # 50 ms: when a waiter first looks whether its wait has closed a cycle
cdef int64_t SOON = 90000000       # until it looks again, the first few times; whoever closed one learns it by then
cdef int64_t RARELY = 1000000000   # and later on: twice as long each time, from RARELY to SELDOM
cdef int64_t SELDOM = 16000000000
cdef int64_t ALERT = 100000000     # 100 ms: how often the main thread looks for signals that other threads were sent
cdef int64_t ALERT_ALONE = 4000000000  # where there are none
cdef int SPINS = 60                # attempts before parking when the holder runs in another process


# Nanoseconds of a timeout argument: None or infinite is -1.
cdef int64_t nanoseconds(object timeout) except -2:
    cdef double seconds
    if timeout is None:
        return -1
    seconds = timeout
    if seconds != seconds or seconds < 0:
        raise ValueError(f"timeout must be a number of seconds >= 0 or None, not {timeout!r}")
    if seconds > 9e9:  # 285 years
        return -1
    return <int64_t>(seconds * 1e9)


def seconds_of(object timeout):
    """Return a timeout as a float to calculate with, None for no limit. ValueError: negative or NaN; TypeError: no number."""
    return None if nanoseconds(timeout) < 0 else float(timeout)


cdef int recover_dead_owner(Segment segment, wdkm_slot *slot) except -1:
    """The one place that deals with a dead owner: repair the slot, then mark the mutex consistent.

    T needs no repair, because a commit is one store. What can be left behind is the segment of a commit that did not
    come about, or the note of several commits that are one, which is settled here. A process killed in here leaves the
    mutex as it found it, and the next locker does all this again.
    """
    cdef uint64_t serial = thread_state().serial
    slot.abandoned_pid = <uint32_t>(wdkm_holder(slot) >> 32)
    # Before any Python code: a thread that is named by the lock word, and not here, is a dead one of the same id.
    slot.held_by = thread_state().word
    slot.abandoned += 1
    try:
        if wdkm_load64(&slot.generation) % 2 == 1:
            if slot.pending & WDKM_NOTE:
                wdkm_set32(&slot.starving, WDKM_UNSETTLED)
                settle_note(segment, slot)
            else:
                remove_pending(segment, slot)
            wdkm_keep32(&slot.starving, ~WDKM_UNSETTLED)
    finally:
        if thread_state().serial == serial and not wdkm_planted("no-consistent"):
            pthread_mutex_consistent(&slot.mutex)
    return 0


cdef int release_unrepaired(wdkm_slot *slot) noexcept:
    """Release a lock whose slot could not be repaired. A note that is left must be settled before T is used, and
    WDKM_UNSETTLED sees to it that nobody takes this lock on the fast path, which does not look for one."""
    if slot.pending & WDKM_NOTE:
        wdkm_set32(&slot.starving, WDKM_UNSETTLED)
    return wdkm_unlock(slot)


cdef int served(wdkm_slot *slot) noexcept nogil:
    """A starving waiter is served, or gives up: newcomers may go on when it was the last."""
    cdef uint32_t waiting = wdkm_load32(&slot.starving)
    while waiting & ~WDKM_UNSETTLED != 0:
        if wdkm_cas32(&slot.starving, waiting, waiting - 1):
            if waiting & ~WDKM_UNSETTLED == 1:
                wdkm_futex_wake_all(&slot.starving)
            return 0
        waiting = wdkm_load32(&slot.starving)
    return 0


cdef bint did_not_come(wdkm_slot *slot) noexcept nogil:
    """Whether the starving waiters of a lock that is free are dead or stopped: the first who asks notes the time, and who asks
    POLITE later, with no acquisition in between, gets a yes. For those who may not wait themselves."""
    cdef uint32_t now = <uint32_t>(wdkm_now() // 1000000) & 0xfffff
    cdef uint32_t hold = (slot.acquired_low & 0xfff) << 20
    cdef uint32_t noted = wdkm_load32(&slot.refused)
    if noted == 0 or noted & 0xfff00000u != hold:
        wdkm_store32(&slot.refused, hold | now)
        return False
    return ((now - noted) & 0xfffff) >= POLITE // 1000000


cdef int take_free(wdkm_slot *slot, bint overdue) noexcept nogil:
    """One attempt although waiters starve, when they did not come for a lock that is free."""
    cdef int code
    if wdkm_lock_word(slot) != 0 and not wdkm_word_abandoned(wdkm_lock_word(slot)):
        return pthread_mutex_trylock(&slot.mutex)  # it is held: EBUSY, or EDEADLK
    if wdkm_starving(slot) != 0 and not overdue and not did_not_come(slot):
        return EBUSY
    code = pthread_mutex_trylock(&slot.mutex)
    if (code == 0 or code == EOWNERDEAD) and wdkm_starving(slot) != 0:
        wdkm_others_may_sleep(slot)  # and were not woken, perhaps, because who was is dead or stopped
        wdkm_keep32(&slot.starving, WDKM_UNSETTLED)
        wdkm_futex_wake_all(&slot.starving)
        wdkm_others_may_sleep(slot)  # and may have lost the wake of this one to somebody who was killed
    return code


cdef bint yield_to_starving(wdkm_slot *slot, int64_t start, int64_t deadline) noexcept nogil:
    """Let starving waiters go first, at most until the deadline. True when they had POLITE and were not all served."""
    cdef uint32_t waiting
    cdef int64_t now
    while True:
        waiting = wdkm_load32(&slot.starving)
        if waiting & ~WDKM_UNSETTLED == 0:
            return False
        now = wdkm_now()
        if now - start >= POLITE:
            return True
        if now >= deadline:
            return False
        wdkm_futex_wait(&slot.starving, waiting, min(deadline - now, start + POLITE - now))


cdef int64_t alert() noexcept:
    """How long this thread may sleep without looking for signals. Python's handlers run in the main thread, and the kernel ends
    its sleep when one comes; but it gives the signal to another thread if that one was meant (pthread_kill()), and one that
    comes just before the sleep does not end it."""
    cdef uint64_t owner = thread_state().owner
    if owner >> 32 != owner & 0xffffffff:
        return INT64_MAX // 2
    return ALERT if PyThreadState_Next(PyInterpreterState_ThreadHead(PyInterpreterState_Get())) != NULL else ALERT_ALONE


cdef int64_t next_look(int looks, int64_t start, int64_t now, uint32_t tid) noexcept nogil:
    """When a waiter looks around again. Thousands that began together must not all do so together, so each has a time of its own."""
    cdef int64_t after
    if looks < 3:
        return now + SOON
    after = min(max(RARELY, now - start), SELDOM)
    return now + after + after // 128 * (tid % 64)


cdef int park(Segment segment, Py_ssize_t index, uint64_t generation, int64_t deadline) except -1:
    """Wait without the GIL until the lock is had, the deadline passes, or the tenant is gone. Returns an errno."""
    cdef wdkm_slot *slot = &segment.slots[index]
    cdef int64_t start = wdkm_now()
    cdef int64_t now = start
    cdef int64_t look = start + STARVE
    cdef int64_t until
    cdef int64_t nap
    cdef wdkm_thread *me = thread_state()
    cdef uint64_t serial = me.serial
    cdef uint64_t ticket = 0
    cdef bint back = takes_back()
    cdef int looks = 0
    cdef wdkm_looks dead_looks
    cdef int slept = 0
    cdef int code
    cdef bint starving = False
    cdef bint overdue = False
    memset(&dead_looks, 0, sizeof(dead_looks))
    try:
        while True:
            until = min(deadline, look, now + alert())
            with nogil:
                code = EBUSY
                if not starving:
                    overdue = yield_to_starving(slot, now, deadline)
                    code = take_free(slot, overdue)
                    if slept and (code == 0 or code == EOWNERDEAD):
                        wdkm_others_may_sleep(slot)
                nap = 0
                while code == EBUSY:
                    nap = wdkm_nap(slot, nap)
                    code = wdkm_park(slot, generation, <uint32_t>me.owner, min(until, now + nap), starving, &slept)
                    now = wdkm_now()
                    if code == EBUSY:
                        break
                    if code == ETIMEDOUT and now < until:
                        wdkm_look(slot, me, now - start, &dead_looks)
                        code = EBUSY
            if code != ETIMEDOUT and code != EINTR:
                return code
            now = wdkm_now()
            if now >= deadline:
                return ETIMEDOUT
            PyErr_CheckSignals()
            me = thread_state()
            if me.serial != serial:  # a signal handler forked: it is the parent that counts as starving
                serial = me.serial
                starving = False
            wdkm_look(slot, me, now - start, &dead_looks)
            if now < look:
                continue
            held_since(slot)  # so that whoever asks knows since when
            if not starving:
                starving = True
                wdkm_add32(&slot.starving, 1)
            if not is_noted(ticket):
                ticket = note_lock(segment, index, generation, start, back)
            if now < start + SUSPECT:
                look = start + SUSPECT
                continue
            looks += 1
            look = next_look(looks, start, now, <uint32_t>me.owner)
            if not back and is_waiting(wdkm_holder(slot), looks > 3):
                above().refuse_deadlock(ticket)
    finally:
        forget_wait(ticket)
        if starving and thread_state().serial == serial:
            served(slot)


# Everything after an attempt that did not return 0, and the check of the generation after one that did.
# `timeout` in nanoseconds, -1 for no limit. Returns one of the above, raises AlreadyOwned or MutexDestroyed.
cdef int lock_slow(Segment segment, Py_ssize_t index, uint64_t generation, wdkm_thread *me, int code,
                int64_t timeout) except -1:
    cdef wdkm_slot *slot = &segment.slots[index]
    cdef int spins
    cdef bint contended = False
    cdef bint abandoned = False
    cdef uint64_t serial
    cdef int64_t deadline = INT64_MAX
    if code == EBUSY:
        if wdkm_load64(&slot.generation) != generation:
            gone(segment, slot)
        if slot.starving != 0 and wdkm_holder(slot) == me.owner:
            code = pthread_mutex_trylock(&slot.mutex)  # EDEADLK, behind the back of those who starve
        elif timeout == 0:
            code = take_free(slot, False)
            if code == EBUSY and wdkm_try_look(slot, me, held_since(slot)):
                code = take_free(slot, False)
            if code == EBUSY:
                return EXPIRED
    if code == EBUSY:
        contended = True
        deadline = INT64_MAX if timeout < 0 else wdkm_now() + timeout
        if wdkm_holder(slot) >> 32 != me.owner >> 32:
            for spins in range(SPINS):
                wdkm_pause()
                if slot.starving != 0:
                    break
                if slot.held_by == 0:
                    code = pthread_mutex_trylock(&slot.mutex)
                    if code != EBUSY:
                        break
        if code == EBUSY:
            code = park(segment, index, generation, deadline)
            me = thread_state()  # a signal handler may have forked
    if code == EBUSY:
        gone(segment, slot)
    if code == ETIMEDOUT and wdkm_free_dead(slot, thread_state(), WDKM_LOOK):
        code = take_free(slot, False)
    if code == ETIMEDOUT or code == EBUSY:
        return EXPIRED
    if code == EDEADLK and wdkm_free_predecessor(slot, me):
        if contended and timeout > 0:
            timeout = max(0, deadline - wdkm_now())
        return lock_slow(segment, index, generation, me, pthread_mutex_trylock(&slot.mutex), timeout)
    if code == EDEADLK:
        if wdkm_load64(&slot.generation) != generation:
            gone(segment, slot)
        if (segment.local[index].thread == me.serial | WDKM_OF_TASK and segment.local[index].root != NULL
                and (<Guard>segment.local[index].root).depth != 0):  # else a signal handler asks while the guard commits
            return OF_TASK
        name = slot_name(slot)
        raise AlreadyOwned(
            f"this thread already holds mutex {name!r} (or is acquiring it), and a FastMutex is not recursive: waiting "
            "would never end; use the existing guard, or a "
            "KMutex", name=name, owner_pid=me.owner >> 32, owner_tid=me.owner & 0xffffffff)
    if code == EOWNERDEAD:
        abandoned = True
        serial = me.serial
        try:
            recover_dead_owner(segment, slot)
        except BaseException:
            if thread_state().serial == serial:  # else a signal handler forked, and this is the child
                release_unrepaired(slot)
            raise
    elif code != 0:
        name = slot_name(slot)
        what = "a holder left it unrecoverable" if code == ENOTRECOVERABLE else f"error {code}"
        raise MutexDamaged(f"the lock of mutex {name!r} cannot be used: {what}; register it again", name=name, errno=code)
    elif (slot.pending & WDKM_NOTE or slot.starving & WDKM_UNSETTLED) and wdkm_load64(&slot.generation) == generation:
        serial = me.serial
        slot.held_by = me.word
        try:
            if slot.pending & WDKM_NOTE:
                settle_note(segment, slot)
            wdkm_keep32(&slot.starving, ~WDKM_UNSETTLED)
        except BaseException:
            if thread_state().serial == serial:
                release_unrepaired(slot)
            raise
    if wdkm_load64(&slot.generation) != generation and not wdkm_planted("no-generation"):
        wdkm_unlock(slot)
        gone(segment, slot)
    if contended:
        slot.contended += 1
    wdkm_acquired(slot, me)
    if contended and slot.starving != 0:
        held_since(slot)  # they sleep, and would find out late
    return ABANDONED if abandoned else LIVE


# What became of OF_TASK where there is no way to wait; `own`: it is the calling task itself.
cdef int raise_of_task(wdkm_slot *slot, bint own) except -1:
    cdef uint64_t owner = wdkm_holder(slot)
    name = slot_name(slot)
    who = "this task holds" if own else "another task or greenlet of this thread holds"
    way = "use the existing guard, or a KMutex" if own else "let that one go on, and ask again; if it has ended, drop its guard"
    raise AlreadyOwned(
        f"{who} mutex {name!r} already, and waiting here would never end; "
        f"{way}", name=name, owner_pid=owner >> 32, owner_tid=owner & 0xffffffff)


cdef int raise_timeout(Segment segment, Py_ssize_t index, uint64_t generation, object timeout) except -1:
    cdef wdkm_slot *slot = &segment.slots[index]
    cdef uint64_t owner = wdkm_holder(slot)
    wdkm_add32(&slot.timeouts, 1)
    wdkm_free_dead(slot, thread_state(), WDKM_LOOK)
    above().raise_timeout(
        slot_name(slot), timeout, owner >> 32, owner & 0xffffffff, held_for(slot), wdkm_starving(slot), segment.nonce, index,
        generation)
