"""B8: nobody waits long, and nobody gets more than the others."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from benchmark.figures import percentile, rounded
from benchmark.model import Context, Entry, Other, Row, Target
from benchmark.peers import LIMIT, OURS, VALUE, FastMutexPeer, LimitPeer, LockPeer, Peer, ValuePeer
from benchmark.peers.shared import FastipcPeer, PosixIpcPeer
from benchmark.rows.common import OWN, opened
from benchmark.rows.contended import batch_of
from benchmark.workers import ChildFailed, hammer, together, wait_for

__all__ = ["ROWS"]

_LOCK = "multiprocessing.Lock"
_NAMES = {
    LIMIT: "robust pthread mutex",
    FastipcPeer.name: "fastipc.NamedMutex",
    PosixIpcPeer.name: "posix_ipc.Semaphore",
}
_HOLD = 100_000
_PAUSE = 100e-6
_CROWD = 8
_PERCENT = [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 97, 98, 99, 99.5, 99.7, 99.8, 99.9, 99.95, 100]

Lock = AbstractContextManager[Any]


def _hog(lock: Lock) -> Callable[[int, int], int]:
    """Holds for 100 us, releases, and locks again at once.

    Returns the most nanoseconds between two looks at the clock while it held: how long it was off its processor.
    """

    def work(begin: int, end: int) -> int:
        now, most = time.monotonic_ns, 0
        wait_for(begin)
        while now() < end:
            with lock:
                last = now()
                until = last + _HOLD
                while last < until:
                    look = now()
                    most = max(most, look - last)
                    last = look
        return most

    return work


def _victim(lock: Lock) -> Callable[[int, int], tuple[list[int], int]]:
    """Sleeps 100 us, locks, releases; returns how many nanoseconds it waited, each time, and slept at most."""

    def work(begin: int, end: int) -> tuple[list[int], int]:
        now, sleep, waits, slept = time.monotonic_ns, time.sleep, [], 0
        wait_for(begin)
        while now() < end:
            tired = now()
            sleep(_PAUSE)
            asked = now()
            slept = max(slept, asked - tired)
            with lock:
                waits.append(now() - asked)
        return waits, slept

    return work


def _fairness(context: Context) -> Iterator[Entry]:
    quick = context.effort.quick
    rounds, seconds = (2, 0.7) if quick else (5, 2.0)
    peers: list[Peer] = [FastMutexPeer(), LimitPeer()]
    if context.curves or not quick:
        peers += [FastipcPeer(), PosixIpcPeer()]
    waits: dict[str, list[float]] = {}
    away: dict[str, tuple[int, int]] = {}
    with opened(context, peers) as (counters, skipped):
        locks = {_NAMES.get(name, name): counter.lock for name, counter in counters.items()}
        locks[_LOCK] = multiprocessing.get_context("fork").Lock()
        for number in range(rounds):
            for name, lock in list(locks.items()):
                context.tell(f"a hog and {name}", 0.6 * number / rounds)
                assert lock is not None
                try:
                    most, (found, slept) = together([_hog(lock), _victim(lock)], seconds)
                except ChildFailed as error:
                    if name in (OURS, _LOCK):
                        raise
                    skipped.append(f"{name}, a hog and a victim: {error.reason()}")
                    waits.pop(name, None)
                    del locks[name]
                    continue
                before = away.get(name, (0, 0))
                away[name] = max(before[0], most), max(before[1], slept)
                # A victim that never got it has waited all the time.
                waits.setdefault(name, []).extend([wait / 1e6 for wait in found] or [seconds * 1e3])
    yield from _waiting(waits, away, skipped)
    yield _evenness(context)


def _waiting(waits: dict[str, list[float]], away: dict[str, tuple[int, int]], skipped: list[str]) -> Iterator[Entry]:
    """Entries from the waits of all rounds together, in ms; a round alone has too few of the long ones."""
    curves = {
        "percent": _PERCENT,
        "series": {name: [rounded(percentile(found, p)) for p in _PERCENT] for name, found in waits.items()},
        "waits": {name: len(found) for name, found in waits.items()},
    }
    p99 = {name: (percentile(found, 99),) for name, found in waits.items()}
    yield _entry("p99", "a victim beside a hog: 99th percentile of its waits", "ms", p99, 5.0, skipped, curves)
    longest = {name: (max(found),) for name, found in waits.items()}
    off, slept = (most / 1e6 for most in away[OURS])
    note = (
        "state of the machine: our hog, which only reads the clock while it holds the lock, was off its CPU for "
        f"up to {off:.1f} ms, and the victim's sleep of 0.1 ms lasted up to {slept:.1f} ms"
    )
    yield _entry("max", "a victim beside a hog: its longest wait", "ms", longest, 20.0, [], {}, notes=[note])


def _entry(
    part: str,
    title: str,
    unit: str,
    found: Mapping[str, tuple[float, ...]],
    at_most: float,
    skipped: list[str],
    curves: dict[str, Any],
    peer: str = _LOCK,
    notes: Sequence[str] = (),
) -> Entry:
    return Entry(
        part=part,
        title=title,
        unit=unit,
        ours=found[OURS],
        ours_name=OURS,
        peer=found[peer],
        peer_name=peer,
        target=Target("ours", at_most=at_most),
        others=[
            Other(name, values, ours=name.startswith(OWN)) for name, values in found.items() if name not in (OURS, peer)
        ],
        skipped=skipped,
        curves=curves,
        notes=[*notes],
    )


def _evenness(context: Context) -> Entry:
    """Acquisitions of the most lucky of 8 processes over those of the least lucky."""
    rounds, seconds = (2, 1.0) if context.effort.quick else (3, 2.0)
    found: dict[str, tuple[float, ...]] = {}
    peers: list[Peer] = [FastMutexPeer(), ValuePeer()]
    if not context.effort.quick:
        peers.append(LockPeer())
    with opened(context, peers) as (counters, skipped):
        batches = {name: batch_of(counter.increment) for name, counter in counters.items()}
        for number in range(rounds):
            for name, counter in counters.items():
                context.tell(f"{_CROWD} processes, {name}", 0.6 + 0.4 * number / rounds)
                counts = hammer(counter, batches[name], _CROWD, seconds).counts
                found[name] = (*found.get(name, ()), max(counts) / max(min(counts), 1))
    title = f"{_CROWD} processes, {seconds:g} s: most over fewest acquisitions"
    return _entry("evenness", title, "x", found, 1.5, skipped, {}, VALUE)


ROWS = [Row("B8", "fairness", _fairness)]
