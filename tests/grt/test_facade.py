"""Names in one process: registered, got, overwritten, moved out, and every error of these."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from support import daemon_pid, wait_until

from wdkmutex_shm import CriticalSection, FastMutex, Grt, KMutex, raise_irql
from wdkmutex_shm.base.names import INLINE_BYTES, instance_prefix
from wdkmutex_shm.errors import (
    DowncastError,
    GrtIsEmpty,
    InvalidName,
    IrqlTooHigh,
    KeyExists,
    KeyNotFound,
    MutexDestroyed,
    ProtocolError,
)
from wdkmutex_shm.grt import session
from wdkmutex_shm.grt.facade import unregister_slot
from wdkmutex_shm.memory import shm

MUTEXES = [
    (Grt.register_kmutex, Grt.register_kmutex_checked, Grt.get_or_register_kmutex, Grt.get_kmutex, KMutex),
    (
        Grt.register_fast_mutex,
        Grt.register_fast_mutex_checked,
        Grt.get_or_register_fast_mutex,
        Grt.get_fast_mutex,
        FastMutex,
    ),
]
each_kind = pytest.mark.parametrize(("register", "checked", "either", "get", "kind"), MUTEXES, ids=["k", "fast"])


@dataclass
class Job:
    title: str
    done: int


@each_kind
def test_register_and_get(register: Any, checked: Any, either: Any, get: Any, kind: Any, grt: str) -> None:
    mutex = register("n", 5)
    assert type(mutex) is kind
    assert mutex.name == "n"
    with mutex.lock() as guard:
        guard.value += 1
    again = get("n", int)
    assert type(again) is kind
    assert again.peek() == 6
    assert (again.segment, again.slot_index, again.generation) == (mutex.segment, mutex.slot_index, mutex.generation)
    assert get("n").fetch_add(1) == 6
    assert Grt.names() == ["n"]


@each_kind
def test_register_overwrites(register: Any, checked: Any, either: Any, get: Any, kind: Any, grt: str) -> None:
    old = register("n", 1)
    new = register("n", "text")
    assert old.destroyed
    with pytest.raises(MutexDestroyed):
        old.lock()
    with pytest.raises(MutexDestroyed):
        old.peek()
    assert new.peek() == get("n", str).peek() == "text"
    assert Grt.names() == ["n"]


@each_kind
def test_checked_refuses_a_taken_name(register: Any, checked: Any, either: Any, get: Any, kind: Any, grt: str) -> None:
    mutex = checked("n", 1)
    for first in (2, "x" * 1000):
        with pytest.raises(KeyExists) as caught:
            checked("n", first)
        assert (caught.value.name, caught.value.instance) == ("n", grt)
    assert mutex.peek() == 1
    Grt.unregister("n")
    assert checked("n", 3).peek() == 3


@each_kind
def test_get_or_register(register: Any, checked: Any, either: Any, get: Any, kind: Any, grt: str) -> None:
    first = either("n", 1)
    second = either("n", 2)
    assert type(first) is type(second) is kind
    assert second.peek() == 1
    first.replace(9)
    assert second.peek() == 9


@each_kind
@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (5, int),
        (2.5, float),
        (True, bool),
        ("täxt", str),
        (b"\x00\xff", bytes),
        ([1, [2]], list),
        ({"a": {"b": None}}, dict),
        (Job("t", 3), Job),
        ([Job("t", 1)], list[Job]),
        (None, None),
        ({1: [2.5, "x"]}, None),
        ("x" * 10_000, str),
        (b"y" * 2_000_000, bytes),
    ],
    ids=lambda value: str(value)[:20],
)
def test_every_t(
    register: Any, checked: Any, either: Any, get: Any, kind: Any, value: Any, wanted: Any, grt: str
) -> None:
    for make in (register, either):
        mutex = make("n", value, type=wanted)
        assert mutex.peek() == value
        assert get("n", wanted).peek() == value


@pytest.mark.parametrize("size", [INLINE_BYTES - 2, INLINE_BYTES - 1, INLINE_BYTES, 1 << 20, (1 << 20) + 1])
def test_first_t_around_the_sizes_that_matter(size: int, grt: str) -> None:
    value = os.urandom(size)
    assert Grt.register_fast_mutex("n", value).peek() == value
    assert Grt.get_fast_mutex("n", bytes).peek() == value
    Grt.unregister("n")
    assert shm.listing(instance_prefix(grt) + ".d") == [], "its memory was given back"


def test_critical_section(grt: str) -> None:
    section = Grt.register_critical_section("s")
    assert type(section) is CriticalSection
    with section:
        assert Grt.get_critical_section("s").locked()
    with pytest.raises(KeyExists):
        Grt.register_critical_section_checked("s")
    same = Grt.get_or_register_critical_section("s")
    assert (same.slot_index, same.generation) == (section.slot_index, section.generation)
    Grt.register_critical_section("s")
    assert section.destroyed
    assert not Grt.register_critical_section_checked("s2").locked()
    assert not Grt.get_or_register_critical_section("s3").locked()
    assert Grt.names() == ["s", "s2", "s3"]


def test_wrong_kind(grt: str) -> None:
    Grt.register_kmutex("k", 1)
    Grt.register_fast_mutex("f", 1)
    Grt.register_critical_section("s")
    for get, names in (
        (Grt.get_kmutex, "fs"),
        (Grt.get_fast_mutex, "ks"),
        (Grt.get_critical_section, "kf"),
        (lambda name: Grt.get_or_register_kmutex(name, 1), "fs"),
        (lambda name: Grt.get_or_register_fast_mutex(name, "x" * 100), "ks"),
        (Grt.get_or_register_critical_section, "kf"),
    ):
        for name in names:
            with pytest.raises(DowncastError) as caught:
                get(name)
            assert caught.value.name == name
            assert caught.value.found != caught.value.wanted


def test_wrong_t(grt: str) -> None:
    Grt.register_fast_mutex("n", 1)
    for wanted in (str, float, bool, list, Job, int | None, None):
        with pytest.raises(DowncastError, match="int"):
            Grt.get_fast_mutex("n", wanted)
    with pytest.raises(DowncastError):
        Grt.get_or_register_fast_mutex("n", "text")
    Grt.register_fast_mutex("j", Job("t", 1))
    with pytest.raises(DowncastError):
        Grt.get_fast_mutex("j", dict)
    assert Grt.get_fast_mutex("n", int).peek() == 1


@each_kind
def test_what_msgpack_cannot_hold_registers_nothing(
    register: Any, checked: Any, either: Any, get: Any, kind: Any, grt: str
) -> None:
    for make in (register, checked, either):
        for value, error in (
            (object(), TypeError),
            (2**64, OverflowError),
            (-(2**63) - 1, OverflowError),
            (1j, TypeError),
        ):
            with pytest.raises(error):
                make("n", value)
        with pytest.raises(TypeError):
            make("n", "text", type=int)
    assert Grt.names() == []
    assert shm.listing(instance_prefix(grt) + ".d") == []


def test_unknown_names(grt: str) -> None:
    for call in (Grt.get_kmutex, Grt.get_fast_mutex, Grt.get_critical_section, Grt.unregister):
        with pytest.raises(GrtIsEmpty):
            call("n")
    Grt.register_fast_mutex("other", 1)
    for call in (Grt.get_kmutex, Grt.get_fast_mutex, Grt.get_critical_section, Grt.unregister):
        with pytest.raises(KeyNotFound, match=r"Grt\.names") as caught:
            call("n")
        assert (caught.value.name, caught.value.instance) == ("n", grt)


@pytest.mark.parametrize("name", ["", "x" * 105, "ä" * 53, "a\0b", "\udc80"])
def test_names_that_no_mutex_has(name: str, grt: str) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: Grt.register_kmutex(name, 1),
        lambda: Grt.register_fast_mutex_checked(name, "x" * 1000),
        lambda: Grt.get_or_register_fast_mutex(name, 1),
        lambda: Grt.register_critical_section(name),
        lambda: Grt.get_fast_mutex(name),
        lambda: Grt.unregister(name),
    ]
    for call in calls:
        with pytest.raises(InvalidName):
            call()
    assert shm.listing(instance_prefix(grt) + ".d") == []


@pytest.mark.parametrize("name", ["x", "x" * 104, "ä" * 52, "🔒", " ", "a b\n\t", "..", "/dev/shm", "\x01", "n̈", "ñ"])
def test_names_in_any_unicode(name: str, grt: str) -> None:
    Grt.register_fast_mutex(name, 1)
    assert Grt.get_fast_mutex(name).name == name
    assert Grt.names() == [name]
    Grt.unregister(name)


def test_a_name_is_a_str(grt: str) -> None:
    with pytest.raises(TypeError):
        Grt.register_fast_mutex(b"n", 1)  # type: ignore[call-overload]


def test_many_names_come_in_pages(grt: str) -> None:
    wanted = sorted(f"{number:05d}{'n' * 90}" for number in range(5000))
    for name in wanted:
        Grt.register_fast_mutex(name, 1)
    assert Grt.names() == wanted
    rows = session.current().collect("list", "mutexes")
    assert sorted(row["name"] for row in rows) == wanted


def test_pages_of_a_list_that_changes(grt: str) -> None:
    for number in range(600):
        Grt.register_fast_mutex(f"n{number}", 1)
    client = session.current()
    first = client.call("list")
    assert first["next"] is not None
    for number in range(600):
        Grt.unregister(f"n{number}")
    rest = client.call("list", snapshot=first["snapshot"], start=first["next"])
    assert rest["mutexes"] == []
    assert rest["next"] is None
    with pytest.raises(ProtocolError, match="begin again"):
        client.call("list", snapshot=first["snapshot"], start=first["next"])


def test_unregister(grt: str) -> None:
    mutex = Grt.register_fast_mutex("n", 1)
    Grt.register_fast_mutex("o", 1)
    Grt.unregister("n")
    assert mutex.destroyed
    with pytest.raises(KeyNotFound):
        Grt.get_fast_mutex("n")
    with pytest.raises(KeyNotFound):
        Grt.unregister("n")
    assert Grt.names() == ["o"]


def test_unregister_slot_means_one_tenant(grt: str) -> None:
    old = Grt.register_fast_mutex("n", 1)
    new = Grt.register_fast_mutex("n", 2)
    assert not unregister_slot(grt, "n", old.generation, old.segment, old.slot_index)
    assert not unregister_slot(grt, "n", new.generation + 2)
    assert not unregister_slot(grt, "m", new.generation)
    assert new.peek() == 2
    assert unregister_slot(grt, "n", new.generation, new.segment, new.slot_index)
    assert new.destroyed
    assert not unregister_slot(grt, "n", new.generation)


@each_kind
def test_to_owned_takes_the_name_away(register: Any, checked: Any, either: Any, get: Any, kind: Any, grt: str) -> None:
    mutex = register("n", [1, 2])
    assert mutex.to_owned() == [1, 2]
    assert mutex.destroyed
    with pytest.raises(GrtIsEmpty):
        get("n")


def test_to_owned_box_of_a_large_t(grt: str) -> None:
    mutex = Grt.register_fast_mutex("n", "x" * 5000)
    with mutex.to_owned_box() as box:
        assert box.value == "x" * 5000
        assert Grt.names() == []
        # The lock was held when the name went, so the daemon takes the slot back at its next look.
        wait_until(lambda: shm.listing(instance_prefix(grt) + ".d") == [])


def test_to_owned_needs_no_init(grt: str) -> None:
    mutex = Grt.register_fast_mutex("n", 5)
    Grt.detach()
    assert mutex.to_owned() == 5
    Grt.init(grt)
    assert Grt.names() == []


def test_fast_mutexes_are_made_up_to_dispatch(grt: str) -> None:
    with raise_irql(2):
        Grt.register_fast_mutex("f", 1)
        Grt.register_kmutex("k", 1)
    with raise_irql(3):
        Grt.register_kmutex("k3", 1)
        calls: list[Callable[[], Any]] = [
            lambda: Grt.register_fast_mutex("f", 2),
            lambda: Grt.register_fast_mutex_checked("g", 2),
            lambda: Grt.get_or_register_fast_mutex("f", 2),
        ]
        for call in calls:
            with pytest.raises(IrqlTooHigh) as caught:
                call()
            assert (caught.value.level, caught.value.limit) == (3, 2)
    assert Grt.names() == ["f", "k", "k3"]
    assert Grt.get_fast_mutex("f", int).peek() == 1


def test_threads_share_the_connection(grt: str) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(100):
                name = f"t{number}"
                Grt.register_fast_mutex(name, turn)
                assert Grt.get_fast_mutex(name, int).peek() == turn
                Grt.get_or_register_kmutex("shared", 0).fetch_add(1)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert Grt.get_kmutex("shared", int).peek() == 800
    assert session.current().call("status")["clients"] == 1


def test_status(grt: str, runtime_base: str) -> None:
    Grt.register_fast_mutex("n", 1)
    Grt.register_fast_mutex("large", "x" * 5000)
    status = session.current().call("status")
    assert status["instance"] == grt
    assert status["pid"] == daemon_pid(grt)
    assert status["socket"] == f"{runtime_base}/wdkmutex/{grt}.sock"
    assert (status["names"], status["used"], status["quarantined"]) == (2, 2, 0)
    assert status["data_bytes"] >= 5000
    assert 0 <= status["uptime"] < 60


def test_info(grt: str) -> None:
    mutex = Grt.register_fast_mutex("n", 1)
    mutex.fetch_add(1)
    with mutex.lock():
        info = session.current().call("info", name="n")
        assert (info["state"], info["owner_pid"]) == ("held", os.getpid())
    assert (info["name"], info["kind"], info["label"], info["commits"]) == ("n", "fast", "int", 1)
    assert (info["slot"], info["generation"], info["nonce"]) == (mutex.slot_index, mutex.generation, mutex.nonce)
