"""The plots, drawn from the JSON form of the results: one bar chart a row, and the curves that rows have measured."""

from __future__ import annotations

import os
from typing import Any

from benchmark.plots import bars, curves, style

__all__ = ["draw"]


def draw(results: dict[str, Any], folder: str) -> list[str]:
    """Draw all that the results hold into a folder, each as PNG and SVG; return the files' paths."""
    os.makedirs(folder, exist_ok=True)
    rows: dict[str, list[dict[str, Any]]] = {}
    for entry in results["rows"]:
        if entry["error"] is None:
            rows.setdefault(entry["row"], []).append(entry)
    paths: list[str] = []
    with style.applied():
        for row, entries in rows.items():
            paths += style.save(bars.chart(row, entries), folder, row.lower())
            for name, figure in curves.charts(entries):
                paths += style.save(figure, folder, name)
    return paths
