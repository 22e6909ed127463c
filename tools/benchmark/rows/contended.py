"""B7: processes that hammer one counter."""

from __future__ import annotations

from collections.abc import Iterator

from benchmark.figures import median, rounded
from benchmark.measure import calibrate
from benchmark.model import Context, Entry, Other, Row, Target
from benchmark.peers import LIMIT, OTHERS, OURS, VALUE, FastMutexPeer, FetchAddPeer, LimitPeer, Peer, ValuePeer
from benchmark.rows.common import OWN, opened
from benchmark.workers import hammer

__all__ = ["ROWS", "batch_of"]

_BETWEEN_LOOKS = 200e-6
_PROCESSES = (2, 4, 8)


def batch_of(increment: object) -> int:
    """How many increments take about 200 us when nobody else is there."""
    assert callable(increment)
    return calibrate(increment, _BETWEEN_LOOKS)


def _throughput(context: Context) -> Iterator[Entry]:
    peers: tuple[Peer, ...] = (FastMutexPeer(), ValuePeer(), LimitPeer(), FetchAddPeer())
    processes: tuple[int, ...] = _PROCESSES
    if context.curves and not context.effort.quick:
        peers += tuple(peer for peer in OTHERS if peer.contended)
        processes = (1, *_PROCESSES)
    rounds = context.effort.contended_rounds
    found: dict[tuple[int, str], list[float]] = {}
    lost: dict[str, int] = {}
    with opened(context, peers) as (counters, skipped):
        batches = {name: batch_of(counter.increment) for name, counter in counters.items()}
        for number in range(rounds):
            for count in processes:
                context.tell(f"{count} processes", (number + processes.index(count) / len(processes)) / rounds)
                for name, counter in counters.items():
                    if name not in (OURS, VALUE) and number >= 3:
                        continue  # only two are compared; the others need no narrow spread
                    hammered = hammer(counter, batches[name], count, context.effort.contended)
                    found.setdefault((count, name), []).append(hammered.rate)
                    lost[name] = lost.get(name, 0) + hammered.lost
    notes = ["operations per second of all processes together: higher is better, and so is a higher ratio"]
    notes += [f"{name} lost {number:,} increments" for name, number in lost.items() if number]
    for count in _PROCESSES:
        yield Entry(
            part=f"{count} processes",
            title=f"{count} processes on one counter",
            unit="op/s",
            ours=tuple(found[count, OURS]),
            ours_name=OURS,
            peer=tuple(found[count, VALUE]),
            peer_name=VALUE,
            target=Target("ratio", at_least=2.5),
            higher_is_better=True,
            others=[
                Other(name, tuple(found[count, name]), ours=name.startswith(OWN), limit=name == LIMIT)
                for name in counters
                if name not in (OURS, VALUE)
            ],
            notes=notes,
            skipped=skipped if count == _PROCESSES[0] else (),
            curves={
                "processes": list(processes),
                "series": {name: [rounded(median(found[n, name])) for n in processes] for name in counters},
            }
            if count == _PROCESSES[0]
            else {},
        )


ROWS = [Row("B7", "several processes on one counter", _throughput)]
