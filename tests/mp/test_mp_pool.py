"""The pool of a crash-proof context: as that of multiprocessing, and not stopped by workers that are killed."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import random
import signal
import sys
import threading
import time
import weakref
from multiprocessing import TimeoutError
from typing import Any

import pytest
from processes import state_of, wait_until
from support import DEADLINE, kill

from wdkmutex_shm import WorkerDied

# Replacing a worker forks a process that has threads, in multiprocessing as here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


def square(n: int) -> int:
    return n * n


def die(_: Any = None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(code: int) -> None:
    os._exit(code)


def die_at(n: int, deadly: int) -> int:
    if n == deadly:
        die()
    return n


def pid_then_wait(path: str) -> None:
    with open(path, "w") as file:
        file.write(f"{os.getpid()}\n")
    signal.pause()


def slowly(n: int) -> int:
    time.sleep(0.001)
    return n


_begun: list[int] = []


def begin(value: int) -> None:
    _begun.append(value)


def begun() -> list[int]:
    return _begun


def pids(pool: Any) -> list[int]:
    return [worker.pid for worker in list(pool._pool)]


def fails(_: Any) -> None:
    raise KeyError("task")


def test_as_the_pool_of_multiprocessing(context: Any) -> None:
    with context.Pool(2) as pool:
        assert pool.map(square, range(100)) == [n * n for n in range(100)]
        assert pool.map(square, []) == []
        assert pool.starmap(pow, [(2, 3), (3, 2)]) == [8, 9]
        assert list(pool.imap(square, range(20), 3)) == [n * n for n in range(20)]
        assert sorted(pool.imap_unordered(square, range(20))) == [n * n for n in range(20)]
        assert pool.apply(square, (3,)) == 9
        assert len(pool.apply(bytes, (3_000_000,))) == 3_000_000
        told: list[int] = []
        result = pool.apply_async(square, (4,), callback=told.append)
        assert result.get(DEADLINE) == 16
        assert result.successful()
        assert told == [16]
        with pytest.raises(KeyError, match="task"):
            pool.apply(fails, (1,))
        pool.close()
        with pytest.raises(ValueError, match="not running"):
            pool.apply(square, (3,))
        pool.join()


def test_idle_workers_are_killed(context: Any) -> None:
    with context.Pool(2) as pool:
        for n in range(3 if context.get_start_method() == "fork" else 1):
            assert pool.apply(square, (n,)) == n * n
            for pid in pids(pool):
                kill(pid)
            assert pool.map_async(square, range(50)).get(DEADLINE) == [n * n for n in range(50)]


def test_a_busy_worker_is_killed(context: Any) -> None:
    with context.Pool(2) as pool:
        result = pool.apply_async(die)
        others = pool.map_async(square, range(50), chunksize=1)
        with pytest.raises(WorkerDied, match="SIGKILL") as caught:
            result.get(DEADLINE)
        assert caught.value.exitcode == -signal.SIGKILL
        assert caught.value.pid not in pids(pool)
        assert others.get(DEADLINE) == [n * n for n in range(50)]
        again = pickle.loads(pickle.dumps(caught.value))
        assert (str(again), again.pid) == (str(caught.value), caught.value.pid)


@pytest.mark.parametrize("code", [0, 3])
def test_a_task_that_ends_its_process(fork: Any, code: int) -> None:
    with fork.Pool(1) as pool:
        with pytest.raises(WorkerDied, match=f"exit code {code}"):
            pool.apply_async(leave, (code,)).get(DEADLINE)
        assert pool.apply(square, (3,)) == 9


def test_a_chunk_dies_with_its_worker(fork: Any) -> None:
    with fork.Pool(2) as pool:
        failed: list[BaseException] = []
        result = pool.starmap_async(die_at, [(n, 13) for n in range(40)], 10, error_callback=failed.append)
        with pytest.raises(WorkerDied):
            result.get(DEADLINE)
        assert len(failed) == 1
        items = pool.imap(die_one, range(5))
        assert [next(items) for _ in range(2)] == [0, 1]
        with pytest.raises(WorkerDied):
            next(items)
        assert list(items) == [3, 4]
        assert not pool._cache


def die_one(n: int) -> int:
    return die_at(n, 2)


def test_all_workers_are_killed_while_they_work(fork: Any, tmp_path: Any) -> None:
    with fork.Pool(2) as pool:
        paths = [tmp_path / "one", tmp_path / "other"]
        results = [pool.apply_async(pid_then_wait, (str(path),)) for path in paths]
        for path in paths:
            wait_until(lambda path=path: path.exists() and path.read_text().endswith("\n"), "it works")
            kill(int(path.read_text()))
        for result in results:
            with pytest.raises(WorkerDied):
                result.get(DEADLINE)
        assert pool.map(square, range(10)) == [n * n for n in range(10)]


def lose_a_task(pool: Any) -> Any:
    """Return the result of a task (square(5)) that one of the two workers took, and was killed before it began it."""
    workers = pids(pool)
    try:
        stop(*workers)
        result = pool.apply_async(square, (5,))
        wait_until(lambda: pool._inqueue._reader.size() > 0, "the task is sent")
        assert pool._inqueue._reader.take(True)  # in the place of the worker that dies now
        kill(workers[0])
    finally:
        os.kill(workers[1], signal.SIGCONT)
    return result


def test_a_task_that_was_taken_but_not_begun_is_done_by_another(fork: Any) -> None:
    with fork.Pool(2) as pool:
        assert pool.map(square, range(10)) == [n * n for n in range(10)]
        assert lose_a_task(pool).get(DEADLINE) == 25


def test_one_task_is_lost_while_another_only_seems_to_be(fork: Any) -> None:
    with fork.Pool(2) as pool:
        supervisor, tasks = pool._quick_get.__self__, pool._inqueue
        assert pool.map(square, range(10)) == [n * n for n in range(10)]
        first, second = pids(pool)
        stop(first, second)
        slow = pool.apply_async(square, (5,))
        wait_until(lambda: tasks._reader.size() > 0, "the task is sent")
        taken = tasks._reader.take(True)  # in the place of the second worker, which is slow to claim it
        kill(first)
        wait_until(lambda: supervisor._suspects, "nobody seems to have it")
        wait_until(lambda: len(pids(pool)) == 2 and first not in pids(pool), "there is another worker")
        third = next(pid for pid in pids(pool) if pid != second)
        stop(third)
        lost = pool.apply_async(square, (6,))
        wait_until(lambda: tasks._reader.size() > 0, "the task is sent")
        assert tasks._reader.take(True)  # in the place of the third worker, which dies now
        kill(third)
        tasks._writer.send_whole(b"", taken)
        os.kill(second, signal.SIGCONT)
        assert slow.get(DEADLINE) == 25
        assert lost.get(DEADLINE) == 36


def stop(*workers: int) -> None:
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: all(state_of(pid) == "T" for pid in workers), "they are stopped")


@pytest.mark.slow
def test_goes_on_through_a_storm_of_kills(fork: Any) -> None:
    dice, kills = random.Random(3), 0
    with fork.Pool(3) as pool:
        results = [pool.apply_async(slowly, (n,)) for n in range(1500)]
        while not all(result.ready() for result in results):
            time.sleep(dice.uniform(0, 0.03))
            workers = pids(pool)
            if workers and kills < 60:
                kill(dice.choice(workers))
                kills += 1
        died = 0
        for n, result in enumerate(results):
            try:
                assert result.get(0) == n
            except WorkerDied:
                died += 1
        assert died <= kills
        assert kills
        pool.close()
        pool.join()


def test_claims_are_used_again(fork: Any) -> None:
    with fork.Pool(2, maxtasksperchild=1) as pool:
        assert pool.map(square, range(20), chunksize=1) == [n * n for n in range(20)]
        supervisor = pool._quick_get.__self__
        assert len(supervisor._workers) + len(supervisor._free) <= 4


def test_two_threads_replace_a_worker(fork: Any, monkeypatch: Any) -> None:
    with fork.Pool(1) as pool:
        supervisor = pool._quick_get.__self__
        (worker,) = pool._pool
        other = threading.Thread(target=lambda: supervisor.start(fork, target=abs, args=(None, None, 1)))
        put = supervisor._results._writer.send_whole

        def interleaved(*note: Any) -> None:
            monkeypatch.undo()
            other.start()
            other.join(0.3)  # it would note the same death, and have ended by now
            put(*note)

        monkeypatch.setattr(supervisor._results._writer, "send_whole", interleaved)
        kill(worker.pid)
        wait_until(lambda: pool._pool and pool._pool[0] is not worker, "it is replaced")
        other.join(DEADLINE)
        assert not other.is_alive()
        assert worker not in supervisor._workers
        assert pool.apply(square, (3,)) == 9


def test_initializer_and_lifetime(context: Any) -> None:
    with context.Pool(1, begin, (7,), maxtasksperchild=1) as pool:
        assert pool.apply(begun) == [7]
        first = pids(pool)
        assert pool.apply(begun) == [7]
        wait_until(lambda: pids(pool) not in (first, []), "it is replaced")
    with pytest.raises(TypeError, match="callable"):
        context.Pool(1, 5)
    with pytest.raises(ValueError, match="at least 1"):
        context.Pool(0)


def test_terminate_while_everything_is_busy(fork: Any) -> None:
    pool = fork.Pool(2)
    pool.map_async(time.sleep, [3600] * 4, chunksize=1)
    many = pool.map_async(len, [bytes(100_000)] * 100, chunksize=1)
    pool.terminate()
    pool.join()
    with pytest.raises(TimeoutError):
        many.get(0)
    assert all(worker.exitcode is not None for worker in pool._pool)


def test_killed_after_close(fork: Any) -> None:
    pool = fork.Pool(2)
    result = pool.map_async(slowly, range(200), chunksize=1)
    pool.close()
    kill(pids(pool)[0])
    with contextlib.suppress(WorkerDied):
        assert result.get(DEADLINE) == list(range(200))
    pool.join()


def test_a_pool_that_nobody_has_any_more_ends(fork: Any) -> None:
    pool = fork.Pool(1)
    assert pool.apply(square, (2,)) == 4
    workers, gone = pids(pool), weakref.ref(pool)
    # The thread that reads results may have it for another instant; and the warning, once it was given.
    with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool") as told:
        del pool
        wait_until(lambda: gc.collect() >= 0 and len(told) > 0, "its end is told")
    told.clear()
    wait_until(lambda: gc.collect() >= 0 and gone() is None, "it is gone")
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}/root") for pid in workers), "the workers end")


def test_a_worker_ends_with_its_parent(tmp_path: Any) -> None:
    code = """
