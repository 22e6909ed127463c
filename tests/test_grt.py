"""The Grt as one process sees it: every method, every error, and what they leave behind."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from support import Fork, daemon_pid, gone, kill, segments, wait_until

from wdkmutex_shm import CriticalSection, FastMutex, Grt, KMutex, data, raise_irql, session, shm
from wdkmutex_shm.client import Client, Reply, _LostError, connect
from wdkmutex_shm.errors import (
    DaemonUnavailable,
    DowncastError,
    GrtAlreadyExists,
    GrtIsEmpty,
    GrtIsNull,
    InvalidName,
    IrqlTooHigh,
    KeyExists,
    KeyNotFound,
    MutexDestroyed,
    ProtocolError,
    WdkMutexError,
)
from wdkmutex_shm.grt import unregister_slot
from wdkmutex_shm.names import INLINE_BYTES, KIND_FAST, instance_prefix

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


# --- init, detach, destroy


def test_init_starts_a_daemon_and_destroy_ends_it(instance: str, runtime_base: str) -> None:
    assert Grt.instance() is None
    Grt.init(instance)
    assert Grt.instance() == instance
    pid = daemon_pid(instance)
    assert not gone(pid)
    assert segments(instance)
    Grt.destroy()
    assert segments(instance) == []
    assert os.listdir(f"{runtime_base}/wdkmutex") == []
    assert Grt.instance() is None
    wait_until(lambda: gone(pid))


def test_a_second_init_is_refused(grt: str) -> None:
    for _ in range(2):
        with pytest.raises(GrtAlreadyExists, match="detach") as caught:
            Grt.init(grt)
        assert caught.value.instance == grt
    assert Grt.names() == []


def test_of_two_threads_one_inits(instance: str) -> None:
    outcomes: list[object] = []

    def init() -> None:
        try:
            outcomes.append(Grt.init(instance))
        except GrtAlreadyExists as error:
            outcomes.append(error)

    threads = [threading.Thread(target=init) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(outcomes) == 4
    assert outcomes.count(None) == 1


def test_init_again_after_destroy(grt: str) -> None:
    Grt.register_fast_mutex("n", 1)
    Grt.destroy()
    with pytest.raises(GrtIsNull):
        connect(grt)
    Grt.init(grt)
    with pytest.raises(GrtIsEmpty):
        Grt.get_fast_mutex("n")


def test_init_again_after_another_process_destroyed(grt: str) -> None:
    def destroy() -> None:
        Grt.destroy()

    with Fork(destroy) as child:
        child.result()
    with pytest.raises(GrtIsNull):
        Grt.names()
    Grt.init(grt)
    assert Grt.names() == []


def test_detach_leaves_everything(grt: str) -> None:
    mutex = Grt.register_fast_mutex("n", 1)
    Grt.detach()
    Grt.detach()
    assert Grt.instance() is None
    assert mutex.fetch_add(1) == 1
    Grt.init(grt)
    assert Grt.get_fast_mutex("n", int).peek() == 2


def test_init_attaches_where_a_daemon_serves(grt: str) -> None:
    pid = daemon_pid(grt)
    Grt.detach()
    Grt.init(grt, autostart=False)
    assert daemon_pid(grt) == pid


def test_init_without_autostart_needs_a_daemon(instance: str) -> None:
    with pytest.raises(GrtIsNull, match="wdkmutex-daemon start") as caught:
        Grt.init(instance, autostart=False)
    assert caught.value.instance == instance
    assert Grt.instance() is None


def test_init_in_another_instance_after_detach(grt: str, instance: str) -> None:
    Grt.register_fast_mutex("n", 1)
    Grt.detach()
    other = f"{instance}-b"
    try:
        Grt.init(other)
        assert Grt.names() == []
    finally:
        Grt.destroy()
    Grt.init(grt)
    assert Grt.names() == ["n"]


@pytest.mark.parametrize("name", ["", "a/b", ".", "x" * 33, "@1"])
def test_names_that_no_instance_has(name: str) -> None:
    with pytest.raises(InvalidName):
        Grt.init(name)


def test_the_class_is_not_instantiated() -> None:
    with pytest.raises(TypeError, match=r"Grt\.init"):
        Grt()


# --- without init


CALLS: list[Callable[[], Any]] = [
    Grt.names,
    Grt.destroy,
    lambda: Grt.unregister("n"),
    lambda: Grt.get_kmutex("n"),
    lambda: Grt.get_fast_mutex("n"),
    lambda: Grt.get_critical_section("n"),
    lambda: Grt.register_kmutex("n", 1),
    lambda: Grt.register_fast_mutex_checked("n", 1),
    lambda: Grt.get_or_register_fast_mutex("n", "x" * 1000),
    lambda: Grt.register_critical_section("n"),
]


@pytest.mark.parametrize("call", CALLS)
def test_there_is_no_grt_before_init(call: Callable[[], Any], instance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WDKMUTEX_INSTANCE", instance)
    with pytest.raises(GrtIsNull, match=instance):
        call()


@pytest.mark.parametrize("call", CALLS)
def test_there_is_no_grt_after_destroy(call: Callable[[], Any], grt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WDKMUTEX_INSTANCE", grt)
    Grt.register_fast_mutex("n", 1)
    Grt.destroy()
    with pytest.raises(GrtIsNull):
        call()


def test_a_process_that_never_called_init_attaches(grt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Grt.register_fast_mutex("n", 7)
    Grt.detach()
    monkeypatch.setenv("WDKMUTEX_INSTANCE", grt)
    assert Grt.get_fast_mutex("n", int).peek() == 7
    assert Grt.instance() == grt
    Grt.init(grt)  # attached, but init was not called yet


def test_init_means_the_instance_of_the_environment(instance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WDKMUTEX_INSTANCE", instance)
    Grt.init()
    assert Grt.instance() == instance


# --- register and get


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
            ({1, 2}, TypeError),
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


# --- replies that are lost


class Lost(Client):
    """A client that loses the reply to its next ``lose`` requests; if it is ``killing``, the daemon dies over each."""

    lose = 0
    killing = False

    def _exchange(self, request: bytes, deadline: float) -> bytes:
        reply = super()._exchange(request, deadline)
        if self.lose and b"hello" not in request:
            self.lose -= 1
            if self.killing:
                kill(int(self.daemon["pid"]))
            raise _LostError(sent=True)
        return reply


@pytest.fixture
def lossy(grt: str, monkeypatch: pytest.MonkeyPatch) -> Lost:
    """A client that loses replies, as the one that the Grt uses; it starts daemons where there are none."""
    from wdkmutex_shm.autostart import start

    client = Lost(grt, revive=lambda left: start(grt, left))
    client.open()
    monkeypatch.setattr(session, "_session", session._Session(grt, client, os.getpid()))
    return client


@pytest.mark.parametrize("value", [1, "x" * 1000], ids=["small", "large"])
@pytest.mark.parametrize("make", [Grt.register_fast_mutex_checked, Grt.register_fast_mutex])
def test_a_lost_reply_is_given_again(make: Any, value: Any, lossy: Lost) -> None:
    lossy.lose = 1
    mutex = make("n", value)
    assert lossy.lose == 0
    assert mutex.peek() == value
    assert (mutex.slot_index, mutex.generation) == (0, 1), "it was registered once"
    with pytest.raises(KeyExists):
        Grt.register_fast_mutex_checked("n", value)


def test_a_lost_reply_to_unregister(lossy: Lost) -> None:
    Grt.register_fast_mutex("n", 1)
    lossy.lose = 1
    Grt.unregister("n")
    with pytest.raises(GrtIsEmpty):
        Grt.unregister("n")


def test_a_lost_reply_to_destroy(lossy: Lost) -> None:
    lossy.lose = 1
    Grt.destroy()
    with pytest.raises(GrtIsNull):
        connect(lossy.instance)


def test_a_large_t_is_adopted_once_although_the_daemon_died(lossy: Lost) -> None:
    lossy.lose, lossy.killing = 1, True
    mutex = Grt.register_fast_mutex_checked("n", "x" * 1000)
    assert mutex.peek() == "x" * 1000
    assert len(shm.listing(instance_prefix(lossy.instance) + ".d")) == 1
    with pytest.raises(KeyExists):
        Grt.register_fast_mutex_checked("n", "y" * 1000)


@pytest.mark.parametrize("make", [Grt.register_fast_mutex, Grt.get_or_register_fast_mutex])
def test_a_small_t_is_registered_although_the_daemon_died(make: Any, lossy: Lost) -> None:
    lossy.lose, lossy.killing = 1, True
    assert make("n", 5).peek() == 5
    assert Grt.names() == ["n"]


def test_what_cannot_be_known_is_said(lossy: Lost) -> None:
    lossy.lose, lossy.killing = 1, True
    with pytest.raises(DaemonUnavailable, match="cannot be told"):
        Grt.register_fast_mutex_checked("n", 5)
    assert Grt.names() == ["n"]


def test_unregister_although_the_daemon_died(lossy: Lost) -> None:
    Grt.register_fast_mutex("n", 1)
    lossy.lose, lossy.killing = 1, True
    Grt.unregister("n")
    assert Grt.names() == []


def test_a_refused_large_t_is_removed(grt: str) -> None:
    Grt.register_fast_mutex("n", 1)
    with pytest.raises(KeyExists):
        Grt.register_fast_mutex_checked("n", "x" * 1000)
    Grt.get_or_register_kmutex("k", "y" * 1000)
    Grt.get_or_register_kmutex("k", "z" * 1000)
    assert len(shm.listing(instance_prefix(grt) + ".d")) == 1


def test_a_large_t_that_lost_the_race_is_removed(grt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its looking and its registering another process registers the name."""
    client = session.current()
    real = client.submit

    def submit(verb: str, params: dict[str, Any], **options: Any) -> Reply:
        if verb == "register" and params["data"]:
            monkeypatch.undo()
            with Fork(lambda: Grt.register_fast_mutex("n", "first" * 100) and None) as child:
                child.result()
        return real(verb, params, **options)

    monkeypatch.setattr(client, "submit", submit)
    mutex = Grt.get_or_register_fast_mutex("n", "second" * 100)
    assert mutex.peek() == "first" * 100
    assert len(shm.listing(instance_prefix(grt) + ".d")) == 1


