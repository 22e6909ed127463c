"""The committed T, for readers without the lock: copied, and whole if the commit word is the same before and after.

T is copied once, straight into the object that is returned where that is bytes or an ASCII str, and decoded afterwards: never
from memory that somebody may be writing to. It is copied from a mapping that stays; a large data segment, whose memory may be
taken from under those who map it, is kept from that for the copy (`wdkm_copy_mapped`).

A reader beside a writer without pause finds the word changed each time. After LOCK_FREE tries it takes the lock for the copy as
soon as it is free, and counts as starving, so that newcomers leave it free for a moment. It never waits for a holder: one that
holds and does not commit changes nothing, so the copy without the lock is whole then. And it runs no Python code while it has
the lock, so no signal handler either.
"""

cdef extern from "peek.h" nogil:
    int wdkm_copy_data(const char *, uint64_t, uint32_t, unsigned char *, size_t, unsigned char *)
    bint wdkm_copy_mapped(const char *, uint64_t, unsigned char *, size_t, uint32_t, unsigned char *, size_t, unsigned char *,
                          size_t)
    int wdkm_keep_data(const char *, uint64_t)
    bint wdkm_is_ascii(const unsigned char *, size_t)
    void wdkm_yield()

# From this size on the memory of a data segment may be taken from under those who map it, unless they keep it from that.
# Bytes of T up to which a large one is copied from its mapping. The object for more is new memory each time (mallopt(3)), and
# has its page faults whoever copies; preadv(2) lets other threads go on meanwhile.
cdef uint32_t MAPPED = 32 << 20
cdef uint32_t STRAIGHT = 1024   # bytes of T from which on it is copied into its object
cdef unsigned int LOCK_FREE = 64

cdef struct Found:
    uint32_t size
    Py_ssize_t skip             # bytes of msgpack before the body, if that was copied apart from them
    unsigned char head[8]
    unsigned char small[72]     # WDKM_INLINE


cdef Py_ssize_t head_of(int code, uint32_t size) noexcept:
    """How long the head of a T of that many bytes is as we write it; 0 where T is not copied straight."""
    if size < STRAIGHT or (code != T_BYTES and code != T_STR):
        return 0
    return 3 if size - 3 < 65536 else 5


cdef bint is_head(int code, const Found *found) noexcept:
    if found.skip == 3:
        return found.head[0] == (0xc5 if code == T_BYTES else 0xda) and wdkm_get16(found.head + 1) == found.size - 3
    return found.head[0] == (0xc6 if code == T_BYTES else 0xdb) and wdkm_get32(found.head + 1) == found.size - 5


cdef object copy_data(Segment segment, int code, Py_ssize_t index, int buffer, uint64_t ident, Found *found, bint holding):
    """The body of T in a new object, its head in `found`; None when the data segment is gone, or too short."""
    cdef wdkm_mapping *mapping = NULL
    cdef unsigned char *body
    cdef const unsigned char *data
    cdef const char *prefix = PyUnicode_AsUTF8(segment.prefix)
    cdef object target
    cdef int done
    cdef uint32_t size = found.size
    found.skip = head_of(code, size)
    try:
        if found.skip != 0 and code == T_STR:
            target = PyUnicode_New(size - found.skip, 127)
            body = <unsigned char *>PyUnicode_DATA(target)
        else:
            target = PyBytes_FromStringAndSize(NULL, size - found.skip)
            body = <unsigned char *>PyBytes_AS_STRING(target)
    except MemoryError:
        if data_segments.is_shorter(segment.prefix, ident, size):
            return None  # the length is damaged: there is no such T, whatever memory is free
        raise
    if is_mapped(segment, index, buffer, ident) or (
            not holding and (size < PUNCH or (size <= MAPPED and not lock_memory))):
        try:
            mapping = mapped(segment, index, buffer, ident)
        except FileNotFoundError:
            return None
        except PagedPoolAllocFailed:  # no room to map it, which a large one does without
            if size < PUNCH:
                raise
    if mapping != NULL and (holding or mapping.size < PUNCH):
        if capacity(mapping) < size:
            return None
        data = mapping.base + WDKM_DATA_HEADER
        memcpy(found.head, data, found.skip)
        memcpy(body, data + found.skip, size - found.skip)
        return target
    if mapping != NULL and size <= MAPPED and wdkm_copy_mapped(
            prefix, ident, mapping.base, mapping.size, size, found.head, found.skip, body, PAGE):
        return target
    if holding:
        done = wdkm_copy_data(prefix, ident, size, found.head, found.skip, body)
        return target if done == 1 else None
    with nogil:
        done = wdkm_copy_data(prefix, ident, size, found.head, found.skip, body)
    if done < 0:  # no descriptor is free, or the segment is another user's: this says it
        data_segments.read(segment.prefix, ident, size)
    return target if done == 1 else None


