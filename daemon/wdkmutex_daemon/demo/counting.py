"""What is counted: the regular files below a path, cut into tasks that take a worker a few milliseconds each.

A task is a list of pieces; a piece is a range of bytes of one file. A word belongs to the piece that it begins in, so
the counts of the pieces add up to the count of the whole, and a huge file is no obstacle to workers that live briefly.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Counts", "Piece", "Plan", "count_piece", "count_plain", "count_task", "make_plan"]

#: Longest piece, in bytes. Counting it takes some ten milliseconds.
PIECE_BYTES = 1 << 20
#: No more tasks than this because of many files: the done-marks, one bit each, are written with every commit.
MANY_TASKS = 16384
#: How many suffixes are told apart; the rest, those of the fewest bytes, count as "(other)".
MANY_SUFFIXES = 40

_SPACE = b" \t\n\r\x0b\x0c"  # what bytes.split() splits at


class Piece(NamedTuple):
    """A range of bytes of one file.

    Attributes:
        path: the file, as the operating system spells it.
        suffix: which of the plan's suffixes it counts for.
        offset, length: the range, in bytes.
    """

    path: bytes
    suffix: str
    offset: int
    length: int


@dataclass
class Counts:
    """What was counted so far."""

    files: int = 0
    lines: int = 0
    words: int = 0
    by_suffix: Counter[str] = field(default_factory=Counter)

    def add(self, piece: Piece, lines: int, words: int) -> None:
        """Add the counts of one piece; a file counts as one with its first piece."""
        self.files += piece.offset == 0
        self.lines += lines
        self.words += words
        self.by_suffix[piece.suffix] += words


@dataclass(frozen=True)
class Plan:
    """The files as they were when the job began, as tasks."""

    tasks: list[list[Piece]]
    files: int
    size: int


def make_plan(path: str, *, leave_out: Collection[str] = ()) -> Plan:
    """List the regular files below ``path`` (or ``path`` itself) and cut them into tasks.

    Links are not followed. What cannot be listed is left out.

    Args:
        path: a folder or a file.
        leave_out: names of folders not to go into.
    """
    found = sorted(_regular_files(os.fsencode(path), {os.fsencode(name) for name in leave_out}))
    suffixes: Counter[str] = Counter()
    for name, size in found:
        suffixes[_suffix(name)] += size
    known = {suffix for suffix, _ in sorted(suffixes.items(), key=lambda item: (-item[1], item[0]))[:MANY_SUFFIXES]}
    at_once = -(-len(found) // MANY_TASKS)
    tasks: list[list[Piece]] = []
    task: list[Piece] = []
    room = PIECE_BYTES
    for name, size in found:
        suffix = _suffix(name)
        for offset in range(0, max(size, 1), PIECE_BYTES):
            length = min(size - offset, PIECE_BYTES)
            if task and (len(task) == at_once or length > room):
                tasks.append(task)
                task, room = [], PIECE_BYTES
            task.append(Piece(name, suffix if suffix in known else "(other)", offset, length))
            room -= length
    if task:
        tasks.append(task)
    return Plan(tasks, len(found), sum(size for _, size in found))


def _regular_files(path: bytes, leave_out: set[bytes]) -> list[tuple[bytes, int]]:
    found: list[tuple[bytes, int]] = []
    if not os.path.isdir(path):
        return _sized(path, found)
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if name not in leave_out]
        for name in names:
            _sized(os.path.join(folder, name), found)
    return found


def _sized(path: bytes, found: list[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
    try:
        status = os.lstat(path)
    except OSError:
        return found
    if stat.S_ISREG(status.st_mode):
        found.append((path, status.st_size))
    return found


def _suffix(path: bytes) -> str:
    suffix = os.path.splitext(path)[1].lower()
    return suffix.decode("utf-8", "replace") or "(none)"


def count_piece(piece: Piece) -> tuple[int, int] | None:
    """Count the line ends and words of a piece.

    Returns:
        ``(lines, words)``, or None if the file cannot be read.
    """
    try:
        with open(piece.path, "rb", buffering=0) as file:
            begin = max(piece.offset - 1, 0)
            file.seek(begin)
            data = _read(file.fileno(), piece.offset + piece.length - begin)
    except OSError:
        return None
    before, data = data[: piece.offset - begin], data[piece.offset - begin :]
    words = len(data.split())
    if before and data and before not in _SPACE and data[:1] not in _SPACE:
        words -= 1  # the first word began in the piece before
    return data.count(b"\n"), words


def _read(fd: int, length: int) -> bytes:
    data = os.read(fd, length)
    while len(data) < length:
        more = os.read(fd, length - len(data))
        if not more:
            break
        data += more
    return data


def count_task(task: list[Piece]) -> Counts:
    """Count the pieces of one task. Files that cannot be read are left out."""
    counts = Counts()
    for piece in task:
        result = count_piece(piece)
        if result is not None:
            counts.add(piece, *result)
    return counts


def count_plain(plan: Plan) -> Counts:
    """Count everything, in this process, one task after the other: what the workers' totals must be equal to."""
    total = Counts()
    for task in plan.tasks:
        counts = count_task(task)
        total.files += counts.files
        total.lines += counts.lines
        total.words += counts.words
        total.by_suffix.update(counts.by_suffix)
    return total