# --- data segments that are not what they are said to be


def _staged(client: Client, name: str, ident: int, length: int) -> WdkMutexError | None:
    params = {"name": name, "kind": KIND_FAST, "mode": "overwrite", "tag": [5, 5, b"str"], "payload": b""}
    return client.submit("register", {**params, "data": [ident, length]}).error


def test_only_good_data_segments_are_adopted(grt: str) -> None:
    client = session.current()
    prefix = instance_prefix(grt)
    assert isinstance(_staged(client, "n", 12345, 100), ProtocolError), "there is none"
    ident = data.create(prefix, b"\xda\x00\x64" + b"x" * 100)
    assert isinstance(_staged(client, "n", ident, 103), ProtocolError), "it was not made for a registration"
    data.unlink(prefix, ident)
    ident = data.create(prefix, b"\xda\x00\x64" + b"x" * 100, staged=True)
    assert isinstance(_staged(client, "n", ident, 1 << 30), ProtocolError), "it is not that large"
    assert Grt.names() == []
    assert _staged(client, "n", ident, 103) is None
    assert Grt.get_fast_mutex("n", str).peek() == "x" * 100
    assert isinstance(_staged(client, "m", ident, 103), ProtocolError), "it belongs to n"
    assert client.call("discard", data=ident) == {"adopted": True}
    other = data.create(prefix, b"\xa1y")
    assert client.call("discard", data=other) == {"adopted": False}
    assert client.call("discard", data=other) == {"adopted": False}
    assert Grt.names() == ["n"]
    assert len(shm.listing(prefix + ".d")) == 1


