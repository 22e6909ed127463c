"""B1 to B4 and B13: what single calls cost when nobody else wants the lock. One process, one thread."""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle, islice, repeat
from random import Random
from typing import Any

from benchmark.figures import median, rounded
from benchmark.measure import Case, interleave
from benchmark.model import Context, Entry, Row, Target
from benchmark.peers import LIMIT, OTHERS, OURS, VALUE, FastMutexPeer, FetchAddPeer, KMutexPeer, LimitPeer, ValuePeer
from benchmark.rows.common import in_unit, opened, others, timed
from wdkmutex_shm import CriticalSection, FastMutex, KMutex

from ..limit import Limit

__all__ = ["ROWS"]

_FORK = multiprocessing.get_context("fork")


_CROWDS = [1, 10, 100, 1_000, 10_000, 100_000]
_MOST_VALUES = 10_000
"""Each has a semaphore in a mapping of its own, and a process may have 65,530 mappings."""
_WITH_ASYNCIO = f"{OURS}, asyncio imported"


def _increment(context: Context) -> Iterator[Entry]:
    peers = (FastMutexPeer(), ValuePeer(), LimitPeer(), FetchAddPeer(), KMutexPeer(), *OTHERS)
    with opened(context, [peer for peer in peers if not peer.asyncio]) as (counters, skipped):
        runs = {name: counter.increment for name, counter in counters.items()}
        found = timed(context, "locked increment", runs, 0.0, 0.7)
    # With asyncio imported, our locks ask whether this thread runs an event loop. So what imports it comes last.
    importlib.import_module("asyncio")
    with opened(context, [FastMutexPeer(), *(peer for peer in peers if peer.asyncio)]) as (counters, late):
        runs = {_WITH_ASYNCIO if name == OURS else name: counter.increment for name, counter in counters.items()}
        found |= timed(context, "locked increment", runs, 0.7, 1.0)
    curves = _by_number(context) if context.curves else {}
    yield Entry(
        part="",
        title="locked increment of an int",
        unit="ns",
        ours=in_unit(found[OURS], "ns"),
        ours_name=OURS,
        peer=in_unit(found[VALUE], "ns"),
        peer_name=VALUE,
        target=Target("ratio", at_most=0.36),
        others=others(found, "ns", OURS, VALUE),
        notes=["each peer locks and adds one as its own documentation recommends"],
        skipped=[*skipped, *late],
        curves=curves,
    )


