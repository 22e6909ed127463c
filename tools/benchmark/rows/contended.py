"""B7: processes that hammer one counter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from benchmark.figures import median, rounded
from benchmark.measure import calibrate
from benchmark.model import Context, Entry, Other, Row, Target
from benchmark.peers import LIMIT, OTHERS, OURS, VALUE, FastMutexPeer, FetchAddPeer, LimitPeer, Peer, ValuePeer
from benchmark.rows.common import OWN, opened
from benchmark.workers import ChildFailed, hammer

__all__ = ["ROWS", "batch_of"]

_BETWEEN_LOOKS = 200e-6
_PROCESSES = (2, 4, 8)
_ROUNDS_OF_OTHERS = 3


def batch_of(increment: Callable[[int], object]) -> int:
    """How many increments take about 200 us when nobody else is there."""
    return calibrate(increment, _BETWEEN_LOOKS)


class _Rates:
    """Increments per second, by number of processes and name.

    Attributes:
        found: one figure a round.
        lost: by name, the increments that the counter did not have at the end.
        skipped: what could not be measured, and why.
    """

    def __init__(self, context: Context, processes: Sequence[int]) -> None:
        self._context = context
        self._processes = processes
        self.found: dict[tuple[int, str], list[float]] = {}
        self.lost: dict[str, int] = {}
        self.skipped: list[str] = []

    def measure(self, peers: Sequence[Peer], rounds: int, begin: float, end: float) -> None:
        """Let processes hammer each peer's counter, interleaved; ``begin`` and ``end`` are for the progress bar."""
        seconds = self._context.effort.contended
        with opened(self._context, peers) as (counters, skipped):
            self.skipped += skipped
            batches = {name: batch_of(counter.increment) for name, counter in counters.items()}
            for number in range(rounds):
                for place, count in enumerate(self._processes):
                    done = (number + place / len(self._processes)) / rounds
                    self._context.tell(f"{count} processes", begin + (end - begin) * done)
                    for name in list(batches):
                        try:
                            hammered = hammer(counters[name], batches[name], count, seconds)
                        except ChildFailed as error:
                            if name in (OURS, VALUE):
                                raise
                            self._drop(name, f"{name}, {count} processes: {error.reason()}")
                            del batches[name]
                            continue
                        self.found.setdefault((count, name), []).append(hammered.rate)
                        self.lost[name] = self.lost.get(name, 0) + hammered.lost

    def _drop(self, name: str, reason: str) -> None:
        """A peer that broke has no figures, but is named."""
        self.skipped.append(reason)
        self.lost.pop(name, None)
        for key in [key for key in self.found if key[1] == name]:
            del self.found[key]

    def series(self) -> dict[str, list[float]]:
        """The medians by name, one for each number of processes."""
        names = self.lost
        return {name: [rounded(median(self.found[count, name])) for count in self._processes] for name in names}


def _throughput(context: Context) -> Iterator[Entry]:
    rounds = context.effort.contended_rounds
    crowded = context.curves and not context.effort.quick
    processes = (1, *_PROCESSES) if crowded else _PROCESSES
    rates = _Rates(context, processes)
    rates.measure([FastMutexPeer(), ValuePeer()], rounds, 0.0, 0.4)
    # The others are only shown, not compared with, and need no narrow spread.
    rounds = 1 if context.effort.quick else min(rounds, _ROUNDS_OF_OTHERS)
    rest = [peer for peer in OTHERS if peer.contended] if crowded else []
    rates.measure([LimitPeer(), FetchAddPeer(), *(peer for peer in rest if not peer.asyncio)], rounds, 0.4, 0.9)
    # Last, because from then on our locks ask whether an event loop runs.
    rates.measure([peer for peer in rest if peer.asyncio], rounds, 0.9, 1.0)
    notes = ["operations per second of all processes together: higher is better, and so is a higher ratio"]
    notes += [f"{name} lost {number:,} increments" for name, number in rates.lost.items() if number]
    for count in _PROCESSES:
        first = count == _PROCESSES[0]
        yield Entry(
            part=f"{count} processes",
            title=f"{count} processes on one counter",
            unit="op/s",
            ours=tuple(rates.found[count, OURS]),
            ours_name=OURS,
            peer=tuple(rates.found[count, VALUE]),
            peer_name=VALUE,
            target=Target("ratio", at_least=2.5),
            higher_is_better=True,
            others=[
                Other(name, tuple(rates.found[count, name]), ours=name.startswith(OWN), limit=name == LIMIT)
                for name in rates.lost
                if name not in (OURS, VALUE)
            ],
            notes=notes,
            skipped=rates.skipped if first else (),
            curves={"processes": list(processes), "series": rates.series()} if first else {},
        )


ROWS = [Row("B7", "several processes on one counter", _throughput)]
