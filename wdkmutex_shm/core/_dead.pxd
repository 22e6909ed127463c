"""Holders that are dead although the lock says that it is held; see `dead.h`."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from ._slot cimport wdkm_slot, wdkm_thread


cdef extern from "dead.h" nogil:
    enum:
        WDKM_GLANCE
        WDKM_LOOK
        WDKM_SECOND
    bint wdkm_holder_dead(const wdkm_slot *, uint32_t, uint64_t, const wdkm_thread *, int)
    ctypedef struct wdkm_looks:
        uint32_t count

    void wdkm_look(wdkm_slot *, const wdkm_thread *, int64_t, wdkm_looks *)
    bint wdkm_try_look(wdkm_slot *, const wdkm_thread *, int64_t)
    bint wdkm_free_dead(wdkm_slot *, const wdkm_thread *, int)
    bint wdkm_free_predecessor(wdkm_slot *, const wdkm_thread *)
