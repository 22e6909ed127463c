"""A whole run of the demo: list, count plainly, then count with workers who are killed, compare, clean up."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sysconfig
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from wdkmutex_shm import Grt
from wdkmutex_shm.base import identity
from wdkmutex_shm.engines.local import autostart
from wdkmutex_shm.engines.local.client import Client
from wdkmutex_shm.errors import GrtIsNull

from .counting import Plan, count_plain, make_plan
from .report import Result
from .state import Job
from .workers import Supervisor

__all__ = ["Ended", "run"]

#: Seconds between two looks at the progress.
TICK = 0.02
#: So many workers, times their number, may die without a task done between; then nobody is killed until one is.
#: Whatever the rate of kills, the job ends.
MERCY = 3

#: Seconds that the daemon has to end when it was told to.
END_SECONDS = 10.0

_INSTALLED = ("site-packages", "dist-packages")
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Ended(BaseException):
    """A signal asked this process to end.

    Attributes:
        signum: its number.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def run(
    path: str | None,
    *,
    workers: int,
    kill_every: float,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, tasks: None,
) -> Result:
    """Count the words below ``path`` with workers who are killed, in an instance of its own that is removed at the end.

    Args:
        path: a folder or a file; None for the standard library of this Python, without what is installed in it.
        workers: how many work at a time, at least 1.
        kill_every: seconds between two kills, 0 for none.
        seed: of the choice of whom to kill.
        progress: called with the number of tasks done and of all tasks.

    Raises:
        WorkersError: the workers do not work.
        Ended: SIGTERM or SIGHUP came; everything is removed.
        WdkMutexError: no daemon, no memory, ...
    """
    root = path or sysconfig.get_path("stdlib")
    plan = make_plan(root, leave_out=() if path else _INSTALLED)
    begin = time.monotonic()
    expected = count_plain(plan)
    plain_seconds = time.monotonic() - begin
    with _signals_as_exceptions(), _own_instance() as instance:
        job = Job.create(plan)
        supervisor = Supervisor(instance, job, workers, random.Random(seed))  # noqa: S311 - nothing secret about it
        begin = time.monotonic()
        try:
            _count(plan, job, supervisor, kill_every, workers, progress)
            seconds = time.monotonic() - begin
            supervisor.dismiss()
        finally:
            with _undisturbed():
                supervisor.kill_all()
        return Result(
            path=root,
            counts=job.result(),
            expected=expected,
            seconds=seconds,
            plain_seconds=plain_seconds,
            size=plan.size,
            workers=workers,
            seed=seed,
            kills=supervisor.kills,
            abandoned=job.abandoned(),
        )


def _count(
    plan: Plan, job: Job, supervisor: Supervisor, kill_every: float, workers: int, progress: Callable[[int, int], None]
) -> None:
    supervisor.fill()
    next_kill = time.monotonic() + kill_every
    before = -1
    while True:
        done = job.done()
        if done != before:
            before = done
            supervisor.progress()
            progress(done, len(plan.tasks))
        if done == len(plan.tasks):
            return
        pause = TICK
        if kill_every:
            left = next_kill - time.monotonic()
            if left <= 0 and supervisor.fruitless < MERCY * workers:
                supervisor.kill_one()
                # From now on, not from when it was due: those who were late would else be killed at a burst.
                next_kill = time.monotonic() + kill_every
            pause = min(TICK, max(left, 0.0))
        supervisor.reap(pause)
        supervisor.fill()


@contextlib.contextmanager
def _own_instance() -> Iterator[str]:
    """A Grt for this run alone. At the end nothing is left of it, its daemon neither."""
    instance = f"demo-{os.getpid()}-{os.urandom(3).hex()}"  # a container may have a process of that number, too
    try:
        Grt.init(instance, autostart=True)
        yield instance
    finally:
        with _undisturbed():
            _remove(instance)


def _remove(instance: str) -> None:
    """Destroy the Grt and wait for the end of its daemon, which ends for that."""
    client = Client(instance, revive=lambda left: autostart.start(instance, left))
    try:
        client.open()
    except GrtIsNull:  # it was not even made
        Grt.detach()
        return
    pid = client.daemon["pid"]
    started = identity.start_time(pid)
    client.close()
    Grt.destroy()
    deadline = time.monotonic() + END_SECONDS
    while not identity.is_dead(pid, started) and time.monotonic() < deadline:
        time.sleep(TICK)


@contextlib.contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind the stack, as Ctrl-C does, so that they leave nothing behind either."""

    def end(signum: int, frame: FrameType | None) -> NoReturn:
        raise Ended(signum)

    before = {number: signal.signal(number, end) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Let no second Ctrl-C interrupt the cleaning up; it comes through afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *_SIGNALS})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
