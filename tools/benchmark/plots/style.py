"""What all plots share: colours that colour-blind people can tell apart, fonts, axes, and how they are saved."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmark.report import human

__all__ = ["LIMIT", "MARKERS", "OTHER_WAY", "OURS", "PEER", "SERIES", "TARGET", "applied", "save", "scaled", "subplots"]

# The palette of Okabe and Ito.
OURS = "#0072B2"
OTHER_WAY = "#56B4E9"
PEER = "#A6A6A6"
LIMIT = "#D55E00"
TARGET = "#000000"
SERIES = ("#E69F00", "#009E73", "#CC79A7", "#7F7F7F", "#B8860B", "#5D3A9B", "#994F00", "#40B0A6", "#000000", "#DC3220")
MARKERS = "sDv^<>PX*h"
LOG_FROM = 20

_SETTINGS = {
    "figure.dpi": 100,
    "savefig.dpi": 130,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E2E2E2",
    "legend.frameon": False,
    "svg.hashsalt": "wdkmutex_shm",
}


@contextmanager
def applied() -> Iterator[None]:
    """The settings, for as long as something is drawn."""
    with pyplot.rc_context(_SETTINGS):
        yield


def subplots(rows: int, size: tuple[float, float], **more: Any) -> tuple[Figure, list[Any]]:
    """A figure and its panels, one below the other."""
    figure, panels = pyplot.subplots(rows, 1, figsize=size, layout="constrained", squeeze=False, **more)
    return figure, [line[0] for line in panels]


def scaled(axis: Any, values: Sequence[float], unit: str | None) -> bool:
    """Label an axis's ticks with the unit, and make it logarithmic where the values differ by much; tells whether."""
    positive = [value for value in values if value > 0]
    logarithmic = bool(positive) and max(positive) > LOG_FROM * min(positive)
    if logarithmic:
        axis.axes.set_xscale("log") if axis.axis_name == "x" else axis.axes.set_yscale("log")
        axis.set_major_locator(LogLocator(10, numticks=12))
        axis.set_minor_formatter(NullFormatter())
    if unit is not None:
        axis.set_major_formatter(FuncFormatter(lambda value, _: human(value, unit) if value else "0"))
    return logarithmic


def save(figure: Figure, folder: str, name: str) -> list[str]:
    """Write a figure as PNG and SVG, and forget it."""
    paths = [os.path.join(folder, f"{name}.{suffix}") for suffix in ("png", "svg")]
    for path in paths:
        figure.savefig(path, metadata={"Date": None} if path.endswith("svg") else None)
    pyplot.close(figure)
    return paths
