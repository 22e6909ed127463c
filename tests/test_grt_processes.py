"""The Grt across processes: who starts the daemon, what its death changes (nothing), who hears of a destroy."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import psutil
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

from wdkmutex_shm import Grt, autostart, paths, session, shm
from wdkmutex_shm.client import Client, connect
from wdkmutex_shm.errors import (
    DaemonError,
    DaemonUnavailable,
    GrtAlreadyExists,
    GrtIsEmpty,
    GrtIsNull,
    KeyExists,
    LockTimeout,
    MutexDestroyed,
)
from wdkmutex_shm.names import KIND_FAST, instance_prefix, pool_segment
from wdkmutex_shm.pool import Pool
from wdkmutex_shm.types import codec_for


def _daemons(instance: str) -> list[int]:
    """Processes that run the daemon of an instance."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            if "run" in command and instance in command and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


# --- one daemon


def test_a_hundred_processes_init_at_once(instance: str) -> None:
    """Each of them inits at the same moment, in one instance of which there is nothing yet: one daemon, one winner."""
    gate_out, gate_in = os.pipe()

    def work() -> tuple[int, bool]:
        os.close(gate_in)
        os.read(gate_out, 1)  # until all are here
        Grt.init(instance, timeout=60.0)
        try:
            Grt.register_fast_mutex_checked("winner", os.getpid())
            won = True
        except KeyExists:
            won = False
        Grt.get_or_register_kmutex("counter", 0).fetch_add(1)
        return int(session.current().daemon["epoch"]), won

    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(Fork(work)) for _ in range(100)]
        os.close(gate_out)
        os.close(gate_in)
        results = [child.result(90) for child in children]
    assert len({epoch for epoch, _ in results}) == 1
    assert [won for _, won in results].count(True) == 1
    assert len(wait_until(lambda: _daemons(instance))) == 1
    Grt.init(instance)
    assert Grt.get_kmutex("counter", int).peek() == 100
    assert Grt.get_fast_mutex("winner", int).peek() in [child.pid for child in children]


def test_a_daemon_has_no_parent_that_must_wait_for_it(instance: str) -> None:
    before = psutil.Process().children()
    Grt.init(instance)
    pid = daemon_pid(instance)
    assert psutil.Process().children() == before
    assert os.getsid(pid) == os.getsid(pid) != os.getsid(0)
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.stat(paths.socket_path(instance)).st_mode & 0o777 == 0o600


def test_the_start_leaves_no_warning(instance: str) -> None:
    code = f"from wdkmutex_shm import Grt; Grt.init({instance!r}); Grt.register_fast_mutex('n', 1); Grt.destroy()"
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_starter_that_dies_is_replaced(instance: str) -> None:
    """Its start lock lies there, its time is over, and the kernel has released it."""
    with open(paths.start_lock_path(instance), "w"):
        pass
    Grt.init(instance)
    assert Grt.names() == []
    assert not os.path.exists(paths.start_lock_path(instance))


