"""T in its two buffers: read and committed; `peek.pxi` reads without the lock.

The low bit of the commit word names the current buffer. A commit writes the other one and then stores the commit
word; until that store nobody reads what was written, so a holder may be killed anywhere. See docs/explanation/architecture.md for
each crash window.
"""

# Whether T is an int that fits 64 bits with sign; if so, it is stored in `number`.
cdef inline bint current_number(wdkm_slot *slot, int64_t *number) noexcept:
    cdef int buffer = slot.commit & 1
    cdef unsigned int length = slot.length[buffer]
    return length <= 9 and wdkm_decode_int(slot.payload[buffer], length, number) == 0


# The whole of publish() for a T that is an int; False, with nothing done, where that does not do.
cdef inline bint publish_number(wdkm_slot *slot, uint64_t generation, int64_t number) noexcept:
    cdef uint64_t commit = slot.commit
    cdef int buffer = (commit & 1) ^ 1
    if wdkm_load64(&slot.generation) != generation or slot.data[0] | slot.data[1] != 0:
        return False
    wdkm_fence_release()
    if wdkm_planted("publish-first"):
        wdkm_store64(&slot.commit, commit + 1)
    slot.length[buffer] = wdkm_encode_int(number, slot.payload[buffer])
    wdkm_store64(&slot.commit, commit + 1)
    return True

# A data segment up to this capacity is kept for the next T of its buffer although T has become small.
cdef uint64_t KEEP = 16384


cdef int gone(Segment segment, wdkm_slot *slot) except -1:
    raise MutexDestroyed(
        "this mutex was destroyed, overwritten, unregistered or moved out; make it or get it again",
        name=None, segment=segment.name)


cdef int not_in_child(wdkm_slot *slot, uint64_t serial) except -1:
    """To be asked after Python code ran and before anything is written: a signal handler in it may have forked, and the child
    goes on here. What was begun, and the lock, are its parent's."""
    if thread_state().serial != serial:
        name = slot_name(slot)
        raise NotOwned(f"mutex {name!r}: the parent, which holds the lock, began this before fork(); lock the mutex in this "
                       "process",
                       name=name)
    return 0


# For anyone: MutexDamaged; a data segment as it is mapped here, to be used before any Python code runs, FileNotFoundError when it
# is gone; how many bytes of T it has room for.
cdef int broken(Segment segment, wdkm_slot *slot, str what) except -1:
    name = slot_name(slot)
    raise MutexDamaged(f"mutex {name!r} in {segment.name}: {what}; register it again, or set it with replace()",
                       name=name)


cdef wdkm_mapping *mapping_of(Segment segment, Py_ssize_t index, int buffer) except NULL:
    if segment.local[index].maps == NULL:
        segment.local[index].maps = <wdkm_mapping *>calloc(2, sizeof(wdkm_mapping))
        if segment.local[index].maps == NULL:
            raise MemoryError
        segment.mapped.add(index)
    return &segment.local[index].maps[buffer]


cdef void unmap_data(Segment segment, Py_ssize_t index, int buffer) noexcept:
    cdef wdkm_mapping *mapping
    if segment.local[index].maps != NULL:
        mapping = &segment.local[index].maps[buffer]
        if mapping.base != NULL:
            munmap(mapping.base, mapping.size)
        mapping.base = NULL
        mapping.id = mapping.size = 0


cdef void forget_stale(Segment segment, Py_ssize_t index) noexcept:
    """Unmap what this process has mapped of a slot and the slot has no more: its memory would stay for as long."""
    cdef wdkm_mapping *maps = segment.local[index].maps
    cdef int buffer
    if maps != NULL and segment.local[index].lent == 0:
        for buffer in range(2):
            if maps[buffer].id != segment.slots[index].data[buffer]:
                unmap_data(segment, index, buffer)


cdef wdkm_mapping *install(Segment segment, Py_ssize_t index, int buffer, uint64_t ident, object file, size_t size) except NULL:
    """Map an open data segment in place of what the buffer had mapped, and close the descriptor.

    From here to the use of the mapping no Python code may run: another thread, or a signal handler, that peeks at the same mutex
    may then replace the mapping by that of the segment that it has found.
    """
    cdef wdkm_mapping *mapping = NULL
    cdef void *base = MAP_FAILED
    cdef int code = 0
    cdef int fd = file
    if size >= WDKM_DATA_HEADER:
        base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        code = errno
        if base != MAP_FAILED and lock_memory and mlock(base, size) != 0:
            code = errno
            munmap(base, size)
            base = MAP_FAILED
    file.close()
    if size < WDKM_DATA_HEADER:
        raise FileNotFoundError(data_segment(segment.prefix, ident))
    if base == MAP_FAILED:
        raise shm.no_room(data_segment(segment.prefix, ident), size, OSError(code, os.strerror(code)))
    try:
        mapping = mapping_of(segment, index, buffer)
    except MemoryError:
        munmap(base, size)
        raise
    unmap_data(segment, index, buffer)
    mapping.base = <unsigned char *>base
    mapping.size = size
    mapping.id = ident
    return mapping


