"""T to msgpack bytes and back: scalars, str and bytes here, the rest through msgpack or msgspec.

The scalar forms are those that the msgpack package writes, so that either side reads the other. See the msgpack
specification for the formats named in the comments.
"""

cdef extern from "msgpack_int.h" nogil:
    void wdkm_put16(unsigned char *, uint16_t)
    void wdkm_put32(unsigned char *, uint32_t)
    void wdkm_put64(unsigned char *, uint64_t)
    uint16_t wdkm_get16(const unsigned char *)
    uint32_t wdkm_get32(const unsigned char *)
    uint64_t wdkm_get64(const unsigned char *)
    int wdkm_encode_int(int64_t, unsigned char *)
    int wdkm_decode_int(const unsigned char *, size_t, int64_t *)


cdef enum:
    T_ANY = 0
    T_NONE = 1
    T_BOOL = 2
    T_INT = 3
    T_FLOAT = 4
    T_STR = 5
    T_BYTES = 6
    T_LIST = 7
    T_DICT = 8
    T_TYPED = 9      # a type that msgspec converts
    T_SECTION = 10   # no T


# The msgpack form of a value in two pieces: a head of our own, and a body inside a Python object.
cdef struct Encoded:
    unsigned char head[16]
    Py_ssize_t head_length
    const char *body
    Py_ssize_t body_length

cdef int damaged(str what) except -1:
    raise MutexDamaged(
        f"the bytes in shared memory are not {what}: written by another program, or damaged; "
        "register the mutex again, or set it with replace()")


cdef object too_large(uint64_t size):
    """The error for a T of that many bytes."""
    return ValueTooLarge(f"T takes {size} bytes, and at most 2**32 - 1 are possible; keep a part of it elsewhere",
                         size=size, limit=4294967295)


cdef uint64_t unsigned(object value) except? 0xffffffffffffffff:
    """The value of an int above 63 bits."""
    try:
        return PyLong_AsUnsignedLongLong(value)
    except OverflowError:
        raise OverflowError("an int above 2**64 - 1: msgpack holds -2**63 to 2**64 - 1; keep it as str or bytes") from None


cdef int encode_int(object value, Encoded *out) except -1:
    cdef int overflow = 0
    cdef long long number = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow == 0:
        out.head_length = wdkm_encode_int(number, out.head)
    elif overflow > 0:
        wdkm_put64(out.head + 1, unsigned(value))
        out.head[0] = 0xcf  # uint 64
        out.head_length = 9
    else:
        raise OverflowError("an int below -2**63: msgpack holds -2**63 to 2**64 - 1; keep it as str or bytes")
    return 0


# The int that `data` holds in msgpack form; raises MutexDamaged if it is no int.
cdef object decode_int(const unsigned char *data, Py_ssize_t length):
    cdef int64_t number = 0
    cdef int form = wdkm_decode_int(data, length, &number)
    if form == 0:
        return PyLong_FromLongLong(number)
    if form < 0:
        damaged("an int")
    return PyLong_FromUnsignedLongLong(<uint64_t>number)


cdef double decode_double(const unsigned char *data) noexcept:
    cdef uint64_t bits = wdkm_get64(data + 1)
    cdef double number
    memcpy(&number, &bits, 8)
    return number


cdef int encode_length(Py_ssize_t length, uint8_t one, uint8_t two, uint8_t four, Encoded *out) except -1:
    if length < 256 and one != 0:
        out.head[0] = one
        out.head[1] = <uint8_t>length
        out.head_length = 2
    elif length < 65536:
        out.head[0] = two
        wdkm_put16(out.head + 1, <uint16_t>length)
        out.head_length = 3
    elif length < 4294967296:
        out.head[0] = four
        wdkm_put32(out.head + 1, <uint32_t>length)
        out.head_length = 5
    else:
        raise too_large(length)
    return 0


cdef Py_ssize_t body_start(const unsigned char *data, Py_ssize_t length, uint8_t one, uint8_t two, uint8_t four) noexcept:
    """Offset of the body of a str or bin whose length fills `data` exactly, or -1."""
    if length >= 2 and data[0] == one and length == 2 + data[1]:
        return 2
    if length >= 3 and data[0] == two and length == 3 + wdkm_get16(data + 1):
        return 3
    if length >= 5 and data[0] == four and length == 5 + <Py_ssize_t>wdkm_get32(data + 1):
        return 5
    return -1


HOLDS = "what msgpack holds is None, bool, int of 64 bits, float, str, bytes, and list and dict of those"

# Packers that are not at work: making one costs as much as packing a small T. Each is taken off the list while it is used, so
# another thread, or a finalizer that packs in the midst, makes another.
cdef list packers = []
# Imported for the first mutex that may use it: who has only ints and strings does not need it.
cdef object new_packer = None
cdef object unpackb = None
# What is not plain: conversions.plain_scalar and refusal.explain, which are set by :mod:`wdkmutex_shm.core.types`.
cdef object plain_scalar = None
cdef object explain = None
cdef frozenset PLAIN = frozenset((type(None), bool, int, float, str, bytes, list, dict))
# A packer keeps the largest buffer that it ever needed; one that packed more bytes than this is not kept.
cdef Py_ssize_t KEPT_PACKER = 65536


