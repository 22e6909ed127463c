"""Many names in one call: what is returned, what stands after a failure, and what a dead daemon makes of it."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from lost_replies import Lost
from support import Fork, daemon_pid, kill, kill_daemon

from wdkmutex_shm import CriticalSection, FastMutex, Grt, KMutex, raise_irql
from wdkmutex_shm.base.names import instance_prefix
from wdkmutex_shm.engines.local import bulk_requests
from wdkmutex_shm.engines.local.client import Reply
from wdkmutex_shm.errors import (
    DaemonUnavailable,
    DowncastError,
    GrtIsEmpty,
    GrtIsNull,
    InvalidName,
    IrqlTooHigh,
    KeyExists,
    KeyNotFound,
    MutexDestroyed,
    PagedPoolAllocFailed,
)
from wdkmutex_shm.grt import session
from wdkmutex_shm.memory import shm
from wdkmutex_shm.protocol.bulk import BATCH

each_kind = pytest.mark.parametrize("kind", [KMutex, FastMutex])
each_mode = pytest.mark.parametrize("mode", ["overwrite", "checked", "get_or_register"])
MANY = 2 * BATCH + 10
"""More than two requests hold."""


@dataclass
class Job:
    title: str
    done: int


def numbered(count: int, prefix: str = "n") -> dict[str, int]:
    return {f"{prefix}{number}": number for number in range(count)}


def data_segments(instance: str) -> list[str]:
    return shm.listing(instance_prefix(instance) + ".d")


# --- what is returned


@each_mode
@each_kind
@pytest.mark.parametrize("count", [1, BATCH, BATCH + 1, MANY])
def test_register_and_get(kind: Any, mode: Any, count: int, grt: str) -> None:
    values = dict(reversed(numbered(count).items()))
    made = Grt.register_many(kind, values, mode=mode)
    assert list(made) == list(values)
    assert all(type(mutex) is kind for mutex in made.values())
    assert {name: mutex.peek() for name, mutex in made.items()} == values
    assert {name: mutex.name for name, mutex in made.items()} == {name: name for name in values}
    got = Grt.get_many(kind, values, int)
    assert list(got) == list(values)
    assert got == made, "handles to the same mutexes"
    assert Grt.get_many(kind, values) == made
    assert Grt.names() == sorted(values)


def test_critical_sections(grt: str) -> None:
    names = [f"s{number}" for number in range(MANY)]
    made = Grt.register_many(CriticalSection, iter(names))
    assert list(made) == names
    assert all(type(section) is CriticalSection for section in made.values())
    with made["s7"]:
        assert Grt.get_many(CriticalSection, ["s7"])["s7"].locked()
    assert list(Grt.register_many(CriticalSection, {"t": None}, mode="checked")) == ["t"]


@each_kind
def test_every_t_in_one_call(kind: Any, grt: str) -> None:
    values: dict[str, Any] = {
        "int": 1, "float": 2.5, "str": "täxt", "large": "x" * 10_000, "none": None, "bytes": b"\0", "list": [1, [2]],
        "job": Job("t", 3), "larger": b"y" * 2_000_000, "bool": True, "dict": {"a": None}, "job2": Job("u", 4),
    }  # fmt: skip
    made = Grt.register_many(kind, values)
    assert list(made) == list(values)
    assert {name: mutex.peek() for name, mutex in made.items()} == values
    for name, value in values.items():
        wanted = None if value is None else type(value)
        assert Grt.get_many(kind, [name], wanted)[name].peek() == value
    assert len(data_segments(grt)) == 2
    made["int"].replace(5)
    with pytest.raises(TypeError):
        made["int"].replace("text")


def test_one_t_for_all(grt: str) -> None:
    made: dict[str, Any] = Grt.register_many(FastMutex, {"a": 1, "b": None}, type=int | None)
    made["a"].replace(None)
    assert Grt.get_many(FastMutex, ["b", "a"], int | None)["a"].peek() is None
    anything: dict[str, Any] = Grt.register_many(KMutex, {"c": 1}, type=None)
    anything["c"].replace("text")


def test_names_that_come_twice(grt: str) -> None:
    Grt.register_many(FastMutex, numbered(3))
    got = Grt.get_many(FastMutex, ["n2", "n0", "n2"], int)
    assert [(name, mutex.peek()) for name, mutex in got.items()] == [("n2", 2), ("n0", 0)]
    assert list(Grt.register_many(CriticalSection, ["s", "s"], mode="checked")) == ["s"]


@each_mode
def test_no_name_at_all(mode: Any, grt: str) -> None:
    assert Grt.register_many(FastMutex, {}, mode=mode) == {}
    assert Grt.register_many(CriticalSection, [], mode=mode) == {}
    assert Grt.get_many(KMutex, []) == {}
    assert Grt.names() == []


@pytest.mark.slow
def test_a_hundred_thousand(grt: str) -> None:
    values = numbered(100_000)
    made = Grt.register_many(FastMutex, values, mode="checked")
    assert all(mutex.peek() == value for mutex, value in zip(made.values(), values.values(), strict=True))
    kill_daemon(grt)
    assert Grt.get_many(FastMutex, values, int) == made
    with pytest.raises(KeyExists, match="100000 of 100000"):
        Grt.register_many(FastMutex, values, mode="checked")


# --- what is refused before anything is asked


def test_arguments_that_make_no_sense(grt: str) -> None:
    calls: list[tuple[type[Exception], Any]] = [
        (TypeError, lambda: Grt.register_many(int, {"n": 1})),
        (TypeError, lambda: Grt.get_many("fast", ["n"])),
        (TypeError, lambda: Grt.register_many(FastMutex, ["n"])),
        (TypeError, lambda: Grt.get_many(FastMutex, "n")),
        (TypeError, lambda: Grt.get_many(FastMutex, [b"n"])),
        (TypeError, lambda: Grt.register_many(CriticalSection, "n")),
        (TypeError, lambda: Grt.register_many(CriticalSection, {"n": 1})),
        (TypeError, lambda: Grt.register_many(CriticalSection, ["n"], type=int)),
        (ValueError, lambda: Grt.register_many(FastMutex, {"n": 1}, mode="sometimes")),
        (TypeError, lambda: Grt.register_many(FastMutex, {"n": 1, "m": 1j})),
        (TypeError, lambda: Grt.register_many(FastMutex, {"n": 1, "m": "x"}, type=int)),
        (OverflowError, lambda: Grt.register_many(FastMutex, {"n": 1, "m": 2**64})),
    ]
    for error, call in calls:
        with pytest.raises(error):
            call()
    assert Grt.names() == []


@pytest.mark.parametrize("name", ["", "x" * 105, "ä" * 53, "a\0b", "\udc80"])
def test_names_that_no_mutex_has(name: str, grt: str) -> None:
    for call in (
        lambda: Grt.register_many(FastMutex, {**numbered(MANY), name: 1}),
        lambda: Grt.register_many(CriticalSection, ["good", name]),
        lambda: Grt.get_many(FastMutex, ["good", name]),
    ):
        with pytest.raises(InvalidName) as caught:
            call()
        assert caught.value.name == name
    assert Grt.names() == []


def test_fast_mutexes_are_made_up_to_dispatch(grt: str) -> None:
    with raise_irql(3):
        Grt.register_many(KMutex, {"k": 1})
        with pytest.raises(IrqlTooHigh, match="DISPATCH"):
            Grt.register_many(FastMutex, {"f": 1})
    assert Grt.names() == ["k"]


def test_there_is_no_grt(instance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WDKMUTEX_INSTANCE", instance)
    for call in (lambda: Grt.get_many(FastMutex, ["n"]), lambda: Grt.register_many(FastMutex, {"n": 1})):
        with pytest.raises(GrtIsNull):
            call()


# --- names that are not there, or taken


def test_missing_names_are_told(grt: str) -> None:
    with pytest.raises(GrtIsEmpty):
        Grt.get_many(FastMutex, ["n"])
    Grt.register_many(FastMutex, numbered(MANY))
    wanted = [*numbered(MANY), *(f"absent{number}" for number in range(MANY))]
    with pytest.raises(KeyNotFound, match=rf"^{MANY} of {2 * MANY} names .* and {MANY - 5} more") as caught:
        Grt.get_many(FastMutex, wanted, int)
    assert (caught.value.name, caught.value.instance) == ("absent0", grt)
    with pytest.raises(KeyNotFound, match="'absent'"):
        Grt.get_many(FastMutex, ["n1", "absent", "n2"])


def test_wrong_kind_and_wrong_t(grt: str) -> None:
    Grt.register_many(FastMutex, {"a": 1, "b": "text"})
    for kind, wanted, name in ((KMutex, int, "a"), (FastMutex, int, "b"), (FastMutex, str, "a"), (FastMutex, Job, "a")):
        with pytest.raises(DowncastError) as caught:
            Grt.get_many(kind, ["a", "b"], wanted)
        assert caught.value.name == name
    with pytest.raises(DowncastError):
        Grt.get_many(CriticalSection, ["a"])
    with pytest.raises(DowncastError, match=r"\(3 of the 3 names are registered\)"):
        Grt.register_many(FastMutex, {"c": 1, "a": 1, "b": 2}, mode="get_or_register")
    with pytest.raises(DowncastError):
        Grt.register_many(KMutex, {"a": 1}, mode="get_or_register")


def test_mutexes_that_were_consumed_are_not_there(grt: str) -> None:
    made = Grt.register_many(FastMutex, numbered(3))
    assert made["n1"].to_owned() == 1
    with pytest.raises(KeyNotFound, match="'n1'"):
        Grt.get_many(FastMutex, made, int)
    assert Grt.register_many(FastMutex, {"n1": 5}, mode="checked")["n1"].peek() == 5


@pytest.mark.parametrize("taken", [0, MANY - 1])
def test_checked_registers_all_or_nothing(taken: int, grt: str) -> None:
    mutex = Grt.register_kmutex(f"n{taken}", "old")
    with pytest.raises(KeyExists, match=f"^1 of {MANY + 1} names") as caught:
        Grt.register_many(FastMutex, {**numbered(MANY), "large": "x" * 1000}, mode="checked")
    assert (caught.value.name, caught.value.instance) == (f"n{taken}", grt)
    assert Grt.names() == [f"n{taken}"]
    assert mutex.peek() == "old"
    assert data_segments(grt) == []


def race(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let another process register ``name`` after the names were looked at."""
    real = bulk_requests._refuse_taken

    def refuse_taken(*args: Any) -> None:
        real(*args)
        with Fork(lambda: Grt.register_fast_mutex(name, "first") and None) as child:
            child.result()

    monkeypatch.setattr(bulk_requests, "_refuse_taken", refuse_taken)


