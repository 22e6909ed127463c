"""What the storm's processes know of each other: memory that they share by fork, and files that only grow."""

from __future__ import annotations

import json
import mmap
import os
import struct
import time
from typing import Any

__all__ = ["COUNTS", "Board", "Log"]

COUNTS = (
    "operations",
    "commits",
    "peeks",
    "rollbacks",
    "interrupts",
    "forks while holding",
    "registrations",
    "abandoned",
    "circles named",
    "lives ended in order",
    "longest wait, microseconds",
)
_HEAD = 8
_STOP, _EXCUSED, _SINCE, _LEFT, _RIGHT = range(5)


class Board:
    """Numbers in shared memory. Each worker counts in a row of its own.

    Args:
        workers: how many rows.
    """

    def __init__(self, workers: int) -> None:
        self._map = mmap.mmap(-1, 8 * (_HEAD + workers * len(COUNTS)))
        self._words = memoryview(self._map).cast("Q")

    def count(self, worker: int, what: str, number: int = 1) -> None:
        """Count something."""
        self._words[_HEAD + worker * len(COUNTS) + COUNTS.index(what)] += number

    def note_wait(self, worker: int, nanoseconds: int) -> None:
        """Remember the longest wait."""
        place = _HEAD + worker * len(COUNTS) + COUNTS.index("longest wait, microseconds")
        self._words[place] = max(self._words[place], nanoseconds // 1000)

    def totals(self) -> dict[str, int]:
        """The counts of all workers together; of waits, the longest."""
        rows = self._words[_HEAD:]
        found = {what: list(rows[place :: len(COUNTS)]) for place, what in enumerate(COUNTS)}
        return {what: max(row) if what.startswith("longest") else sum(row) for what, row in found.items()}

    # --- the end

    @property
    def stopping(self) -> bool:
        """Whether the workers are to end."""
        return bool(self._words[_STOP])

    def stop(self) -> None:
        """Let the workers end."""
        self._words[_STOP] = 1

    # --- time in which nobody can be blamed for a wait

    def begin_excuse(self) -> None:
        """Somebody is stopped now who may hold a lock."""
        self._words[_SINCE] = time.monotonic_ns()

    def end_excuse(self) -> None:
        """It goes on."""
        since = self._words[_SINCE]
        self._words[_SINCE] = 0
        self._words[_EXCUSED] += time.monotonic_ns() - since

    def excuse(self, nanoseconds: int) -> None:
        """The whole machine stood still for so long."""
        self._words[_EXCUSED] += nanoseconds

    def excused(self) -> int:
        """Nanoseconds so far in which somebody was stopped."""
        since = self._words[_SINCE]
        return self._words[_EXCUSED] + (time.monotonic_ns() - since if since else 0)

    # --- what the critical section protects

    @property
    def pair(self) -> tuple[int, int]:
        """Two numbers that are equal unless somebody died between writing one and the other."""
        return self._words[_LEFT], self._words[_RIGHT]

    def set_left(self, number: int) -> None:
        """Write the first."""
        self._words[_LEFT] = number

    def set_right(self, number: int) -> None:
        """Write the second."""
        self._words[_RIGHT] = number

    def close(self) -> None:
        """Unmap it."""
        self._words.release()
        self._map.close()


class Log:
    """A worker's own file of commits that have returned, and of promises that it found broken.

    Args:
        folder: of the storm.
        worker: number of the worker; all its lives write to one file.
    """

    _record = struct.Struct("<IQQ")

    def __init__(self, folder: str, worker: int) -> None:
        self._path = os.path.join(folder, f"worker-{worker}")
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._commits = os.open(self._path, flags, 0o600)
        self._broken = os.open(self._path + ".broken", flags, 0o600)
        self._reading = os.open(self._path + ".broken", os.O_RDONLY | os.O_CLOEXEC)
        self._told = 0

    def commit(self, mutex: int, epoch: int, number: int) -> None:
        """A commit has returned."""
        os.write(self._commits, self._record.pack(mutex, epoch, number))

    def broken(self, promise: str, **facts: Any) -> None:
        """A promise is broken."""
        plain = {key: value if isinstance(value, (int, float, str)) else repr(value) for key, value in facts.items()}
        os.write(self._broken, json.dumps({"promise": promise, **plain}).encode() + b"\n")

    def commits(self) -> dict[tuple[int, int], int]:
        """The last commit for each (mutex, epoch)."""
        with open(self._path, "rb") as file:
            raw = file.read()
        return {(mutex, epoch): number for mutex, epoch, number in self._record.iter_unpack(raw)}

    def new_findings(self) -> list[dict[str, Any]]:
        """The promises that were found broken since this was last asked."""
        raw = os.pread(self._reading, 1 << 20, self._told)
        whole = raw[: raw.rfind(b"\n") + 1]
        self._told += len(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def close(self) -> None:
        """Close the files."""
        os.close(self._commits)
        os.close(self._broken)
        os.close(self._reading)
