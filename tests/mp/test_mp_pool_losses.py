"""What a pool of a crash-proof context must not lose: what fails on its way, and deaths that nobody is told of."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from support import DEADLINE
from test_mp_pool import die, lose_a_task, pids, square

from wdkmutex_shm import WorkerDied
from wdkmutex_shm.mp import supervisor

# Replacing a worker forks a process that has threads, in multiprocessing as here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

LARGE = 300_000  # bytes: goes as a file


class Unkind(Exception):
    """An error that can be pickled, and not unpickled."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


def unkind() -> None:
    raise Unkind(1, 2)


@contextlib.contextmanager
def no_descriptor() -> Iterator[None]:
    """None can be opened in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def open_no_more() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))


def many_when(path: str) -> bytes:
    while not os.path.exists(path):
        pass
    return bytes(LARGE)


def test_a_result_that_cannot_be_unpickled_fails(context: Any) -> None:
    with context.Pool(1) as pool:
        with pytest.raises(TypeError, match="argument|positional"):
            pool.apply_async(unkind).get(DEADLINE)
        assert pool.apply_async(square, (3,)).get(DEADLINE) == 9


def test_a_large_task_for_a_worker_without_a_free_descriptor_is_done(fork: Any) -> None:
    with fork.Pool(1) as pool:
        workers = pids(pool)
        pool.apply(open_no_more)
        assert pool.apply_async(len, (bytes(LARGE),)).get(DEADLINE) == LARGE
        assert pool.apply_async(square, (3,)).get(DEADLINE) == 9
        assert pids(pool) == workers


def test_a_large_result_of_a_worker_without_a_free_descriptor_comes(fork: Any) -> None:
    with fork.Pool(1) as pool:
        pool.apply(open_no_more)
        assert pool.apply_async(bytes, (LARGE,)).get(DEADLINE) == bytes(LARGE)


def test_a_large_result_for_which_no_descriptor_is_free_comes(fork: Any, tmp_path: Any) -> None:
    now = tmp_path / "now"
    with fork.Pool(1) as pool:
        result = pool.apply_async(many_when, (str(now),))
        now_file = os.open(tmp_path, os.O_RDONLY)
        with no_descriptor():
            os.mkfifo("now", dir_fd=now_file)
            result.wait(DEADLINE)
        os.close(now_file)
        assert result.get(0) == bytes(LARGE)
        assert pool.apply_async(square, (3,)).get(DEADLINE) == 9


def test_a_lost_task_that_cannot_be_sent_again_at_once(fork: Any, monkeypatch: Any) -> None:
    with fork.Pool(2) as pool:
        assert pool.map(square, range(10)) == [n * n for n in range(10)]
        books = pool._quick_get.__self__
        send, failed = books._send, []

        def fails_once(*args: Any, **kwargs: Any) -> Any:
            if books._again and not failed:
                failed.append(True)
                with no_descriptor():
                    os.dup(0)
            return send(*args, **kwargs)

        monkeypatch.setattr(books, "_send", fails_once)
        assert lose_a_task(pool).get(DEADLINE) == 25
        assert failed


def test_a_worker_that_leaves_between_taking_a_task_and_claiming_it(fork: Any, monkeypatch: Any) -> None:
    taken = supervisor._HEAD.unpack_from
    parent = os.getpid()

    class Head:
        size, pack = supervisor._HEAD.size, supervisor._HEAD.pack

        @staticmethod
        def unpack_from(message: Any) -> Any:
            if os.getpid() != parent:
                raise SystemExit(0)  # as the handler of SIGTERM may
            return taken(message)

    with monkeypatch.context() as patch:
        patch.setattr(supervisor, "_HEAD", Head)
        pool = fork.Pool(1)
    with pool:
        assert pool.apply_async(square, (3,)).get(DEADLINE) == 9


def leave_a_child_and_die(path: str) -> None:
    if os.fork() == 0:
        with contextlib.suppress(BaseException), open(path, "w") as file:
            file.write(str(os.getpid()))
        signal.pause()
        os._exit(0)
    while not os.path.exists(path):
        pass
    die()


def test_a_worker_dies_whose_own_child_lives_on(fork: Any, tmp_path: Any) -> None:
    path = tmp_path / "pid"
    with fork.Pool(1) as pool:
        try:
            with pytest.raises(WorkerDied):
                pool.apply_async(leave_a_child_and_die, (str(path),)).get(DEADLINE)
            assert pool.apply_async(square, (3,)).get(DEADLINE) == 9
        finally:
            os.kill(int(path.read_text()), signal.SIGKILL)