cdef size_t size_of(object file) except? 0:
    return os.fstat(file).st_size


cdef uint64_t capacity(const wdkm_mapping *mapping) noexcept:
    """Bytes of T that a mapped data segment has room for; 0 if its header is not that of the segment that was meant."""
    cdef const wdkm_data_header *header = <const wdkm_data_header *>mapping.base
    cdef uint64_t room = header.capacity
    if (header.magic != WDKM_DATA_MAGIC or header.layout != WDKM_LAYOUT or header.id != mapping.id
            or room > mapping.size - WDKM_DATA_HEADER):
        return 0
    return room


cdef bint is_mapped(Segment segment, Py_ssize_t index, int buffer, uint64_t ident) noexcept:
    """Whether mapped() needs no Python code to have the data segment `ident` mapped."""
    cdef wdkm_mapping *maps = segment.local[index].maps
    return maps != NULL and maps[buffer].base != NULL and maps[buffer].id == ident


cdef wdkm_mapping *mapped(Segment segment, Py_ssize_t index, int buffer, uint64_t ident) except NULL:
    """Have the data segment `ident` mapped; to be used at once, see install(). FileNotFoundError when it is gone."""
    cdef wdkm_mapping *mapping = mapping_of(segment, index, buffer)
    if mapping.base != NULL and mapping.id == ident:
        return mapping
    file = shm.open_segment(data_segment(segment.prefix, ident))
    return install(segment, index, buffer, ident, file, size_of(file))


cdef const unsigned char *current(Segment segment, Py_ssize_t index, Py_ssize_t *length) except NULL:
    """The bytes of the last committed T."""
    cdef wdkm_slot *slot = &segment.slots[index]
    cdef int buffer = slot.commit & 1
    cdef uint32_t size = slot.length[buffer]
    cdef wdkm_mapping *mapping = NULL
    if size == 0:
        broken(segment, slot, "T has no bytes")
    length[0] = size
    if size <= WDKM_INLINE:
        return slot.payload[buffer]
    try:
        mapping = mapped(segment, index, buffer, slot.data[buffer])
    except FileNotFoundError:
        broken(segment, slot, "the data segment of T is gone")
    if capacity(mapping) < size and not wdkm_planted("no-bounds"):
        broken(segment, slot, "the data segment of T is too short, or not one of ours")
    return mapping.base + WDKM_DATA_HEADER


cdef bint current_equals(Segment segment, Py_ssize_t index, const Encoded *value) except -1:
    cdef Py_ssize_t length = 0
    cdef const unsigned char *data = current(segment, index, &length)
    return (
        length == value.head_length + value.body_length
        and memcmp(data, value.head, value.head_length) == 0
        and (value.body_length == 0 or memcmp(data + value.head_length, value.body, value.body_length) == 0)
    )


cdef int drop(Segment segment, Py_ssize_t index, int buffer) except -1:
    """Give the data segment of a buffer back that is not current, or is current but inline."""
    cdef wdkm_slot *slot = &segment.slots[index]
    unmap_data(segment, index, buffer)
    remove_pending(segment, slot)
    # The id leaves the buffer before the segment goes, or another process that still has it mapped would commit to memory
    # without a name. Until it is gone `pending` knows it, so that nothing is lost track of when this process is killed.
    wdkm_store64(&slot.pending, slot.data[buffer])
    wdkm_store64(&slot.data[buffer], 0)
    remove_pending(segment, slot)
    return 0


# Removes what a holder that died while it committed left behind.
cdef int remove_pending(Segment segment, wdkm_slot *slot) except -1:
    cdef uint64_t serial = thread_state().serial
    cdef uint64_t found = slot.pending
    if found != 0:
        if found != slot.data[0] and found != slot.data[1]:
            data_segments.discard(segment.prefix, found)
            not_in_child(slot, serial)
        # A signal handler may have released the lock meanwhile, and what is noted now may be another's.
        wdkm_cas64(&slot.pending, found, 0)
    return 0


cdef unsigned char *room(Segment segment, Py_ssize_t index, int buffer, uint64_t generation, uint64_t size) except NULL:
    """Have a data segment of fitting capacity behind the buffer that is not current, and return where T goes."""
    cdef wdkm_slot *slot = &segment.slots[index]
    cdef wdkm_mapping *mapping = NULL
    cdef uint64_t have
    cdef uint64_t serial = thread_state().serial
    if slot.data[buffer] != 0:
        try:
            mapping = mapped(segment, index, buffer, slot.data[buffer])
            have = capacity(mapping)
        except FileNotFoundError:
            have = 0
        not_in_child(slot, serial)
        if size <= have <= max(KEEP, 4 * size):
            return mapping.base + WDKM_DATA_HEADER
        drop(segment, index, buffer)
    remove_pending(segment, slot)
    if segment.closed:
        gone(segment, slot)
    try:
        return new_room(segment, index, buffer, generation, size, serial)
    except FileExistsError:  # a child that a signal handler forked was first to use the name
        return new_room(segment, index, buffer, generation, size, serial)


