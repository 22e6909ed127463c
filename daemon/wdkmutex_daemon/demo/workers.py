"""The supervisor: worker processes that are started, killed and replaced.

Besides the workers who work there are a few spares, started ahead, who wait for the go: to start Python and import
takes longer than a worker may have to live, so without them a high rate of kills would leave nobody at work.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import NamedTuple

from .state import Job
from .worker import work

__all__ = ["Supervisor", "WorkersError"]

#: Workers started ahead.
SPARES = 2
#: Seconds that workers have to end by themselves when all is done.
PATIENCE = 10.0

_context = multiprocessing.get_context("spawn")


class WorkersError(Exception):
    """Workers end by themselves, again and again, without getting anything done."""


class _Worker(NamedTuple):
    number: int
    process: SpawnProcess
    orders: Connection


@contextlib.contextmanager
def _blocked(signals: set[signal.Signals]) -> Iterator[None]:
    """Keep ``signals`` pending meanwhile. Processes started meanwhile keep them blocked for life."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Supervisor:
    """Keeps ``size`` workers at work on a job.

    Args:
        instance: instance of the Grt that holds the job.
        job: the handles of the job.
        size: how many work at a time.
        rng: chooses whom to kill.

    Attributes:
        kills: how many workers were killed by :meth:`kill_one`.
        fruitless: how many workers died, killed or not, since :meth:`progress` was last called.
    """

    def __init__(self, instance: str, job: Job, size: int, rng: random.Random) -> None:
        self.kills = 0
        self.fruitless = 0
        self._instance = instance
        self._job = job
        self._size = size
        self._rng = rng
        self._started = 0
        self._active: list[_Worker] = []
        self._spares: list[_Worker] = []
        self._by_themselves = 0
        # It would unblock the signals that _start blocks, if it were started there.
        resource_tracker.ensure_running()

    # --- starting

    def fill(self) -> None:
        """Set spares to work until enough do, and start others in their place."""
        while len(self._active) < self._size:
            if not self._spares:
                self._start()
            worker = self._spares.pop(0)
            with contextlib.suppress(BrokenPipeError):  # dead already: reap() will find it
                worker.orders.send_bytes(b"go")
            self._active.append(worker)
        while len(self._spares) < SPARES:
            self._start()

    def _start(self) -> None:
        ours, theirs = _context.Pipe()
        self._started += 1
        process = _context.Process(
            target=work, args=(self._instance, self._started, os.getpid(), theirs), name=f"worker-{self._started}"
        )
        # Ctrl-C goes to the whole foreground group; what becomes of the workers is for this process to say. And a
        # signal for this process must not come between the start of a worker and the note of it.
        with _blocked({signal.SIGINT, signal.SIGTERM, signal.SIGHUP}):
            process.start()
            self._spares.append(_Worker(self._started, process, ours))
        theirs.close()

    # --- ending

    def kill_one(self) -> None:
        """SIGKILL a random one of those at work, wherever it is, and put back what it had claimed."""
        worker = self._rng.choice(self._active)
        worker.process.kill()
        self.kills += 1
        self._bury(worker)

    def reap(self, timeout: float) -> None:
        """Wait until a worker ends by itself, at most ``timeout`` seconds, and put back what it had claimed.

        Raises:
            WorkersError: it happens too often.
        """
        for sentinel in wait([worker.process.sentinel for worker in self._active + self._spares], timeout):
            worker = next(one for one in self._active + self._spares if one.process.sentinel == sentinel)
            status = worker.process.exitcode
            self._by_themselves += 1
            self._bury(worker)
            if self._by_themselves > 3 * self._size:
                raise WorkersError(
                    f"{self._by_themselves} workers ended by themselves (the last with status {status}) without "
                    "completing anything; see their output above"
                )

    def progress(self) -> None:
        """Note that something was done."""
        self.fruitless = self._by_themselves = 0

    def _bury(self, worker: _Worker) -> None:
        (self._active if worker in self._active else self._spares).remove(worker)
        self.fruitless += 1
        worker.process.join()
        self._close(worker)
        self._job.put_back(worker.number)

    @staticmethod
    def _close(worker: _Worker) -> None:
        worker.orders.close()
        worker.process.close()

    def dismiss(self) -> None:
        """Let all end by themselves: there is nothing left to do."""
        for worker in self._active:
            worker.orders.close()
        for worker in self._active:
            worker.process.join(PATIENCE)
        self.kill_all()

    def kill_all(self) -> None:
        """Leave no worker behind."""
        everyone = self._active + self._spares
        self._active.clear()
        self._spares.clear()
        for worker in everyone:
            worker.process.kill()
        for worker in everyone:
            worker.process.join()
            self._close(worker)
