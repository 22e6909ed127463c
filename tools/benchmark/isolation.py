"""Each row is measured in a process of its own: what one imports, fills or breaks does not reach the next."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from benchmark.model import Context, Effort, Row

__all__ = ["Failure", "Step", "end_on_sigterm", "isolated"]

_FORK = multiprocessing.get_context("fork")
_TO_CLEAN_UP = 60.0


class Step(NamedTuple):
    """How far a row has come: what is being done, and the fraction that is done."""

    what: str
    fraction: float


class Failure(NamedTuple):
    """A row could not be measured: why, in a line, and where, in several."""

    reason: str
    trace: str


class _Done(NamedTuple):
    """The row is measured."""


def end_on_sigterm() -> None:
    """Let SIGTERM raise SystemExit, once, so that everything is cleaned up."""

    def end(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)


def _live(line: Connection, row: Row, effort: Effort, scratch: str, curves: bool) -> None:
    """In the row's process."""
    end_on_sigterm()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of us; our parent then ends us in good order
    try:
        context = Context(effort, scratch, lambda what, fraction: line.send(Step(what, fraction)), curves)
        for entry in row.measure(context):
            line.send(entry.json(row.id))
        line.send(_Done())
    except Exception as error:
        line.send(Failure(f"{type(error).__name__}: {error}", traceback.format_exc()))


def isolated(row: Row, effort: Effort, scratch: str, curves: bool) -> Iterator[Step | Failure | dict[str, Any]]:
    """Measure a row in a forked process.

    Yields:
        Its steps, and the JSON form of each of its entries. After a failure there is nothing more.
    """
    line, theirs = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_live, args=(theirs, row, effort, scratch, curves), name=f"bench-{row.id}")
    process.start()
    theirs.close()
    try:
        while True:
            try:
                event = line.recv()
            except EOFError:
                process.join()
                yield Failure(f"its process ended with status {process.exitcode}", f"{row.id}: no trace is left")
                return
            if isinstance(event, _Done):
                break
            yield event
            if isinstance(event, Failure):
                break
        process.join()
    finally:
        if process.is_alive():
            process.terminate()
            process.join(_TO_CLEAN_UP)
            if process.is_alive():
                process.kill()
                process.join()
        process.close()
        line.close()
