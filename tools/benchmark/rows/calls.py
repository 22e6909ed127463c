"""B1 to B4 and B13: what single calls cost when nobody else wants the lock. One process, one thread."""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

from benchmark.model import Context, Entry, Row, Target
from benchmark.peers import LIMIT, OTHERS, OURS, VALUE, FastMutexPeer, FetchAddPeer, KMutexPeer, LimitPeer, ValuePeer
from benchmark.rows.common import in_unit, opened, others, timed
from wdkmutex_shm import CriticalSection, FastMutex, KMutex
from wdkmutex_shm._limit import Limit

__all__ = ["ROWS"]

_FORK = multiprocessing.get_context("fork")


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
        notes=["each peer locks and adds one as its own documents say"],
        skipped=[*skipped, *late],
    )


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
    by_name = {peer.name: peer for peer in OTHERS if peer.name.endswith("+ mmap")}
    with opened(context, by_name.values()) as (counters, skipped):
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
        notes=["v.value takes the lock by itself: the cheapest way to read it under its lock"],
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
