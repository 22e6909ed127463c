"""The rows of the benchmark, by their names. Each module has a few that belong together."""

from __future__ import annotations

from benchmark.model import Row
from benchmark.rows import (
    calls,
    contended,
    daemon,
    death,
    fairness,
    loops,
    multi,
    observing,
    processes,
    values,
    waiting,
)

__all__ = ["ROWS"]

_MODULES = (calls, values, contended, fairness, death, daemon, processes, loops, waiting, multi, observing)
_ALL = [row for module in _MODULES for row in module.ROWS]


def _place(row: Row) -> tuple[bool, str, int]:
    letter, number = row.id[0], row.id[1:]
    return letter != "B", letter, int(number)


ROWS: dict[str, Row] = {row.id: row for row in sorted(_ALL, key=_place)}
"""All rows, in the order in which they are measured."""
