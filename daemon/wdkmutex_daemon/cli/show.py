"""Verbs that only look: ``list``, ``show``, ``get``. None of them takes a lock."""

from __future__ import annotations

from typing import Any

import click

from . import exit_codes, json_values, options, session
from .output import Failure, duration, print_json, print_table, printable

__all__ = ["get_verb", "list_verb", "show_verb"]

_COLUMNS = (
    ("name", "left"),
    ("kind", "left"),
    ("T", "left"),
    ("bytes", "right"),
    ("state", "left"),
    ("holder", "right"),
    ("command", "left"),
    ("held for", "right"),
    ("waiting", "right"),
    ("acquisitions", "right"),
    ("contended", "right"),
    ("abandoned", "right"),
)
_COMMAND_SHOWN = 60


def _with_command(row: dict[str, Any]) -> dict[str, Any]:
    from wdkmutex_shm.base.identity import command_of

    pid = row["owner_pid"]
    return {**row, "owner_command": command_of(pid) if pid and row["state"] != "free" else None}


def _with_waiters(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of mutexes, each with who waits for it, as the wait board tells it."""
    from wdkmutex_shm.observe.waiters import all_waits

    found: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    for record, waiter, _ in all_waits():
        found.setdefault((record.segment, record.slot, record.generation), []).append(waiter._asdict())
    return [{**row, "waiters": found.get((row["segment"], row["slot"], row["generation"]), [])} for row in rows]


@click.command("list")
@options.instance
@options.as_json
def list_verb(instance: str, as_json: bool) -> None:
    """List the mutexes with their holders and waiters.

    "bytes" is the size of T; `show` and --json also give the shared memory. "held for" is a lower bound: locking reads
    no clock. "waiting": the number of waiters of over a millisecond. "abandoned" as a state: the holder died and the
    mutex was not acquired since; as a number: how often that happened.
    """
    with session.connect(instance) as client:
        rows = client.collect("list", "mutexes")
    rows = _with_waiters([_with_command(row) for row in sorted(rows, key=lambda row: row["name"])])
    if as_json:
        print_json(rows)
        return
    if not rows:
        click.echo(f"Instance {instance} has no mutex. Register one: wdkmutex-daemon register NAME JSON", err=True)
        return
    print_table(_COLUMNS, (_cells(row) for row in rows))


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    held = row["state"] != "free"
    command = printable(row["owner_command"] or "")
    return (
        printable(row["name"]),
        row["kind"],
        row["label"],
        f"{row['value_bytes']}" if row["kind"] != "section" else "",
        row["state"],
        str(row["owner_pid"] or "") if held else "",
        command if len(command) <= _COMMAND_SHOWN else command[: _COMMAND_SHOWN - 3] + "...",
        duration(row["held_for"]) if held else "",
        f"{len(row['waiters']) or ''}",
        f"{row['acquisitions']}",
        f"{row['contended']}",
        f"{row['abandoned']}",
    )


@click.command("show")
@options.instance
@options.as_json
@options.name
def show_verb(instance: str, as_json: bool, name: str) -> None:
    """Show one mutex, including its value."""
    with session.connect(instance) as client:
        (row,) = _with_waiters([_with_command(session.info(client, name))])
    row["has_value"] = row["kind"] != "section"
    row["value"] = json_values.to_json(_peek(row)) if row["has_value"] else None
    if as_json:
        print_json(row)
        return
    value = json_values.dumps_plain(row["value"]) if row["has_value"] else "none: a critical section protects no T"
    lines = {
        "name": printable(row["name"]),
        "kind": row["kind"],
        "T": row["label"],
        "value": value,
        "bytes": f"{row['value_bytes'] if row['has_value'] else 0} of T, {row['pool_bytes']} of shared memory",
        "state": row["state"],
        "holder": _holder(row),
        "waiting": "\n".ljust(15).join(map(_waiter, row["waiters"])) or "nobody",
        "acquisitions": f"{row['acquisitions']}, {row['contended']} of them contended; {row['timeouts']} timed out",
        "abandoned": f"{row['abandoned']}"
        + (f", last by process {row['abandoned_pid']}" if row["abandoned_pid"] else ""),
        "commits": f"{row['commits']}",
        "slot": f"{row['slot']} of {row['segment']}, generation {row['generation']}",
    }
    for title, text in lines.items():
        click.echo(f"{title + ':':<14}{text}")


def _holder(row: dict[str, Any]) -> str:
    if row["state"] == "free" or not row["owner_pid"]:
        return "nobody"
    since = f", for at least {duration(row['held_for'])}" if row["held_for"] is not None else ""
    return f"process {row['owner_pid']} ({printable(row['owner_command'] or '?')}), thread {row['owner_tid']}{since}"


def _waiter(row: dict[str, Any]) -> str:
    who = f"process {row['pid']} ({printable(row['command'])}), thread {row['tid']}"
    return f"{who}, for {duration(row['waited'])}" + (f" ({row['how']})" if row["how"] != "lock" else "")


@click.command("get")
@options.instance
@options.as_json
@options.name
def get_verb(instance: str, as_json: bool, name: str) -> None:
    """Print the value of a mutex as JSON.

    The value is the last committed one; no lock is taken. Values that JSON cannot represent are objects with one key:
    {"$bytes": base64}, {"$float": "nan"}, {"$time": ISO 8601}, {"$ext": [code, base64]}, {"$map": [[key, value], ...]}.
    `set` and `register` read the same forms. (--json has no effect here.)
    """
    with session.connect(instance) as client:
        facts = session.info(client, name)
    if facts["kind"] == "section":
        raise Failure(f"mutex {name!r} is a critical section and protects no T; use show", exit_codes.WRONG_TYPE)
    click.echo(json_values.dumps(_peek(facts)))


def _peek(facts: dict[str, Any]) -> Any:
    return session.attach(facts).peek()
