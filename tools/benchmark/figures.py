"""What is said about several measurements of one thing: median, quartiles, percentiles, ratios."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

__all__ = ["median", "percentile", "quartiles", "ratios", "rounded"]


def median(values: Sequence[float]) -> float:
    """The middle value.

    Raises:
        ValueError: there is none.
    """
    if not values:
        raise ValueError("nothing was measured")
    return float(statistics.median(values))


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The first and the third quartile: between them lies the middle half of the values.

    Raises:
        ValueError: there is no value.
    """
    if len(values) < 2:
        return median(values), median(values)
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return float(first), float(third)


def percentile(values: Sequence[float], p: float) -> float:
    """The smallest value that at least ``p`` percent of the values do not exceed (nearest rank).

    Raises:
        ValueError: there is no value, or ``p`` is not within 0 and 100.
    """
    if not values:
        raise ValueError("nothing was measured")
    if not 0 <= p <= 100:
        raise ValueError(f"no percentile {p}")
    ordered = sorted(values)
    return float(ordered[max(math.ceil(p / 100 * len(ordered)), 1) - 1])


def ratios(ours: Sequence[float], peer: Sequence[float]) -> list[float]:
    """Ours over the peer's, round by round: what slowed the machine down in one round cancels out.

    Raises:
        ValueError: the two were not measured in the same rounds.
    """
    if len(ours) != len(peer):
        raise ValueError(f"{len(ours)} rounds of ours, but {len(peer)} of the peer")
    return [a / b for a, b in zip(ours, peer, strict=True)]


def rounded(value: float, digits: int = 4) -> float:
    """The value with so many significant digits, for files that people read."""
    return float(f"{value:.{digits}g}")