cdef object copy_once(Segment segment, Py_ssize_t index, int code, Found *found, bint holding, bint *whole):
    """Copy T as it is now: into `found`, or what is returned (None: it is gone); `whole` if nobody committed meanwhile."""
    cdef wdkm_slot *slot = &segment.slots[index]
    cdef uint64_t commit = wdkm_load64(&slot.commit)
    cdef int buffer = commit & 1
    cdef object raw = None
    found.size = slot.length[buffer]
    found.skip = 0
    if found.size <= WDKM_INLINE:
        memcpy(found.small, slot.payload[buffer], WDKM_INLINE)
    else:
        raw = copy_data(segment, code, index, buffer, slot.data[buffer], found, holding)
    wdkm_fence_acquire()
    whole[0] = wdkm_load64(&slot.commit) == commit
    return raw


cdef bint lock_now(Segment segment, Py_ssize_t index, uint64_t generation) except -1:
    """Take the lock if it is free. A dead owner's is left to those who lock, unless it dies at this instant."""
    cdef wdkm_slot *slot = &segment.slots[index]
    cdef wdkm_thread *me = thread_state()
    cdef int code
    if wdkm_lock_word(slot) != 0:
        return False
    code = pthread_mutex_trylock(&slot.mutex)
    if code == EBUSY or code == EDEADLK:
        return False
    if code == 0 and not slot.pending & WDKM_NOTE and not wdkm_load32(&slot.starving) & WDKM_UNSETTLED:
        wdkm_store64(&slot.held_by, me.word)
        return True
    return lock_slow(segment, index, generation, me, code, 0) < EXPIRED


cdef object insist(Segment segment, Py_ssize_t index, uint64_t generation, int code, Found *found):
    """Copy T with the lock, as soon as it is free, or without it, as soon as nobody commits meanwhile."""
    cdef wdkm_slot *slot = &segment.slots[index]
    cdef unsigned int tries = 0
    cdef bint whole = False
    cdef object raw
    wdkm_add32(&slot.starving, 1)
    try:
        while True:
            if lock_now(segment, index, generation):
                try:
                    raw = copy_once(segment, index, code, found, True, &whole)
                finally:
                    wdkm_unlock(slot)
                if raw is not None or found.size <= WDKM_INLINE:
                    return raw
            # Also where there was no T to be had with the lock: this one says why, as for want of a descriptor.
            raw = copy_once(segment, index, code, found, False, &whole)
            if whole:
                return raw
            if wdkm_load64(&slot.generation) != generation:
                gone(segment, slot)
            with nogil:
                wdkm_yield()
            tries += 1
            if tries % 16 == 0:
                PyErr_CheckSignals()
    finally:
        served(slot)


cdef object peek(Segment segment, Py_ssize_t index, uint64_t generation, Codec codec):
    cdef wdkm_slot *slot = &segment.slots[index]
    cdef uint64_t commit = wdkm_load64(&slot.commit)
    cdef Found found
    cdef unsigned int tries
    cdef bint whole = False
    cdef object raw = None
    found.size = slot.length[commit & 1]
    if 0 < found.size <= WDKM_INLINE:  # the usual case, with nothing in its way
        memcpy(found.small, slot.payload[commit & 1], WDKM_INLINE)
        wdkm_fence_acquire()
        if wdkm_load64(&slot.commit) == commit:
            if wdkm_load64(&slot.generation) != generation:
                gone(segment, slot)
            return codec.decode_from(found.small, found.size)
    for tries in range(LOCK_FREE):
        raw = copy_once(segment, index, codec.code, &found, False, &whole)
        if whole:
            break
        if wdkm_load64(&slot.generation) != generation:
            gone(segment, slot)
        wdkm_pause()
    if not whole:
        raw = insist(segment, index, generation, codec.code, &found)
    if wdkm_load64(&slot.generation) != generation:
        gone(segment, slot)
    if found.size == 0 or (found.size > WDKM_INLINE and raw is None):
        broken(segment, slot, "the bytes of T are gone")
    if raw is None:
        return codec.decode_from(found.small, found.size)
    if found.skip == 0:
        return codec.decode_from(<const unsigned char *>PyBytes_AS_STRING(raw), found.size)
    return straight(codec, &found, raw)


cdef object straight(Codec codec, const Found *found, object body):
    """T of which the body was copied apart, into the very object that T is if all is as we write it."""
    cdef const unsigned char *data
    cdef bytes whole
    if codec.code == T_BYTES:
        if is_head(T_BYTES, found):
            return body
        whole = found.head[:found.skip] + <bytes>body
    else:
        data = <const unsigned char *>PyUnicode_DATA(body)
        if is_head(T_STR, found) and wdkm_is_ascii(data, found.size - found.skip):
            return body
        whole = found.head[:found.skip] + (<const char *>data)[:found.size - found.skip]
    return codec.decode_from(<const unsigned char *>PyBytes_AS_STRING(whole), len(whole))
