"""Interleaved timing: A, B, C, A, B, C, ... so that a slow second of the machine meets all of them.

Each case is a function that does a thing ``n`` times in a loop of its own. ``n`` is found once for each case, such that
a sample takes about as long as asked for; a tenth as many go before it, untimed. The garbage collector is off.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

__all__ = ["Case", "Clock", "Samples", "calibrate", "interleave"]

Clock = Callable[[], int]
"""Returns nanoseconds that never go back."""

_MOST_LOOPS = 1 << 30
_LEAD_IN = 10
# A case may take turns between several buffers, which are all to be in the caches.
_FEWEST = 4
_SECOND = 1_000_000_000


class Case(NamedTuple):
    """One thing to time.

    Attributes:
        name: unique among the cases that are timed together.
        run: does it as often as its argument says.
    """

    name: str
    run: Callable[[int], object]


class Samples(NamedTuple):
    """What was measured of one case.

    Attributes:
        loops: how often the thing was done in each sample.
        nanoseconds: what doing it once took, one figure a round.
    """

    loops: int
    nanoseconds: tuple[float, ...]


def calibrate(run: Callable[[int], object], sample: float, clock: Clock = time.perf_counter_ns) -> int:
    """Find how often ``run`` must do its thing to take about ``sample`` seconds. Warms it up on the way."""
    run(_FEWEST)  # the first calls make what the later ones use again, and may take a hundred times as long
    wanted = sample * _SECOND
    loops = 1
    while True:
        took = max(_timed(run, loops, clock), 1)
        if took >= wanted / 4:
            # Or the machine did something else meanwhile. Once more, and the smaller one counts.
            took = min(took, max(_timed(run, loops, clock), 1))
        if took >= wanted / 4 or loops >= _MOST_LOOPS:
            return max(round(loops * wanted / took), 1)
        loops *= min(max(int(wanted / 2 / took), 2), 10)


def _timed(run: Callable[[int], object], loops: int, clock: Clock) -> int:
    begin = clock()
    run(loops)
    return clock() - begin


def interleave(
    cases: Sequence[Case],
    rounds: int,
    sample: float,
    clock: Clock = time.perf_counter_ns,
    tick: Callable[[int], None] = lambda done: None,
) -> dict[str, Samples]:
    """Time the cases in turn, round after round.

    Args:
        cases: what to time, in this order.
        rounds: how many times each is sampled; one more round goes first and does not count.
        sample: seconds that a sample should take.
        clock: what tells the time.
        tick: called with the number of rounds done, after each.

    Returns:
        The samples by the names of the cases.

    Raises:
        ValueError: two cases have one name, or there is no round.
    """
    if len({case.name for case in cases}) != len(cases):
        raise ValueError(f"two cases have one name: {[case.name for case in cases]}")
    if rounds < 1:
        raise ValueError("at least one round is needed")
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        loops = {case.name: calibrate(case.run, sample, clock) for case in cases}
        found: dict[str, list[float]] = {case.name: [] for case in cases}
        for number in range(rounds + 1):
            for name, run in cases:
                # Caches and the processor's clock are this case's then, not the last's.
                run(max(loops[name] // _LEAD_IN, min(loops[name], _FEWEST)))
                took = _timed(run, loops[name], clock)
                if number:
                    found[name].append(took / loops[name])
            tick(number)
    finally:
        if collecting:
            gc.enable()
    return {name: Samples(loops[name], tuple(values)) for name, values in found.items()}