cdef int import_msgpack() except -1:
    global new_packer, unpackb
    import msgpack
    unpackb = msgpack.unpackb
    new_packer = msgpack.Packer
    return 0


def set_helpers(object scalar, object explanation):
    """Say how a scalar of another library becomes a plain one, and how a refusal is worded."""
    global plain_scalar, explain
    plain_scalar = scalar
    explain = explanation


def of_strange(object value):
    """For the packer: what to write for an object of a type that it does not know."""
    plain = plain_scalar(value)
    if plain is value:
        raise TypeError(f"{type(value).__name__} is not plain")
    return plain


def pack(object value):
    """Return the msgpack bytes of a value of plain types.

    Raises:
        TypeError, OverflowError: msgpack cannot hold it.
    """
    cdef bytes packed
    if new_packer is None:
        import_msgpack()
    packer = packers.pop() if packers else new_packer(use_bin_type=True, strict_types=True, default=of_strange)
    try:
        packed = packer.pack(value)
    except (TypeError, OverflowError) as error:
        raise explain(value, error) from None
    if len(packed) <= KEPT_PACKER:
        packers.append(packer)
    return packed


def unpack(object raw):
    """Return the value of msgpack bytes; whatever msgpack raises if they are not."""
    if unpackb is None:
        import_msgpack()
    return unpackb(raw, raw=False, strict_map_key=False)


# These two are compiled so that no signal handler runs in them: what it raises would be taken for damage.


def unpack_frozen(object raw):
    """As ``unpack``; where T has keys that msgpack gives back as lists, all its lists become tuples."""
    if unpackb is None:
        import_msgpack()
    try:
        return unpackb(raw, raw=False, strict_map_key=False)
    except TypeError:
        return unpackb(raw, raw=False, strict_map_key=False, use_list=False)


cdef bytes joined(const Encoded *encoded):
    return (<const char *>encoded.head)[:encoded.head_length] + (
        encoded.body[:encoded.body_length] if encoded.body != NULL else b"")


