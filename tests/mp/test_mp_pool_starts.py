"""A pool whose workers die as they start gives up, and says why."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest
from processes import wait_until
from support import DEADLINE, kill
from test_mp_pool import die, leave, pids, square

from wdkmutex_shm import PoolBroken, WorkerDied, mp
from wdkmutex_shm.memory import shm
from wdkmutex_shm.mp import starts

# Replacing a worker forks a process that has threads, in multiprocessing as here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


def fail(what: str) -> None:
    raise LookupError(what)


def fail_unless(path: str) -> None:
    if not os.path.exists(path):
        os._exit(1)


def die_until(path: str, times: int) -> None:
    """Be killed the first times."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.write(fd, b".")
    if os.fstat(fd).st_size <= times:
        die()


class Explosive:
    """What can be pickled and not unpickled."""

    def __reduce__(self) -> Any:
        return fail, ("it cannot be had here",)


@pytest.mark.slow
def test_an_initializer_that_raises(context: Any, capfd: Any) -> None:
    with context.Pool(1, fail, ("no such shelf",)) as pool:
        pending = [pool.apply_async(square, (n,)) for n in range(3)]
        mapped = pool.map_async(square, range(100))
        for result in (*pending, mapped):
            with pytest.raises(PoolBroken, match="no such shelf") as caught:
                result.get(DEADLINE)
        assert "in fail" in (caught.value.traceback or "")
        assert caught.value.exitcode == 1
        with pytest.raises(PoolBroken, match="initializer"):
            pool.map(square, range(10))
        with pytest.raises(PoolBroken):
            pool.apply(square, (1,))
        with pytest.raises(PoolBroken):
            list(pool.imap_unordered(square, range(3)))
        pool.close()
        pool.join()
    if context.get_start_method() != "forkserver":  # its standard error is that of when the server was started
        assert "no such shelf" in capfd.readouterr().err


@pytest.mark.slow
def test_a_worker_that_cannot_open_what_it_is_given(capfd: Any) -> None:
    with mp.get_context("spawn").Pool(1, square, (Explosive(),)) as pool:
        with pytest.raises(PoolBroken, match="standard error gives the reason") as caught:
            pool.apply_async(square, (1,)).get(DEADLINE)
        assert caught.value.traceback is None
        assert caught.value.exitcode == 1
    assert "it cannot be had here" in capfd.readouterr().err


@pytest.mark.slow
def test_the_files_of_the_pool_are_removed(capfd: Any) -> None:
    """Who has them mapped goes on; others cannot have them any more."""
    with mp.get_context("spawn").Pool(1) as pool:
        assert pool.apply(square, (3,)) == 9
        supervisor = pool._quick_get.__self__  # type: ignore[attr-defined]
        segment = next(iter(supervisor._workers.values())).segment
        os.rename(shm.FOLDER + segment, f"{shm.FOLDER}/away")
        try:
            assert pool.apply_async(square, (3,)).get(DEADLINE) == 9
            kill(pids(pool)[0])
            with pytest.raises(PoolBroken):
                pool.apply_async(square, (3,)).get(DEADLINE)
        finally:
            os.rename(f"{shm.FOLDER}/away", shm.FOLDER + segment)
    assert "MutexDestroyed" in capfd.readouterr().err


def test_who_is_killed_now_and_then_does_not_count(fork: Any, tmp_path: Any) -> None:
    with fork.Pool(2, die_until, (str(tmp_path / "times"), 20)) as pool:
        assert pool.map_async(square, range(10)).get(DEADLINE) == [n * n for n in range(10)]


@pytest.mark.slow
def test_who_is_always_killed_counts_in_the_end(fork: Any) -> None:
    with fork.Pool(1, die) as pool, pytest.raises(PoolBroken, match="SIGKILL"):
        pool.apply_async(square, (1,)).get(DEADLINE)


def test_workers_that_die_at_work_do_not_count(fork: Any) -> None:
    with fork.Pool(1) as pool:
        for code in range(1, 20):
            with pytest.raises(WorkerDied):
                pool.apply_async(leave, (code,)).get(DEADLINE)
        assert pool.apply(square, (3,)) == 9


def test_the_rest_of_the_workers_goes_on(fork: Any, tmp_path: Any) -> None:
    """While one has started, tasks are done; none is started in vain without end, and again once that helps."""
    good = tmp_path / "good"
    good.touch()
    with fork.Pool(2, fail_unless, (str(good),)) as pool:
        assert pool.map(square, range(10)) == [n * n for n in range(10)]
        good.unlink()
        first, second = pids(pool)
        kill(first)
        wait_until(lambda: any(isinstance(worker, starts.NoWorker) for worker in pool._pool), "no more are started")
        assert second in pids(pool)
        assert pool.map_async(square, range(10)).get(DEADLINE) == [n * n for n in range(10)]
        kill(second)
        with pytest.raises(PoolBroken):
            pool.map_async(square, range(10)).get(DEADLINE)


def test_who_sends_while_the_channel_is_full_is_told(fork: Any, tmp_path: Any) -> None:
    good = tmp_path / "good"
    good.touch()
    with fork.Pool(1, fail_unless, (str(good),)) as pool:
        assert pool.apply(square, (3,)) == 9
        good.unlink()
        busy = pool.apply_async(signal.pause)
        results = [pool.apply_async(len, (bytes(60_000),)) for _ in range(100)]
        wait_until(lambda: pool._taskqueue.qsize() > 0 and pool._inqueue._reader.size() > 0, "there is no room")
        kill(pids(pool)[0])
        with pytest.raises(WorkerDied):
            busy.get(DEADLINE)
        for result in results:
            with pytest.raises(PoolBroken):
                result.get(DEADLINE)
        pool.close()
        joiner = threading.Thread(target=pool.join)
        joiner.start()
        joiner.join(DEADLINE)
        assert not joiner.is_alive()
