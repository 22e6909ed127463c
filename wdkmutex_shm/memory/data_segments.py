"""Data segments: where a T lives that does not fit into its slot.

A data segment is a header of 64 bytes and then the msgpack bytes of T. It belongs to the one buffer of the one slot
that holds its id, is never made smaller (a reader may have it mapped), and is replaced rather than made larger.
"""

from __future__ import annotations

import os
import struct
import sys
from collections import namedtuple

from ..base import identity
from ..base._os import Descriptor, discard_shared
from ..base.layout import DATA_HEADER_BYTES, LAYOUT
from ..base.names import data_segment
from ..errors import (
    KernelUnsupported,
    LayoutMismatch,
    PagedPoolAllocFailed,
    ProtocolError,
    SegmentRefused,
)
from . import shm

TYPE_CHECKING = False  # typing itself takes as long to import as all of this package
if TYPE_CHECKING:
    from typing import NamedTuple

__all__ = [
    "PAGE",
    "PUNCH_BYTES",
    "DataHeader",
    "adopt",
    "capacity_for",
    "create",
    "discard",
    "header_of",
    "is_shorter",
    "is_staged",
    "make",
    "new_id",
    "read",
    "unlink",
]

#: A data segment of at least this size has its memory taken from under those who map it when it is discarded.
PUNCH_BYTES = 2 << 20

_MAGIC = 0x314154414D4B57
_STAGED = _MAGIC ^ 0x53 << 56
"""Magic of a segment that no slot has yet: a client made it for a registration."""
_HEADER = struct.Struct("=QQQQQII16s")
PAGE = os.sysconf("SC_PAGESIZE")


if TYPE_CHECKING:

    class DataHeader(NamedTuple):
        magic: int
        id: int
        capacity: int
        creator_start: int
        pid_namespace: int
        creator_pid: int
        layout: int
        boot_id: bytes

else:
    DataHeader = namedtuple("DataHeader", "magic id capacity creator_start pid_namespace creator_pid layout boot_id")

DataHeader.__doc__ = """The header of a data segment, as `slot.h` lays it out."""


def new_id() -> int:
    """Return a random id for a data segment: never 0, and without the bit that makes a note of it (`slot.h`)."""
    return int.from_bytes(os.urandom(8), "little") >> 1 | 1


