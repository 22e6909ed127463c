# cython: language_level=3, boundscheck=False, wraparound=False
"""The compiled core: slots, locks, commits, guards, and how T becomes bytes.

One extension, so that the compiler sees all of a lock, a commit and an unlock at once, made of parts that are included
below in this order. A part uses functions of any other, but at import only what the parts before it define.
"""

import fcntl
import os
import sys
import time
from _thread import RLock
from collections import namedtuple
from operator import index as as_index
from weakref import WeakValueDictionary

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_FromDouble
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.weakref cimport PyWeakref_NewRef
from libc.errno cimport ENOENT, errno
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset
from posix.mman cimport (MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE, mlock, mmap,
                         munmap)
from posix.stat cimport fstat, stat, struct_stat
from posix.unistd cimport close

from ..base import identity, layout
from ..base._os import discard_shared, owned, require_robust_locks, thread_gone
from ..base.forks import in_child, settle as settle_after_fork
from ..base.names import data_segment
from ..base.unset import UNSET
from ..errors import (AlreadyOwned, DeadlockError, DriverMutexError, IrqlNotAPCLevel, IrqlTooHigh, LayoutMismatch, MutexBusy,
                      MutexDamaged, MutexDestroyed, NotOwned, OtherPidNamespace, PagedPoolAllocFailed, ValueTooLarge)
from ..memory import data_segments, in_use, journal_files as journals, shm
from . import irql_advice

cdef extern from "Python.h":
    ctypedef object (*vectorcallfunc)(object, PyObject *const *, size_t, PyObject *)
    Py_ssize_t PyVectorcall_NARGS(size_t)
    Py_ssize_t PyDict_GET_SIZE(object)
    bint PyLong_CheckExact(object)
    bint PyFloat_CheckExact(object)
    bint PyUnicode_CheckExact(object)
    bint PyBytes_CheckExact(object)
    long long PyLong_AsLongLongAndOverflow(object, int *) except? -1
    unsigned long long PyLong_AsUnsignedLongLong(object) except? 0xffffffffffffffff
    object PyLong_FromLongLong(long long)
    object PyLong_FromUnsignedLongLong(unsigned long long)
    const char *PyUnicode_AsUTF8(object) except NULL
    const char *PyUnicode_AsUTF8AndSize(object, Py_ssize_t *) except NULL
    object PyUnicode_New(Py_ssize_t, Py_UCS4)
    void *PyUnicode_DATA(object)
    object PyUnicode_DecodeUTF8(const char *, Py_ssize_t, const char *)
    tuple PyTuple_New(Py_ssize_t)
    void PyTuple_SET_ITEM(object, Py_ssize_t, object)
    PyObject *PyTuple_GET_ITEM(object, Py_ssize_t)
    int PyErr_WarnFormat(object, Py_ssize_t, const char *, ...) except -1
    void PyErr_WriteUnraisable(object)
    int Py_AddPendingCall(int (*)(void *) except -1, void *)
    ctypedef struct PyInterpreterState:
        pass
    ctypedef struct PyThreadState:
        pass
    PyInterpreterState *PyInterpreterState_Get()
    PyThreadState *PyInterpreterState_ThreadHead(PyInterpreterState *)
    PyThreadState *PyThreadState_Next(PyThreadState *)

cdef enum:  # kinds of mutexes, as base/names.py has them
    KIND_FAST = 1
    KIND_K = 2

include "slot.pxi"
include "hooks.pxi"
include "thread.pxi"
include "segment.pxi"
include "slot_facts.pxi"
include "tenant.pxi"
include "codec.pxi"
include "payload.pxi"
include "handle.pxi"
include "attach.pxi"
include "journal.pxi"
include "wait_board.pxi"
include "lock.pxi"
include "peek.pxi"
include "bound_with.pxi"
include "guard.pxi"
include "transaction.pxi"
include "ownership.pxi"
include "async_request.pxi"
include "mutex.pxi"
include "mutex_kinds.pxi"
include "exchange.pxi"
include "section.pxi"
include "section_guard.pxi"
include "multi_commit.pxi"
include "multi.pxi"
include "watch.pxi"
include "any_sleeper.pxi"
include "box_buffer.pxi"
