"""The allocator's side of a slot: a tenant moves in, moves out, and the slot is cleaned for the next.

Life of a slot, told by its generation: even, it is free or in quarantine; odd, a tenant lives in it. A slot whose
lock is still held when its tenant moves out stays in quarantine until :func:`reclaim` gets the lock without waiting.
"""

cdef uint64_t PUNCH = data_segments.PUNCH_BYTES
cdef long long PAGE = data_segments.PAGE

#: What :func:`snapshot` returns; `owner` is pid << 32 | thread id, 0 when free; `held_for` in seconds or None.
Snapshot = namedtuple(
    "Snapshot", "name kind type_code type_hash label value_bytes data_ids state owner held_for acquisitions contended "
    "abandoned timeouts commits abandoned_pid")


def occupy(Segment segment not None, Py_ssize_t index, bytes name not None, int kind, int code, uint64_t type_hash,
           bytes label not None, bytes payload not None, uint64_t data_id, uint32_t data_length, uint64_t serial):
    """Let a tenant into a free slot and return its generation. The slot must have been reclaimed.

    ``payload`` is T's msgpack form unless ``data_id`` names a data segment that holds ``data_length`` bytes of it.
    Nobody can lock the slot before the last store here, so no lock is taken: a maker that is killed half-way leaves
    a slot that is still free.
    """
    cdef wdkm_slot *slot = segment.at(index)
    cdef uint64_t generation = wdkm_load64(&slot.generation)
    cdef uint64_t commit = slot.commit + 1
    cdef int buffer = commit & 1
    if generation % 2 or len(name) > WDKM_NAME or len(payload) > WDKM_INLINE:
        raise ValueError("the slot has a tenant, or the name or the payload is too long for it")
    wdkm_fence_release()
    memset(slot.name, 0, WDKM_NAME)
    memcpy(slot.name, <const char *>name, len(name))
    slot.name_length = len(name)
    label = label[:WDKM_LABEL]
    memset(slot.label, 0, WDKM_LABEL)
    memcpy(slot.label, <const char *>label, len(label))
    slot.label_length = len(label)
    slot.kind = kind
    slot.type_code = code
    slot.type_hash = type_hash
    slot.serial = serial
    slot.acquired_low = slot.acquired_high = 0
    slot.seen = 0
    slot.contended = slot.abandoned = slot.abandoned_pid = slot.timeouts = 0
    slot.data[buffer] = data_id
    slot.length[buffer] = data_length if data_id else len(payload)
    memcpy(slot.payload[buffer], <const char *>payload, len(payload))
    slot.first_commit = commit
    wdkm_store64(&slot.commit, commit)
    wdkm_store64(&slot.generation, generation + 1)
    return generation + 1


def occupy_from(list free not None, *tenant):
    """Take a free slot off the end of a list of (segment, slot) and :func:`occupy` it, as one step.

    A slot that is not free although it is listed (its generation was damaged) is left alone, and the next one is taken.

    Returns (segment, slot, generation), or None when the list is empty. No Python code, and so no signal handler and no
    other thread, runs between the two.
    """
    cdef Segment segment
    cdef Py_ssize_t index
    while free:
        segment, index = free.pop()
        if wdkm_load64(&segment.at(index).generation) % 2 == 0:
            return segment, index, occupy(segment, index, *tenant)
    return None


def occupy_many(list free not None, list names not None, int kind, list tags not None, list which not None,
                list payloads not None, uint64_t serial):
    """:func:`occupy_from` for many mutexes of one kind, each with its own name, tag (one of ``tags``) and payload.

    Returns each one's segment number << 24 | slot. There must be as many free slots.
    """
    cdef Py_ssize_t at, index
    cdef Segment segment
    cdef list places = []
    if not len(free) >= len(names) == len(which) == len(payloads):
        raise ValueError("not as many free slots, tags or payloads as names")
    for at in range(len(names)):
        code, type_hash, label = tags[<Py_ssize_t?>which[at]]
        segment, index = free.pop()
        occupy(segment, index, names[at], kind, code, type_hash, label, payloads[at], 0, 0, serial + at)
        places.append(segment.number << 24 | index)
    return places


