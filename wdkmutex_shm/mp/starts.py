"""Workers that die as they start, and when a pool gives up starting others.

A worker has started when it asks for its first task. One that dies before cannot have touched any. If so many have done
that in a row, and none has started between, the next will, too: its initializer raises, what it was given cannot be
opened, or there is no memory for it. The pool then starts no more; when no worker is left, all of its tasks fail with
:class:`~wdkmutex_shm.PoolBroken`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import traceback
from collections.abc import Callable
from multiprocessing import process
from typing import Any

from ..errors import PoolBroken

__all__ = ["Initializer", "NoWorker", "Starts", "Trouble", "how_ended"]

_AT_LEAST = 4
_KILLED, _DIED = 1, 8  # what a death counts: who is killed has not failed by itself


def how_ended(exitcode: int, code_lost: bool) -> str:
    """Return half a sentence on the end of a worker."""
    if code_lost:
        return "ended (its exit code is lost, because SIGCHLD is ignored or its fork server was killed)"
    if exitcode >= 0:
        return f"ended with exit code {exitcode}"
    known = {one.value: one.name for one in signal.Signals}
    return f"was killed by signal {-exitcode} ({known.get(-exitcode, 'unknown')})"


class Trouble:
    """The note of a worker whose initializer raised."""

    def __init__(self, pid: int, text: str) -> None:
        self.pid, self.text = pid, text


class Initializer:
    """In a worker, in the place of the pool's initializer: what that raises is told to the pool.

    Args:
        tell: sends a note to the pool.
    """

    def __init__(self, initializer: Callable[..., object], tell: Callable[[object], object]) -> None:
        self._initializer = initializer
        self._tell = tell

    def __call__(self, *args: Any) -> None:
        try:
            self._initializer(*args)
        except BaseException:
            with contextlib.suppress(Exception):
                self._tell(Trouble(os.getpid(), traceback.format_exc()))
            raise


class Starts:
    """How the last workers have started."""

    def __init__(self) -> None:
        self._most = 0  # workers at one time
        self._failed = 0
        self._started: set[process.BaseProcess] = set()
        self._last: tuple[int, int, bool] = (0, 0, False)

    def started(self, worker: process.BaseProcess) -> None:
        """Note that a worker has asked for a task; it may be noted already."""
        if worker not in self._started:
            self._started.add(worker)
            self._failed = 0

    def ended(self, worker: process.BaseProcess, exitcode: int, code_lost: bool) -> None:
        """Note the end of a worker."""
        if worker in self._started:
            self._started.discard(worker)
            return
        self._failed += _KILLED if exitcode == -signal.SIGKILL else _DIED
        self._last = worker.pid or 0, exitcode, code_lost

    def given_up(self, workers: int) -> bool:
        """Whether no other worker is to be started; there are so many now."""
        self._most = max(self._most, workers + 1)
        return self._failed >= _DIED * max(_AT_LEAST, 2 * self._most)

    def error(self, troubles: dict[int, str]) -> PoolBroken:
        """Return what all tasks fail with. ``troubles`` are the tracebacks of initializers, by process."""
        pid, exitcode, code_lost = self._last
        text = troubles.get(pid) or next(reversed(troubles.values()), None)
        why = "its standard error gives the reason" if text is None else f"its initializer raised:\n{text}"
        return PoolBroken(
            "the workers of this pool died one after the other as they started, before they took a task; no more are "
            f"started, and no task is done. The last one, process {pid}, {how_ended(exitcode, code_lost)}; {why}",
            pid=pid,
            exitcode=exitcode,
            traceback=text,
        )


class NoWorker:
    """In the place of a worker that is not started.

    Args:
        may_start: whether another may be started in its place by now.
    """

    name = "none"
    daemon = True
    pid = None

    def __init__(self, may_start: Callable[[], bool]) -> None:
        self._may_start = may_start

    def start(self) -> None:
        """Nothing starts."""

    @property
    def exitcode(self) -> int | None:
        """As of a worker that has ended, so that the pool replaces it, once that makes sense."""
        return 0 if self._may_start() else None

    def is_alive(self) -> bool:
        """Nobody is."""
        return False

    def join(self, timeout: float | None = None) -> None:
        """Nobody is to be waited for."""

    def terminate(self) -> None:
        """Nobody is to be ended."""
