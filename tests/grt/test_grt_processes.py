"""The Grt across processes: its daemon dies (which changes nothing), is destroyed, or something is in its way."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import Any

import pytest
from support import (
    DEADLINE,
    SPAWN,
    Fork,
    daemon_pid,
    gone,
    kill,
    kill_daemon,
    remove_instance,
    segments,
    spawned,
    wait_until,
)

from wdkmutex_shm import Grt
from wdkmutex_shm.base import runtime_dir
from wdkmutex_shm.base.names import KIND_FAST, instance_prefix, pool_segment
from wdkmutex_shm.core.types import codec_for
from wdkmutex_shm.engines.local import autostart
from wdkmutex_shm.engines.local.client import Client, connect
from wdkmutex_shm.errors import (
    DaemonUnavailable,
    GrtAlreadyExists,
    GrtIsEmpty,
    GrtIsNull,
    KeyExists,
    LockTimeout,
    MutexDestroyed,
)
from wdkmutex_shm.grt import session
from wdkmutex_shm.memory import shm
from wdkmutex_shm.pool.pool import Pool


def test_kill_the_daemon_and_everything_is_as_before(grt: str) -> None:
    values: dict[str, Any] = {"i": 5, "s": "text", "l": [1, [2]], "b": b"x" * 100_000}
    for name, value in values.items():
        Grt.register_fast_mutex(name, value)
    held = Grt.register_kmutex("held", 1)
    Grt.register_critical_section("section")
    names = Grt.names()
    before = {row["name"]: row for row in session.current().collect("list", "mutexes")}

    def hold() -> None:
        guard = Grt.get_kmutex("held").lock()
        signal.pause()
        guard.drop_safe()

    with Fork(hold) as holder:
        wait_until(lambda: held.owner is not None)
        old = kill_daemon(grt)
        assert Grt.names() == names, "and it was started again"
        assert daemon_pid(grt) != old
        for name, value in values.items():
            assert Grt.get_fast_mutex(name, type(value)).peek() == value
        after = {row["name"]: row for row in session.current().collect("list", "mutexes")}
        assert after["held"]["owner_pid"] == holder.pid
        assert after["held"]["state"] == "held"
        for name in names:
            for fact in ("kind", "label", "value_bytes", "pool_bytes", "segment", "slot", "generation"):
                assert after[name][fact] == before[name][fact]
        with pytest.raises(LockTimeout):
            held.lock(timeout=0.01)
        with pytest.raises(KeyExists):
            Grt.register_fast_mutex_checked("i", 1)
        holder.kill()
    with held.lock(timeout=DEADLINE) as guard:
        assert guard.abandoned


def _count(instance: str, gate: Any, stop: Any, total: Any) -> None:
    Grt.init(instance)
    mutex = Grt.get_fast_mutex("n", int)
    gate.release()
    done = 0
    while not stop.is_set():
        mutex.fetch_add(1)
        done += 1
        if done % 100 == 0:
            assert Grt.get_fast_mutex("n", int).generation == mutex.generation
    with total.get_lock():
        total.value += done


def test_clients_keep_locking_while_the_daemon_is_killed(grt: str) -> None:
    mutex = Grt.register_fast_mutex("n", 0)
    gate, stop, total = SPAWN.Semaphore(0), SPAWN.Event(), SPAWN.Value("q", 0)
    with spawned(_count, grt, gate, stop, total) as one, spawned(_count, grt, gate, stop, total) as two:
        for _ in (one, two):
            assert gate.acquire(timeout=DEADLINE)
        for _ in range(5):
            kill_daemon(grt)
            seen = mutex.peek()
            wait_until(lambda seen=seen: mutex.peek() > seen + 100, "both go on counting")
            Grt.names()
        stop.set()
        for process in (one, two):
            process.join(DEADLINE)
            assert process.exitcode == 0
    assert mutex.peek() == total.value


def test_without_autostart_a_dead_daemon_is_unavailable(grt: str) -> None:
    mutex = Grt.register_fast_mutex("n", 1)
    Grt.detach()
    Grt.init(grt, autostart=False)
    kill_daemon(grt)
    begun = time.monotonic()
    for call in (Grt.names, lambda: Grt.get_fast_mutex("n"), lambda: Grt.register_fast_mutex("m", "x" * 1000)):
        with pytest.raises(DaemonUnavailable, match=f"wdkmutex-daemon start --instance {grt}") as caught:
            call()
        assert caught.value.instance == grt
    assert time.monotonic() - begun < 10
    assert mutex.fetch_add(1) == 1, "open mutexes keep working"
    assert shm.listing(instance_prefix(grt) + ".d") == []
    autostart.start(grt)
    assert Grt.get_fast_mutex("n", int).peek() == 2
    with pytest.raises(GrtAlreadyExists):
        Grt.init(grt)


def test_a_daemon_that_comes_back_in_time_is_waited_for(grt: str) -> None:
    Grt.register_fast_mutex("n", 1)
    Grt.detach()
    Grt.init(grt, autostart=False)
    kill_daemon(grt)
    starter = threading.Thread(target=autostart.start, args=(grt,))
    starter.start()
    found = wait_until(lambda: _names_or_none())
    starter.join(DEADLINE)
    assert found == ["n"]


def _names_or_none() -> list[str] | None:
    try:
        return Grt.names()
    except DaemonUnavailable:
        return None


def test_never_attached_and_the_daemon_is_dead(grt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Grt.register_fast_mutex("n", 1)
    Grt.detach()
    kill_daemon(grt)
    monkeypatch.setenv("WDKMUTEX_INSTANCE", grt)
    with pytest.raises(DaemonUnavailable, match="wdkmutex-daemon start"):
        Grt.get_fast_mutex("n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_daemon_cleanly(number: int, grt: str, runtime_base: str) -> None:
    Grt.register_fast_mutex("n", 5)
    pid = daemon_pid(grt)
    kill(pid, number)
    assert sorted(os.listdir(f"{runtime_base}/wdkmutex")) == [f"{grt}.log"]
    assert segments(grt), "the mutexes live on"
    assert Grt.get_fast_mutex("n", int).peek() == 5
    assert daemon_pid(grt) != pid


def test_stop_leaves_the_place_free_when_it_is_answered(grt: str, runtime_base: str) -> None:
    Grt.register_fast_mutex("n", 5)
    for _ in range(5):
        session.current().call("stop")
        assert os.listdir(f"{runtime_base}/wdkmutex") == [f"{grt}.log"]
        assert autostart.start(grt)
        assert Grt.names() == ["n"]


def test_two_tenants_of_one_name(grt: str) -> None:
    """A daemon that is killed while it overwrites leaves both; its successor keeps the later and frees the other."""
    old = Grt.register_fast_mutex("n", 1)
    Grt.register_fast_mutex("other", 1)
    kill_daemon(grt)
    pool = Pool.open(instance_prefix(grt))
    codec = codec_for(2)
    pool.allocate(b"n", KIND_FAST, codec.tag, codec.encode(2))
    del pool
    assert Grt.get_fast_mutex("n", int).peek() == 2
    assert old.destroyed
    assert Grt.names() == ["n", "other"]
    assert session.current().call("status")["used"] == 2


def test_a_destroy_that_was_not_finished_is_finished(grt: str) -> None:
    Grt.register_fast_mutex("n", 1)
    kill_daemon(grt)
    Pool.open(instance_prefix(grt)).segments[0].flag_destroyed()
    assert Grt.names() == []
    with pytest.raises(GrtIsEmpty):
        Grt.get_fast_mutex("n")


def test_the_socket_of_a_dead_daemon_is_replaced(grt: str) -> None:
    kill_daemon(grt)
    assert os.path.exists(runtime_dir.socket_path(grt)), "what SIGKILL leaves"
    assert autostart.start(grt)
    assert Grt.names() == []


# --- registering and destroying what others hold


def test_registering_over_a_held_mutex(grt: str) -> None:
    mutex = Grt.register_fast_mutex("n", 1)

    def hold() -> str:
        guard = Grt.get_fast_mutex("n", int).lock()
        wait_until(lambda: mutex.destroyed)
        try:
            guard.value = 99
            guard.drop_safe()
        except MutexDestroyed:
            return "told"
        return "not told"

    arrived, arrive = os.pipe()

    def wait() -> str:
        handle = Grt.get_fast_mutex("n")
        os.write(arrive, b"w")
        try:
            handle.lock(timeout=DEADLINE)
        except MutexDestroyed:
            return "told"
        return "not told"

    with Fork(hold) as holder:
        wait_until(lambda: mutex.owner is not None)
        with Fork(wait) as waiter:
            assert os.read(arrived, 1) == b"w"
            new = Grt.register_fast_mutex("n", 2)
            assert waiter.result() == "told"
            assert holder.result() == "told"
    os.close(arrived)
    os.close(arrive)
    assert new.peek() == 2
    assert Grt.get_fast_mutex("n", int).fetch_add(1) == 2
    wait_until(lambda: session.current().call("sweep")["quarantined"] == 0, "the old slot is free again")
    assert session.current().call("status")["used"] == 1


def test_destroy_while_others_hold_and_wait(grt: str) -> None:
    mutex = Grt.register_kmutex("n", 1)
    free = Grt.register_fast_mutex("free", 1)

    arrived, arrive = os.pipe()

    def hold() -> str:
        guard = Grt.get_kmutex("n").lock()
        os.write(arrive, b"h")
        wait_until(lambda: mutex.destroyed)
        with contextlib.suppress(MutexDestroyed):
            guard.drop_safe()
        with pytest.raises(GrtIsNull):
            Grt.names()
        return "told"

    def wait() -> str:
        handle = Grt.get_kmutex("n")
        os.write(arrive, b"w")
        with pytest.raises(MutexDestroyed):
            handle.lock(timeout=DEADLINE)
        with pytest.raises(GrtIsNull):
            Grt.register_fast_mutex("m", "x" * 1000)
        return "told"

    with contextlib.ExitStack() as stack:
        stack.callback(os.close, arrived)
        stack.callback(os.close, arrive)
        holder = stack.enter_context(Fork(hold))
        assert os.read(arrived, 1) == b"h"
        waiters = [stack.enter_context(Fork(wait)) for _ in range(3)]
        for _ in waiters:
            assert os.read(arrived, 1) == b"w"
        Grt.destroy()
        for child in (holder, *waiters):
            assert child.result() == "told"  # each may have staged a large T for a moment, which it removes
    with pytest.raises(MutexDestroyed):
        free.lock()
    with pytest.raises(GrtIsNull):
        connect(grt)
    assert segments(grt) == []


def test_the_first_of_many_registers(grt: str) -> None:
    """In each round, of all processes that register the same name, checked, exactly one succeeds."""
    rounds = 30
    Grt.register_kmutex("round", 0)

    def work() -> list[bool]:
        turn = Grt.get_kmutex("round", int)
        wins = []
        for number in range(1, rounds + 1):
            wait_until(lambda number=number: turn.peek() >= number)
            try:
                Grt.register_fast_mutex_checked(f"n{number}", os.getpid())
                wins.append(True)
            except KeyExists:
                wins.append(False)
            Grt.get_or_register_kmutex(f"done{number}", 0).fetch_add(1)
        return wins

    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(Fork(work)) for _ in range(4)]
        for number in range(1, rounds + 1):
            Grt.get_kmutex("round", int).replace(number)
            done = Grt.get_or_register_kmutex(f"done{number}", 0)
            wait_until(lambda done=done: done.peek() == len(children))
        results = [child.result() for child in children]
    for number in range(rounds):
        assert [wins[number] for wins in results].count(True) == 1


def test_get_while_the_name_is_overwritten(grt: str) -> None:
    """What get returns was registered at some time; it never fails for being overtaken."""
    Grt.register_fast_mutex("n", 0)

    def overwrite() -> None:
        while True:
            with contextlib.suppress(MutexDestroyed):
                Grt.register_fast_mutex("n", os.getpid())

    with Fork(overwrite), Fork(overwrite):
        for _ in range(1000):
            Grt.get_fast_mutex("n", int)


def test_a_holder_that_dies_in_the_midst_of_registering(grt: str) -> None:
    """Clients that are killed at any moment of a registration leave nothing that a sweep does not remove."""

    def register() -> None:
        while True:
            Grt.register_fast_mutex("large", os.urandom(3000))

    mutex = None
    for turn in range(20):
        with Fork(register) as child:
            wait_until(lambda: Grt.names() == ["large"])
            threading.Event().wait(0.001 * turn)  # no order is meant: the kill shall come at another moment each time
            child.kill()
        mutex = Grt.get_fast_mutex("large", bytes)
        assert len(mutex.peek()) == 3000
    session.current().call("sweep")
    with_header = []
    for name in shm.listing(instance_prefix(grt) + ".d"):
        fd = shm.open_segment(name)
        # One whose maker died before it wrote the header says nobody's name: it is swept when it is a minute old.
        if os.pread(fd, 8, 0).strip(b"\0"):
            with_header.append(name)
        os.close(fd)
    assert len(with_header) == 1
    assert session.current().call("status")["used"] == 1


# --- what is in the way


def test_a_segment_of_another_layout(instance: str) -> None:
    from wdkmutex_shm.errors import LayoutMismatch

    name = pool_segment(instance_prefix(instance), 0)
    Pool.open(instance_prefix(instance))
    fd = shm.open_segment(name)
    os.pwrite(fd, (999).to_bytes(4, "little"), 8)
    os.close(fd)
    with pytest.raises(LayoutMismatch) as caught:
        Grt.init(instance)
    assert caught.value.field == "layout"
    assert shm.unlink(name)


def test_the_socket_path_is_too_long(runtime_base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from wdkmutex_shm.errors import RuntimeFolderRefused

    base = f"{runtime_base}/{'d' * 90}"
    os.mkdir(base, 0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", base)
    with pytest.raises(RuntimeFolderRefused, match="bytes long"):
        Grt.init("instance")
    assert segments("instance") == []


def test_client_reports_how_it_failed(grt: str) -> None:
    client = Client(grt, timeout=0.3)
    client.open()
    pid = daemon_pid(grt)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(DaemonUnavailable, match="in time"):
            client.call("status")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert client.call("names")["names"] == [], "the late reply was not taken for this one"
    client.close()
    assert not gone(pid)


def test_remove_instance_is_thorough(instance: str) -> None:
    """The helper that the other tests rely on."""
    Grt.init(instance)
    pid = daemon_pid(instance)
    kill(pid)
    remove_instance(instance)
    assert segments(instance) == []
