"""T to msgpack bytes and back."""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t


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


cdef class Codec:
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

    # Loads msgpack, if it may be needed: nothing is imported later.
    cdef int get_ready(self) except -1
    cdef int wrong_type(self, object value) except -1
    cdef object admit(self, object value)
    # Fills `out` and returns the object that owns the body's memory.
    cdef object encode_into(self, object value, Encoded *out)
    # The bytes of a value, of any length, that was checked before or came of decoding.
    cdef bytes encode_unchecked(self, object value)
    cdef object decode_rest(self, bytes raw)
    cdef object decode_from(self, const unsigned char *data, Py_ssize_t length)


# The error for a T of that many bytes.
cdef object too_large(uint64_t size)
# The int that `data` holds in msgpack form; raises MutexDamaged if it is no int.
cdef object decode_int(const unsigned char *data, Py_ssize_t length)
