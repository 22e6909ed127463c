"""B5 and B6: a T that is more than a number."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from itertools import cycle, islice, repeat
from typing import Any

import msgpack

from benchmark.figures import median, rounded
from benchmark.measure import Case, interleave
from benchmark.model import Context, Entry, Row, Target
from benchmark.rows.common import in_unit, timed
from wdkmutex_shm import FastMutex

from ..limit import copy

__all__ = ["ROWS"]

_MIB = 1 << 20
_SIZES = [8 << shift for shift in range(18)]


def _dict(context: Context) -> Iterator[Entry]:
    table = {f"key{number}": number for number in range(10)}
    mutex = FastMutex(table)
    raw, pack = msgpack.packb(table), msgpack.Packer().pack

    def change(n: int) -> None:
        lock = mutex.lock
        for number in range(n):
            with lock() as guard:
                guard.value["key5"] = number

    def codec(n: int) -> None:
        unpack = msgpack.unpackb
        for _ in repeat(None, n):
            pack(unpack(raw))

    found = timed(context, "dict of 10 keys", {"FastMutex": change, "msgpack alone": codec})
    yield Entry(
        part="",
        title="dict of 10 keys: read, change one, commit",
        unit="ns",
        ours=in_unit(found["FastMutex"], "ns"),
        ours_name="FastMutex",
        peer=in_unit(found["msgpack alone"], "ns"),
        peer_name="msgpack unpackb + Packer.pack, no lock",
        target=Target("ratio", at_most=1.6),
    )


def _reading(mutex: Any) -> Callable[[int], None]:
    def run(n: int) -> None:
        lock = mutex.lock
        for _ in repeat(None, n):
            with lock() as guard:
                guard.value  # noqa: B018

    return run


def _committing(mutex: Any, size: int) -> Callable[[int], None]:
    # Two values by turns, of one size, so that each commit writes all of the bytes anew.
    values = cycle((b"a" * size, b"b" * size))

    def run(n: int) -> None:
        lock = mutex.lock
        for value in islice(values, n):
            with lock() as guard:
                guard.value = value

    return run


def _copying(size: int) -> Callable[[int], None]:
    # Both begin at a page: some pairs of addresses are copied many times more slowly than that.
    source, destination = mmap.mmap(-1, size), mmap.mmap(-1, size)
    source.write(b"c" * size)
    destination.write(bytes(size))
    return lambda n: copy(destination, source, n)


def _bytes(context: Context) -> Iterator[Entry]:
    mutex = FastMutex(bytes(_MIB))
    own = FastMutex(bytes(_MIB))
    runs = {"read": _reading(mutex), "commit": _committing(own, _MIB), "memcpy": _copying(_MIB)}
    found = timed(context, "bytes of 1 MiB", runs, 0.0, 0.4 if context.curves else 1.0)
    curves = _by_size(context) if context.curves else {}
    for part, does in (("read", "read"), ("commit", "set anew and committed")):
        yield Entry(
            part=part,
            title=f"bytes of 1 MiB: {does}",
            unit="us",
            ours=in_unit(found[part], "us"),
            ours_name=f"FastMutex, {part}",
            peer=in_unit(found["memcpy"], "us"),
            peer_name="one memcpy of 1 MiB, in C, buffers warm",
            target=Target("ratio", at_most=2.0),
            curves=curves if part == "read" else {},
        )


def _by_size(context: Context) -> dict[str, Any]:
    """Cost of a read and of a commit against the size of T: {"sizes": bytes, "series": {name: microseconds}}."""
    series: dict[str, list[float]] = {"read": [], "commit": [], "memcpy": []}
    for number, size in enumerate(_SIZES):
        context.tell(f"T of {size:,} bytes", 0.4 + 0.6 * number / len(_SIZES))
        cases = [
            Case("read", _reading(FastMutex(bytes(size)))),
            Case("commit", _committing(FastMutex(bytes(size)), size)),
            Case("memcpy", _copying(size)),
        ]
        for name, found in interleave(cases, max(context.effort.rounds // 4, 3), context.effort.sample).items():
            series[name].append(rounded(median(in_unit(found, "us"))))
    return {"sizes": _SIZES, "series": series}


ROWS = [
    Row("B5", "a dict of 10 keys", _dict),
    Row("B6", "bytes of 1 MiB", _bytes),
]
