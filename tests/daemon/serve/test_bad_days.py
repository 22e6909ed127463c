"""What is done to a daemon behind its back: removed files, foreign files, no descriptors, a stop signal."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import sys

import pytest
from commands import Command
from peer import Peer
from scarce import no_descriptor
from support import Fork, daemon_pid, gone, segments, wait_until

from wdkmutex_shm import DaemonUnavailable, Grt, GrtIsNull, MutexDestroyed
from wdkmutex_shm.base import runtime_dir
from wdkmutex_shm.base.names import instance_prefix
from wdkmutex_shm.engines.local import autostart
from wdkmutex_shm.engines.local.client import connect
from wdkmutex_shm.grt import session
from wdkmutex_shm.memory import shm
from wdkmutex_shm.pool.pool import Pool


@pytest.mark.parametrize("folder", [False, True], ids=["socket", "folder"])
def test_a_removed_socket_ends_the_daemon_and_the_next_goes_on(grt: str, folder: bool) -> None:
    mutex = Grt.register_fast_mutex("n", 5)
    pid = daemon_pid(grt)
    path = runtime_dir.socket_path(grt)
    if folder:
        shutil.rmtree(os.path.dirname(path))
    else:
        os.unlink(path)
    wait_until(lambda: gone(pid), "the end of a daemon that nobody can reach")
    assert Grt.get_fast_mutex("n", int) == mutex  # a new daemon, the same mutex
    assert mutex.fetch_add(1) == 5
    assert daemon_pid(grt) != pid


def test_a_start_waits_for_the_unreachable_daemon_to_end(grt: str) -> None:
    Grt.register_fast_mutex("n", 5)
    pid = daemon_pid(grt)
    os.unlink(runtime_dir.socket_path(grt))
    Command(grt)("start")
    assert gone(pid)
    assert Grt.get_fast_mutex("n", int).peek() == 5


def test_a_removed_pool_ends_the_daemon(grt: str) -> None:
    mutex = Grt.register_fast_mutex("n", 5)
    pid = daemon_pid(grt)
    shm.unlink(instance_prefix(grt) + ".p0")
    wait_until(lambda: gone(pid), "the end of a daemon without a pool")
    with pytest.raises(MutexDestroyed):
        mutex.fetch_add(1)
    with pytest.raises(GrtIsNull):
        connect(grt)


def test_segments_behind_a_missing_one_are_removed(instance: str) -> None:
    prefix = instance_prefix(instance)
    pool = Pool(prefix, first_slots=64)
    pool._grow()
    pool._grow()
    shm.unlink(prefix + ".p0")
    with_pool = Pool.open(prefix)
    assert segments(instance) == [prefix + ".p0"]
    with_pool.destroy()


@pytest.mark.parametrize("name", ["dzz", "d", "d0123", "dXYZ4567890123456", "pzz", "x"])
def test_foreign_files_stop_no_housekeeping(grt: str, name: str) -> None:
    path = f"{shm.FOLDER}{instance_prefix(grt)}.{name}"
    with open(path, "w"):
        pass
    try:
        cli = Command(grt)
        cli("sweep")
        assert "ValueError" not in cli("doctor", "--json")
        Grt.register_fast_mutex("n", 5)
    finally:
        os.unlink(path)


def test_destroy_goes_on_past_what_it_cannot_remove(grt: str) -> None:
    mutex = Grt.register_fast_mutex("n", "x" * 1000)
    folder = f"{shm.FOLDER}{instance_prefix(grt)}.d{7:016x}"
    os.mkdir(folder)
    try:
        pid = daemon_pid(grt)
        Grt.destroy()
        wait_until(lambda: gone(pid))
        with pytest.raises(MutexDestroyed):
            mutex.peek()
        assert segments(grt) == [folder.removeprefix(shm.FOLDER)]
    finally:
        os.rmdir(folder)


def test_destroy_takes_along_what_a_killed_starter_left(grt: str) -> None:
    pid = daemon_pid(grt)
    path = runtime_dir.start_lock_path(grt)
    with open(path, "x"):  # nobody has it locked: whoever did was killed
        pass
    Grt.destroy()
    wait_until(lambda: gone(pid))
    assert not os.path.exists(path)


def test_a_stopped_daemon_is_named(grt: str) -> None:
    pid = daemon_pid(grt)
    os.kill(pid, signal.SIGSTOP)
    try:
        cli = Command(grt)
        assert f"kill -9 {pid}" in cli.error("stop", "--timeout", "1", code=1)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert cli.json("status")["pid"] == pid


def test_a_daemon_without_descriptors_overwrites(grt: str) -> None:
    """The old T is large: its segment goes although there is no descriptor to punch it with."""
    Grt.register_fast_mutex("n", "x" * 1000)
    pid = daemon_pid(grt)
    used = len(os.listdir(f"/proc/{pid}/fd"))
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, before[1]))
    try:
        assert Grt.register_fast_mutex("n", 1).peek() == 1
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    assert Grt.get_fast_mutex("n", int).peek() == 1
    assert [name for name in segments(grt) if ".d" in name.removeprefix(instance_prefix(grt))] == []


def test_no_descriptor_left_to_reach_or_start_a_daemon(grt: str) -> None:
    """An error of ours that says what is missing, and no other one from the depths."""

    def work() -> list[str]:
        told = []
        session.leave()
        with no_descriptor():
            for call in (
                lambda: Grt.init(grt),
                lambda: Grt.init(grt, autostart=False),
                lambda: autostart.start(grt + "x"),
            ):
                try:
                    call()
                except DaemonUnavailable as error:
                    told.append(str(error))
        Grt.init(grt)
        return told

    with Fork(work) as child:
        told = child.result()
    assert len(told) == 3
    assert all("Too many open files" in text for text in told), told
    assert segments(grt + "x") == []


def test_no_descriptor_for_one_more_client(instance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is there is served; who knocks waits outside, and comes in when others have gone."""
    monkeypatch.setenv("WDKMUTEX_DAEMON", f"sh -c 'ulimit -n 24; exec \"$@\"' sh {sys.executable} -m wdkmutex_daemon")
    Grt.init(instance)
    Grt.register_fast_mutex("n", 5)
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(Peer(instance, hello=False))
        with open(runtime_dir.log_path(instance), encoding="utf-8") as log:
            wait_until(lambda: "no further client can be let in now" in log.read())
        assert Grt.names() == ["n"]
    with Peer(instance) as peer:
        body, error = peer.ask("names")
    assert error is None
    assert body is not None
    assert body["names"] == ["n"]
