"""Writes into segments behind the library's back: everywhere but into the pthread mutexes."""

from __future__ import annotations

import os
import random
import re
import struct

from wdkmutex_shm.base.layout import DATA_HEADER_BYTES, HEADER_BYTES, NOTE_COMMIT, PENDING_AT, SLOT_BYTES
from wdkmutex_shm.memory import journal_files, shm

#: Bytes at the beginning of a slot that are glibc's, see slot.h.
_MUTEX_BYTES = 48
#: Fields of a slot that decide what is read and where: offset, bytes. See slot.h.
_FIELDS = [(48, 8), (56, 4), (64, 8), (72, 8), (88, 4), (92, 4), (96, 8), (104, 8), (120, 1), (121, 1), (122, 1)]
_FIELDS += [(123, 1), (112, 8), (80, 8), (272, 8), (288, 8), (296, 8)]
_FIELDS += [(PENDING_AT, 8), (316, 4), (320, 4)]
_HEADER_FIELDS = 240
_JOURNAL_FIELDS = [0, 8, 16, 24, 32, 40]
_JOURNAL = re.compile(r"/wdkm\.\d+\.@(\d+)\.(\d+)\.[0-9a-f]{8,}\.j", re.ASCII)
_EDGES = [0, 1, 2, 72, 73, 255, 4096, 65535, 65536, 1 << 20, (1 << 31) - 1, (1 << 32) - 1, 1 << 33, (1 << 64) - 1]


def write(name: str, offset: int, raw: bytes) -> None:
    """Change bytes of a segment; one that is not there any more is left alone."""
    try:
        fd = os.open(shm.FOLDER + name, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if offset + len(raw) <= os.fstat(fd).st_size:
            os.pwrite(fd, raw, offset)
    finally:
        os.close(fd)


class Damager:
    """Damages the segments whose names begin with one of the prefixes.

    Args:
        source: of every choice.
        headers: also damage the headers of pool segments, after which nobody new can attach to them.
        slots: how many slots at the beginning of a segment are of interest.
    """

    def __init__(self, source: random.Random, *, headers: bool, slots: int) -> None:
        self.random = source
        self.headers = headers
        self.slots = slots
        self.done = 0
        self.journals = 0

    def strike(self, prefixes: list[str]) -> None:
        """Change one place in one segment."""
        names = [name for prefix in prefixes for name in shm.listing(prefix)]
        if not names:
            return
        # The pool segments are few and the data segments many: either kind is as likely.
        pools = [name for name in names if name.rpartition(".")[2].startswith("p")]
        journals = [name for name in names if _JOURNAL.fullmatch(name)]
        if journals and pools and self.random.random() < 0.2:
            self._journal(self.random.choice(journals), self.random.choice(pools))
            self.done += 1
            self.journals += 1
            return
        data = [name for name in names if name not in pools and name not in journals]
        if not data and not pools:
            return
        name = self.random.choice(pools if pools and (not data or self.random.random() < 0.7) else data)
        if name in pools:
            self._pool(name)
        else:
            self._data(name)
        self.done += 1

    def _pool(self, name: str) -> None:
        if self.headers and self.random.random() < 0.05:
            write(name, self.random.randrange(_HEADER_FIELDS), self.random.randbytes(1))
            return
        base = HEADER_BYTES + self.random.randrange(self.slots) * SLOT_BYTES
        if self.random.random() < 0.5:
            self._field(name, base)
        else:
            self._bytes(name, base + self.random.randrange(_MUTEX_BYTES, SLOT_BYTES), base + SLOT_BYTES)

    def _field(self, name: str, base: int) -> None:
        """A whole field, to a value at some edge."""
        offset, size = self.random.choice(_FIELDS)
        value = self.random.choice([*_EDGES, self.random.getrandbits(64)])
        write(name, base + offset, struct.pack("=Q", value)[:size])

    def _journal(self, name: str, pool: str) -> None:
        """A field of a process's journal, or a note in a slot that leads to it: as if that process had died there."""
        if self.random.random() < 0.5:
            value = self.random.choice([*_EDGES, self.random.getrandbits(64)])
            write(name, self.random.choice(_JOURNAL_FIELDS), struct.pack("=Q", value))
        else:
            found = _JOURNAL.fullmatch(name)
            assert found is not None
            note = journal_files._note_of(int(found[1]), int(found[2])) | self.random.randrange(2) << NOTE_COMMIT
            base = HEADER_BYTES + self.random.randrange(self.slots) * SLOT_BYTES
            write(pool, base + PENDING_AT, struct.pack("=Q", note))

    def _data(self, name: str) -> None:
        try:
            size = os.stat(shm.FOLDER + name).st_size
        except FileNotFoundError:
            return
        if self.random.random() < 0.3:
            self._bytes(name, self.random.randrange(DATA_HEADER_BYTES), DATA_HEADER_BYTES)
        elif size > DATA_HEADER_BYTES:
            near = min(size, DATA_HEADER_BYTES + self.random.choice([8, 200, size]))
            self._bytes(name, self.random.randrange(DATA_HEADER_BYTES, near), size)

    def _bytes(self, name: str, at: int, end: int) -> None:
        """A few bytes from ``at`` on, at most up to ``end``."""
        length = min(self.random.choice([1, 1, 1, 2, 4, 8]), end - at)
        write(name, at, self.random.randbytes(length))