@pytest.mark.parametrize("taken", ["n0", f"n{MANY - 1}", "large"])
def test_checked_takes_back_what_it_registered(taken: str, grt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    race(monkeypatch, taken)
    with pytest.raises(KeyExists) as caught:
        Grt.register_many(FastMutex, {**numbered(MANY), "large": "x" * 1000}, mode="checked")
    assert caught.value.name == taken
    assert Grt.names() == [taken]
    assert Grt.get_fast_mutex(taken, str).peek() == "first"
    assert data_segments(grt) == []
    assert session.current().call("status")["used"] == 1


def test_get_or_register_hands_out_what_is_there(grt: str) -> None:
    old = Grt.register_many(FastMutex, {"n1": 70, f"n{MANY - 1}": 80, "large": "old" * 100})
    values: dict[str, Any] = {**numbered(MANY), "large": "new" * 100}
    made = Grt.register_many(FastMutex, values, mode="get_or_register")
    assert {name: made[name] for name in old} == old
    assert {name: mutex.peek() for name, mutex in made.items()} == {
        **values, "n1": 70, f"n{MANY - 1}": 80, "large": "old" * 100
    }  # fmt: skip


def test_overwritten_mutexes_are_destroyed(grt: str) -> None:
    old = Grt.register_many(FastMutex, {**numbered(MANY), "large": "x" * 1000})
    with pytest.raises(MutexDestroyed), old["n5"].lock() as guard:
        guard.value = 7
        new = Grt.register_many(KMutex, dict.fromkeys(old, "new"))
        assert all(mutex.peek() == "new" for mutex in new.values())
        assert session.current().call("status")["quarantined"] == 1, "the one that is held"
    assert all(mutex.destroyed for mutex in old.values())
    assert data_segments(grt) == []
    session.current().call("sweep")
    status = session.current().call("status")
    assert (status["used"], status["quarantined"]) == (MANY + 1, 0)


def test_overwritten_while_they_are_being_got(grt: str) -> None:
    """What get returns was registered at some time; it never fails for being overtaken."""
    values = numbered(50)
    Grt.register_many(FastMutex, values)

    def overwrite() -> None:
        while True:
            Grt.register_many(FastMutex, values)

    with Fork(overwrite):
        for _ in range(300):
            assert list(Grt.get_many(FastMutex, values, int)) == list(values)


# --- no room


@pytest.fixture
def full(grt: str) -> Iterator[str]:
    """An instance whose daemon can make no further segment."""
    pid = daemon_pid(grt)
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (10_000, before[1]))
    yield grt
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    assert Grt.register_fast_mutex("room again", 1).peek() == 1