def test_a_starter_that_hangs_is_named(instance: str) -> None:
    from wdkmutex_shm.lockfile import LockFile

    lock = LockFile(paths.start_lock_path(instance))
    assert lock.try_acquire()
    with pytest.raises(DaemonUnavailable, match=r"another process is starting .*\.log"):
        Grt.init(instance, timeout=1.5)
    assert Grt.instance() is None
    lock.release(remove=True)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("/does/not/exist", "cannot be started"),
        ("sh -c 'echo no such luck >&2; exit 3'", "no such luck"),
        ("sh -c 'exit 0'", "ended as it started"),
    ],
)
def test_a_daemon_that_cannot_be_started(
    command: str, words: str, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WDKMUTEX_DAEMON", command)
    with pytest.raises(DaemonUnavailable, match=words):
        Grt.init(instance)
    monkeypatch.delenv("WDKMUTEX_DAEMON")
    Grt.init(instance)


def test_a_daemon_that_does_not_get_ready(instance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WDKMUTEX_DAEMON", "sleep 60")
    monkeypatch.setattr(autostart, "command", lambda: ["sh", "-c", "exec sleep 60", "sh"])
    before = psutil.Process().children()
    with pytest.raises(DaemonUnavailable, match="in time"):
        Grt.init(instance, timeout=1.0)
    assert psutil.Process().children() == before


def test_command_where_sys_executable_is_no_python(monkeypatch: pytest.MonkeyPatch, runtime_base: str) -> None:
    assert autostart.command() == [sys.executable, "-m", "wdkmutex_daemon"]
    script = f"{runtime_base}/wdkmutex-daemon"
    with open(script, "w") as file:
        file.write("#!/bin/sh\n")
    os.chmod(script, 0o700)
    monkeypatch.setenv("PATH", runtime_base)
    for executable in ("", "/usr/bin/uwsgi"):
        monkeypatch.setattr(sys, "executable", executable)
        assert autostart.command() == [script]
    os.unlink(script)
    with pytest.raises(DaemonUnavailable, match="WDKMUTEX_DAEMON"):
        autostart.command()
    monkeypatch.setenv("WDKMUTEX_DAEMON", "python3 -m 'my daemon'")
    assert autostart.command() == ["python3", "-m", "my daemon"]


def test_a_second_daemon_is_refused(grt: str) -> None:
    for extra in ((), ("--detach",)):
        done = subprocess.run(
            [sys.executable, "-m", "wdkmutex_daemon", "run", "--instance", grt, *extra],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if not extra:
            assert done.returncode != 0
            assert str(daemon_pid(grt)) in done.stderr
    assert len(wait_until(lambda: [_daemons(grt)] if len(_daemons(grt)) == 1 else None)[0]) == 1
    assert not autostart.start(grt)


def test_one_daemon_for_two_runtime_folders(grt: str, runtime_base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cron job has another XDG_RUNTIME_DIR than the login session: it finds the same daemon, or none can start."""
    Grt.register_fast_mutex("n", 5)
    Grt.detach()
    other = f"{runtime_base}/cron"
    os.mkdir(other, 0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", other)
    Grt.init(grt)
    assert Grt.get_fast_mutex("n", int).peek() == 5
    assert _daemons(grt) == [daemon_pid(grt)]
    Grt.detach()
    # A daemon that does not answer still owns the pool.
    pid = daemon_pid(grt)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(DaemonError):
            Grt.init(grt, timeout=2.0)
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: _daemons(grt) == [pid], "the second daemon gives up")
    with connect(grt) as client:
        assert client.daemon["pid"] == pid
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime_base)
    for name in os.listdir(f"{other}/wdkmutex"):
        os.unlink(f"{other}/wdkmutex/{name}")


def test_no_room_at_the_start(instance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the daemon says of its failure is what init raises."""
    from wdkmutex_shm.errors import PagedPoolAllocFailed

    # A file size limit stands for a full /dev/shm: the same call of the daemon's fails.
    monkeypatch.setenv(
        "WDKMUTEX_DAEMON", f'sh -c \'ulimit -f 8; trap "" XFSZ; exec "$@"\' sh {sys.executable} -m wdkmutex_daemon'
    )
    with pytest.raises(PagedPoolAllocFailed):
        Grt.init(instance)
    monkeypatch.delenv("WDKMUTEX_DAEMON")
    assert segments(instance) == []
    Grt.init(instance)


# --- the daemon's death


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
    assert mutex.fetch_add(1) == 1, "mutexes that are open go on working"
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
    assert os.path.exists(paths.socket_path(grt)), "what SIGKILL leaves"
    assert autostart.start(grt)
    assert Grt.names() == []


# --- fork


def test_a_forked_child_has_its_own_connection(grt: str) -> None:
    Grt.register_fast_mutex("n", 1)
    parent = session.current()

    def work() -> tuple[list[str], int, int]:
        return Grt.names(), session.current().call("status")["clients"], session.current()._session

    with Fork(work) as child:
        names, clients, number = child.result()
    assert names == ["n"]
    assert clients == 2
    assert number != parent._session
    assert parent.call("status")["names"] == 1


def test_a_child_forked_during_a_call(grt: str) -> None:
    """The lock of the connection is held by a thread that the child does not have."""
    client = session.current()
    taken, done = threading.Event(), threading.Event()

    def call() -> None:
        turn = client._turns.take(DEADLINE)
        taken.set()
        assert turn is not None and done.wait(DEADLINE)
        turn.end()

    other = threading.Thread(target=call)
    other.start()
    assert taken.wait(DEADLINE)
    try:
        with Fork(Grt.names) as child:
            assert child.result() == []
    finally:
        done.set()
        other.join()
    assert Grt.names() == []


def test_a_forked_child_may_init(grt: str) -> None:
    def again() -> str | None:
        Grt.init(grt)
        with pytest.raises(GrtAlreadyExists):
            Grt.init(grt)
        return Grt.instance()

    with Fork(again) as child:
        assert child.result() == grt
    assert Grt.names() == []


def test_a_forked_child_that_dies_leaves_the_parents_connection(grt: str) -> None:
    def die() -> None:
        Grt.names()
        os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(3):
        with Fork(die) as child:
            child.end()
        assert Grt.names() == []
    wait_until(lambda: session.current().call("status")["clients"] == 1)


def _spawned_child(instance: str, results: Any) -> None:
    with contextlib.suppress(GrtIsNull):
        results.put(Grt.get_fast_mutex("n"))
    Grt.init(instance)
    results.put(Grt.get_fast_mutex("n", int).fetch_add(1))


def test_a_spawned_child_starts_without_a_grt(grt: str) -> None:
    mutex = Grt.register_fast_mutex("n", 1)
    results = SPAWN.SimpleQueue()
    with spawned(_spawned_child, grt, results) as process:
        process.join(DEADLINE)
        assert process.exitcode == 0
        assert results.get() == 1
    results.close()
    assert mutex.peek() == 2


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
