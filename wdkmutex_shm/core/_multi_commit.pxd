"""Several T published together."""

from cpython.object cimport PyObject

from ._guard cimport Guard
from ._slot cimport wdkm_thread

cdef enum:
    MOST = 64  # MAXIMUM_WAIT_OBJECTS

# The guard whose T must be published with this one, if there may be anything to publish; else None.
cdef Guard to_write(Guard guard, wdkm_thread *me)
# Publish the T of each of these guards, at most MOST. After an error no T was published, and all are as before.
cdef int publish_all(PyObject **tops, Py_ssize_t count) except -1
