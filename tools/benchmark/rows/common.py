"""What several rows need: opening peers, and turning samples into entries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from benchmark.measure import Case, Samples, interleave
from benchmark.model import Context, Other
from benchmark.peers import LIMIT, Counter, Peer

__all__ = ["OWN", "in_unit", "opened", "others", "timed"]

OWN = ("FastMutex", "KMutex", "CriticalSection", "Grt", "wdkmutex")
"""What the names of our own ways begin with."""

_UNITS = {"ns": 1.0, "us": 1e-3, "ms": 1e-6, "s": 1e-9}


def in_unit(samples: Samples, unit: str) -> tuple[float, ...]:
    """The samples in ns, us, ms or s."""
    return tuple(value * _UNITS[unit] for value in samples.nanoseconds)


@contextmanager
def opened(context: Context, peers: Iterable[Peer]) -> Iterator[tuple[dict[str, Counter], list[str]]]:
    """Open the peers that can be measured here.

    Yields:
        Their counters by name, and for each other peer a line that says why it is missing.
    """
    counters: dict[str, Counter] = {}
    skipped: list[str] = []
    with ExitStack() as stack:
        for peer in peers:
            reason = peer.missing()
            if reason is None:
                context.tell(f"opening {peer.name}", 0.0)
                try:
                    counters[peer.name] = stack.enter_context(peer.open(context.scratch))
                except (OSError, RuntimeError) as error:
                    reason = f"{peer.name}: {error}"
            if reason is not None:
                skipped.append(reason)
        yield counters, skipped


def timed(
    context: Context, what: str, runs: Mapping[str, Callable[[int], object]], begin: float = 0.0, end: float = 1.0
) -> dict[str, Samples]:
    """Time loops, interleaved, as the run's effort asks for."""
    effort = context.effort
    cases = [Case(name, run) for name, run in runs.items()]
    return interleave(cases, effort.rounds, effort.sample, tick=context.ticking(what, begin, end))


def others(samples: Mapping[str, Samples], unit: str, *without: str) -> list[Other]:
    """The further figures of a chart: all samples but those of some names."""
    return [
        Other(name, in_unit(found, unit), ours=name.startswith(OWN), limit=name == LIMIT)
        for name, found in samples.items()
        if name not in without
    ]
