"""What a slot says of itself: its name, and since when its lock is held."""

# Milliseconds since boot at which the present hold was first seen, or -1 when the lock is free. Stamps it if it is new.
cdef int64_t held_since(wdkm_slot *slot) noexcept nogil:
    cdef uint64_t hold, seen, now
    if not wdkm_word_held(wdkm_lock_word(slot)):
        return -1
    hold = slot.acquired_low & 0xffffff
    seen = wdkm_load64(&slot.seen)
    if seen >> 40 == hold and seen != 0:
        return (seen << 24) >> 24
    now = <uint64_t>wdkm_now() // 1000000
    wdkm_cas64(&slot.seen, seen, hold << 40 | now)
    return now


# The same as seconds ago, or None.
cdef uint64_t acquisitions(const wdkm_slot *slot) noexcept:
    return (<uint64_t>slot.acquired_high << 32) + slot.acquired_low


cdef object held_for(wdkm_slot *slot):
    cdef int64_t since = held_since(slot)
    if since < 0:
        return None
    return max(0, wdkm_now() // 1000000 - since) / 1000


# The name in a slot, as far as its bytes make one.
cdef str slot_name(wdkm_slot *slot):
    cdef Py_ssize_t length = slot.name_length
    if length > WDKM_NAME:
        length = WDKM_NAME
    return slot.name[:length].decode("utf-8", "replace")