cdef unsigned char *new_room(Segment segment, Py_ssize_t index, int buffer, uint64_t generation, uint64_t size,
                             uint64_t serial) except NULL:
    cdef wdkm_slot *slot = &segment.slots[index]
    cdef wdkm_mapping *mapping
    cdef uint64_t ident = data_segments.new_id()
    not_in_child(slot, serial)
    # Noted before it is made: killed from here on, the next holder knows what to remove.
    wdkm_store64(&slot.pending, ident)
    try:
        file = data_segments.make(segment.prefix, ident, data_segments.capacity_for(size))
        mapping = install(segment, index, buffer, ident, file, size_of(file))
        # Destroyed meanwhile? Whoever destroyed it may have listed the data segments before ours was there.
        if wdkm_load64(&slot.generation) != generation:
            gone(segment, slot)
    except BaseException:
        unmap_data(segment, index, buffer)
        if thread_state().serial == serial:
            remove_pending(segment, slot)
        raise
    not_in_child(slot, serial)
    wdkm_store64(&slot.data[buffer], ident)
    slot.pending = 0
    return mapping.base + WDKM_DATA_HEADER


# The same in parts, for several mutexes at once: everything before the store of the commit word, which it returns (no Python
# code may run between the last of these and the stores), and what is done after it by the thread with this serial, as long as
# that commit is the last and the lock is held.
cdef uint64_t prepare(Segment segment, Py_ssize_t index, uint64_t generation, const Encoded *value) except? 0:
    cdef wdkm_slot *slot = &segment.slots[index]
    cdef uint64_t commit = slot.commit
    cdef int buffer = (commit & 1) ^ 1
    cdef uint64_t size = value.head_length + value.body_length
    cdef unsigned char *target
    if size >= 4294967296:
        raise too_large(size)
    if wdkm_load64(&slot.generation) != generation and not wdkm_planted("no-generation"):
        gone(segment, slot)
    # Orders the last store of the commit word before the stores into the buffer that it freed, for peeking readers.
    wdkm_fence_release()
    if size <= WDKM_INLINE:
        target = slot.payload[buffer]
    else:
        target = room(segment, index, buffer, generation, size)
    if wdkm_planted("publish-first"):
        wdkm_store64(&slot.commit, commit + 1)
    memcpy(target, value.head, value.head_length)
    if value.body_length:
        memcpy(target + value.head_length, value.body, value.body_length)
    slot.length[buffer] = <uint32_t>size
    return commit + 1


# Writes the other buffer and publishes it. On any error the old T stands.
cdef int publish(Segment segment, Py_ssize_t index, uint64_t generation, const Encoded *value) except -1:
    cdef uint64_t serial = thread_state().serial
    cdef uint64_t commit = prepare(segment, index, generation, value)
    wdkm_store64(&segment.slots[index].commit, commit)
    return published(segment, index, value, commit, serial)


cdef int published(Segment segment, Py_ssize_t index, const Encoded *value, uint64_t commit, uint64_t serial) except -1:
    cdef wdkm_slot *slot = &segment.slots[index]
    if slot.data[0] | slot.data[1]:
        try:
            give_back(segment, index, commit, value.head_length + value.body_length, serial)
        except (OSError, MemoryError):
            pass  # T is published, and what could not be given back now is found by the next commit
    return 0


cdef bint still_stands(wdkm_slot *slot, uint64_t commit, uint64_t serial) noexcept:
    """Whether this thread holds the lock, and this commit is the last. Giving memory back runs Python code: a signal handler in
    it may commit, release the lock, or fork."""
    cdef wdkm_thread *me = thread_state()
    return me.serial == serial and slot.held_by == me.word and slot.commit == commit


cdef int give_back(Segment segment, Py_ssize_t index, uint64_t commit, uint64_t size, uint64_t serial) except -1:
    """After a commit: do not keep the memory of a T that was much larger."""
    cdef wdkm_slot *slot = &segment.slots[index]
    cdef int buffer = commit & 1
    cdef int old = buffer ^ 1
    if still_stands(slot, commit, serial):
        remove_pending(segment, slot)  # so that drop() runs no Python code before the id has left the buffer
    if (still_stands(slot, commit, serial) and slot.data[buffer] != 0 and size <= WDKM_INLINE
            and kept_bytes(segment, index, buffer) > KEEP):
        drop(segment, index, buffer)
    if (still_stands(slot, commit, serial) and slot.data[old] != 0
            and max(<uint64_t>slot.length[old], kept_bytes(segment, index, old)) > max(KEEP, 4 * size)):
        drop(segment, index, old)
    return 0


cdef uint64_t kept_bytes(Segment segment, Py_ssize_t index, int buffer) noexcept:
    """Capacity of a buffer's data segment as far as it is mapped here; one that is not is too costly to keep."""
    cdef wdkm_mapping *maps = segment.local[index].maps
    if maps == NULL or maps[buffer].base == NULL or maps[buffer].id != segment.slots[index].data[buffer]:
        return KEEP + 1 if segment.slots[index].length[buffer] <= WDKM_INLINE else 0
    return capacity(&maps[buffer])