def test_what_a_dead_client_staged_is_swept(grt: str) -> None:
    prefix = instance_prefix(grt)
    with Fork(lambda: data.create(prefix, b"x" * 1000)) as child:
        child.result()
    swept = session.current().call("sweep")
    assert shm.listing(prefix + ".d") == []
    assert len(swept["data"]) <= 1, "by this sweep, or by the daemon's own just before it"
    alive = data.create(prefix, b"x" * 1000)
    session.current().call("sweep")
    assert len(shm.listing(prefix + ".d")) == 1, "its maker lives and may yet register it"
    data.unlink(prefix, alive)


def test_a_signal_in_the_midst_of_a_call_mixes_up_no_replies(grt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between a request and its reply, and again while that is cleaned up: the next call is whole."""
    from wdkmutex_shm import client as clients

    Grt.register_fast_mutex("a", 1)
    Grt.register_fast_mutex("b", 2)
    sent = []

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def send_and_be_interrupted(fd: int, request: bytes, *_: object) -> None:
        sent.append(os.write(fd, request))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(clients, "exchange", send_and_be_interrupted)
        patch.setattr(Client, "_drop", interrupt)
        with pytest.raises(KeyboardInterrupt):
            Grt.get_fast_mutex("a", int)
    assert sent
    assert Grt.get_fast_mutex("b", int).peek() == 2
