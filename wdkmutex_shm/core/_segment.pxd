"""A pool segment as this process has it mapped."""

from libc.stdint cimport int64_t, uint64_t

from ._slot cimport wdkm_header, wdkm_local, wdkm_slot


cdef bint lock_memory


cdef class Segment:
    cdef readonly str name
    cdef readonly str prefix
    cdef wdkm_header *header
    cdef wdkm_slot *slots
    cdef wdkm_local *local
    cdef readonly Py_ssize_t count
    cdef readonly Py_ssize_t number
    cdef size_t size
    cdef int fd
    cdef uint64_t device  # of the file that it is of, and the inode
    cdef uint64_t inode
    cdef bint closed
    cdef set mapped
    cdef object __weakref__

    cdef bint is_open(self) noexcept
    cdef wdkm_slot *at(self, Py_ssize_t index) except NULL


# Milliseconds since boot at which the present hold was first seen, or -1 when the lock is free. Stamps it if it is new.
cdef int64_t held_since(wdkm_slot *slot) noexcept nogil
# The same as seconds ago, or None.
cdef object held_for(wdkm_slot *slot)
# How often the lock was acquired since its tenant moved in; for its holder, others may see halves of two numbers.
cdef uint64_t acquisitions(const wdkm_slot *slot) noexcept
# The name in a slot, as far as its bytes make one.
cdef str slot_name(wdkm_slot *slot)
