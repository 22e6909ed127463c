"""Verbs that look at one mutex: ``show``, ``get``. None of them takes a lock."""

from __future__ import annotations

from typing import Any

import click

from . import exit_codes, json_values, options, session
from .output import Failure, duration, print_json, printable

__all__ = ["get_verb", "show_verb"]


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
