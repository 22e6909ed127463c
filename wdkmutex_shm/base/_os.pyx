# cython: language_level=3, boundscheck=False, wraparound=False
"""What Python's library does not say of processes, forks, descriptors and this kernel.

One extension, made of the parts that are included below. It knows nothing of slots and locks.
"""

import fcntl
import os

import posix_ipc

from libc.errno cimport EACCES, EBUSY, ENOENT, EPERM, ESRCH, errno
from libc.stdint cimport uint32_t, uint64_t
from posix.stat cimport fstat, struct_stat
from posix.unistd cimport close

from ..errors import KernelUnsupported

include "alive.pxi"
include "fork_count.pxi"
include "descriptors.pxi"
include "robust.pxi"
include "faults.pxi"
