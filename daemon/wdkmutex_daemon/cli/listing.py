"""``list``: all mutexes of an instance, from one pass over shared memory; the daemon is not needed."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from . import options
from .output import duration, note, print_json, printable
from .tables import Column, lines

if TYPE_CHECKING:
    from wdkmutex_shm import MutexInfo

__all__ = ["list_verb", "row_of"]

_COMMAND_SHOWN = 60
_CHUNK = 512


def row_of(info: MutexInfo) -> dict[str, Any]:
    """A mutex as ``--json`` shows it."""
    holder, counts = info.holder, info.statistics
    return {
        "name": info.name,
        "kind": info.kind,
        "label": info.label,
        "value_bytes": counts.value_bytes,
        "pool_bytes": counts.pool_bytes,
        "state": info.state,
        "owner_pid": holder.pid if holder else None,
        "owner_tid": holder.tid if holder else None,
        "held_for": holder.held_for if holder and info.state == "held" else None,
        "acquisitions": counts.acquisitions,
        "contended": counts.contended,
        "abandoned": counts.abandoned,
        "timeouts": counts.timeouts,
        "commits": counts.commits,
        "abandoned_pid": info.abandoned_by,
        "segment": info.segment,
        "slot": info.slot,
        "generation": info.generation,
        "owner_command": holder.command if holder else None,
        "waiters": [waiter._asdict() for waiter in info.waiters],
    }


# --- columns


def _command(info: MutexInfo) -> str:
    from wdkmutex_shm.observe.programs import program_of

    holder = info.holder
    if holder is None:
        return ""
    if not holder.alive:
        return "(died)"
    text = printable(program_of(holder.command))
    if holder.tid != holder.pid:
        text = f"{text[: _COMMAND_SHOWN // 2]} [{printable(holder.thread)}]"
    return text if len(text) <= _COMMAND_SHOWN else text[: _COMMAND_SHOWN - 3] + "..."


def _number(number: int) -> str:
    return str(number) if number else ""


_COLUMNS: dict[str, tuple[Column, Callable[[MutexInfo], str]]] = {
    "name": (Column("name", good=18, least=10), lambda info: printable(info.name)),
    "kind": (Column("kind", rank=4), lambda info: info.kind),
    "T": (Column("T", rank=5), lambda info: printable(info.label)),
    "bytes": (
        Column("bytes", right=True, rank=6),
        lambda info: "" if info.kind == "section" else str(info.statistics.value_bytes),
    ),
    "memory": (Column("memory", right=True, rank=6), lambda info: str(info.statistics.pool_bytes)),
    "state": (Column("state", rank=3), lambda info: info.state),
    "holder": (Column("holder", right=True, rank=2), lambda info: str(info.holder.pid) if info.holder else ""),
    "thread": (Column("thread", rank=2), lambda info: printable(info.holder.thread) if info.holder else ""),
    "command": (Column("command", good=12, least=8, head=True), _command),
    "held-for": (
        Column("held for", right=True),
        lambda info: duration(info.holder.held_for) if info.holder and info.state == "held" else "",
    ),
    "waiting": (Column("waiting", right=True), lambda info: _number(len(info.waiters))),
    "acquisitions": (Column("acquisitions", right=True, rank=7), lambda info: str(info.statistics.acquisitions)),
    "contended": (Column("contended", right=True, rank=8), lambda info: str(info.statistics.contended)),
    "abandoned": (Column("abandoned", right=True, rank=9), lambda info: str(info.statistics.abandoned)),
    "timeouts": (Column("timeouts", right=True, rank=8), lambda info: str(info.statistics.timeouts)),
    "commits": (Column("commits", right=True, rank=7), lambda info: str(info.statistics.commits)),
}
_USUAL: tuple[str, ...] = ("name", "kind", "T", "bytes", "state", "holder", "command", "held-for", "waiting")
_USUAL += ("acquisitions", "contended", "abandoned")


def _chosen(ctx: click.Context, param: click.Parameter, value: str | None) -> list[str] | None:
    if value is None:
        return None
    chosen = [name.strip() for name in value.split(",")]
    unknown = [name for name in chosen if name not in _COLUMNS]
    if unknown:
        raise click.UsageError(f"--columns: there is no column {unknown[0]!r}; there are {', '.join(_COLUMNS)}", ctx)
    return chosen


# --- order


def _by_waiting(info: MutexInfo) -> tuple[Any, ...]:
    return -len(info.waiters), -info.waiters[0].waited if info.waiters else 0.0, info.name


def _by_held(info: MutexInfo) -> tuple[Any, ...]:
    rank = {"held": 0, "abandoned": 1}.get(info.state, 2)
    return rank, -info.holder.held_for if info.holder else 0.0, info.name


_ORDERS: dict[str, Callable[[MutexInfo], tuple[Any, ...]] | None] = {
    "name": None,  # as they come
    "waiting": _by_waiting,
    "held": _by_held,
    "contended": lambda info: (-info.statistics.contended, info.name),
}


def _matching(found: list[MutexInfo], pattern: str | None) -> list[MutexInfo]:
    if pattern is None:
        return found
    if not any(char in pattern for char in "*?["):
        return [info for info in found if pattern in info.name]
    import fnmatch
    import re

    matches = re.compile(fnmatch.translate(pattern)).match
    return [info for info in found if matches(info.name)]


# --- output


def _write(texts: Iterable[str]) -> None:
    """Write lines in pieces, so that whoever reads them may end it in between."""
    ahead = iter(texts)
    while piece := list(islice(ahead, _CHUNK)):
        sys.stdout.write("\n".join(piece) + "\n")
    sys.stdout.flush()


def _table(found: list[MutexInfo], columns: list[str] | None) -> Iterator[str]:
    names = columns or _USUAL
    cells = [list(map(_COLUMNS[name][1], found)) for name in names]
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    return lines([_COLUMNS[name][0] for name in names], cells, room, drop=columns is None)


def _warn_of_daemon(instance: str) -> None:
    from wdkmutex_shm.base.names import instance_prefix
    from wdkmutex_shm.pool.pool import Pool

    if Pool.writer_of(instance_prefix(instance)) is None:
        note(
            f"No daemon serves instance {instance}: locks work, but names can be neither looked up nor registered. "
            f"Start it: wdkmutex-daemon start --instance {instance}"
        )


class _View:
    """What of an instance is shown, and how."""

    def __init__(
        self, instance: str, pattern: str | None, sort: str, limit: int | None, columns: list[str] | None
    ) -> None:
        self.instance, self.pattern, self.sort, self.limit, self.columns = instance, pattern, sort, limit, columns
        self.total = 0

    def take(self) -> list[MutexInfo]:
        """The mutexes that are to be shown, as they are now."""
        from wdkmutex_shm.observe.snapshot import of_instance

        found = of_instance(self.instance)
        self.total = len(found)
        found = _matching(found, self.pattern)
        order = _ORDERS[self.sort]
        if order is not None:
            found.sort(key=order)
        return found if self.limit is None else found[: self.limit]

    def once(self) -> None:
        """Print a table."""
        found = self.take()
        if found:
            _write(_table(found, self.columns))
        if not self.total:
            note(f"Instance {self.instance} has no mutex. Register one: wdkmutex-daemon register NAME JSON")
        elif not found and self.pattern is not None:
            note(f"None of the {self.total} mutexes of instance {self.instance} matches {self.pattern!r}.")
        _warn_of_daemon(self.instance)

    def again_and_again(self, interval: float) -> None:
        """Print a table every ``interval`` seconds; on a terminal, over the last one and as far as it has room."""
        terminal = sys.stdout.isatty()
        before = "\x1b[2J"
        while True:
            found = self.take()
            held = sum(info.state == "held" for info in found)
            waiting = sum(len(info.waiters) for info in found)
            head = f"{time.strftime('%H:%M:%S')}  {self.instance}: {self.total} mutexes"
            head += f"; of {len(found)} shown {held} held, {waiting} waiting"
            if terminal:
                size = shutil.get_terminal_size()
                found = found[: max(1, size.lines - 3)]
                shown = [head[: size.columns], *_table(found, self.columns)]
                sys.stdout.write(before + "\x1b[H" + "".join(f"{line}\x1b[K\n" for line in shown) + "\x1b[J")
                sys.stdout.flush()
                before = ""
            else:
                _write([head, *_table(found, self.columns), ""])
            time.sleep(interval)


@click.command("list")
@options.instance
@options.as_json
@click.option("--jsonl", is_flag=True, help="Print one JSON object per line.")
@click.option("--sort", type=click.Choice(list(_ORDERS)), default="name", help="Order. [default: name]")
@click.option("--limit", metavar="N", type=options.Whole(0), help="Show at most N mutexes.")
@click.option("--columns", metavar="A,B,...", callback=_chosen, help=f"Columns: {', '.join(_COLUMNS)}.")
@click.option("--watch", is_flag=True, help="Show it again and again, until Ctrl-C.")
@click.option("--interval", metavar="S", type=options.Seconds(0.05), default=2.0, help="For --watch. [default: 2]")
@click.argument("pattern", metavar="[PATTERN]", required=False)
def list_verb(
    instance: str,
    as_json: bool,
    jsonl: bool,
    sort: str,
    limit: int | None,
    columns: list[str] | None,
    watch: bool,
    interval: float,
    pattern: str | None,
) -> None:
    """List the mutexes with their holders and waiters.

    PATTERN is a glob such as 'orders:*'; without *, ? and [ it is a part of the name. Neither a lock nor the daemon is
    needed.

    "bytes" is the size of T; "memory" the shared memory. "command" is what the holder runs, with its thread in brackets
    if that is not the main thread. "held for" is a lower bound: locking reads no clock. "waiting": the number of
    waiters of over a millisecond. "abandoned" as a state: the holder died and the mutex was not acquired since; as a
    number: how often that happened. On a narrow terminal some columns are left out; --columns selects them.
    """
    view = _View(instance, pattern, sort, limit, columns)
    if as_json and (jsonl or watch):
        raise click.UsageError("--json prints one object; with --watch, or to read line by line, use --jsonl alone")
    if as_json:
        print_json([row_of(info) for info in view.take()])
    elif jsonl:
        while True:
            _write(json.dumps(row_of(info), ensure_ascii=False) for info in view.take())
            if not watch:
                break
            time.sleep(interval)
    elif watch:
        view.again_and_again(interval)
    else:
        view.once()