def locate_tenants(list segments not None, list places not None):
    """Tell which tenants live at ``places`` (each segment number << 24 | slot, or None) of a pool's ``segments``.

    Returns (words, numbers, gone): for each place its generation and segment number << 32 | slot, as 64-bit words in
    one bytes object, both 0 where there is no tenant; the numbers of the segments; where in ``places`` a tenant is gone.
    """
    cdef Py_ssize_t at
    cdef uint64_t place, generation, number
    cdef uint64_t last = <uint64_t>-1
    cdef bytes words = PyBytes_FromStringAndSize(NULL, 16 * len(places))
    cdef uint64_t *out = <uint64_t *><char *>words
    cdef list gone = []
    cdef set numbers = set()
    cdef Segment segment = None
    memset(out, 0, 16 * len(places))
    for at in range(len(places)):
        if places[at] is None:
            continue
        place = places[at]
        number = place >> 24
        if number != last:
            if number >= <uint64_t>len(segments):
                raise IndexError("no such segment")
            segment = segments[number]
            numbers.add(number)
            last = number
        generation = wdkm_load64(&segment.at(place & 0xffffff).generation)
        if generation % 2 == 0:
            gone.append(at)
            continue
        out[2 * at] = generation
        out[2 * at + 1] = number << 32 | place & 0xffffff
    return words, numbers, gone


def vacate(Segment segment not None, Py_ssize_t index, uint64_t generation):
    """End a tenancy: from now on every handle to it raises MutexDestroyed. False if it had ended already."""
    cdef wdkm_slot *slot = segment.at(index)
    if generation % 2 == 0 or not wdkm_cas64(&slot.generation, generation, generation + 1):
        return False
    wdkm_tell_end(slot)
    return True


def reclaim(Segment segment not None, Py_ssize_t index):
    """Clean a vacated slot. False while somebody still holds its lock, or its data segments could not be removed."""
    cdef wdkm_slot *slot = segment.at(index)
    cdef int code
    if wdkm_load64(&slot.generation) % 2 == 1:
        return False
    code = pthread_mutex_trylock(&slot.mutex)
    if (code == EBUSY and wdkm_free_dead(slot, thread_state(), WDKM_LOOK)) or (code == EDEADLK and wdkm_free_predecessor(slot, thread_state())):
        code = pthread_mutex_trylock(&slot.mutex)
    if code == EOWNERDEAD:
        pthread_mutex_consistent(&slot.mutex)
    elif code != 0:
        return False
    slot.held_by = thread_state().word
    try:
        free_data(segment, index)
        slot.starving = slot.refused = 0
    except (OSError, MemoryError):
        return False
    finally:
        wdkm_unlock(slot)
    return True


cdef int discard(Segment segment, uint64_t ident) except -1:
    """As data.discard(), without Python code."""
    discard_shared(f"{segment.prefix}.d{ident:016x}", PUNCH, PAGE)
    return 0


def free_data(Segment segment not None, Py_ssize_t index):
    """Remove the data segments of a vacated slot. For the holder of its lock."""
    cdef wdkm_slot *slot = segment.at(index)
    cdef int buffer
    # Names go before the ids: nobody commits to a vacated slot, so an id that names nothing harms nobody.
    for buffer in range(2):
        if slot.data[buffer] != 0:
            discard(segment, slot.data[buffer])
            slot.data[buffer] = 0
    if slot.pending != 0:
        if not slot.pending & WDKM_NOTE:
            discard(segment, slot.pending)
        slot.pending = 0