import os, signal, sys
from wdkmutex_shm import mp
if __name__ == "__main__":
    pool = mp.get_context("fork").Pool(2)
    print(*[worker.pid for worker in pool._pool], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    import subprocess

    ended = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=DEADLINE, check=False)
    workers = [int(pid) for pid in ended.stdout.split()]
    assert len(workers) == 2
    wait_until(lambda: not any(alive(pid) for pid in workers), "the workers end")


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _raise(what: str) -> None:
    raise LookupError(what)


class Poison:
    """What cannot be unpickled, or ends the process that tries."""

    def __init__(self, undo: Any, *args: Any) -> None:
        self._undo, self._args = undo, args

    def __reduce__(self) -> Any:
        return self._undo, self._args


def test_a_task_that_cannot_be_unpickled_fails(context: Any) -> None:
    with context.Pool(2) as pool:
        workers = pids(pool)
        with pytest.raises(LookupError, match="poisoned"):
            pool.apply_async(square, (Poison(_raise, "poisoned"),)).get(DEADLINE)
        assert pool.map(square, range(10)) == [n * n for n in range(10)]
        assert pids(pool) == workers


def test_a_task_that_kills_who_unpickles_it_fails(fork: Any) -> None:
    with fork.Pool(2) as pool:
        with pytest.raises(WorkerDied):
            pool.apply_async(square, (Poison(die),)).get(DEADLINE)
        assert pool.map(square, range(10)) == [n * n for n in range(10)]


def test_a_lost_task_is_found_while_others_come_and_go(fork: Any) -> None:
    with fork.Pool(2) as pool:
        lost = lose_a_task(pool)
        deadline, others = time.monotonic() + DEADLINE, []
        while not lost.ready():
            assert time.monotonic() < deadline
            others = [result for result in others if not result.ready()]
            others += [pool.apply_async(slowly, (n,)) for n in range(50 - len(others))]
            time.sleep(0.001)
        assert lost.get(DEADLINE) == 25
