"""B10 and B11: names, and very many of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from random import Random

from benchmark import crowd
from benchmark.figures import median
from benchmark.instance import Client, attached, served
from benchmark.model import Context, Entry, Row, Target
from benchmark.workers import Child, say

__all__ = ["ROWS"]

_FEW = 1_000
_SETTLE = 2.5
"""Seconds; the daemon does its housekeeping every two."""
_ECHO = "asyncio echo over a Unix socket"


@contextmanager
def _echo(scratch: str) -> Iterator[str]:
    """A server in a process of its own; the path of its socket."""
    path = os.path.join(scratch, "echo.sock")

    def work(line: Connection) -> None:
        from benchmark.echo import serve

        serve(path, crowd.REQUEST, crowd.REPLY, lambda: say(line, None))

    with Child(work) as child:
        child.hear()
        yield path


def _names(context: Context) -> Iterator[Entry]:
    effort = context.effort
    rounds, each = (7, 150) if effort.quick else (15, 1_000)
    gets: list[float] = []
    echoes: list[float] = []
    registered: list[float] = []
    registered_many: list[float] = []
    got_many: list[float] = []
    with served() as owner, attached(owner.instance) as reader, _echo(context.scratch) as path:
        reader.call(crowd.exchange, path, each)
        owner.call(crowd.register, 0, each)
        reader.call(crowd.get, range(each))
        for number in range(rounds):
            context.tell("get, register, and an echo", 0.6 * number / rounds)
            begin = (number + 1) * each
            registered.append(owner.call(crowd.register, begin, begin + each))
            gets.append(median(reader.call(crowd.get, range(begin, begin + each))))
            echoes.append(median(reader.call(crowd.exchange, path, each)))
        first = (rounds + 1) * each
        for number in range(3):
            context.tell("many in one call", 0.6 + 0.4 * number / 3)
            begin = first + number * effort.names
            registered_many.append(owner.call(crowd.register_many, begin, begin + effort.names))
            got_many.append(reader.call(crowd.get_many, begin, begin + effort.names))
    yield Entry(
        part="get",
        title="get of a name that this process never got, p50",
        unit="us",
        ours=tuple(gets),
        ours_name="Grt.get_fast_mutex",
        peer=tuple(echoes),
        peer_name=_ECHO,
        target=Target("ours", at_most=60.0),
    )
    yield Entry(
        part="register",
        title="register, one by one",
        unit="names/s",
        ours=tuple(registered),
        ours_name="Grt.register_fast_mutex",
        peer=tuple(1e6 / echo for echo in echoes),
        peer_name=_ECHO,
        target=Target("ours", at_least=12_000),
        higher_is_better=True,
    )
    for part, rates in (("register_many", registered_many), ("get_many", got_many)):
        yield Entry(
            part=part,
            title=f"{part} of {effort.names:,} names in one call",
            unit="names/s",
            ours=tuple(rates),
            ours_name=f"Grt.{part}",
            target=Target("ours", at_least=100_000),
            higher_is_better=True,
        )


def _resident(instance: str) -> dict[str, int]:
    """The most that the daemon has resident in some seconds, in which it also does its housekeeping."""
    pid, most = crowd.daemon_pid(instance), dict[str, int]()
    until = time.monotonic() + _SETTLE
    while time.monotonic() < until:
        for key, value in crowd.memory(pid).items():
            most[key] = max(most.get(key, 0), value)
        time.sleep(0.1)
    return most


def _gets(context: Context, few: Client, many: Client, count: int) -> tuple[list[float], list[float]]:
    """The p50 of gets, in us, among many names and among few, by turns."""
    rounds, each = 10, _FEW // 11
    # Every name is got once, so that each get is the first of its name in its process.
    picked = Random(1).sample(range(count), (rounds + 1) * each)
    among_few: list[float] = []
    among_many: list[float] = []
    with attached(few.instance) as reader, attached(many.instance) as other:
        for number in range(rounds + 1):
            context.tell("get among few and many", 0.6 + 0.1 * number / rounds)
            begin = number * each
            among_many.append(median(other.call(crowd.get, picked[begin : begin + each])))
            among_few.append(median(reader.call(crowd.get, range(begin, begin + each))))
    return among_many[1:], among_few[1:]  # the first round only warms up


def _million(context: Context) -> Iterator[Entry]:
    count = context.effort.million
    step = max(count // 10, 1)
    with served() as few, served() as many:
        few.call(crowd.register_many, 0, _FEW)
        for begin in range(0, count, step):
            context.tell(f"registering {count:,} names", 0.6 * begin / count)
            many.call(crowd.register_many, begin, min(begin + step, count))
        shared = crowd.shared_bytes(many.instance) / count
        among_many, among_few = _gets(context, few, many, count)
        context.tell("what is resident", 0.7)
        before = _resident(many.instance)
        context.tell("killing the daemon", 0.8)
        restarts = tuple(many.call(crowd.restart, many.instance, number) for number in range(3))
        restarts_few = tuple(few.call(crowd.restart, few.instance, number) for number in range(3))
        context.tell("what is resident", 0.9)
        after = _resident(many.instance)
        context.tell("destroying", 0.95)
    crowded = f"{count:,} names"
    notes = [f"a quick run: {count:,} names instead of 1,000,000"] if context.effort.quick else []
    yield Entry(
        part="shared memory",
        title=f"{crowded}: shared memory of a mutex",
        unit="B",
        ours=(shared,),
        ours_name="pool",
        target=Target("ours", at_most=512),
        notes=notes,
    )
    for key, target in (("VmRSS", Target("ours", at_most=400.0)), ("RssAnon", None)):
        yield Entry(
            part=f"daemon's {key}",
            title=f"{crowded}: the daemon's resident memory, {key}",
            unit="MB",
            ours=(max(before[key], after[key]) / 1e6,),
            ours_name="daemon",
            target=target,
            notes=[f"{key}: {before[key] / 1e6:.0f} MB after registering, {after[key] / 1e6:.0f} MB after the restart"],
        )
    yield Entry(
        part="restart",
        title=f"{crowded}: the daemon is killed, started again, and a get answers",
        unit="s",
        ours=restarts,
        ours_name=crowded,
        peer=restarts_few,
        peer_name=f"{_FEW:,} names",
        target=Target("ours", at_most=6.0),
    )
    yield Entry(
        part="get",
        title=f"{crowded}: get, p50",
        unit="us",
        ours=tuple(among_many),
        ours_name=crowded,
        peer=tuple(among_few),
        peer_name=f"{_FEW:,} names",
        target=Target("ratio", at_most=1.5),
    )


ROWS = [
    Row("B10", "names: get and register", _names),
    Row("B11", "a million names", _million),
]
