"""``waits``, and what ``list`` and ``show`` tell of those who wait: as trees, as a graph, as JSON."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from commands import Command
from kinds import KINDS, acquire, make
from processes import Child, Line, held_by_child, wait_for_waiter
from support import wait_until

from wdkmutex_shm import CriticalSection, FastMutex, KMutex
from wdkmutex_shm.core import _core

pytestmark = pytest.mark.slow  # each of them starts several processes


def _hold_and_wait(line: Line, mine: Any, theirs: Any) -> None:
    with acquire(mine):
        line.say("has mine")
        with acquire(theirs):
            pass
    line.say("done")


def _rows(cli: Command, *segments: str) -> list[dict[str, Any]]:
    """The waits for mutexes in these segments; others on this machine may wait as well."""
    found = json.loads(cli("waits", "--json"))
    return [row for row in found if row["segment"] in segments]


@pytest.fixture
def chain() -> Iterator[tuple[list[Any], Child, Child]]:
    """This thread holds the first mutex, one child the second and waits for the first, another waits for the second."""
    mutexes = [KMutex(0), CriticalSection(), FastMutex(0)]
    hold = acquire(mutexes[0])
    with Child(_hold_and_wait, mutexes[1], mutexes[0]) as one:
        one.hear()
        wait_for_waiter(mutexes[0])
        with Child(_hold_and_wait, mutexes[2], mutexes[1]) as other:
            other.hear()
            wait_for_waiter(mutexes[1])
            yield mutexes, one, other
            hold.release()
            assert one.hear() == other.hear() == "done"
            assert one.end() == other.end() == 0


def _place(mutex: Any) -> str:
    return f"{mutex.segment.rpartition('.p')[2]}.{mutex.slot_index}"


def _called(mutex: Any) -> str:
    kind = {KMutex: "k", FastMutex: "fast", CriticalSection: "section"}[type(mutex)]
    return f"anonymous {kind} mutex {_place(mutex)} of process {os.getpid()}"


def test_a_chain_as_json(cli: Command, chain: tuple[list[Any], Child, Child]) -> None:
    mutexes, one, other = chain
    first, second = _rows(cli, *(mutex.segment for mutex in mutexes))
    assert (first["pid"], first["slot"], first["kind"]) == (one.pid, mutexes[0].slot_index, "k")
    assert (second["pid"], second["slot"], second["kind"]) == (other.pid, mutexes[1].slot_index, "section")
    assert (first["owner_pid"], second["owner_pid"]) == (os.getpid(), one.pid)
    for row in (first, second):
        assert (row["state"], row["how"], row["deadlock"], row["instance"]) == ("held", "lock", False, None)
        assert 0 < row["waited"] < 60
        assert 0 <= row["held_for"] < 60
        assert row["command"]
        assert row["owner_command"]
        assert row["owner_tid"] == row["owner_pid"]


def test_a_chain_as_a_tree(cli: Command, chain: tuple[list[Any], Child, Child]) -> None:
    mutexes, one, other = chain
    lines = cli("waits").splitlines()
    (at,) = [number for number, line in enumerate(lines) if re.search(rf"held for .* by process {os.getpid()} ", line)]
    first, held, second = lines[at + 1 : at + 4]
    assert re.match(rf".── process {one.pid} \(.*\), thread {one.pid} \(.*\) has waited for [0-9.]+ s", first)
    assert held.strip(" └│─├") == f"and holds {_called(mutexes[1])}"
    assert re.match(rf".       .── process {other.pid} .* has waited for", second)
    assert "DEADLOCK" not in "".join(lines[at : at + 4])


def test_a_chain_as_a_graph(cli: Command, chain: tuple[list[Any], Child, Child]) -> None:
    mutexes, one, other = chain
    dot = cli("waits", "--dot")
    assert dot.startswith("digraph waits {")
    assert dot.rstrip().endswith("}")
    nodes = dict(re.findall(r'(t\d+) \[label="(\d+)/', dot))
    slots = dict(re.findall(r'(m\d+) \[shape=ellipse, label="anonymous \w+ mutex (\d+\.\d+) of process \d+"', dot))
    waits = {(nodes[thread], slots.get(mutex)) for thread, mutex in re.findall(r"(t\d+) -> (m\d+)", dot)}
    holds = {(slots.get(mutex), nodes[thread]) for mutex, thread in re.findall(r"(m\d+) -> (t\d+) \[label=held\]", dot)}
    first, second = map(_place, mutexes[:2])
    assert {(str(one.pid), first), (str(other.pid), second)} <= waits
    assert {(first, str(os.getpid())), (second, str(one.pid))} <= holds


@pytest.mark.parametrize("form", ["tree", "json", "dot"])
def test_a_circle(cli: Command, form: str) -> None:
    mine, theirs = FastMutex(0), FastMutex(0)
    hold = acquire(mine)
    with Child(_hold_and_wait, theirs, mine) as child:
        child.hear()
        wait_for_waiter(mine)
        # As if this thread waited, and had done so for less long: the other one leaves it to this one to be told.
        ticket = _core.begin_wait(theirs, _core.WAIT_LOCK, time.monotonic_ns() + 3600 * 10**9)
        try:
            wait_until(lambda: child.silent(0.3))
            if form == "json":
                rows = _rows(cli, mine.segment, theirs.segment)
                assert [(row["pid"], row["deadlock"]) for row in rows] == [(child.pid, True), (os.getpid(), True)]
            elif form == "dot":
                dot = cli("waits", "--dot")
                assert len(re.findall(r" -> .*color=red\];", dot)) == 4
            else:
                said = [line for line in cli("waits").splitlines() if f"process {child.pid} " in line]
                assert any(line.endswith(": DEADLOCK") for line in said)
                assert "(as above)" in cli("waits")
        finally:
            _core.end_wait(ticket)
        hold.release()
        assert child.hear() == "done"


def test_nobody_waits(cli: Command) -> None:
    mutex = FastMutex(0)
    assert _rows(cli, mutex.segment) == []
    assert mutex.segment not in cli("waits")


def test_waits_for_what_is_gone_or_free(cli: Command) -> None:
    mutex, gone = KMutex(0), KMutex(0)
    tickets = [_core.begin_wait(each, kind, time.monotonic_ns()) for each, kind in ((mutex, 2), (mutex, 3), (gone, 4))]
    place = gone.segment
    gone.to_owned()
    rows = {row["how"]: row for row in _rows(cli, mutex.segment, place)}
    assert {how: row["state"] for how, row in rows.items()} == {"any": "free", "value": "free", "task": "gone"}
    assert [rows[how]["owner_pid"] for how in rows] == [None] * 3
    said = cli("waits")
    assert ", for a value" in said
    assert "a mutex that is gone, destroyed" in said
    for ticket in tickets:
        _core.end_wait(ticket)


@pytest.mark.parametrize("kind", KINDS)
def test_list_and_show_tell_who_waits(kind: str, grt: str) -> None:
    cli, name = Command(grt), f"of kind {kind}"
    mutex = make(kind, name)
    assert cli.json("show", name)["waiters"] == []
    assert re.search(r"^waiting: +nobody$", cli("show", name), re.MULTILINE)
    with (
        held_by_child(mutex) as holder,
        Child(_hold_and_wait, KMutex(0), mutex) as one,
        Child(_hold_and_wait, KMutex(0), mutex) as other,
    ):
        one.hear()
        other.hear()
        wait_until(lambda: len(mutex.waiters()) == 2)
        waiters = [waiter.pid for waiter in mutex.waiters()]
        assert sorted(waiters) == sorted([one.pid, other.pid])
        (row,) = cli.json("list")
        assert [waiter["pid"] for waiter in row["waiters"]] == waiters
        (line,) = [line for line in cli("list").splitlines() if line.startswith(name)]
        assert re.search(r" s +2 +\d+ +\d+ +0$", line)
        assert [waiter["pid"] for waiter in cli.json("show", name)["waiters"]] == waiters
        pattern = rf"^waiting: +process {waiters[0]} \(.*\), thread {waiters[0]}, for .* s\n +process {waiters[1]} "
        assert re.search(pattern, cli("show", name), re.MULTILINE)
        assert [(wait["mutex"], wait["instance"]) for wait in _rows(cli, mutex.segment)] == [(name, grt)] * 2
        assert f"{name} of instance {grt}, held" in cli("waits")
        holder.say("release")
        assert one.hear() == other.hear() == "done"
