"""The results as people and programs read them: JSON, a table on a terminal, Markdown for the docs.

All of them are made from the JSON form, so that an earlier run's file gives the same table.
"""

from __future__ import annotations

import json
import os
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

__all__ = ["BEGIN", "END", "human", "markdown", "show", "write_json", "write_markdown"]

Json = dict[str, Any]

BEGIN = "<!-- the benchmark's results begin: ./tools/bench --markdown writes them -->"
END = "<!-- the benchmark's results end -->"

_SCALES = {
    "ns": (("s", 1e9), ("ms", 1e6), ("µs", 1e3), ("ns", 1.0)),
    "us": (("s", 1e6), ("ms", 1e3), ("µs", 1.0), ("ns", 1e-3)),
    "ms": (("s", 1e3), ("ms", 1.0), ("µs", 1e-3)),
    "s": (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)),
}


_RATES = (("M ", 1e6), ("k ", 1e3))


def human(value: float | None, unit: str | None) -> str:
    """A figure with its unit, scaled so that it reads well: 1234 ns is 1.23 µs."""
    if value is None:
        return ""
    if unit in _SCALES:
        scales = _SCALES[unit]
        name, scale = next((pair for pair in scales if abs(value) >= pair[1]), scales[-1])
        return f"{_three(value / scale)} {name}"
    if unit is not None and unit.endswith("/s"):
        name, scale = next((pair for pair in _RATES if abs(value) >= pair[1]), ("", 1.0))
        return f"{_three(value / scale)} {name}{unit}"
    return f"{_three(value)} {unit or ''}".rstrip()


def _three(value: float) -> str:
    """Three significant digits, without exponents."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _ratio(row: Json) -> str:
    if row["ratio"] is None:
        return ""
    low, high = row["spread"]["ratio"]
    return f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"


def _met(row: Json) -> str:
    return {True: "yes", False: "**no**", None: ""}[row["met"]]


def _peer(row: Json) -> str:
    return f"{human(row['peer'], row['unit'])}, {row['peer_name']}" if row["peer"] is not None else ""


def _target(row: Json) -> str:
    """The target in the table's words."""
    if row["target"] is None:
        return ""
    bounds = row["bounds"]
    if bounds["of"] == "ratio":
        return str(row["target"])
    unit = row["unit"]
    if bounds["at_most"] is None:
        return f">= {human(bounds['at_least'], unit)}"
    low = f"{human(bounds['at_least'], unit)} to " if bounds["at_least"] is not None else "<= "
    return low + human(bounds["at_most"], unit)


def write_json(results: Json, path: str) -> None:
    """Write the results, whole or not at all."""
    _write(path, json.dumps(results, indent=1, ensure_ascii=False) + "\n")


def _write(path: str, text: str) -> None:
    temporary = f"{path}.{os.getpid()}.part"
    os.makedirs(os.path.dirname(temporary) or ".", exist_ok=True)
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def show(results: Json, console: Console) -> None:
    """Print the table, and below it what a reader must know."""
    table = Table(box=box.SIMPLE_HEAD, title="ours / peer: below 1 is faster, unless the row says otherwise")
    for name in ("row", "measured", "ours", "peer", "ratio (middle half)", "target", "met"):
        table.add_column(name, justify="right" if name == "ours" else "left", overflow="fold")
    for row in results["rows"]:
        if row["error"] is not None:
            table.add_row(row["row"], row["title"], f"[red]failed: {row['error'].splitlines()[-1]}[/red]")
            continue
        met = {True: "[green]yes[/green]", False: "[red]no[/red]", None: ""}[row["met"]]
        ours = human(row["ours"], row["unit"])
        table.add_row(row["row"], row["title"], ours, _peer(row), _ratio(row), _target(row), met)
    console.print(table)
    for line in _remarks(results):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _remarks(results: Json) -> list[str]:
    lines = []
    for row in results["rows"]:
        lines += [f"{row['row']}: {note}" for note in row.get("notes", ())]
        lines += [f"{row['row']}: not measured: {reason}" for reason in row.get("skipped", ())]
    return list(dict.fromkeys(lines))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def markdown(results: Json) -> str:
    """The tables and what the figures are of, for the docs."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory']}; {machine['kernel']}; {machine['python']}; "
        f"{machine['libc']}. {machine['time']}, {results['effort']}. {versions}.",
        "",
        "| row | measured | ours | peer | ratio (middle half) | target | met |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        if row["error"] is not None:
            cells = [row["row"], row["title"], "failed", "", "", "", ""]
        else:
            ours = human(row["ours"], row["unit"])
            cells = [row["row"], row["title"], ours, _peer(row), _ratio(row), _target(row), _met(row)]
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    first = next((row for row in results["rows"] if row["row"] == "B1" and row["error"] is None), None)
    if first is not None:
        lines += ["", "A locked increment (B1), all candidates:", "", *_everyone(first)]
    remarks = _remarks(results)
    if remarks:
        lines += ["", *(f"* {_cell(remark)}" for remark in remarks)]
    return "\n".join(lines) + "\n"


def _everyone(row: Json) -> list[str]:
    figures = [(row["ours"], row["ours_name"]), (row["peer"], row["peer_name"])]
    figures += [(peer["value"], peer["name"]) for peer in row["peers"]]
    lines = ["| with | time | against ours |", "|---|---|---|"]
    for value, name in sorted(figures):
        shown = f"**{name}**" if name == row["ours_name"] else name
        lines.append(f"| {_cell(shown)} | {human(value, row['unit'])} | x {_three(value / row['ours'])} |")
    return lines


def write_markdown(results: Json, path: str) -> None:
    """Write the tables into a file: between the two marks if it is there, else as a new file.

    Raises:
        ValueError: the file is there, but the marks are not.
    """
    made = f"{BEGIN}\n{markdown(results)}{END}\n"
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        _write(path, made)
        return
    begin, end = text.find(BEGIN), text.find(END)
    if begin < 0 or end < begin:
        raise ValueError(f"{path} is not overwritten: it has no line {BEGIN!r} and after it {END!r}")
    _write(path, text[:begin] + made.rstrip("\n") + text[end + len(END) :])
