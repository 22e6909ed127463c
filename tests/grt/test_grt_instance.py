"""Instances: init, detach, destroy, and what a process that did none of these sees."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from support import DEADLINE, Fork, daemon_pid, gone, segments, wait_until

from wdkmutex_shm import Grt
from wdkmutex_shm.base.names import instance_prefix, pool_segment
from wdkmutex_shm.core._core import Segment
from wdkmutex_shm.engines.local import requests
from wdkmutex_shm.engines.local.client import connect
from wdkmutex_shm.errors import (
    GrtAlreadyExists,
    GrtIsEmpty,
    GrtIsNull,
    InvalidName,
)
from wdkmutex_shm.grt import session

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


@pytest.mark.parametrize("attached", [True, False])
def test_init_while_the_instance_is_being_destroyed(
    attached: bool, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mutexes are gone already and its daemon still answers: neither is it there, nor may one attach to it."""
    Grt.init(instance)
    pid = daemon_pid(instance)
    Grt.register_fast_mutex("n", 1)
    if not attached:
        Grt.detach()
    name = pool_segment(instance_prefix(instance), 0)
    Segment.attach(name, instance_prefix(instance)).flag_destroyed()  # as destroying it begins
    asked = threading.Event()
    real = session.is_destroyed

    def is_destroyed(of: str) -> bool:
        found = real(of)
        if found:
            asked.set()
        return found

    def go_on() -> None:
        assert asked.wait(DEADLINE)
        with connect(instance) as client:
            requests.destroy(client)

    monkeypatch.setattr(session, "is_destroyed", is_destroyed)
    thread = threading.Thread(target=go_on)
    thread.start()
    Grt.init(instance)
    thread.join(DEADLINE)
    assert Grt.get_or_register_fast_mutex("n", 2).peek() == 2, "a new one"
    assert daemon_pid(instance) != pid


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