def test_a_full_pool_registers_whole_requests(full: str) -> None:
    """The first segment has 1024 slots."""
    Grt.register_fast_mutex("n0", "old")
    with pytest.raises(PagedPoolAllocFailed, match="shared memory"):
        Grt.register_many(FastMutex, numbered(BATCH))
    assert Grt.names() == ["n0"]
    assert Grt.get_fast_mutex("n0", str).peek() == "old"
    Grt.unregister("n0")
    with pytest.raises(PagedPoolAllocFailed, match=rf"\({BATCH} of the {MANY} names are registered\)") as caught:
        Grt.register_many(FastMutex, numbered(MANY))
    assert caught.value.requested
    assert Grt.names() == sorted(numbered(BATCH))
    assert len(Grt.register_many(FastMutex, numbered(BATCH), mode="get_or_register")) == BATCH, "they need no room"


def test_a_full_pool_takes_back_what_is_checked(full: str) -> None:
    with pytest.raises(PagedPoolAllocFailed, match=rf"\(0 of the {MANY} names are registered\)"):
        Grt.register_many(FastMutex, numbered(MANY), mode="checked")
    assert Grt.names() == []
    assert len(Grt.register_many(FastMutex, numbered(BATCH), mode="checked")) == BATCH


# --- a daemon that dies


