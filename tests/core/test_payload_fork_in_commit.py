"""A signal handler that forks in the midst of a commit: what was begun is the parent's, whatever the child does."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from processes import in_child
from support import DEADLINE

from wdkmutex_shm import FastMutex, KMutex, NotOwned, lock_all
from wdkmutex_shm.core import _core
from wdkmutex_shm.memory import data_segments as data
from wdkmutex_shm.memory import journal_files, shm
from wdkmutex_shm.pool import private

LARGE = b"n" * 300
HUGE = b"h" * 30000


def data_segments() -> set[str]:
    return set(shm.listing(private.the_pool().prefix + ".d"))


def through_with(mutex: Any, new: bytes) -> None:
    with mutex.lock() as guard:
        guard.value = new


def by_commit(mutex: Any, new: bytes) -> None:
    with mutex.lock() as guard:
        guard.value = new
        guard.commit()


def by_replace(mutex: Any, new: bytes) -> None:
    mutex.replace(new)


def by_dropping(mutex: Any, new: bytes) -> None:
    guard = mutex.lock()
    guard.value = new
    guard.drop_safe()


def goes_on() -> None:
    """The child returns from the handler."""


def exits() -> None:
    """The child leaves the handler by an exception."""
    raise SystemExit(0)


class ForkingHandler:
    """A handler of SIGUSR1 that forks, and a place in a commit where that signal comes.

    Args:
        step: name of the function in ``data`` or ``shm`` around which it comes.
        after: whether it comes after that function has done its work, or before.
        child: what the child does in the handler.
        module: where that function is, if it is in neither.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, step: str, after: bool, child: Callable[[], None], module: Any = None
    ) -> None:
        module = module or (shm if hasattr(shm, step) else data)
        real = getattr(module, step)
        self.pid = -1
        self.parent = os.getpid()

        def interrupted(*args: Any) -> Any:
            monkeypatch.setattr(module, step, real)
            if not after:
                signal.raise_signal(signal.SIGUSR1)
            result = real(*args)
            if after:
                signal.raise_signal(signal.SIGUSR1)
            return result

        def handle(number: int, frame: object) -> None:
            self.pid = os.fork()
            if self.pid == 0:
                child()
            else:  # the child is through with it before the parent goes on
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
                self.see()

        monkeypatch.setattr(module, step, interrupted)
        self._before = signal.signal(signal.SIGUSR1, handle)

    def see(self) -> None:
        """What the parent does once the child is through."""

    def act(self, work: Callable[[], None]) -> int:
        """Do ``work`` in both and return the child's exit code: 0 if NotOwned or SystemExit ended it there."""
        code = 1
        try:
            work()
        except (NotOwned, SystemExit):
            code = 0
        finally:
            if os.getpid() != self.parent:
                os._exit(code)
            signal.signal(signal.SIGUSR1, self._before)
        assert code == 1, "the parent's work was refused"
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.mark.parametrize("child", [goes_on, exits])
@pytest.mark.parametrize("work", [through_with, by_commit, by_replace, by_dropping])
@pytest.mark.parametrize(
    ("step", "after", "old", "new"),
    [
        ("create", False, b"o", LARGE),
        ("create", True, b"o", LARGE),
        ("make", True, b"o", LARGE),
        ("create", True, LARGE, HUGE),
        ("discard", False, HUGE, b"n"),
        ("discard", True, HUGE, b"n"),
    ],
)
@pytest.mark.parametrize("cls", [FastMutex, KMutex])
def test_the_commit_is_the_parents(
    monkeypatch: pytest.MonkeyPatch,
    cls: Any,
    step: str,
    after: bool,
    old: bytes,
    new: bytes,
    work: Callable[[Any, bytes], None],
    child: Callable[[], None],
) -> None:
    before = data_segments()
    mutex = cls(old)
    mutex.replace(old)
    handler = ForkingHandler(monkeypatch, step, after, child)
    assert handler.act(lambda: work(mutex, new)) == 0
    assert mutex.owner is None
    assert mutex.peek() == new
    assert in_child(mutex.peek) == new  # by its name, not by a mapping of this process
    with mutex.lock(timeout=DEADLINE) as guard:
        assert (guard.value, guard.abandoned) == (new, False)
    assert mutex.to_owned() == new
    assert data_segments() == before


@pytest.mark.parametrize("child", [goes_on, exits])
def test_the_parent_holds_on(monkeypatch: pytest.MonkeyPatch, child: Callable[[], None]) -> None:
    mutex = KMutex(b"o")
    handler = ForkingHandler(monkeypatch, "create", True, child)
    with mutex.lock() as guard:
        guard.value = LARGE
        assert handler.act(guard.commit) == 0
        assert mutex.owner is not None and mutex.owner.pid == os.getpid()
        assert in_child(mutex.try_lock) is None
        guard.value = b"n"
    assert mutex.to_owned() == b"n"


@pytest.mark.parametrize("child", [goes_on, exits])
def test_a_repair_is_the_parents(monkeypatch: pytest.MonkeyPatch, child: Callable[[], None]) -> None:
    """The fork comes while what a dead holder left is being removed."""
    mutex = FastMutex(b"o")
    pid = os.fork()
    if pid == 0:
        monkeypatch.setattr(data, "make", lambda *args: os.kill(os.getpid(), signal.SIGKILL))
        mutex.replace(LARGE)
    os.waitpid(pid, 0)
    handler = ForkingHandler(monkeypatch, "discard", True, child)
    guards: list[Any] = []
    assert handler.act(lambda: guards.append(mutex.lock())) == 0
    assert guards[0].abandoned
    assert mutex.owner is not None and mutex.owner.pid == os.getpid()
    assert in_child(mutex.try_lock) is None
    guards.pop().drop_safe()
    with mutex.lock(timeout=DEADLINE) as guard:
        assert (guard.value, guard.abandoned) == (b"o", False)
    assert mutex.to_owned() == b"o"


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("child", [goes_on, exits])
@pytest.mark.parametrize("cls", [FastMutex, KMutex])
def test_a_publication_of_several_is_the_parents(
    monkeypatch: pytest.MonkeyPatch, cls: Any, child: Callable[[], None], after: bool
) -> None:
    """The fork comes while the journal is made. The child must not even publish ints, where nothing could fail."""
    mutexes = [cls(0), cls(0)]
    _core.forget_journal()
    handler = ForkingHandler(monkeypatch, "make", after, child, journal_files)
    seen = []

    def work() -> None:
        with lock_all(*mutexes) as guards:
            for guard in guards:
                guard.value = 1
            monkeypatch.setattr(handler, "see", lambda: seen.extend(mutex.peek() for mutex in mutexes))

    assert handler.act(work) == 0
    assert seen == [0, 0]
    assert [mutex.peek() for mutex in mutexes] == [1, 1]
    assert [mutex.owner for mutex in mutexes] == [None, None]
