"""Private pools: they go with their last user, and what the dead left is removed on proof of death only."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import struct
import subprocess
import sys
import threading
from typing import Any

import pytest
from processes import Child, Line, in_child, state_of, write_shm
from support import kill, wait_until

from wdkmutex_shm import KMutex
from wdkmutex_shm.base import identity
from wdkmutex_shm.base.names import user_prefix
from wdkmutex_shm.memory import shm
from wdkmutex_shm.pool import private, sweep


def pools_of(pid: int) -> list[str]:
    return shm.listing(f"{user_prefix()}@{pid}.")


def _make_and_tell(line: Line) -> None:
    mutex = KMutex(b"x" * 10_000)
    line.say(mutex)
    line.hear()
    del mutex


def test_living_pool_stays() -> None:
    with Child(_make_and_tell) as child:
        child.hear()
        names = pools_of(child.pid)
        assert len(names) == 2
        sweep.dead_private_pools()
        assert pools_of(child.pid) == names
        child.stop()
        sweep.dead_private_pools()
        assert pools_of(child.pid) == names
        child.proceed()


def test_pool_goes_at_the_end_of_its_maker() -> None:
    with Child(_make_and_tell, method="spawn") as child:
        child.hear()
        child.say("end")
        child.end()
        assert pools_of(child.pid) == []
    code = "import wdkmutex_shm as w; m = w.KMutex(b'x' * 10000); print(m.segment)"
    name = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert not os.path.exists(shm.FOLDER + name)


def _make_only(line: Line) -> None:
    mutex = KMutex(b"x" * 10_000)
    line.say(mutex.segment)
    line.hear()


def test_pool_of_the_dead_is_removed() -> None:
    with Child(_make_only) as child:
        child.hear()
        assert len(pools_of(child.pid)) == 2
        child.kill()
        sweep.dead_private_pools()
        assert pools_of(child.pid) == []


def test_the_next_to_make_a_pool_removes_it() -> None:
    with Child(_make_only) as child:
        child.hear()
        assert pools_of(child.pid)
        child.kill()
        assert in_child(_make_first)
        assert pools_of(child.pid) == []


def _make_first() -> bool:
    return KMutex(0).peek() == 0


def _first_thread_ends(line: Line) -> None:
    line.say(identity.me().start)
    threading.Thread(target=line.hear).start()
    ctypes.CDLL(None).pthread_exit(None)


def test_a_process_whose_first_thread_has_ended_is_not_dead() -> None:
    """Its state is that of a zombie, and its other threads go on."""
    with Child(_first_thread_ends) as child:
        start = child.hear()
        wait_until(lambda: state_of(child.pid) == "Z", "its first thread has ended")
        assert not identity.is_dead(child.pid, start)
        os.kill(child.pid, signal.SIGKILL)
        wait_until(lambda: identity.is_dead(child.pid, start), "it is a zombie")


def test_zombie_is_dead() -> None:
    pid = os.fork()
    if pid == 0:
        KMutex(0)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        sweep.dead_private_pools()
        assert pools_of(pid) == []
    finally:
        os.waitpid(pid, 0)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_pool_of_the_dead_that_others_use_stays(method: str) -> None:
    with Child(_make_and_use, method) as maker:
        mutex, user = maker.hear()
        try:
            maker.kill()
            names = pools_of(maker.pid)
            assert names
            sweep.dead_private_pools()
            assert pools_of(maker.pid) == names
            assert mutex.peek() == b"x" * 10_000
            mutex.replace(b"y" * 30_000)
        finally:
            kill(user)
        del mutex
        wait_until(lambda: sweep.dead_private_pools() is not None and not pools_of(maker.pid))


def _make_and_use(line: Line, method: str) -> None:
    mutex = KMutex(b"x" * 10_000)
    if method == "fork":
        user = os.fork()
        if user == 0:
            line.close()
            signal.pause()
    else:
        code = (
            "import pickle, signal, sys; mutex = pickle.load(sys.stdin.buffer); mutex.peek(); "
            "print(1, flush=True); signal.pause()"
        )
        import pickle

        process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(pickle.dumps(mutex))
        process.stdin.close()
        process.stdout.readline()
        user = process.pid
    line.say((mutex, user))
    line.hear()


def test_maker_that_ends_leaves_it_to_its_forked_children() -> None:
    with Child(_leave_to_child) as maker:
        pid = maker.hear()
        maker.say("end")
        maker.end()
        try:
            # The maker ended as usual; its child still uses a T that lies in a data segment.
            assert maker.hear() == 10_000
            assert maker.hear() == 50_000
        finally:
            kill(pid)
        wait_until(lambda: sweep.dead_private_pools() is not None and not pools_of(maker.pid))


def _leave_to_child(line: Line) -> None:
    mutex = KMutex(b"x" * 10_000)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        wait_until(lambda: os.getppid() != parent)
        line.say(len(mutex.peek()))
        mutex.replace(b"y" * 50_000)
        line.say(len(mutex.lock().value))
        signal.pause()
    line.say(pid)
    line.hear()


def test_started_at_another_time_is_another_process() -> None:
    with Child(_make_only) as child:
        child.hear()
        for name in pools_of(child.pid):
            start = re.sub(r"(@\d+)\.(\d+)", lambda found: f"{found[1]}.{int(found[2]) - 1}", name)
            os.rename(shm.FOLDER + name, shm.FOLDER + start)
        forged = pools_of(child.pid)
        # The pid lives, but what the names say died; yet the living one has them flocked.
        sweep.dead_private_pools()
        assert pools_of(child.pid) == forged
        child.kill()
        sweep.dead_private_pools()
        assert pools_of(child.pid) == []


@pytest.mark.parametrize(
    ("offset", "raw", "left"),
    [
        (8, struct.pack("=I", 99), True),  # another layout
        (0, bytes(8), False),  # never published
    ],
    ids=["layout", "unpublished"],
)
@pytest.mark.parametrize("image", ["d", "0"])
def test_only_what_can_be_judged_is_removed(offset: int, raw: bytes, left: bool, image: str) -> None:
    with Child(_make_only) as child:
        child.hear()
        # The random part of the names must not matter: here it begins as the last part of a data segment's does.
        for name in pools_of(child.pid):
            head, middle, last = name.rsplit(".", 2)
            os.rename(shm.FOLDER + name, f"{shm.FOLDER}{head}.{image}{middle[1:]}.{last}")
        names = pools_of(child.pid)
        write_shm(names[-1], offset, raw)
        child.kill()
        try:
            sweep.dead_private_pools()
            assert pools_of(child.pid) == (names if left else [])
        finally:
            for one in pools_of(child.pid):
                shm.unlink(one)


def test_a_pool_of_another_pid_namespace_goes_when_nobody_has_it_locked() -> None:
    """Its maker's pid means nothing here. Where no lock is, one may be about to come, for some time."""
    with Child(_make_only) as child:
        child.hear()
        for name in pools_of(child.pid):
            pid, start, _, rest = name.split(".", 5)[2:]
            os.rename(shm.FOLDER + name, f"{shm.FOLDER}{user_prefix()}{pid}.{start}.000000aa.{rest}")
        names = pools_of(child.pid)
        assert len(names) == 2

        def age() -> None:
            for name in names:
                os.utime(shm.FOLDER + name, (1, 1))

        age()
        sweep.dead_private_pools()
        assert pools_of(child.pid) == names, "its maker lives"
        child.kill()
        for name in names:
            os.utime(shm.FOLDER + name)
        sweep.dead_private_pools()
        assert pools_of(child.pid) == names, "just made"
        age()
        sweep.dead_private_pools()
        assert pools_of(child.pid) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away takes root")
