"""The files of a pool are removed: by systemd's RemoveIPC, a cleaner, or hand. No two processes ever hold one name."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from processes import Child, Line
from support import DEADLINE, Fork, daemon_pid, gone, kill_daemon, segments, wait_until
from wdkmutex_daemon.inspect.leftovers import FAIL, WARN
from wdkmutex_daemon.inspect.leftovers import segments as findings
from wdkmutex_daemon.serve import housekeeping

from wdkmutex_shm import CriticalSection, FastMutex, Grt, MutexDestroyed
from wdkmutex_shm.base import runtime_dir
from wdkmutex_shm.base.names import data_segment, instance_prefix
from wdkmutex_shm.grt import session
from wdkmutex_shm.memory import data_segments, shm
from wdkmutex_shm.pool import sweep
from wdkmutex_shm.pool.pool import Pool

pytestmark = pytest.mark.slow  # daemons are started in each of them

START = "import sys; from wdkmutex_shm import Grt; Grt.init(sys.argv[1]); print(Grt.names() if sys.argv[2:] else '')"


def _remove_all(instance: str) -> None:
    """As logind does at a user's last logout."""
    for name in segments(instance):
        shm.unlink(name)


def _start_elsewhere(instance: str) -> None:
    """Start a daemon from another process, which ends."""
    subprocess.run([sys.executable, "-c", START, instance], check=True, timeout=DEADLINE)


def _destroyed(mutex: FastMutex[int]) -> bool:
    try:
        mutex.fetch_add(1)
    except MutexDestroyed:
        return True
    return False


def test_every_handle_is_told_when_the_daemon_notices(instance: str) -> None:
    """And the daemon's status is a failure, for which systemd starts it again."""
    words = [sys.executable, "-m", "wdkmutex_daemon", "run", "--instance", instance]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as daemon:
        try:
            wait_until(lambda: os.path.exists(runtime_dir.socket_path(instance)))
            Grt.init(instance)
            mutex = Grt.register_fast_mutex("n", 5)
            section = Grt.register_critical_section("s")
            section.enter()
            waiting = Fork(lambda: _wait(section))
            with waiting:
                wait_until(section.waiters, "a waiter")
                _remove_all(instance)
                wait_until(lambda: _destroyed(mutex), "the end of the mutex")
                assert waiting.result() == "MutexDestroyed"
            section.leave()
            said = daemon.communicate(timeout=DEADLINE)[1]
        finally:
            daemon.kill()
    assert daemon.returncode == 1
    assert "was removed" in said
    assert "RemoveIPC" in said
    Grt.detach()
    Grt.init(instance)
    assert Grt.names() == []


def _wait(section: CriticalSection) -> str:
    try:
        section.acquire(timeout=DEADLINE)
    except MutexDestroyed as error:
        return type(error).__name__
    return "acquired"


def test_a_removed_pool_leaves_the_next_one_alone() -> None:
    """Its daemon may have been stopped, and goes on with what it was asked before."""
    prefix = instance_prefix(f"t{os.getpid()}-replaced")
    old = Pool.open(prefix)
    shm.unlink(old.segments[0].name)
    new = Pool.open(prefix)
    with Fork(lambda: data_segments.create(prefix, b"x" * 1000)) as maker:
        name = data_segment(prefix, maker.result())
    try:
        assert sweep.orphan_data(old) == []
        old.destroy()
        assert shm.listing(prefix) == [name, new.segments[0].name]
        assert sweep.orphan_data(new) == [name]
    finally:
        new.destroy()
    assert shm.listing(prefix) == []


@pytest.mark.parametrize("where", ["looking", "ending"])
def test_what_goes_wrong_in_noticing_it_keeps_the_daemon_neither_from_its_rounds_nor_from_its_end(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def lost() -> str | None:
        told.append("looked")
        if where == "ending":
            return "the socket"
        if len(told) == 1:
            raise PermissionError(13, "/dev/shm is closed for a moment")
        return None

    def no_end(pool: Pool) -> int:
        raise OSError(5, "it cannot be ended")

    async def serve() -> None:
        done = asyncio.Event()
        service: Any = SimpleNamespace(instance="t", end_stalled=done.set, stop=lambda *, lost: done.set())
        work = housekeeping.Housekeeping(service, Pool("/wdkm.none"), lost)
        await asyncio.wait_for(done.wait(), DEADLINE)
        work.stop()

    monkeypatch.setattr(housekeeping, "_EVERY", 0.001)
    monkeypatch.setattr(housekeeping.removed, "end_lost", no_end)
    asyncio.run(serve())
    assert told


def test_who_has_a_pool_that_nobody_watched_is_told_before_there_is_another(grt: str) -> None:
    mutex = Grt.register_fast_mutex("n", 5)
    kill_daemon(grt)
    _remove_all(grt)
    assert mutex.fetch_add(1) == 5, "nobody else can have it"
    _start_elsewhere(grt)
    with pytest.raises(MutexDestroyed):
        mutex.fetch_add(1)
    assert Grt.register_fast_mutex("n", 7).peek() == 7


def test_a_child_that_inherited_it_is_enough(grt: str) -> None:
    """The one who mapped it has ended; a child that was forked meanwhile has it still."""
    with Child(_fork_and_end, grt) as maker:
        child = maker.hear()
        try:
            maker.end()
            kill_daemon(grt)
            _remove_all(grt)
            _start_elsewhere(grt)
            os.kill(child, signal.SIGUSR1)
            wait_until(lambda: gone(child), "the child, which ends when it is told")
        finally:
            if not gone(child):
                os.kill(child, signal.SIGKILL)


def _fork_and_end(line: Line, instance: str) -> None:
    Grt.init(instance)
    mutex = Grt.register_fast_mutex("n", 5)
    told = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: told.set())
    pid = os.fork()
    if pid:
        line.say(pid)
        return
    while not told.wait(0.01):
        mutex.fetch_add(1)
    os._exit(0 if _destroyed(mutex) else 1)


