"""What a row of the benchmark is, and what it finds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from benchmark.figures import median, quartiles, ratios, rounded

__all__ = ["FULL", "QUICK", "Context", "Effort", "Entry", "Other", "Row", "Target", "failed"]

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        quick: the short run; what it leaves out is said in the rows concerned.
        rounds: how many rounds of samples, where it is about calls.
        sample: seconds of a sample of calls.
        contended_rounds: how many rounds of several processes at once.
        contended: seconds that such processes run.
        kills: how many processes are killed.
        names: how many names make a crowd.
        million: how many names make the greatest crowd.
        starts: how many times an interpreter is started.
    """

    quick: bool
    rounds: int
    sample: float
    contended_rounds: int
    contended: float
    kills: int
    names: int
    million: int
    starts: int


# Samples are short, so that most of them are not interrupted where the machine has other work. Hence so many rounds.
FULL = Effort(False, 151, 0.002, 7, 0.5, 200, 100_000, 1_000_000, 15)
QUICK = Effort(True, 25, 0.0015, 3, 0.2, 40, 100_000, 10_000, 5)


@dataclasses.dataclass(frozen=True)
class Context:
    """What a row is given.

    Attributes:
        effort: how much to measure.
        scratch: a folder in shared memory for files, removed after the run.
        tell: called with what is being done and the fraction of the row that is done, for the progress bar.
        curves: whether to measure what only the plots show.
    """

    effort: Effort
    scratch: str
    tell: Callable[[str, float], None]
    curves: bool

    def ticking(self, what: str, begin: float = 0.0, end: float = 1.0) -> Callable[[int], None]:
        """A function that tells of rounds done, as a part of the row."""
        return lambda done: self.tell(what, begin + (end - begin) * done / self.effort.rounds)


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        id: its name: B1.
        title: what is measured, for people.
        measure: yields its entries.
    """

    id: str
    title: str
    measure: Callable[[Context], Iterator[Entry]]


@dataclasses.dataclass(frozen=True)
class Target:
    """What to reach.

    Attributes:
        of: whether it is about the ratio or about our own figure.
        at_most, at_least: the bounds, in the entry's unit where it is about our figure.
    """

    of: Literal["ratio", "ours"]
    at_most: float | None = None
    at_least: float | None = None

    def met(self, value: float) -> bool:
        """Whether a value is within the bounds."""
        return (self.at_most is None or value <= self.at_most) and (self.at_least is None or value >= self.at_least)

    def __str__(self) -> str:
        if self.at_most is None:
            return f">= {self.at_least:,g}"
        return f"<= {self.at_most:,g}" if self.at_least is None else f"{self.at_least:,g} to {self.at_most:,g}"


@dataclasses.dataclass(frozen=True)
class Other:
    """A further figure beside the two that an entry compares: another peer, the limit, another way of ours.

    Attributes:
        name: of what was measured.
        values: one figure a round, in the entry's unit.
        ours: it is a way of this project.
        limit: it is what no lock of this design can beat.
    """

    name: str
    values: tuple[float, ...]
    ours: bool = False
    limit: bool = False

    def json(self) -> Json:
        """Its form in the file."""
        return {
            "name": self.name,
            "value": rounded(median(self.values)),
            "spread": [rounded(value) for value in quartiles(self.values)],
            "ours": self.ours,
            "limit": self.limit,
        }


@dataclasses.dataclass(frozen=True)
class Entry:
    """One comparison; a row has one or several.

    Attributes:
        part: which of the row's comparisons; empty if it has only one.
        title: what is measured.
        unit: of ``ours`` and ``peer``.
        ours, peer: one figure a round each; ``peer`` is None where there is nothing to compare with.
        ours_name, peer_name: what was measured.
        target: what to reach; None where nothing was set.
        higher_is_better: as throughput is.
        others: further figures for the chart.
        notes: what a reader must know.
        curves: data that only plots show.
        skipped: peers that could not be measured, and why.
    """

    part: str
    title: str
    unit: str
    ours: tuple[float, ...]
    ours_name: str
    peer: tuple[float, ...] | None = None
    peer_name: str | None = None
    target: Target | None = None
    higher_is_better: bool = False
    others: Sequence[Other] = ()
    notes: Sequence[str] = ()
    curves: Json = dataclasses.field(default_factory=dict)
    skipped: Sequence[str] = ()

    def ratio(self) -> float | None:
        """The median over the rounds of ours over the peer's, None without a peer."""
        return None if self.peer is None else median(ratios(self.ours, self.peer))

    def met(self) -> bool | None:
        """Whether the target is reached, None if there is none."""
        if self.target is None:
            return None
        value = self.ratio() if self.target.of == "ratio" else median(self.ours)
        return value is not None and self.target.met(value)

    def json(self, row: str) -> Json:
        """Its form in the file."""
        ratio = self.ratio()
        spread = {"ours": _spread(self.ours)}
        samples = {"ours": [rounded(value, 6) for value in self.ours]}
        if self.peer is not None:
            spread |= {"peer": _spread(self.peer), "ratio": _spread(ratios(self.ours, self.peer))}
            samples["peer"] = [rounded(value, 6) for value in self.peer]
        return {
            "row": row,
            "part": self.part,
            "title": self.title,
            "ours": rounded(median(self.ours)),
            "ours_name": self.ours_name,
            "peer": None if self.peer is None else rounded(median(self.peer)),
            "peer_name": self.peer_name,
            "ratio": None if ratio is None else rounded(ratio),
            "unit": self.unit,
            "higher_is_better": self.higher_is_better,
            "target": None if self.target is None else f"{self.target.of} {self.target}",
            "bounds": None if self.target is None else dataclasses.asdict(self.target),
            "met": self.met(),
            "spread": spread,
            "samples": samples,
            "peers": [other.json() for other in self.others],
            "notes": list(self.notes),
            "curves": self.curves,
            "skipped": list(self.skipped),
            "error": None,
        }


def _spread(values: Sequence[float]) -> list[float]:
    return [rounded(value) for value in quartiles(values)]


def failed(row: Row, reason: str) -> Json:
    """What stands in the file for a row that could not be measured."""
    return {
        "row": row.id,
        "part": "",
        "title": row.title,
        "ours": None,
        "peer": None,
        "peer_name": None,
        "ratio": None,
        "unit": None,
        "target": None,
        "met": None,
        "error": reason,
    }
