"""Forked children: several that start at one moment and run for a fixed time, and single ones that do as they are told.

Times are of CLOCK_MONOTONIC in nanoseconds, which all processes of a machine share.
"""

from __future__ import annotations

import gc
import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from benchmark.peers import Counter

__all__ = ["Child", "ChildFailed", "Hammered", "hammer", "together"]

_FORK = multiprocessing.get_context("fork")
_PATIENCE = 300.0
_GRACE = 20.0
_LEAD = 20_000_000


class ChildFailed(RuntimeError):
    """A child raised; the message is its traceback. Or it ended, or says nothing for too long."""

    def reason(self) -> str:
        """The last line of the message."""
        return str(self).strip().splitlines()[-1]


class Child:
    """A forked child that calls ``work(line)`` and ends; ``line`` is its end of a pipe.

    Killed when the ``with`` is left, if it still lives.
    """

    def __init__(self, work: Callable[[Connection], None]) -> None:
        self.line, theirs = _FORK.Pipe()
        # By multiprocessing, and not by fork(2) alone, because Manager's proxies want to be told of it.
        self._process = _FORK.Process(target=self._live, args=(work, theirs), daemon=True)
        self._process.start()
        self._ended = False
        self.pid: int = self._process.pid or 0
        theirs.close()

    def _live(self, work: Callable[[Connection], None], line: Connection) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.line.close()
        gc.disable()
        try:
            work(line)
        except EOFError:
            pass
        except Exception:
            line.send((False, traceback.format_exc()))

    def hear(self) -> Any:
        """The next thing that it says with :func:`say`.

        Raises:
            ChildFailed: it raised, ended, or says nothing.
        """
        if not self.line.poll(_PATIENCE):
            raise ChildFailed(f"process {self.pid} says nothing for {_PATIENCE:g} s")
        try:
            well, what = self.line.recv()
        except EOFError:
            raise ChildFailed(f"process {self.pid} ended without a word") from None
        if not well:
            raise ChildFailed(what)
        return what

    def tell(self, what: Any) -> None:
        """Say something to it."""
        self.line.send(what)

    def ask(self, what: Any) -> Any:
        """Say something to it and return its answer."""
        self.tell(what)
        return self.hear()

    def finish(self) -> None:
        """Tell it that there is nothing more (it meets the end of the pipe where it listens), and wait for its end.

        Raises:
            ChildFailed: it does not end.
        """
        if self._ended:
            return
        self.line.close()
        self._process.join(_PATIENCE)
        if self._process.is_alive():
            raise ChildFailed(f"process {self.pid} does not end")
        self.reap()

    def kill(self) -> None:
        """End it at once and wait for it."""
        if not self._ended:
            self._process.kill()
            self.reap()

    def reap(self) -> None:
        """Wait for its end."""
        self._process.join()
        self._process.close()
        self._ended = True
        self.line.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()


def say(line: Connection, what: Any) -> None:
    """In a child: say something to the parent."""
    line.send((True, what))


def together(works: Sequence[Callable[[int, int], Any]], seconds: float) -> list[Any]:
    """Run each work in a forked child of its own, all from one moment on.

    Args:
        works: called with when to begin, which lies ahead, and when to end; an attribute ``prepare`` is called before.
        seconds: between the two.

    Returns:
        What they returned.

    Raises:
        ChildFailed: one of them raised, or does not come back in time; the others are killed.
    """

    def live(work: Callable[[int, int], Any]) -> Callable[[Connection], None]:
        def run(line: Connection) -> None:
            prepare = getattr(work, "prepare", None)
            if prepare is not None:
                prepare()
            say(line, "ready")
            begin, end = line.recv()
            say(line, work(begin, end))

        return run

    with ExitStack() as stack:
        children = [stack.enter_context(Child(live(work))) for work in works]
        for child in children:
            child.hear()
        begin = time.monotonic_ns() + _LEAD
        for child in children:
            child.tell((begin, begin + int(seconds * 1e9)))
        return _answers(children, seconds + _GRACE)


def _answers(children: Sequence[Child], seconds: float) -> list[Any]:
    """What each says, in their order; whoever fails first is heard first, for the others may wait for it in vain."""
    deadline = time.monotonic() + seconds
    answers: dict[Child, Any] = {}
    while len(answers) < len(children):
        waiting = {child.line: child for child in children if child not in answers}
        ready = wait(list(waiting), max(deadline - time.monotonic(), 0.0))
        if not ready:
            raise ChildFailed(f"{len(waiting)} of {len(children)} processes do not come back within {seconds:g} s")
        for line in ready:
            assert isinstance(line, Connection)
            answers[waiting[line]] = waiting[line].hear()
    return [answers[child] for child in children]


def wait_for(moment: int) -> None:
    """Sleep until shortly before the moment, then spin."""
    ahead = moment - time.monotonic_ns() - 1_000_000
    if ahead > 0:
        time.sleep(ahead / 1e9)
    while time.monotonic_ns() < moment:
        pass


class Hammered(NamedTuple):
    """What processes did to one counter.

    Attributes:
        rate: increments per second, of all together.
        counts: how many each did.
        lost: how many of them the counter does not have; of a lock that locks none.
    """

    rate: float
    counts: tuple[int, ...]
    lost: int


class _Hammer:
    def __init__(self, counter: Counter, batch: int) -> None:
        self._counter = counter
        self._batch = batch

    def prepare(self) -> None:
        self._counter.after_fork()
        self._counter.increment(1)

    def __call__(self, begin: int, end: int) -> tuple[int, int]:
        """Increments done, and the nanoseconds that they took."""
        increment, batch, now, done = self._counter.increment, self._batch, time.monotonic_ns, 0
        wait_for(begin)
        while now() < end:
            increment(batch)
            done += batch
        return done, now() - begin


def hammer(counter: Counter, batch: int, processes: int, seconds: float) -> Hammered:
    """Let processes increment one counter for so many seconds, ``batch`` times between two looks at the clock."""
    before = counter.value()
    counter.before_fork()
    try:
        found = together([_Hammer(counter, batch)] * processes, seconds)
    finally:
        counter.after_fork()
    counts = tuple(done for done, _ in found)
    rate = sum(done / (took / 1e9) for done, took in found)
    return Hammered(rate, counts, before + sum(counts) + processes - counter.value())
