"""Books: each T carries the number of the last commit of every worker, and a check of itself.

So whoever reads a T can tell whether it is whole, whether it belongs to the mutex that was asked for, and whether a
commit is missing.
"""

from __future__ import annotations

import abc
import random
import struct
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

_LARGEST = 1 << 20
_SEQUENCE_BITS = 9


class TornError(Exception):
    """A T that is not whole, or not of this mutex."""


class Page(NamedTuple):
    """What a T says.

    Attributes:
        epoch: random number of the registration that it began with.
        commits: number of the last commit of each worker.
    """

    epoch: int
    commits: tuple[int, ...]


class Ledger(abc.ABC):
    """One form of T. ``modulus`` is what numbers of commits are counted by."""

    modulus = 1 << 63

    @abc.abstractmethod
    def first(self, name: str, epoch: int, workers: int) -> Any:
        """The first T."""

    @abc.abstractmethod
    def read(self, value: Any, name: str) -> Page:
        """What a T says. Raises TornError."""

    @abc.abstractmethod
    def write(self, value: Any, name: str, page: Page, chance: random.Random) -> Any:
        """A new T that says this."""

    @abc.abstractmethod
    def spoiled(self, value: Any) -> Any:
        """A T that does not pass ``read``."""


class IntLedger(Ledger):
    """Everything in one int of 1 to 9 bytes; no name and no epoch, so it is not registered again."""

    modulus = 1 << _SEQUENCE_BITS

    def first(self, name: str, epoch: int, workers: int) -> int:
        return self._pack((0,) * workers)

    def read(self, value: int, name: str) -> Page:
        body, check = value >> 8, value & 0xFF
        commits = tuple(body >> _SEQUENCE_BITS * worker & self.modulus - 1 for worker in range(6))
        if value < 0 or self._check(body) != check:
            raise TornError(f"{value:#x}")
        return Page(0, commits)

    def write(self, value: int, name: str, page: Page, chance: random.Random) -> int:
        return self._pack(page.commits)

    def spoiled(self, value: int) -> int:
        return value ^ 1

    def _pack(self, commits: Sequence[int]) -> int:
        body = sum(number % self.modulus << _SEQUENCE_BITS * worker for worker, number in enumerate(commits))
        return body << 8 | self._check(body)

    def _check(self, body: int) -> int:
        return zlib.crc32(body.to_bytes(8, "little")) & 0xFF


class BytesLedger(Ledger):
    """Bytes, from a few dozen to a MiB."""

    _head = struct.Struct("<IQI")

    def first(self, name: str, epoch: int, workers: int) -> bytes:
        return self._pack(name, Page(epoch, (0,) * workers), b"")

    def read(self, value: bytes, name: str) -> Page:
        try:
            (crc,) = struct.unpack_from("<I", value)
            named, epoch, workers = self._head.unpack_from(value, 4)
            page = Page(epoch, struct.unpack_from(f"<{workers}Q", value, 4 + self._head.size))
        except struct.error as error:
            raise TornError(f"{len(value)} bytes: {error}") from None
        if zlib.crc32(memoryview(value)[4:]) != crc:
            raise TornError(f"{len(value)} bytes, {page}")
        if named != zlib.crc32(name.encode()):
            raise TornError(f"another mutex's: {page}")
        return page

    def write(self, value: bytes, name: str, page: Page, chance: random.Random) -> bytes:
        size = int(_LARGEST ** chance.random())  # any order of magnitude is as likely as another
        return self._pack(name, page, chance.randbytes(min(size, 64)) * (size // 64 + 1))

    def spoiled(self, value: bytes) -> bytes:
        return b"\0" + value

    def _pack(self, name: str, page: Page, filling: bytes) -> bytes:
        count = len(page.commits)
        head = self._head.pack(zlib.crc32(name.encode()), page.epoch, count)
        rest = head + struct.pack(f"<{count}Q", *page.commits) + filling
        return struct.pack("<I", zlib.crc32(rest)) + rest


class DictLedger(Ledger):
    """A dict that is changed in place."""

    def first(self, name: str, epoch: int, workers: int) -> dict[str, Any]:
        value: dict[str, Any] = {"name": name, "epoch": epoch, "commits": [0] * workers, "filling": []}
        return {**value, "check": self._check(value)}

    def read(self, value: dict[str, Any], name: str) -> Page:
        try:
            page = Page(value["epoch"], tuple(value["commits"]))
            if value["check"] != self._check(value):
                raise TornError(f"{page}")
            if value["name"] != name:
                raise TornError(f"another mutex's: {page}")
        except (KeyError, TypeError) as error:
            raise TornError(f"{str(value)[:200]}: {error!r}") from None
        return page

    def write(self, value: dict[str, Any], name: str, page: Page, chance: random.Random) -> dict[str, Any]:
        filling = value["filling"]
        if chance.random() < 0.1:
            filling.clear()
        else:
            filling.extend(chance.randrange(1 << 40) for _ in range(chance.randrange(100)))
        value["commits"][:] = page.commits
        value["check"] = self._check(value)
        return value

    def spoiled(self, value: dict[str, Any]) -> dict[str, Any]:
        value["filling"].append(-1)
        return value

    def _check(self, value: dict[str, Any]) -> int:
        return zlib.crc32(repr([value[key] for key in ("name", "epoch", "commits", "filling")]).encode())
