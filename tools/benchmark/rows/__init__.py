"""The rows of the benchmark, by their names. Each module has a few that belong together."""

from __future__ import annotations

from benchmark.model import Row
from benchmark.rows import calls, contended, daemon, death, fairness, processes, values, waiting

__all__ = ["ROWS"]

_ALL = [
    row for module in (calls, values, contended, fairness, death, daemon, processes, waiting) for row in module.ROWS
]

ROWS: dict[str, Row] = {row.id: row for row in sorted(_ALL, key=lambda row: (row.id[0], int(row.id[1:])))}
"""All rows, in the order in which they are measured."""