def test_a_stopped_daemon_with_a_removed_pool_makes_no_second_one(
    grt: str, runtime_base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a logout the runtime folder goes with the pool, and so does the lock in it."""
    mutex = Grt.register_fast_mutex("n", 5)
    pid = daemon_pid(grt)
    os.kill(pid, signal.SIGSTOP)
    try:
        shutil.rmtree(f"{runtime_base}/wdkmutex")
        _remove_all(grt)
        _start_elsewhere(grt)
        with pytest.raises(MutexDestroyed):
            mutex.fetch_add(1)
        session.leave()
        Grt.init(grt)
        new = Grt.register_fast_mutex("n", 7)
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: gone(pid), "the end of the old daemon")
    assert new.fetch_add(1) == 7
    assert Grt.get_fast_mutex("n", int) == new


@pytest.fixture
def two_segments(grt: str) -> Iterator[tuple[str, FastMutex[int], FastMutex[int]]]:
    """An instance whose pool has two segments, a mutex in the first and one in the second."""
    many = Grt.register_many(FastMutex, {f"n{number}": number for number in range(1100)})
    first, second = many["n0"], many["n1099"]
    assert first.segment != second.segment
    yield grt, first, second
    del many, first, second


def test_another_segment_than_the_first_is_removed(
    two_segments: tuple[str, FastMutex[int], FastMutex[int]],
) -> None:
    instance, first, second = two_segments
    pid = daemon_pid(instance)
    shm.unlink(second.segment)
    wait_until(lambda: gone(pid), "the end of the daemon")
    with pytest.raises(MutexDestroyed):
        second.fetch_add(1)
    assert first.fetch_add(1) == 0
    assert "n1099" not in Grt.names(), "the next daemon goes on with the rest"
    assert Grt.get_fast_mutex("n0", int) == first
    assert Grt.register_fast_mutex("n1099", 3).peek() == 3


def test_another_one_while_there_is_no_daemon(two_segments: tuple[str, FastMutex[int], FastMutex[int]]) -> None:
    instance, first, second = two_segments
    kill_daemon(instance)
    shm.unlink(second.segment)
    _start_elsewhere(instance)
    with pytest.raises(MutexDestroyed):
        second.fetch_add(1)
    assert first.fetch_add(1) == 0


def test_doctor_tells_of_it(two_segments: tuple[str, FastMutex[int], FastMutex[int]]) -> None:
    instance, first, second = two_segments
    kill_daemon(instance)
    with Fork(lambda: [found for found in findings() if instance in found[1]]) as child:
        assert [level for level, text, _ in child.result() if "removed" in text] == []
    shm.unlink(first.segment)
    with Fork(lambda: [found for found in findings() if instance in found[1]]) as child:
        found = child.result()
    missing = [text for level, text, _ in found if level == FAIL]
    assert len(missing) == 1
    assert first.segment in missing[0]
    who = f"process {os.getpid()} uses"
    ((text, remedy),) = [(text, remedy) for level, text, remedy in found if level == WARN and who in text]
    assert "removed" in text
    assert f"wdkmutex-daemon start --instance {instance}" in remedy
    _start_elsewhere(instance)
    for mutex in (first, second):
        with pytest.raises(MutexDestroyed):
            mutex.fetch_add(1)


def test_who_has_closed_the_descriptor_is_named(grt: str) -> None:
    """It cannot be reached: that is said, and the instance is served all the same."""
    with Child(_close_all, grt) as child:
        child.hear()
        kill_daemon(grt)
        session.leave()
        _remove_all(grt)
        words = [sys.executable, "-m", "wdkmutex_daemon", "run", "--instance", grt]
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as daemon:
            wait_until(lambda: os.path.exists(runtime_dir.socket_path(grt)))
            wait_until(lambda: Pool.server_of(instance_prefix(grt)))
            Grt.init(grt)
            Grt.destroy()
            said = daemon.communicate(timeout=DEADLINE)[1]
        assert f"process {child.pid} has the removed segment" in said
        child.say("end")


def _close_all(line: Line, instance: str) -> None:
    Grt.init(instance)
    mutex = Grt.register_fast_mutex("n", 5)
    for number in os.listdir("/proc/self/fd"):
        try:
            if "/dev/shm/" in os.readlink(f"/proc/self/fd/{number}"):
                os.close(int(number))
        except OSError:
            continue
    line.say(mutex.peek())
    line.hear()
    os._exit(0)
