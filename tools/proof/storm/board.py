"""What the storm's processes know of each other: memory that they share by fork, and files that only grow."""

from __future__ import annotations

import json
import mmap
import os
import struct
import time
from collections.abc import Sequence
from typing import Any

_WORDS = ("stop", "excused", "since", "left", "right", "lock left", "lock right", "told")


class Board:
    """Numbers in shared memory. Each process that works counts in a row of its own.

    Args:
        rows: how many.
        counted: what is counted; of what begins with ``longest``, the greatest number.
    """

    def __init__(self, rows: int, counted: Sequence[str]) -> None:
        self._counted = {what: place for place, what in enumerate(counted)}
        self._row = len(counted) + 1  # and who is behind the semaphore
        self._map = mmap.mmap(-1, 8 * (len(_WORDS) + rows * self._row))
        self._words = memoryview(self._map).cast("Q")

    def count(self, row: int, what: str, number: int = 1) -> None:
        """Count something."""
        self._words[len(_WORDS) + row * self._row + self._counted[what]] += number

    def note_longest(self, row: int, what: str, number: int) -> None:
        """Remember the greatest number."""
        place = len(_WORDS) + row * self._row + self._counted[what]
        self._words[place] = max(self._words[place], number)

    def totals(self) -> dict[str, int]:
        """The counts of all rows together; of what is longest, the longest."""
        rows = self._words[len(_WORDS) :]
        found = {what: list(rows[place :: self._row]) for what, place in self._counted.items()}
        return {what: max(row) if what.startswith("longest") else sum(row) for what, row in found.items()}

    def word(self, name: str) -> int:
        """One of the numbers that belong to nobody: what a lock protects, or what all must know."""
        return self._words[_WORDS.index(name)]

    def set_word(self, name: str, number: int) -> None:
        """Write it."""
        self._words[_WORDS.index(name)] = number

    # --- time in which nobody can be blamed for a wait

    def begin_excuse(self) -> None:
        """Somebody is stopped now who may hold a lock."""
        self.set_word("since", time.monotonic_ns())

    def end_excuse(self) -> None:
        """It goes on."""
        since = self.word("since")
        self.set_word("since", 0)
        self.excuse(time.monotonic_ns() - since)

    def excuse(self, nanoseconds: int) -> None:
        """The whole machine stood still for so long."""
        self.set_word("excused", self.word("excused") + nanoseconds)

    def excused(self) -> int:
        """Nanoseconds so far in which somebody was stopped."""
        since = self.word("since")
        return self.word("excused") + (time.monotonic_ns() - since if since else 0)

    # --- who is behind the semaphore

    def set_inside(self, row: int, pid: int) -> None:
        """Write down that a process is inside, or with 0 that it is not."""
        self._words[len(_WORDS) + (row + 1) * self._row - 1] = pid

    def inside(self) -> list[int]:
        """Pids of those inside; one that was killed there stays until its successor has been inside."""
        return [pid for pid in self._words[len(_WORDS) + self._row - 1 :: self._row] if pid]

    def close(self) -> None:
        """Unmap it."""
        self._words.release()
        self._map.close()


class Log:
    """A worker's own files: of commits that have returned, of items that it took, of promises that it found broken.

    Args:
        folder: of the storm.
        worker: number of the worker; all its lives write to one file.
    """

    _record = struct.Struct("<IQQ")

    def __init__(self, folder: str, worker: int) -> None:
        self._path = os.path.join(folder, f"worker-{worker}")
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._commits = os.open(self._path, flags, 0o600)
        self._taken = os.open(self._path + ".taken", flags, 0o600)
        self._broken = os.open(self._path + ".broken", flags, 0o600)
        self._reading = os.open(self._path + ".broken", os.O_RDONLY | os.O_CLOEXEC)
        self._told = 0

    def commit(self, mutex: int, epoch: int, number: int) -> None:
        """A commit has returned."""
        os.write(self._commits, self._record.pack(mutex, epoch, number))

    def took(self, queue: int, putter: int, number: int) -> None:
        """An item was taken out of a queue."""
        os.write(self._taken, self._record.pack(queue, putter, number))

    def broken(self, promise: str, **facts: Any) -> None:
        """A promise is broken."""
        plain = {key: value if isinstance(value, (int, float, str)) else repr(value) for key, value in facts.items()}
        os.write(self._broken, json.dumps({"promise": promise, **plain}).encode() + b"\n")

    def commits(self) -> dict[tuple[int, int], int]:
        """The last commit for each (mutex, epoch)."""
        return {(mutex, epoch): number for mutex, epoch, number in self._records(self._path)}

    def taken(self) -> list[tuple[int, int, int]]:
        """All items that were taken: (queue, who put it, its number)."""
        return self._records(self._path + ".taken")

    def _records(self, path: str) -> list[tuple[int, int, int]]:
        with open(path, "rb") as file:
            return [(what, whose, number) for what, whose, number in self._record.iter_unpack(file.read())]

    def new_findings(self) -> list[dict[str, Any]]:
        """The promises that were found broken since this was last asked."""
        raw = os.pread(self._reading, 1 << 20, self._told)
        whole = raw[: raw.rfind(b"\n") + 1]
        self._told += len(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def close(self) -> None:
        """Close the files."""
        for file in (self._commits, self._taken, self._broken, self._reading):
            os.close(file)