def _by_number(context: Context) -> dict[str, Any]:
    """Cost against the number of mutexes, each visited in random order: {"mutexes": [...], "series": {name: ns}}."""
    effort, order = context.effort, Random(1)
    series: dict[str, list[float]] = {OURS: [], VALUE: []}
    for number, count in enumerate(_CROWDS):
        context.tell(f"{count:,} mutexes", 0.8 + 0.2 * number / len(_CROWDS))
        mutexes = [FastMutex(0) for _ in range(count)]
        order.shuffle(mutexes)
        cases = [Case(OURS, _over_mutexes(mutexes))]
        if count <= _MOST_VALUES:
            values = [_FORK.Value("q", 0) for _ in range(count)]
            order.shuffle(values)
            cases.append(Case(VALUE, _over_values(values)))
        # A sample should meet all of them several times, or the first touch of each would be all that it shows.
        found = interleave(cases, max(effort.rounds // 4, 3), max(effort.sample, count * 2e-6))
        for name, samples in found.items():
            series[name].append(rounded(median(in_unit(samples, "ns"))))
    return {"mutexes": _CROWDS, "series": series}


def _over_mutexes(mutexes: list[FastMutex[int]]) -> Callable[[int], None]:
    return lambda n: _increment_mutexes(islice(cycle(mutexes), n))


def _increment_mutexes(mutexes: Iterable[FastMutex[int]]) -> None:
    for mutex in mutexes:
        with mutex.lock() as guard:
            guard.value += 1


def _over_values(values: list[Any]) -> Callable[[int], None]:
    return lambda n: _increment_values(islice(cycle(values), n))


def _increment_values(values: Iterable[Any]) -> None:
    for value in values:
        with value.get_lock():
            value.value += 1


def _with(lock: Any) -> Callable[[int], None]:
    def run(n: int) -> None:
        for _ in repeat(None, n):
            with lock:
                pass

    return run


def _pair(lock: Any) -> Callable[[int], None]:
    acquire, release = lock.acquire, lock.release

    def run(n: int) -> None:
        for _ in repeat(None, n):
            acquire()
            release()

    return run


_LOCK = "multiprocessing.Lock"


def _lock(context: Context) -> Iterator[Entry]:
    section, lock, limit = CriticalSection(), _FORK.Lock(), Limit()
    peers = [peer for peer in OTHERS if peer.name.endswith("+ mmap") and not peer.asyncio]
    with opened(context, peers) as (counters, skipped):
        runs: dict[str, Callable[[int], object]] = {
            "CriticalSection": _with(section),
            _LOCK: _with(lock),
            LIMIT: limit.lock_unlock,
            "multiprocessing.RLock": _with(_FORK.RLock()),
        }
        runs |= {name.removesuffix(" + mmap"): _with(counter.lock) for name, counter in counters.items()}
        found = timed(context, "with lock: pass", runs, 0.0, 0.6)
    yield Entry(
        part="with",
        title="with lock: pass",
        unit="ns",
        ours=in_unit(found["CriticalSection"], "ns"),
        ours_name="CriticalSection",
        peer=in_unit(found[_LOCK], "ns"),
        peer_name=_LOCK,
        target=Target("ratio", at_most=0.55),
        others=others(found, "ns", "CriticalSection", _LOCK),
        skipped=skipped,
    )
    runs = {
        "CriticalSection": _pair(section),
        _LOCK: _pair(lock),
        LIMIT: limit.lock_unlock,
        "multiprocessing.RLock": _pair(_FORK.RLock()),
    }
    found = timed(context, "acquire() and release()", runs, 0.6, 1.0)
    yield Entry(
        part="acquire, release",
        title="acquire() and release()",
        unit="ns",
        ours=in_unit(found["CriticalSection"], "ns"),
        ours_name="CriticalSection",
        peer=in_unit(found[_LOCK], "ns"),
        peer_name=_LOCK,
        target=Target("ratio", at_most=1.3),
        others=others(found, "ns", "CriticalSection", _LOCK),
    )


def _fetch_add(context: Context) -> Iterator[Entry]:
    peers = (FetchAddPeer(), ValuePeer(), LimitPeer(), FastMutexPeer())
    with opened(context, peers) as (counters, skipped):
        found = timed(context, "fetch_add", {name: counter.increment for name, counter in counters.items()})
    own = FetchAddPeer.name
    yield Entry(
        part="",
        title="fetch_add(1)",
        unit="ns",
        ours=in_unit(found[own], "ns"),
        ours_name=own,
        peer=in_unit(found[VALUE], "ns"),
        peer_name=VALUE,
        target=Target("ratio", at_most=0.20),
        others=others(found, "ns", own, VALUE),
        skipped=skipped,
    )


def _peek(context: Context) -> Iterator[Entry]:
    mutex, value, raw = FastMutex(1), _FORK.Value("q", 1), _FORK.RawValue("q", 1)

    def peek(n: int) -> None:
        call = mutex.peek
        for _ in repeat(None, n):
            call()

    def read(n: int) -> None:
        for _ in repeat(None, n):
            value.value  # noqa: B018 - a property that takes the lock

    def read_twice(n: int) -> None:
        for _ in repeat(None, n):
            with value.get_lock():
                value.value  # noqa: B018

    def read_raw(n: int) -> None:
        for _ in repeat(None, n):
            raw.value  # noqa: B018

    peer, bare = f"{VALUE}: v.value", "RawValue, no lock at all"
    runs = {"FastMutex.peek": peek, peer: read, f"{VALUE}: with v.get_lock(): v.value": read_twice, bare: read_raw}
    found = timed(context, "peek", runs)
    yield Entry(
        part="",
        title="reading an int",
        unit="ns",
        ours=in_unit(found["FastMutex.peek"], "ns"),
        ours_name="FastMutex.peek",
        peer=in_unit(found[peer], "ns"),
        peer_name=peer,
        target=Target("ratio", at_most=0.20),
        others=others(found, "ns", "FastMutex.peek", peer),
        notes=["v.value acquires the lock itself: the cheapest way to read it under its lock"],
    )


def _recursive(context: Context) -> Iterator[Entry]:
    mutex = KMutex(0)

    def inner(n: int) -> None:
        lock = mutex.lock
        with lock():
            for _ in repeat(None, n):
                with lock():
                    pass

    peers = (KMutexPeer(), FastMutexPeer(), LimitPeer())
    with opened(context, peers) as (counters, skipped):
        runs: dict[str, Callable[[int], object]] = {name: counter.increment for name, counter in counters.items()}
        runs["KMutex, inner lock"] = inner
        found = timed(context, "KMutex", runs)
    fast = in_unit(found[OURS], "ns")
    yield Entry(
        part="increment",
        title="KMutex: locked increment",
        unit="ns",
        ours=in_unit(found["KMutex"], "ns"),
        ours_name="KMutex",
        peer=fast,
        peer_name=OURS,
        target=Target("ratio", at_least=1.0, at_most=1.5),
        others=others(found, "ns", "KMutex", OURS, "KMutex, inner lock"),
        skipped=skipped,
    )
    yield Entry(
        part="inner",
        title="KMutex: an inner lock and release",
        unit="ns",
        ours=in_unit(found["KMutex, inner lock"], "ns"),
        ours_name="KMutex, inner lock",
        peer=fast,
        peer_name=f"{OURS}: locked increment",
        target=Target("ratio", at_most=0.6),
    )


ROWS = [
    Row("B1", "locked increment of an int", _increment),
    Row("B2", "locking alone", _lock),
    Row("B3", "fetch_add(1)", _fetch_add),
    Row("B4", "reading without the lock", _peek),
    Row("B13", "KMutex and its recursion", _recursive),
]
