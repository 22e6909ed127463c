"""M1 to M3: the context of wdkmutex_shm.mp beside that of multiprocessing."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from itertools import repeat
from typing import Any

from benchmark.model import Context, Entry, Row, Target
from benchmark.rows.common import in_unit, timed
from wdkmutex_shm import mp

__all__ = ["ROWS"]

_TASKS = 100_000
_SINGLE = 3_000
_ITEMS = 3_000
_WORKERS = 2
_OURS, _STOCK = "wdkmutex_shm.mp", "multiprocessing"


def _both() -> dict[str, Any]:
    return {_OURS: mp.get_context("fork"), _STOCK: multiprocessing.get_context("fork")}


def _small(number: int) -> int:
    return number + 1


def _rounds(context: Context, what: str, runs: Mapping[str, Callable[[], object]]) -> dict[str, tuple[float, ...]]:
    """Milliseconds of each run, by turns; the first round only warms up."""
    count = 2 * context.effort.contended_rounds + 1
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(count + 1):
        context.tell(what, number / (count + 1))
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if number:
                found[name].append((time.perf_counter() - began) * 1e3)
    return {name: tuple(values) for name, values in found.items()}


def _pool(context: Context) -> Iterator[Entry]:
    numbers, few = range(_TASKS), range(_SINGLE)
    with ExitStack() as stack:
        pools = {name: stack.enter_context(one.Pool(_WORKERS)) for name, one in _both().items()}

        def mapping(pool: Any) -> Callable[[], object]:
            return lambda: pool.map(_small, numbers)

        def one_by_one(pool: Any) -> Callable[[], object]:
            return lambda: pool.map(_small, few, chunksize=1)

        found = _rounds(context, "Pool.map", {name: mapping(pool) for name, pool in pools.items()})
        single = _rounds(context, "chunks of 1", {name: one_by_one(pool) for name, pool in pools.items()})
    yield Entry(
        part="map",
        title=f"Pool({_WORKERS}).map of {_TASKS:,} small tasks",
        unit="ms",
        ours=found[_OURS],
        ours_name=_OURS,
        peer=found[_STOCK],
        peer_name=_STOCK,
        target=Target("ratio", at_most=1.1),
    )
    yield Entry(
        part="one by one",
        title=f"the same of {_SINGLE:,} tasks, chunksize=1",
        unit="ms",
        ours=single[_OURS],
        ours_name=_OURS,
        peer=single[_STOCK],
        peer_name=_STOCK,
    )


def _passing(lock: Any) -> Callable[[int], None]:
    def run(n: int) -> None:
        for _ in repeat(None, n):
            with lock:
                pass

    return run


def _locks(context: Context) -> Iterator[Entry]:
    kinds = ("Lock", "RLock", "Semaphore")
    runs = {f"{name} {kind}": _passing(getattr(one, kind)()) for name, one in _both().items() for kind in kinds}
    found = timed(context, "locks", runs)
    for kind in kinds:
        yield Entry(
            part=kind,
            title=f"with {kind}(): pass",
            unit="ns",
            ours=in_unit(found[f"{_OURS} {kind}"], "ns"),
            ours_name=_OURS,
            peer=in_unit(found[f"{_STOCK} {kind}"], "ns"),
            peer_name=_STOCK,
        )


def _echo(there: Any, back: Any) -> None:
    for count in iter(there.get, None):
        for _ in range(count):
            there.get()
        back.put(count)


def _queues(context: Context) -> Iterator[Entry]:
    kinds = ("Queue", "SimpleQueue")
    for kind in kinds:
        with ExitStack() as stack:

            def passing(one: Any, kind: str = kind, stack: ExitStack = stack) -> Callable[[], object]:
                there, back = getattr(one, kind)(), one.SimpleQueue()
                child = one.Process(target=_echo, args=(there, back), daemon=True)
                child.start()
                stack.callback(child.join)
                stack.callback(there.put, None)

                def run() -> None:
                    there.put(_ITEMS)
                    for number in range(_ITEMS):
                        there.put(number)
                    back.get()

                return run

            found = _rounds(context, kind, {name: passing(one) for name, one in _both().items()})
        per_item = {name: tuple(value * 1e3 / _ITEMS for value in values) for name, values in found.items()}
        yield Entry(
            part=kind,
            title=f"{kind}: an item from one process to another",
            unit="us",
            ours=per_item[_OURS],
            ours_name=_OURS,
            peer=per_item[_STOCK],
            peer_name=_STOCK,
        )


ROWS = [
    Row("M1", "Pool.map of the crash-proof context", _pool),
    Row("M2", "locks of the crash-proof context", _locks),
    Row("M3", "queues of the crash-proof context", _queues),
]