cdef class Codec:
    """How a T is checked, written and read. Made by :mod:`wdkmutex_shm.core.types`, one for each T in a process."""

    cdef readonly int code
    cdef readonly uint64_t type_hash
    cdef readonly bytes label
    cdef readonly object type
    cdef readonly bint mutable
    cdef readonly bint frozen
    cdef object pack
    cdef object unpack
    cdef object validate
    # From what msgpack gives to a T; None where that is the same.
    cdef object revive

    def __init__(self, int code, uint64_t type_hash, bytes label not None, object type, *, pack=None, unpack=None,
                 validate=None, revive=None, bint mutable=False, bint frozen=False):
        self.code = code
        self.type_hash = type_hash
        self.label = label
        self.type = type
        self.pack = pack
        self.unpack = unpack
        self.validate = validate
        self.revive = revive
        self.mutable = mutable
        self.frozen = frozen

    @property
    def tag(self):
        """(code, hash, label) of T as a slot records them."""
        return self.code, self.type_hash, self.label

    # Loads msgpack, if it may be needed: nothing is imported later.
    cdef int get_ready(self) except -1:
        if new_packer is None and self.mutable and (self.code != T_TYPED or self.frozen or self.type is tuple):
            import_msgpack()
        return 0

    cdef int wrong_type(self, object value) except -1:
        raise TypeError(
            f"T of this mutex is {self.label.decode()}, not {type(value).__name__}; it was fixed when the mutex was "
            "made (type=None makes one that takes any)")

    cdef object admit(self, object value):
        """Return `value` as the T that it is, or that it equals; TypeError (OverflowError beyond 64 bits) if it is none."""
        cdef int overflow = 0
        if self.code == T_INT:
            if not PyLong_CheckExact(value):
                value = plain_scalar(value)
                if not PyLong_CheckExact(value):
                    self.wrong_type(value)
            PyLong_AsLongLongAndOverflow(value, &overflow)
            if overflow > 0:
                unsigned(value)
            elif overflow < 0:
                raise OverflowError("an int below -2**63: msgpack holds -2**63 to 2**64 - 1; keep it as str or bytes")
        elif self.code == T_FLOAT:
            if not PyFloat_CheckExact(value):
                value = plain_scalar(value)
                if PyLong_CheckExact(value):
                    return float(value)
                if not PyFloat_CheckExact(value):
                    self.wrong_type(value)
        elif self.frozen:
            raise TypeError(
                f"T of this mutex is {self.label.decode()}, which this handle does not support; "
                "get it with its type, as in Grt.get_fast_mutex(name, T), to set it")
        elif self.code == T_TYPED:
            self.validate(value)
        elif type(value) is not self.type and not (self.code == T_ANY and type(value) in PLAIN):
            # T of any keeps what it is given, but for a scalar, which comes back as a plain one.
            value = plain_scalar(value)
            if self.code != T_ANY and type(value) is not self.type:
                self.wrong_type(value)
        return value

    # Fills `out` and returns the object that owns the body's memory.
    cdef object encode_into(self, object value, Encoded *out):
        cdef object raw
        cdef Py_ssize_t size
        cdef uint64_t bits
        cdef double number
        out.body = NULL
        out.body_length = 0
        if self.code != T_TYPED:
            if PyLong_CheckExact(value):
                encode_int(value, out)
                return None
            if PyFloat_CheckExact(value):
                number = PyFloat_AS_DOUBLE(value)
                memcpy(&bits, &number, 8)
                out.head[0] = 0xcb  # float 64
                wdkm_put64(out.head + 1, bits)
                out.head_length = 9
                return None
            if value is None or value is True or value is False:
                out.head[0] = 0xc0 if value is None else 0xc3 if value is True else 0xc2
                out.head_length = 1
                return None
            if PyBytes_CheckExact(value):
                out.body_length = PyBytes_GET_SIZE(value)
                out.body = PyBytes_AS_STRING(value)
                encode_length(out.body_length, 0xc4, 0xc5, 0xc6, out)  # bin 8, 16, 32
                return value
            if PyUnicode_CheckExact(value):
                out.body = PyUnicode_AsUTF8AndSize(value, &size)
                out.body_length = size
                if size < 32:
                    out.head[0] = 0xa0 | <uint8_t>size  # fixstr
                    out.head_length = 1
                else:
                    encode_length(size, 0xd9, 0xda, 0xdb, out)  # str 8, 16, 32
                return value
        raw = self.pack(value)
        out.head_length = 0
        out.body = PyBytes_AS_STRING(raw)
        out.body_length = PyBytes_GET_SIZE(raw)
        if out.body_length >= 4294967296:
            raise too_large(out.body_length)
        return raw

    cdef object decode_from(self, const unsigned char *data, Py_ssize_t length):
        cdef Py_ssize_t start
        if self.code == T_INT:
            return decode_int(data, length)
        if self.code == T_FLOAT:
            if length != 9 or data[0] != 0xcb:
                damaged("a float")
            return PyFloat_FromDouble(decode_double(data))
        if self.code == T_BOOL or self.code == T_NONE:
            if length == 1 and data[0] == 0xc0 and self.code == T_NONE:
                return None
            if length != 1 or self.code == T_NONE or not 0xc2 <= data[0] <= 0xc3:
                damaged("a bool")
            return data[0] == 0xc3
        if self.code == T_BYTES:
            start = body_start(data, length, 0xc4, 0xc5, 0xc6)
            if start < 0:
                damaged("bytes")
            return PyBytes_FromStringAndSize(<const char *>data + start, length - start)
        if self.code == T_STR:
            start = body_start(data, length, 0xd9, 0xda, 0xdb)
            if start < 0 and length >= 1 and data[0] & 0xe0 == 0xa0 and length == 1 + (data[0] & 0x1f):
                start = 1
            if start < 0:
                damaged("a str")
            try:
                return PyUnicode_DecodeUTF8(<const char *>data + start, length - start, NULL)
            except UnicodeDecodeError:
                damaged("a str")
        return self.decode_rest((<const char *>data)[:length])

    cdef object decode_rest(self, bytes raw):
        try:
            value = self.unpack(raw)
        except (RecursionError, MemoryError):
            raise  # these say nothing about the bytes
        except Exception as error:
            raise MutexDamaged(
                f"the bytes in shared memory are not the msgpack form of {self.label.decode()} ({error}); "
                "register the mutex again, or set it with replace()") from error
        if (self.code == T_LIST or self.code == T_DICT) and type(value) is not self.type and not self.frozen:
            damaged("a " + self.label.decode())
        # Not in the `try`: what this raises is the caller's, or a signal handler's.
        return value if self.revive is None else self.revive(value)

    def accept(self, value):
        """Return ``value`` as the T that it is, or that it equals; raise what setting it would raise."""
        return self.admit(value)

    def encode(self, value):
        """Return the msgpack bytes of ``value``, checked first."""
        cdef Encoded out
        value = self.admit(value)
        keep = self.encode_into(value, &out)
        if out.head_length + out.body_length >= 4294967296:
            raise too_large(out.head_length + out.body_length)
        return joined(&out)

    # The bytes of a value, of any length, that was checked before or came of decoding.
    cdef bytes encode_unchecked(self, object value):
        cdef Encoded out
        keep = self.encode_into(value, &out)
        return joined(&out)

    def decode(self, raw):
        """Return the value of msgpack bytes.

        Raises:
            MutexDamaged: they are not a T.
        """
        cdef const unsigned char[::1] view = raw
        if view.shape[0] == 0:
            damaged("anything")
        return self.decode_from(&view[0], view.shape[0])

    def __repr__(self):
        return f"<Codec of {self.label.decode()}>"


#: There is no T.
SECTION = Codec(T_SECTION, T_SECTION, b"-", None)