def tenants(Segment segment not None):
    """Return (slot, generation, serial, name) of every tenant in the segment, as a list."""
    cdef Py_ssize_t index
    cdef wdkm_slot *slot
    cdef uint64_t generation
    found = []
    for index in range(segment.count):
        slot = &segment.slots[index]
        generation = wdkm_load64(&slot.generation)
        if generation % 2 == 1:
            found.append((index, generation, slot.serial, slot.name[:min(slot.name_length, WDKM_NAME)]))
    return found


def vacate_all(Segment segment not None):
    """End every tenancy in the segment. Returns how many there were, and which of the slots have data segments."""
    cdef Py_ssize_t index
    cdef Py_ssize_t count = 0
    cdef wdkm_slot *slot
    cdef uint64_t generation
    with_data = []
    for index in range(segment.count):
        slot = &segment.slots[index]
        generation = wdkm_load64(&slot.generation)
        if generation % 2 == 1 and wdkm_cas64(&slot.generation, generation, generation + 1):
            count += 1
            wdkm_tell_end(slot)
        if slot.data[0] | slot.data[1] | slot.pending:
            with_data.append(index)
    return count, with_data


def serial_of(Segment segment not None, Py_ssize_t index):
    """When the slot's tenant was registered, in the order of the pool."""
    return segment.at(index).serial


def top_serial(Segment segment not None):
    """The highest serial of the segment's tenants, 0 if there is none."""
    cdef Py_ssize_t index
    cdef uint64_t top = 0
    for index in range(segment.count):
        if wdkm_load64(&segment.slots[index].generation) % 2 == 1 and segment.slots[index].serial > top:
            top = segment.slots[index].serial
    return top


def vacant(Segment segment not None):
    """Return (slots never used, slots to be reclaimed first) as two lists of indexes, in descending order.

    A slot counts as used when its first tenant's maker was killed after it had written down a data segment.
    """
    cdef Py_ssize_t index
    fresh = []
    used = []
    for index in range(segment.count - 1, -1, -1):
        if segment.slots[index].generation == 0 and segment.slots[index].data[0] | segment.slots[index].data[1] == 0:
            fresh.append(index)
        elif segment.slots[index].generation % 2 == 0:
            used.append(index)
    return fresh, used


def references(Segment segment not None):
    """Return the ids of all data segments that slots of the segment speak of, as a set."""
    cdef Py_ssize_t index
    cdef wdkm_slot *slot
    cdef uint64_t ident
    cdef int buffer
    found = set()
    for index in range(segment.count):
        slot = &segment.slots[index]
        # In this order: a holder moves an id from `pending` to the buffer, and must not slip past in between.
        ident = wdkm_load64(&slot.pending)
        if ident:
            found.add(ident)
        for buffer in range(2):
            ident = wdkm_load64(&slot.data[buffer])
            if ident:
                found.add(ident)
    return found


def leave_to_the_next(Segment segment not None):
    """Leave every lock of the segment as that of a dead holder, and forget who waited. For who is alone with it.

    Returns (slot, note) of the slots that a dead holder was publishing together with others, as a list.
    """
    cdef Py_ssize_t index
    cdef wdkm_slot *slot
    noted = []
    for index in range(segment.count):
        slot = &segment.slots[index]
        wdkm_leave_to_the_next(slot)
        if slot.pending & WDKM_NOTE:
            noted.append((index, slot.pending))
    return noted


def settle_slot_note(Segment segment not None, Py_ssize_t index, bint decided):
    """Publish what a note in the slot is about, if that was ``decided``, and clear the note. For who is alone with it."""
    cdef wdkm_slot *slot = segment.at(index)
    if decided and slot.commit & 1 != (slot.pending >> WDKM_NOTE_COMMIT) & 1:
        wdkm_store64(&slot.commit, slot.commit + 1)
    wdkm_store64(&slot.pending, 0)
    wdkm_keep32(&slot.starving, ~WDKM_UNSETTLED)


