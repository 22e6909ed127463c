"""A row as bars: a panel for each of its comparisons, the best at the top, ours in colour, the limit as a line."""

from __future__ import annotations

from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmark.plots import style
from benchmark.report import human

__all__ = ["chart"]

_BAR = 0.32
_PANEL = 0.95


class _Bar(NamedTuple):
    value: float
    low: float
    high: float
    name: str
    colour: str


class _Line(NamedTuple):
    name: str
    value: float
    colour: str
    dashes: str


def _bar(value: float, spread: list[float], name: str, colour: str) -> _Bar:
    low, high = spread
    return _Bar(value, low, high, name, colour)


def _bars(entry: dict[str, Any]) -> list[_Bar]:
    """The bars of a comparison, the best first. The limit is no bar."""
    spread = entry["spread"]
    found = [_bar(entry["ours"], spread["ours"], entry["ours_name"], style.OURS)]
    if entry["peer"] is not None:
        found.append(_bar(entry["peer"], spread["peer"], entry["peer_name"], style.PEER))
    for other in entry["peers"]:
        if not other["limit"]:
            colour = style.OTHER_WAY if other["ours"] else style.PEER
            found.append(_bar(other["value"], other["spread"], other["name"], colour))
    return sorted(found, key=lambda bar: bar.value, reverse=entry["higher_is_better"])


def _target(entry: dict[str, Any]) -> float | None:
    """Where the target is on the axis of the figures."""
    bounds = entry["bounds"]
    if bounds is None:
        return None
    bound = bounds["at_most"] if bounds["at_most"] is not None else bounds["at_least"]
    return float(bound * entry["peer"]) if bounds["of"] == "ratio" else float(bound)


def _panel(panel: Any, entry: dict[str, Any]) -> None:
    bars = _bars(entry)
    limit = next((other["value"] for other in entry["peers"] if other["limit"]), None)
    target = _target(entry)
    lines = [_Line("C limit", limit, style.LIMIT, "--")] if limit is not None else []
    lines += [_Line("target", target, style.TARGET, ":")] if target is not None else []
    values = [bar.high for bar in bars] + [bar.value for bar in bars] + [line.value for line in lines]
    logarithmic = style.scaled(panel.xaxis, values, entry["unit"])
    if logarithmic:
        panel.set_xlim(min(values) / 1.6, max(values) * 5)
    else:
        panel.set_xlim(0, max(values) * 1.22)
        panel.xaxis.set_major_locator(MaxNLocator(6))
    places = range(len(bars))
    errors = [[max(bar.value - bar.low, 0) for bar in bars], [max(bar.high - bar.value, 0) for bar in bars]]
    panel.barh(
        places,
        [bar.value for bar in bars],
        xerr=errors,
        color=[bar.colour for bar in bars],
        height=0.72,
        error_kw={"ecolor": "#404040", "elinewidth": 1, "capsize": 2},
    )
    for place, bar in zip(places, bars, strict=True):
        panel.annotate(
            human(bar.value, entry["unit"]),
            (max(bar.high, bar.value), place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontweight="bold" if bar.colour == style.OURS else "normal",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.8},
            zorder=4,
        )
    panel.set_yticks(places, [bar.name for bar in bars])
    for label, bar in zip(panel.get_yticklabels(), bars, strict=True):
        if bar.colour != style.PEER:
            label.set_color(style.OURS)
    panel.set_ylim(len(bars) - 0.4, -0.6)
    panel.grid(axis="y", visible=False)
    for line in lines:
        shown = f"{line.name}: {human(line.value, entry['unit'])}"
        panel.axvline(line.value, color=line.colour, linestyle=line.dashes, linewidth=1.6, label=shown)
    if lines:
        # Below the ticks, on the line of the axis's label.
        panel.legend(loc="upper right", bbox_to_anchor=(1.0, 0.0), borderaxespad=1.9, ncols=len(lines), fontsize=9)
    better = "higher is better" if entry["higher_is_better"] else "lower is better"
    panel.set_title(entry["title"])
    panel.set_xlabel(f"{better}{', logarithmic' if logarithmic else ''}", fontsize=9, color="#505050", loc="left")


def chart(row: str, entries: list[dict[str, Any]]) -> Figure:
    """Draw a row; a panel for each of its entries."""
    heights = [len(_bars(entry)) * _BAR + _PANEL for entry in entries]
    figure, panels = style.subplots(len(entries), (9.5, sum(heights)), height_ratios=heights)
    for panel, entry in zip(panels, entries, strict=True):
        _panel(panel, entry)
    panels[0].set_title(f"{row}: {entries[0]['title']}")
    return figure
