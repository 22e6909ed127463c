"""What is printed: one line for an error, one object for ``--json``, trees for people."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.tree import Tree

__all__ = [
    "PROGRAM",
    "Failure",
    "duration",
    "error_line",
    "note",
    "print_json",
    "print_trees",
    "printable",
]

PROGRAM = "wdkmutex-daemon"
_PIECE = 1 << 14


class Failure(Exception):
    """Ends the command with one line on stderr.

    Args:
        message: what went wrong, and the way out.
        code: the exit code, from :mod:`wdkmutex_daemon.cli.exit_codes`.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def error_line(message: str) -> None:
    """Print an error as the one line that it is."""
    click.echo(f"{PROGRAM}: error: {' '.join(message.split())}", err=True)


def note(message: str) -> None:
    """Print what was done, for people; to stderr, so that stdout holds nothing but what was asked for."""
    click.echo(message, err=True)


def print_json(value: Any) -> None:
    """Print one object as JSON, on several lines for a terminal and on one for a program."""
    import json

    text = json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None)
    # In pieces: of one large write to a reader that ends meanwhile, an unbuffered stdout does not say that it failed.
    for at in range(0, len(text), _PIECE):
        sys.stdout.write(text[at : at + _PIECE])
    click.echo()


def printable(text: str) -> str:
    """A name or command of somebody else's may hold control characters; a terminal must not obey them."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _console() -> Console:
    from rich.console import Console

    console = Console()
    # A pipe has no width: nothing is folded, one line stays one mutex.
    return console if console.is_terminal else Console(width=10_000, color_system=None)


def _print(console: Console, *what: RenderableType) -> None:
    with console.capture() as printed:  # rich would end the process by itself when nobody reads
        console.print(*what, sep="\n")
    click.echo(printed.get(), nl=False)


def print_trees(trees: Iterable[Tree]) -> None:
    """Print trees, one below the other."""
    _print(_console(), *trees)


def duration(seconds: float | None) -> str:
    """Return a time span for people: ``3.2 s``, ``4 min``; empty for None."""
    if seconds is None:
        return ""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.1f} s"