def test_another_users_segment_stays() -> None:
    with Child(_make_only) as child:
        child.hear()
        names = pools_of(child.pid)
        os.chown(shm.FOLDER + names[-1], 12345, 12345)
        child.kill()
        try:
            sweep.dead_private_pools()
            assert pools_of(child.pid) == names
        finally:
            for name in names:
                shm.unlink(name)


def test_names_that_are_not_ours_stay() -> None:
    names = [f"{user_prefix()}@x", f"{user_prefix()}@1.x.p0", f"{user_prefix()}@999999999", "/wdkm.x"]
    for name in names:
        open(shm.FOLDER + name, "x").close()
    try:
        sweep.dead_private_pools()
        assert all(os.path.exists(shm.FOLDER + name) for name in names)
    finally:
        for name in names:
            os.unlink(shm.FOLDER + name)


def test_forked_child_makes_a_pool_of_its_own() -> None:
    mine = KMutex(0)
    with Child(_make_and_tell) as child:
        other: Any = child.hear()
        assert other.segment != mine.segment
        assert f"@{child.pid}." in other.segment
        other.replace(b"z")
        child.say("end")
        child.end()
    assert private.the_pool().pid == os.getpid()
    assert mine.fetch_add() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="changing the user takes root")
def test_a_process_that_changes_its_user_begins_another_pool() -> None:
    """What it makes from then on is its new user's and goes with it; what it made before is left to its old one."""
    with Child(_change_user) as child:
        before = child.hear()
        assert child.hear() == []
        assert pools_of(child.pid) == before
        assert child.end() == 0
        assert shm.listing(f"{user_prefix(54321)}@{child.pid}.") == []
        sweep.dead_private_pools()
        assert pools_of(child.pid) == []


def _change_user(line: Line) -> None:
    private.at_end()
    old = KMutex(b"old")
    line.say(pools_of(os.getpid()))
    os.setgid(54321)
    os.setuid(54321)
    new = [KMutex(b"new" * 3000) for _ in range(100)]
    wrong = [mutex.segment for mutex in new if not mutex.segment.startswith("/wdkm.54321.@")]
    new[0].replace(b"x" * 90_000)
    assert new[0].peek() == b"x" * 90_000
    old.replace(b"mid")
    assert old.peek() == b"mid"
    line.say(wrong)
    private.close()
