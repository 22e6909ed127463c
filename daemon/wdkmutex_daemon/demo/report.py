"""What came of a run: as one JSON object, or as a table for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .counting import Counts

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Result", "as_json", "as_tables"]

#: Suffixes that the table shows; the rest is summed up.
SHOWN = 12


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        path: what was counted.
        counts, expected: the workers' totals, and those of a plain single-process count.
        seconds, plain_seconds: how long either took.
        size: bytes that were counted.
        workers: how many worked at a time.
        seed: of the choice of whom to kill.
        kills: workers that were killed.
        abandoned: acquisitions of a mutex whose last owner had died with it.
    """

    path: str
    counts: Counts
    expected: Counts
    seconds: float
    plain_seconds: float
    size: int
    workers: int
    seed: int
    kills: int
    abandoned: int

    @property
    def equal(self) -> bool:
        """Whether all totals are those of the plain count."""
        return self.counts == self.expected


def as_json(result: Result) -> dict[str, Any]:
    """Return the object that ``--json`` prints."""
    return {
        "path": result.path,
        "files": result.counts.files,
        "expected_files": result.expected.files,
        "lines": result.counts.lines,
        "expected_lines": result.expected.lines,
        "words": result.counts.words,
        "expected_words": result.expected.words,
        "by_suffix": dict(result.counts.by_suffix.most_common()),
        "workers": result.workers,
        "seed": result.seed,
        "kills": result.kills,
        "abandoned": result.abandoned,
        "seconds": round(result.seconds, 3),
        "plain_seconds": round(result.plain_seconds, 3),
        "equal": result.equal,
    }


def as_tables(result: Result) -> str:
    """Return the totals beside those of the plain count, and what happened meanwhile, for stdout as it is."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    counts, expected = result.counts, result.expected
    table = Table(title=f"Words below {escape(result.path)}", title_justify="left")
    table.add_column("")
    for column in ("killed workers", "single process", "equal"):
        table.add_column(column, justify="right")

    def row(title: str, ours: int, theirs: int, **style: Any) -> None:
        table.add_row(title, f"{ours:,}", f"{theirs:,}", "yes" if ours == theirs else "[bold red]NO", **style)

    row("files", counts.files, expected.files)
    row("lines", counts.lines, expected.lines)
    row("words", counts.words, expected.words, end_section=True)
    suffixes = [suffix for suffix, _ in expected.by_suffix.most_common()]
    suffixes += [suffix for suffix in counts.by_suffix if suffix not in expected.by_suffix]
    for suffix in suffixes[:SHOWN]:
        row(f"words in {escape(suffix)}", counts.by_suffix[suffix], expected.by_suffix[suffix])
    if rest := suffixes[SHOWN:]:
        row(
            f"words in {len(rest)} others",
            sum(counts.by_suffix[suffix] for suffix in rest),
            sum(expected.by_suffix[suffix] for suffix in rest),
        )

    console = Console()
    with console.capture() as printed:
        console.print(table)
        _print_story(console, result)
    return printed.get()


def _print_story(console: Console, result: Result) -> None:
    counts, expected = result.counts, result.expected
    console.print(
        f"{result.workers} workers at a time, {result.kills} killed, {result.abandoned} acquisitions of a mutex whose "
        f"owner had died while holding it (seed {result.seed})",
        soft_wrap=True,
        highlight=False,
    )
    console.print(
        f"{result.seconds:.2f} s, {_rate(counts.files, result.seconds)} files/s, "
        f"{_rate(result.size, result.seconds * 1e6)} MB/s; single process: {result.plain_seconds:.2f} s, "
        f"{_rate(expected.files, result.plain_seconds)} files/s",
        soft_wrap=True,
        highlight=False,
    )
    verdict = "[green]The totals are equal." if result.equal else "[bold red]The totals are NOT equal."
    console.print(verdict, soft_wrap=True)


def _rate(amount: float, seconds: float) -> str:
    return f"{amount / seconds:,.0f}" if seconds else "-"