def submit_killing(client: Any, monkeypatch: pytest.MonkeyPatch, verb: str, turn: int) -> None:
    """Let the daemon be killed after it carried out the ``turn``-th request of that verb, before its reply is read."""
    real, turns = client.submit, iter(range(10**6))

    def submit(asked: str, params: dict[str, Any], **options: Any) -> Reply:
        if asked == verb and next(turns) == turn:
            client.lose, client.killing = 1, True
        reply: Reply = real(asked, params, **options)
        return reply

    monkeypatch.setattr(client, "submit", submit)


@each_mode
def test_a_lost_reply_is_given_again(mode: Any, lossy: Lost) -> None:
    lossy.lose = 1
    made = Grt.register_many(FastMutex, numbered(BATCH), mode=mode)
    assert {mutex.generation for mutex in made.values()} == {1}, "each was registered once"
    assert session.current().call("status")["used"] == BATCH


@pytest.mark.parametrize("mode", ["overwrite", "get_or_register"])
def test_names_are_registered_although_the_daemon_died(mode: Any, lossy: Lost, monkeypatch: pytest.MonkeyPatch) -> None:
    submit_killing(lossy, monkeypatch, "register_many", 1)
    values = {**numbered(MANY), "large": "x" * 1000}
    made: dict[str, Any] = Grt.register_many(FastMutex, values, mode=mode)
    assert {name: mutex.peek() for name, mutex in made.items()} == values
    assert Grt.get_many(FastMutex, values) == made
    assert session.current().call("status")["used"] == len(values)


def test_what_cannot_be_known_is_said(lossy: Lost, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of the request that the daemon died over stand; those of the requests before are taken back."""
    submit_killing(lossy, monkeypatch, "register_many", 1)
    with pytest.raises(DaemonUnavailable, match="it is unknown whether") as caught:
        Grt.register_many(FastMutex, numbered(MANY), mode="checked")
    assert caught.value.instance == lossy.instance
    assert Grt.names() == sorted(f"n{number}" for number in range(BATCH, 2 * BATCH))


def test_names_are_got_although_the_daemon_died(lossy: Lost) -> None:
    made = Grt.register_many(FastMutex, numbered(MANY))
    lossy.lose, lossy.killing = 1, True
    assert Grt.get_many(FastMutex, made, int) == made


def test_without_a_daemon(grt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Grt.register_many(FastMutex, numbered(3))
    Grt.detach()
    monkeypatch.setenv("WDKMUTEX_INSTANCE", grt)
    assert len(Grt.get_many(FastMutex, numbered(3))) == 3
    kill(daemon_pid(grt))
    for call in (
        lambda: Grt.get_many(FastMutex, ["n1"]),
        lambda: Grt.register_many(FastMutex, {"m": 1}),
        lambda: Grt.register_many(FastMutex, {"m": 1}, mode="checked"),
    ):
        with pytest.raises(DaemonUnavailable):
            call()
