"""Ends of workers that multiprocessing cannot be told of: SIGCHLD is ignored, or the fork server was killed."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing import forkserver
from typing import Any

import pytest
from processes import wait_until
from support import DEADLINE, kill
from test_mp_pool import die, leave, pids, square

from wdkmutex_shm import WorkerDied, mp
from wdkmutex_shm.base import identity
from wdkmutex_shm.mp import processes

# Replacing a worker forks a process that has threads, in multiprocessing as here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


@contextlib.contextmanager
def children_reaped_by_the_kernel() -> Iterator[None]:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


def kill_server() -> int:
    pid: int = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    kill(pid)
    return pid


def wait_for_file(path: str) -> int:
    open(f"{path}.begun", "w").close()
    while not os.path.exists(path):
        time.sleep(0.001)
    return os.getpid()


@pytest.mark.slow
def test_a_pool_where_sigchld_is_ignored(context: Any) -> None:
    with children_reaped_by_the_kernel(), context.Pool(2) as pool:
        assert pool.map(square, range(10)) == [n * n for n in range(10)]
        with pytest.raises(WorkerDied, match="ended|killed") as caught:
            pool.apply_async(die).get(DEADLINE)
        assert caught.value.exitcode == (
            -signal.SIGKILL if context.get_start_method() == "forkserver" else processes.UNKNOWN
        )
        assert pool.map(square, range(10)) == [n * n for n in range(10)]
        pool.close()
        pool.join()


@pytest.mark.slow
def test_all_workers_are_killed_where_sigchld_is_ignored(context: Any) -> None:
    with children_reaped_by_the_kernel(), context.Pool(2) as pool:
        for worker in pids(pool):
            kill(worker)
        assert pool.map_async(square, range(10)).get(DEADLINE) == [n * n for n in range(10)]


@pytest.mark.slow
def test_workers_that_leave_where_sigchld_is_ignored(fork: Any) -> None:
    """Each after one task, as they should: nothing is lost with them."""
    with children_reaped_by_the_kernel(), fork.Pool(2, maxtasksperchild=1) as pool:
        assert pool.map_async(square, range(4), 1).get(DEADLINE) == [n * n for n in range(4)]


@pytest.mark.slow
def test_a_process_where_sigchld_is_ignored(context: Any) -> None:
    with children_reaped_by_the_kernel():
        process = context.Process(target=leave, args=(3,))
        process.start()
        process.join(DEADLINE)
        assert not process.is_alive()
        assert process.exitcode == (3 if context.get_start_method() == "forkserver" else processes.UNKNOWN)
        process.close()


@pytest.mark.slow
def test_the_fork_server_is_killed_and_its_workers_live(tmp_path: Any) -> None:
    now = tmp_path / "now"
    with mp.get_context("forkserver").Pool(2) as pool:
        workers = set(pids(pool))
        results = [pool.apply_async(wait_for_file, (str(now),)) for _ in range(2)]
        wait_until(lambda: os.path.exists(f"{now}.begun"), "a worker is at work")
        kill_server()
        assert pool.map_async(square, range(0)).get(DEADLINE) == []
        now.touch()
        assert {result.get(DEADLINE) for result in results} <= workers
        assert set(pids(pool)) == workers
        assert pool.map(square, range(10)) == [n * n for n in range(10)]
        with pytest.raises(WorkerDied, match="exit code is lost") as caught:
            pool.apply_async(die).get(DEADLINE)
        assert caught.value.exitcode == processes.UNKNOWN
        # Its successor is a child of another server.
        assert pool.map_async(square, range(10)).get(DEADLINE) == [n * n for n in range(10)]
        wait_until(lambda: len(pids(pool)) == 2)
        pool.close()
        pool.join()
    assert all(identity.has_ended(pid) for pid in workers)


@pytest.mark.slow
def test_all_are_killed_the_fork_server_and_its_workers() -> None:
    """As when the OOM killer takes a whole control group."""
    with mp.get_context("forkserver").Pool(2) as pool:
        busy = [pool.apply_async(signal.pause) for _ in range(2)]
        supervisor = pool._quick_get.__self__  # type: ignore[attr-defined]
        wait_until(lambda: len(supervisor._claimed() - {0}) == 2, "both are at work")
        workers = pids(pool)
        kill_server()
        for worker in workers:
            kill(worker)
        for result in busy:
            with pytest.raises(WorkerDied):
                result.get(DEADLINE)
        assert pool.map_async(square, range(10)).get(DEADLINE) == [n * n for n in range(10)]


@pytest.mark.slow
@pytest.mark.parametrize("ignored", [False, True], ids=["told", "SIGCHLD ignored"])
def test_a_process_whose_fork_server_was_killed(ignored: bool, tmp_path: Any) -> None:
    now = tmp_path / "now"
    context = mp.get_context("forkserver")
    with children_reaped_by_the_kernel() if ignored else contextlib.nullcontext():
        process = context.Process(target=wait_for_file, args=(str(now),))
        process.start()
        kill_server()
        assert process.is_alive()
        process.join(0.05)
        assert process.exitcode is None
        second = context.Process(target=leave, args=(3,))
        second.start()  # by another server
        second.join(DEADLINE)
        assert second.exitcode == 3
        now.touch()
        process.join(DEADLINE)
        assert process.exitcode == processes.UNKNOWN
        process.close()
        second.close()


@pytest.mark.slow
def test_the_fork_server_is_killed_again_and_again() -> None:
    """However that meets the start of workers, all tasks are done."""
    with mp.get_context("forkserver").Pool(2, maxtasksperchild=1) as pool:
        results = [pool.apply_async(square, (n,)) for n in range(4)]
        for result in results[::2]:
            result.wait(DEADLINE)
            with contextlib.suppress(TypeError):  # None: there is none just now
                kill_server()
        assert [result.get(DEADLINE) for result in results] == [n * n for n in range(4)]
