# cython: language_level=3, boundscheck=False, wraparound=False
"""The limit for the benchmark: what a lock of this design costs in C, with no Python in the loop.

The same robust, process-shared, error-checking mutex as in a slot, and an int beside it. Nothing of the package uses it.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from ._slot cimport (
    EOWNERDEAD,
    pthread_mutex_consistent,
    pthread_mutex_t,
    pthread_mutex_unlock,
    wdkm_fence_release,
    wdkm_mutex_init,
    wdkm_slot,
)

cdef extern from "slot.h" nogil:
    int pthread_mutex_lock(pthread_mutex_t *)

cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_READ
        PROT_WRITE
        MAP_SHARED
        MAP_ANONYMOUS
    void *MAP_FAILED
    void *mmap(void *, size_t, int, int, int, int64_t)
    int munmap(void *, size_t)


cdef inline int take(wdkm_slot *slot) noexcept nogil:
    cdef int code = pthread_mutex_lock(&slot.mutex)
    if code == EOWNERDEAD:
        code = pthread_mutex_consistent(&slot.mutex)
    return code


@cython.final
cdef class Limit:
    """A robust mutex and an int in memory that forked children share.

    Raises:
        MemoryError: no memory. OSError: the mutex cannot be made.
    """

    cdef wdkm_slot *slot
    cdef bint held

    def __cinit__(self):
        cdef void *memory = mmap(NULL, sizeof(wdkm_slot), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)
        if memory == MAP_FAILED:
            raise MemoryError("no memory for the limit's mutex")
        self.slot = <wdkm_slot *>memory
        code = wdkm_mutex_init(self.slot)
        if code:
            raise OSError(code, "pthread_mutex_init")

    def __dealloc__(self):
        # A held robust mutex is linked into its thread's list: its memory must stay.
        if self.slot != NULL and not self.held:
            munmap(self.slot, sizeof(wdkm_slot))

    def increment(self, int64_t n):
        """Lock, add one to the int and unlock, ``n`` times in one C loop. Waits with the GIL released.

        Raises:
            OSError: the mutex could not be had.
        """
        cdef int64_t i
        cdef int code = 0
        with nogil:
            for i in range(n):
                code = take(self.slot)
                if code:
                    break
                self.slot.commit += 1
                pthread_mutex_unlock(&self.slot.mutex)
        if code:
            raise OSError(code, "pthread_mutex_lock")

    def lock_unlock(self, int64_t n):
        """Lock and unlock, ``n`` times in one C loop.

        Raises:
            OSError: the mutex could not be had.
        """
        cdef int64_t i
        cdef int code = 0
        with nogil:
            for i in range(n):
                code = take(self.slot)
                if code:
                    break
                pthread_mutex_unlock(&self.slot.mutex)
        if code:
            raise OSError(code, "pthread_mutex_lock")

    def __enter__(self):
        cdef int code
        with nogil:
            code = take(self.slot)
        if code:
            raise OSError(code, "pthread_mutex_lock")
        self.held = True
        return self

    def __exit__(self, kind, error, traceback):
        self.held = False
        code = pthread_mutex_unlock(&self.slot.mutex)
        if code:
            raise OSError(code, "pthread_mutex_unlock")
        return False

    @property
    def value(self):
        """The int."""
        return self.slot.commit


def copy(destination, source, int64_t n):
    """Copy ``source`` to ``destination``, ``n`` times in one C loop.

    Args:
        destination: a writable contiguous buffer, at least as long.
        source: a contiguous buffer.

    Raises:
        BufferError: one of them is no such buffer. ValueError: ``destination`` is the shorter one.
    """
    cdef Py_buffer target, origin
    cdef int64_t i
    PyObject_GetBuffer(source, &origin, PyBUF_SIMPLE)
    try:
        PyObject_GetBuffer(destination, &target, PyBUF_WRITABLE)
        try:
            if target.len < origin.len:
                raise ValueError("the destination is shorter than the source")
            with nogil:
                for i in range(n):
                    memcpy(target.buf, origin.buf, origin.len)
                    wdkm_fence_release()  # else the compiler might copy once
        finally:
            PyBuffer_Release(&target)
    finally:
        PyBuffer_Release(&origin)