def stamp_holds(Segment segment not None):
    """Note, for every lock of the segment that is held now, that it was seen held; and free those whose holder is dead without the
    kernel having said so, see `dead.h`. Returns how many are held."""
    cdef Py_ssize_t index
    cdef Py_ssize_t held = 0
    cdef Py_ssize_t freed = 0
    cdef wdkm_thread *me = thread_state()
    cdef int64_t since
    cdef int64_t now = wdkm_now() // 1000000
    cdef int64_t turn = now // 2000
    with nogil:
        for index in range(segment.count):
            if segment.slots[index].generation % 2 == 1:
                since = held_since(&segment.slots[index])
                if since < 0:
                    continue
                held += 1
                # Looking closely opens a file: not for each of many locks in one round.
                if now - since >= 1000 and wdkm_free_dead(
                        &segment.slots[index], me, WDKM_LOOK if (index + turn) % 16 == 0 else WDKM_GLANCE):
                    freed += 1
    return held - freed


cdef inline uint64_t deaths_in(wdkm_slot *slot) noexcept nogil:
    # One that nobody has taken over counts like one that somebody has: taking it over changes nothing.
    return slot.abandoned + (1 if wdkm_word_abandoned(wdkm_lock_word(slot)) else 0)


def deaths(Segment segment not None):
    """Return a number that changes when a holder of one of the segment's locks has died: how often that was, of all tenants."""
    cdef Py_ssize_t index
    cdef uint64_t total = 0
    with nogil:
        for index in range(segment.count):
            if segment.slots[index].generation % 2 == 1:
                total += deaths_in(&segment.slots[index])
    return total


def deaths_of(Segment segment not None):
    """Return each (slot, generation) whose holders have died, and how often they did."""
    cdef Py_ssize_t index
    cdef uint64_t count
    found = []
    for index in range(segment.count):
        if segment.slots[index].generation % 2 == 1:
            count = deaths_in(&segment.slots[index])
            if count:
                found.append(((index, segment.slots[index].generation), count))
    return found


def free_dead(Segment segment not None):
    """Free every lock of the segment whose holder is dead without the kernel having said so. Returns how many were."""
    cdef Py_ssize_t index
    cdef Py_ssize_t freed = 0
    cdef wdkm_thread *me = thread_state()
    with nogil:
        for index in range(segment.count):
            if wdkm_free_dead(&segment.slots[index], me, WDKM_LOOK):
                freed += 1
    return freed


def generation_of(Segment segment not None, Py_ssize_t index):
    """Return the slot's generation; odd when it has a tenant."""
    return wdkm_load64(&segment.at(index).generation)


def snapshot(Segment segment not None, Py_ssize_t index, uint64_t generation):
    """Return the facts of a tenant, read without its lock, or None when its generation has moved on.

    Each fact is right by itself, not all at one instant.
    """
    cdef wdkm_slot *slot = segment.at(index)
    cdef uint32_t word = wdkm_lock_word(slot)
    cdef uint64_t commit = wdkm_load64(&slot.commit)
    state = "abandoned" if wdkm_word_abandoned(word) else "held" if wdkm_word_held(word) else "free"
    if state == "held" and wdkm_holder_dead(slot, word, slot.held_by, thread_state(), WDKM_LOOK):
        state = "abandoned"
    result = Snapshot(
        slot_name(slot), slot.kind, slot.type_code, slot.type_hash,
        slot.label[:min(slot.label_length, WDKM_LABEL)].decode("utf-8", "replace"),
        slot.length[commit & 1], (slot.data[0], slot.data[1]), state,
        wdkm_holder(slot) if state != "free" else 0, held_for(slot),
        (<uint64_t>slot.acquired_high << 32) + slot.acquired_low, slot.contended, slot.abandoned, slot.timeouts,
        commit - slot.first_commit, slot.abandoned_pid,
    )
    return result if wdkm_load64(&slot.generation) == generation else None
