"""Several mutexes at once."""

from cpython.object cimport PyObject

from ._guard cimport vectorcallfunc
from ._slot cimport wdkm_thread


cdef class Guards:
    cdef vectorcallfunc enter_or_exit  # called by `with`, see `_bound_with.pyx`
    cdef tuple guards

    cdef Py_ssize_t find_tops(self, PyObject **tops, wdkm_thread *me, bint leaving) except -1
    cdef int leave(self, bint commit) except -1
