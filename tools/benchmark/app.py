"""The command line: chooses rows, measures them, and writes what was asked for."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmark import report
from benchmark.instance import remove_all
from benchmark.isolation import Failure, Step, end_on_sigterm, isolated
from benchmark.machine import machine
from benchmark.model import FULL, QUICK, Effort, Row, failed
from benchmark.rows import ROWS
from wdkmutex_shm.pool.sweep import unused_boards

__all__ = ["main"]

_FILE = click.Path(dir_okay=False, resolve_path=True)
_SHARED = "/dev/shm"


def _chosen(context: click.Context, parameter: click.Parameter, words: tuple[str, ...]) -> list[Row]:
    """The rows that ``--only`` names; all of them without it."""
    ids = [word.strip().upper() for part in words for word in part.split(",") if word.strip()]
    unknown = sorted(set(ids) - ROWS.keys())
    if unknown:
        raise click.BadParameter(f"no row {', '.join(unknown)}; there are {', '.join(ROWS)}")
    return [row for row in ROWS.values() if not ids or row.id in ids]


@contextmanager
def _workplace() -> Iterator[str]:
    """A runtime folder of our own, an empty current folder, and a folder in shared memory; all removed at the end."""
    kept, before = {key: os.environ.get(key) for key in ("XDG_RUNTIME_DIR", "WDKMUTEX_INSTANCE")}, os.getcwd()
    with tempfile.TemporaryDirectory(prefix="wdkmbench", dir="/tmp") as folder:
        shared = _SHARED if os.access(_SHARED, os.W_OK) else folder
        with tempfile.TemporaryDirectory(prefix="wdkmbench", dir=shared) as scratch:
            os.environ["XDG_RUNTIME_DIR"] = folder
            os.environ.pop("WDKMUTEX_INSTANCE", None)
            os.chdir(scratch)  # no package that lies in the user's folder is imported by what we start
            try:
                yield scratch
            finally:
                remove_all(folder)
                unused_boards()  # of the processes of rows, which end without a look at what they leave
                os.chdir(before)
                for key, value in kept.items():
                    if value is None:
                        os.environ.pop(key, None)
                    else:
                        os.environ[key] = value


def _measure(rows: list[Row], effort: Effort, curves: bool, console: Console) -> list[dict[str, Any]]:
    """Measure the rows, telling of it on the console. A row that fails is said, and the next one is measured."""
    found: list[dict[str, Any]] = []
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    # No thread draws the bar: this process forks, and children of a process with threads may hang.
    with _workplace() as scratch, Progress(*columns, console=console, auto_refresh=False) as progress:
        task = progress.add_task("", total=len(rows))

        def shown(text: str, done: float) -> None:
            progress.update(task, description=text[:40].ljust(40), completed=done)
            progress.refresh()

        for number, row in enumerate(rows):
            for event in isolated(row, effort, scratch, curves):
                if isinstance(event, Step):
                    shown(f"{row.id}: {event.what}", number + event.fraction)
                elif isinstance(event, Failure):
                    progress.console.print(event.trace, markup=False, highlight=False)
                    found.append(failed(row, event.reason))
                else:
                    found.append(event)
        shown("done", len(rows))
    return found


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="The whole in less than a minute, with less rounds and smaller crowds.")
@click.option(
    "--only", "rows", metavar="ROW", multiple=True, callback=_chosen, help="Only this row, such as B7. Again, or B1,B3."
)
@click.option("--json", "json_file", metavar="FILE", type=_FILE, help="Write the results there.")
@click.option(
    "--plot",
    "folder",
    metavar="DIR",
    type=click.Path(file_okay=False, resolve_path=True),
    help="Draw PNG and SVG there.",
)
@click.option(
    "--markdown",
    "markdown_file",
    metavar="FILE",
    type=_FILE,
    help="Write the table there, between its marks if it exists.",
)
@click.option("--rounds", type=click.IntRange(min=1), help="How many rounds of samples, in place of the usual number.")
@click.option(
    "--from",
    "earlier",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="Measure nothing: show this run.",
)
def main(
    quick: bool,
    rows: list[Row],
    json_file: str | None,
    folder: str | None,
    markdown_file: str | None,
    rounds: int | None,
    earlier: str | None,
) -> None:
    """Measure this project and what users would pick instead, interleaved, and print how they compare.

    Exits with 1 when a row could not be measured; the others are reported all the same.
    """
    end_on_sigterm()
    console = Console(stderr=True)
    if earlier is not None:
        with open(earlier, encoding="utf-8") as file:
            results = json.load(file)
    else:
        effort = QUICK if quick else FULL
        if rounds is not None:
            effort = replace(effort, rounds=rounds, contended_rounds=min(rounds, effort.contended_rounds))
        head = machine()
        found = _measure(rows, effort, folder is not None, console)
        results = {"rows": found, "machine": head, "effort": "quick run" if quick else "full run"}
    # Wide enough for the table to be read when the output goes to a file.
    report.show(results, Console(width=None if sys.stdout.isatty() else 160))
    if json_file is not None:
        report.write_json(results, json_file)
    if markdown_file is not None:
        try:
            report.write_markdown(results, markdown_file)
        except ValueError as error:
            raise click.ClickException(str(error)) from None
    if folder is not None:
        from benchmark.plots import draw

        for path in draw(results, folder):
            console.print(path, markup=False, highlight=False, soft_wrap=True)
    sys.exit(1 if any(row["error"] is not None for row in results["rows"]) else 0)
