"""A ``with`` that makes no bound methods."""

from cpython.object cimport PyTypeObject
from libc.stddef cimport ptrdiff_t

# `names`: what `with` asks for. `offset`: where in an instance of the type the pointer to the function is that `with` calls, which tells by the number
# of arguments whether it stands for __enter__ or __exit__.
cdef int bind_with(PyTypeObject *type, ptrdiff_t offset, tuple names=*) except -1
