"""The curves: throughput against processes, how long a victim waits, cost against the size of T and the number of
mutexes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import cycle
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmark.plots import style

__all__ = ["charts"]

_SIZE = (9.5, 5.4)


def charts(entries: list[dict[str, Any]]) -> Iterator[tuple[str, Figure]]:
    """The curves of a row's entries, each with the name of its file."""
    for entry in entries:
        data = entry["curves"]
        if "processes" in data:
            yield "throughput", _throughput(data)
        if "percent" in data:
            yield "waits", _waits(data)
        if "sizes" in data:
            yield "sizes", _sizes(data)
        if "mutexes" in data:
            yield "mutexes", _mutexes(data)


def _styles(names: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """How each series is drawn: ours and the limit always alike."""
    rest = cycle(zip(style.SERIES, style.MARKERS, strict=True))
    for name in names:
        if name in ("FastMutex", "read"):
            yield name, {"color": style.OURS, "marker": "o", "linewidth": 2.6, "zorder": 5}
        elif name in ("FastMutex.fetch_add", "commit"):
            yield name, {"color": style.OTHER_WAY, "marker": "o", "linewidth": 2.2, "zorder": 4}
        elif name in ("C limit", "memcpy"):
            yield name, {"color": style.LIMIT, "linestyle": "--", "marker": "", "linewidth": 1.8}
        else:
            colour, marker = next(rest)
            yield name, {"color": colour, "marker": marker, "linewidth": 1.3}


def _lines(panel: Any, x: list[float], series: dict[str, list[float]]) -> None:
    for name, how in _styles(series):
        panel.plot(x[: len(series[name])], series[name], label=name, markersize=5, **how)


def _all(series: dict[str, list[float]]) -> list[float]:
    return [value for values in series.values() for value in values]


def _throughput(data: dict[str, Any]) -> Figure:
    figure, (panel,) = style.subplots(1, _SIZE)
    processes, series = data["processes"], data["series"]
    ordered = dict(sorted(series.items(), key=lambda pair: -pair[1][-1]))
    _lines(panel, processes, ordered)
    style.scaled(panel.yaxis, _all(series), None)
    panel.set_xscale("log", base=2)
    panel.set_xticks(processes, [str(count) for count in processes])
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    panel.set_title("Locked increments per second, all processes together")
    panel.set_xlabel("processes that hammer one counter")
    panel.set_ylabel("increments/s, higher is better")
    _legend(figure, panel)
    return figure


def _legend(figure: Figure, panel: Any) -> None:
    """The legend, beside the panel and in the order of the series."""
    panel.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9)


def _waits(data: dict[str, Any]) -> Figure:
    figure, (panel,) = style.subplots(1, _SIZE)
    series = data["series"]
    # The rarest waits are what matters: the axis goes by how rare they are, 1 in 10, 1 in 100, 1 in 1000.
    percent = [p for p in data["percent"] if 0 < p < 100]
    rare = [100 / (100 - p) for p in percent]
    chosen = {
        name: [value for p, value in zip(data["percent"], values, strict=True) if p in percent]
        for name, values in sorted(series.items(), key=lambda pair: pair[1][-1])
    }
    _lines(panel, rare, chosen)
    panel.set_xscale("log")
    style.scaled(panel.yaxis, _all(chosen), "ms")
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"1 in {value:,.0f}" if value > 1 else "all"))
    panel.set_title("How long a victim waits beside a hog that holds for 100 µs and locks again at once")
    panel.set_xlabel("that long or longer waits")
    panel.set_ylabel("wait, lower is better")
    _legend(figure, panel)
    return figure


def _sizes(data: dict[str, Any]) -> Figure:
    figure, (panel,) = style.subplots(1, _SIZE)
    _lines(panel, data["sizes"], data["series"])
    panel.set_xscale("log", base=2)
    style.scaled(panel.yaxis, _all(data["series"]), "us")
    panel.set_xticks(data["sizes"][::3], [_bytes(size) for size in data["sizes"][::3]])
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_title("A T of bytes: read under the lock, set and committed, and one memcpy in C")
    panel.set_xlabel("size of T")
    panel.set_ylabel("time of one, lower is better")
    _legend(figure, panel)
    return figure


def _bytes(size: int) -> str:
    for unit, scale in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= scale:
            return f"{size // scale} {unit}"
    return f"{size} B"


def _mutexes(data: dict[str, Any]) -> Figure:
    figure, (panel,) = style.subplots(1, _SIZE)
    _lines(panel, data["mutexes"], data["series"])
    panel.set_xscale("log")
    logarithmic = style.scaled(panel.yaxis, _all(data["series"]), "ns")
    if not logarithmic:
        panel.set_ylim(bottom=0)
    panel.set_xticks(data["mutexes"], [f"{count:,}" for count in data["mutexes"]])
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_title("A locked increment, each time of another mutex, in random order")
    panel.set_xlabel("mutexes")
    panel.set_ylabel(f"time of one{', logarithmic' if logarithmic else ''}, lower is better")
    _legend(figure, panel)
    return figure
