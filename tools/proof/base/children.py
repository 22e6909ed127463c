"""Forked children: to an end of any kind, or with a report of how they ended.

They do a function of no arguments and never come back into the code that forked them.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from wdkmutex_shm.pool import private

#: How many of the frames that an error came through are told.
_FRAMES = 6
_LAST = 30.0


def fork(act: Callable[[], object]) -> int:
    """Fork a child that does something and ends: with 0, or with 1 if that raised. Returns its pid."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    return pid


def die() -> None:
    """End this process as kill -9 does."""
    os.kill(os.getpid(), signal.SIGKILL)


class Outcome(NamedTuple):
    """How a child ended.

    Attributes:
        value: what its function returned.
        error: what it raised, and where; None if it returned.
        signal: number of the signal that ended it, else 0.
        late: it did not end in time and was killed.
    """

    value: Any
    error: str | None
    signal: int
    late: bool

    @property
    def well(self) -> bool:
        """Whether the function returned."""
        return self.error is None and not self.signal and not self.late

    def told(self) -> str:
        """In a few words, for a report."""
        if self.late:
            return "it hung and was killed"
        if self.signal:
            return f"it was ended by {signal.Signals(self.signal).name}"
        return self.error or "it returned"

    def checked(self) -> Any:
        """The value of one that must have ended well."""
        assert self.well, self.told()
        return self.value


class Child:
    """A forked child that reports. Leave its ``with`` and it has ended, if need be killed.

    Args:
        work: what it does; the result is pickled.
        new_user: uid and gid that it takes on first, when not None.
    """

    def __init__(self, work: Callable[[], Any], *, new_user: int | None = None) -> None:
        self._receive, send = os.pipe()
        self._status: int | None = None
        self._raw = b""
        self.pid = fork(lambda: _live(work, self._receive, send, new_user))
        os.close(send)
        self._fd = os.pidfd_open(self.pid)

    def ended(self, seconds: float = 0.0) -> bool:
        """Wait for its end, and tell whether it has come."""
        deadline = time.monotonic() + seconds
        while self._status is None:
            readable = [self._fd] if self._receive < 0 else [self._fd, self._receive]
            found = select.select(readable, [], [], max(0.0, deadline - time.monotonic()))[0]
            if self._receive in found:
                self._read()
            elif self._fd in found:
                self._status = os.waitpid(self.pid, 0)[1]
                self._read()
            elif not found:
                break
        return self._status is not None

    def _read(self) -> None:
        while self._receive >= 0 and select.select([self._receive], [], [], 0)[0]:
            data = os.read(self._receive, 1 << 16)
            self._raw += data
            if not data:
                os.close(self._receive)
                self._receive = -1

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal."""
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._fd, number)

    def outcome(self, seconds: float) -> Outcome:
        """Wait so long for its end, kill it if it has not come, and tell how it ended."""
        late = not self.ended(seconds)
        self.close()
        status = self._status if self._status is not None else 0
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        value, error = None, None
        if self._raw:
            value, error = pickle.loads(self._raw)  # of a child of ours
        elif not number and not late:
            error = f"it ended with status {os.waitstatus_to_exitcode(status)} and said nothing"
        return Outcome(value, error, 0 if late else number, late)

    def close(self) -> None:
        """End it, if it has not ended."""
        if self._status is None:
            self.kill(signal.SIGCONT)
            self.kill()
            self.ended(_LAST)
        for fd in (self._fd, self._receive):
            if fd >= 0:
                os.close(fd)
        self._fd = self._receive = -1

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _live(work: Callable[[], Any], receive: int, send: int, new_user: int | None) -> None:
    told: tuple[Any, str | None] = None, "it was ended"
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.close(receive)
        if new_user is not None:
            os.setgroups([])
            os.setgid(new_user)
            os.setuid(new_user)
        told = work(), None
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
        where = " > ".join(f"{os.path.basename(frame.filename)}:{frame.lineno}" for frame in frames)
        told = None, f"{type(error).__name__}: {error}  [{where}]"
    finally:
        with contextlib.suppress(Exception):
            private.close()  # os._exit runs no exit handlers
        with open(send, "wb") as file:
            file.write(pickle.dumps(told))


def in_child(work: Callable[[], Any], seconds: float = 60.0, *, new_user: int | None = None) -> Outcome:
    """Run a function in a forked child to its end and tell how it ended."""
    with Child(work, new_user=new_user) as child:
        return child.outcome(seconds)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let no Ctrl-C through: where it would leave something half done that is the program's, as in any program."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def status_of(pid: int) -> list[str]:
    """What the kernel says of a process, from its state on; nothing if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def is_running(pid: int) -> bool:
    """Whether a process has not ended."""
    return status_of(pid)[:1] not in ([], ["Z"], ["X"])


def parent_of(pid: int) -> int | None:
    """The parent of a process; None if it is gone."""
    found = status_of(pid)
    return int(found[1]) if found else None


def space_of(pid: int | str = "self") -> int:
    """Bytes of address space that a process has."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