def capacity_for(length: int) -> int:
    """Return the capacity in bytes to give a segment for ``length`` bytes: a quarter more, up to the end of a page."""
    total = DATA_HEADER_BYTES + length + length // 4
    return -(-total // PAGE) * PAGE - DATA_HEADER_BYTES


def make(prefix: str, ident: int, capacity: int, *, staged: bool = False) -> Descriptor:
    """Make the data segment ``ident`` with room for ``capacity`` bytes and return its file descriptor.

    Raises:
        PagedPoolAllocFailed: no room; nothing is left behind.
    """
    name = data_segment(prefix, ident)
    try:
        pid, start = identity.me()
        magic = _STAGED if staged else _MAGIC
        header = _HEADER.pack(magic, ident, capacity, start, identity.pid_namespace(), pid, LAYOUT, identity.boot_id())
    except KernelUnsupported:
        raise
    except OSError as error:  # no descriptor is free to read /proc with
        raise shm.no_room(name, DATA_HEADER_BYTES + capacity, error) from None
    fd = shm.create(name, DATA_HEADER_BYTES + capacity)
    try:
        os.pwrite(fd, header, 0)
    except BaseException:
        fd.close()
        shm.unmake(name, pid)
        raise
    return fd


def create(prefix: str, payload: bytes, *, ident: int = 0, staged: bool = False) -> int:
    """Make a data segment that holds ``payload`` and return its id. A ``staged`` one is of no use until it is adopted.

    Args:
        ident: its id, of :func:`new_id`, for who must know it even if a signal handler raises before this returns.

    Raises:
        PagedPoolAllocFailed: no room; nothing is left behind.
    """
    ident = ident or new_id()
    maker = os.getpid()
    try:
        fd = make(prefix, ident, capacity_for(len(payload)), staged=staged)
        view = memoryview(payload)
        offset = DATA_HEADER_BYTES
        while view:
            done = os.pwrite(fd, view, offset)
            view = view[done:]
            offset += done
        fd.close()
    except BaseException:
        shm.unmake(data_segment(prefix, ident), maker)
        raise
    return ident


def is_shorter(prefix: str, ident: int, length: int) -> bool:
    """Whether there is no data segment ``ident``, or it cannot hold ``length`` bytes."""
    try:
        return os.stat(shm.FOLDER + data_segment(prefix, ident)).st_size < length
    except OSError:
        return True


def is_staged(prefix: str, ident: int) -> bool:
    """Whether a data segment is there, and belongs to no mutex yet."""
    name = data_segment(prefix, ident)
    try:
        return header_of(name, shm.open_segment(name)).magic == _STAGED
    except (FileNotFoundError, SegmentRefused, LayoutMismatch, PagedPoolAllocFailed):
        return False


def header_of(name: str, fd: int) -> DataHeader:
    """Read and check the header of an open data segment.

    Raises:
        LayoutMismatch: it is too short, or not a data segment of this layout.
    """
    raw = os.pread(fd, _HEADER.size, 0)
    if len(raw) < _HEADER.size:
        raise LayoutMismatch(f"data segment {name} has no header", name=name, field="size", found=len(raw))
    header = DataHeader(*_HEADER.unpack(raw))
    magic = header.magic if header.magic == _STAGED else _MAGIC
    for field, found, expected in (("magic", header.magic, magic), ("layout", header.layout, LAYOUT)):
        if found != expected:
            raise LayoutMismatch(
                f"data segment {name}: {field} is {found:#x}, not {expected:#x}",
                name=name,
                field=field,
                found=found,
                expected=expected,
            )
    return header


def adopt(prefix: str, ident: int, length: int) -> None:
    """Make a staged data segment one that a slot can have. Only one slot can: after this it is not staged any more.

    Raises:
        ProtocolError: it does not exist, is of another layout, has no room for ``length`` bytes, or is not staged.
        SegmentRefused: it belongs to another user.
    """
    name = data_segment(prefix, ident)
    try:
        fd = shm.open_segment(name)
    except FileNotFoundError:
        raise ProtocolError(f"data segment {name} does not exist", name=name) from None
    try:
        header = header_of(name, fd)
        size = os.fstat(fd).st_size
        if header.id != ident or not 0 <= length <= header.capacity or size < DATA_HEADER_BYTES + header.capacity:
            raise ProtocolError(f"data segment {name} is smaller than the {length} bytes of its value", name=name)
        if header.magic != _STAGED:
            raise ProtocolError(f"data segment {name} already belongs to a mutex", name=name)
        os.pwrite(fd, _MAGIC.to_bytes(8, sys.byteorder), 0)
    except LayoutMismatch as error:
        raise ProtocolError(str(error), name=name) from None
    finally:
        fd.close()


def read(prefix: str, ident: int, length: int) -> bytes | None:
    """Return the first ``length`` bytes of T in a data segment without mapping it, or None if it is gone, shorter, or
    not the segment that its name says."""
    name = data_segment(prefix, ident)
    try:
        fd = shm.open_segment(name)
    except FileNotFoundError:
        return None
    try:
        header = header_of(name, fd)
        if header.id != ident or not length <= header.capacity <= os.fstat(fd).st_size - DATA_HEADER_BYTES:
            return None
        raw = os.pread(fd, length, DATA_HEADER_BYTES)
        while len(raw) < length:
            more = os.pread(fd, length - len(raw), DATA_HEADER_BYTES + len(raw))
            if not more:
                return None
            raw += more
        return raw
    except LayoutMismatch:
        return None
    finally:
        fd.close()


def unlink(prefix: str, ident: int) -> bool:
    """Remove the name of a data segment. Tells whether it was there."""
    return shm.unlink(data_segment(prefix, ident))


def discard(prefix: str, ident: int) -> None:
    """Remove a data segment that no buffer means any more and give its memory back, even where it is still mapped.

    Its first page stays until the last mapping goes, so that a reader who is late reads a header, not a fault. A
    reader that is inside its copy gives the memory back itself, afterwards (`peek.h`).
    """
    discard_shared(data_segment(prefix, ident), PUNCH_BYTES, PAGE)
