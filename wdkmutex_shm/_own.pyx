# cython: language_level=3, boundscheck=False, wraparound=False
"""Descriptors of ours: never one of the standard three, and never taken for ours when it is another file's by now.

A process that becomes a daemon may close all its descriptors, ours included, without a word to us. Their numbers are
given to whatever is opened next. So who keeps a descriptor keeps with it which file it is of.
"""

import fcntl
import os

from libc.errno cimport errno
from posix.stat cimport fstat, struct_stat

cdef enum:
    FIRST = 3  # what is written to the standard output or error must not come to lie in a segment


def above(int fd):
    """Return the descriptor, or in its place another one of the same file, if its number is one of the standard three."""
    if fd >= FIRST:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST)
    finally:
        os.close(fd)


cdef class File:
    """Which file a descriptor is of."""

    cdef readonly int fd
    cdef unsigned long long device
    cdef unsigned long long inode

    def __init__(self, int fd):
        cdef struct_stat status
        self.fd = fd
        if fstat(fd, &status) != 0:
            raise OSError(errno, os.strerror(errno))
        self.device = status.st_dev
        self.inode = status.st_ino

    def is_here(self):
        """Whether the descriptor is still of this file."""
        cdef struct_stat status
        return fstat(self.fd, &status) == 0 and status.st_dev == self.device and status.st_ino == self.inode

    def close(self):
        """Close the descriptor, unless it is another file's by now."""
        if self.is_here():
            os.close(self.fd)
