"""New handles to registered mutexes, one at a time or many: the part of attaching that nothing can go wrong in.

Whatever is not as expected ends in None here, and :func:`wdkmutex_shm.objects.handles.attach` finds out why.
"""

def attach_one(type cls not None, int kind, wanted, dict known not None, Segment segment not None, Py_ssize_t index,
           uint64_t generation):
    """Return a new handle of class ``cls`` to a tenant, or None if it is of another kind or T, or gone.

    ``wanted`` is the codec of T; None for whatever it is, if that is one of the codecs ``known`` by their code.
    """
    cdef wdkm_slot *slot = segment.at(index)
    cdef Codec codec
    cdef int code = slot.type_code
    if wanted is None:
        wanted = known.get(code)
        if wanted is None:
            return None
    codec = wanted
    # The generation last: what was read before it is this tenant's.
    if (slot.kind != kind or code != codec.code or slot.type_hash != codec.type_hash
            or wdkm_load64(&slot.generation) != generation):
        return None
    handle = cls.__new__(cls)
    handle._bind(segment, index, generation, kind, codec)
    return handle


def attach_many(type cls not None, int kind, list codecs, dict known not None, dict segments not None,
                const uint64_t[::1] words not None):
    """Return what :func:`attach` returns for each two of ``words``, with one of ``codecs`` for each, as a list; and a
    list of where in it there is None.

    The first of the two is the generation, the second ``number << 32 | slot``, where ``segments`` has the segments by
    number. None also where there is no such segment. Without ``codecs``, each T is whatever it is.
    """
    cdef Py_ssize_t at
    cdef uint64_t place
    cdef list made = []
    cdef list failed = []
    if codecs is not None and len(codecs) != words.shape[0] // 2:
        raise IndexError("not as many codecs as mutexes")
    for at in range(words.shape[0] // 2):
        place = words[2 * at + 1]
        segment = segments.get(place >> 32)
        handle = None
        if segment is not None:
            handle = attach_one(cls, kind, None if codecs is None else codecs[at], known, segment, <uint32_t>place,
                            words[2 * at])
        if handle is None:
            failed.append(at)
        made.append(handle)
    return made, failed


def house_handle(pool not None, Handle handle not None, int kind, Codec codec not None, bytes payload not None, uint64_t ident,
          uint32_t length, uint64_t serial):
    """Take a free slot of a private pool, let a tenant into it, and bind the new handle that owns it; False if none is free.

    No Python code, and so no signal handler, runs in between: a slot always has a handle that gives it back.
    """
    code, type_hash, label = codec.tag
    place = occupy_from(pool._free, b"", kind, code, type_hash, label, payload, ident, length, serial)
    if place is None:
        return False
    segment, index, generation = place
    handle._bind(segment, index, generation, kind, codec, pool)
    pool._used += 1
    return True
