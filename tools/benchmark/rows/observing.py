"""O1: what it costs to look at very many mutexes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

from benchmark import crowd
from benchmark.instance import attached, served
from benchmark.model import Context, Entry, Row, Target

__all__ = ["ROWS"]


def _list(instance: str, *form: str) -> float:
    """Milliseconds that the command line takes to list all mutexes of an instance."""
    command = [sys.executable, "-m", "wdkmutex_daemon", "list", "--instance", instance, *form]
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return 1e3 * (time.perf_counter() - began)


def _looking(context: Context) -> Iterator[Entry]:
    count, rounds = context.effort.names, 3 if context.effort.quick else 7
    snapshots: list[float] = []
    tables: list[float] = []
    texts: list[float] = []
    with served() as owner, attached(owner.instance) as reader:
        owner.call(crowd.register_many, 0, count)
        reader.call(crowd.snapshot, count)  # the first one loads what it needs
        for number in range(rounds):
            context.tell("snapshot and list", number / rounds)
            snapshots.append(reader.call(crowd.snapshot, count))
            tables.append(_list(owner.instance))
            texts.append(_list(owner.instance, "--json"))
    what = f"{count:,} names: "
    yield Entry(
        part="snapshot",
        title=what + "snapshot",
        unit="ms",
        ours=tuple(snapshots),
        ours_name="Grt.snapshot",
        target=Target("ours", at_most=300.0),
    )
    for part, took in (("list", tables), ("list --json", texts)):
        yield Entry(
            part=part,
            title=what + f"wdkmutex-daemon {part}",
            unit="ms",
            ours=tuple(took),
            ours_name=f"wdkmutex-daemon {part}",
            target=Target("ours", at_most=3000.0),
        )


ROWS = [Row("O1", "looking at very many mutexes", _looking)]
