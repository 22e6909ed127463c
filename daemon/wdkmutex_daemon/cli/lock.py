"""``lock``: run a command while holding a mutex, as flock(1) does with a file.

From the moment that the lock is had, signals are no longer handled but waited for: sigwaitinfo(2) also tells who sent
one. What the terminal sends (Ctrl-C) reaches the command by itself, what a process sends to us is passed on to it.
Either way the lock is released when the command has ended, and not before. Whoever is killed himself takes the command
along (prctl(2), PR_SET_PDEATHSIG): the kernel gives the lock to the next one at that moment.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import click

from . import exit_codes, options, session
from .output import error_line

__all__ = ["lock_verb"]

_PASSED_ON = frozenset(
    {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM}
)
_ENDING = (signal.SIGTERM, signal.SIGHUP)
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_SENT_BY_KERNEL = 0x80  # si_code SI_KERNEL: the terminal's doing


class _Ended(BaseException):
    """A signal came before the command was started."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class _OptionsAroundName(click.Command):
    """A command whose options may stand before and after its first argument, and end where the second begins."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        valued = {
            name
            for option in self.params
            if isinstance(option, click.Option) and not option.is_flag
            for name in option.opts
        }
        ours: list[str] = []
        name: list[str] = []
        while args and args[0] != "--":
            if args[0].startswith("-"):
                ours += args[: 2 if args[0] in valued else 1]
                args = args[2 if args[0] in valued else 1 :]
            elif not name:
                name, args = args[:1], args[1:]
            else:
                break
        return super().parse_args(ctx, [*ours, *name, *args])


@click.command("lock", cls=_OptionsAroundName, context_settings={"allow_interspersed_args": False})
@options.instance
@options.timeout("Give up after S seconds (0: immediately).")
@click.option(
    "-E",
    "--conflict-exit-code",
    metavar="N",
    type=options.Whole(0, 255),
    default=exit_codes.LOCK_TIMEOUT,
    show_default=True,
    help="Exit status if the lock is not acquired in time.",
)
@click.option(
    "-v", "--verbose", is_flag=True, help="Report on stderr when the lock is acquired, and whether its holder had died."
)
@options.name
@click.argument("command", metavar="-- CMD ARG...", nargs=-1, required=True, type=click.UNPROCESSED)
def lock_verb(
    instance: str, timeout: float | None, conflict_exit_code: int, verbose: bool, name: str, command: tuple[str, ...]
) -> int:
    """Run a command while holding a mutex.

    The exit status is CMD's, or 128+n if signal n ended it. 124 (or -E): not locked in time. 125: not locked for
    another reason. 126: CMD cannot be run. 127: no such CMD. Put options before CMD.

    Signals sent to this process are passed on to CMD; the lock is released when CMD has ended. If this process is
    killed with SIGKILL, it loses the lock immediately and CMD is killed, too; the next owner sees that the mutex was
    abandoned. Processes started by CMD, and a CMD that is set-user-ID, continue without the lock. (flock(1) is
    different: there CMD and all processes that inherit its descriptor keep the lock.)

    CMD finds the fence of this hold in WDKMUTEX_FENCE: a number that rises with every hold of the mutex, so that what
    CMD writes to can refuse a command that was stopped for too long.
    """
    from wdkmutex_shm.errors import LockTimeout, WdkMutexError

    if command[0] == "--":
        command = command[1:]
        if not command:
            raise click.UsageError("Missing argument '-- CMD ARG...'.")
    locked = False
    status = exit_codes.LOCK_FAILED
    try:
        with _signals_raise():
            mutex = session.find(instance, name)
            with _held(mutex, timeout) as (dead, fence), _signals_wait() as mask:
                locked = True
                if verbose:
                    _say_locked(name, dead)
                status = _run(command, mask, fence)
                if mutex.destroyed:
                    error_line(
                        f"{name} was destroyed or overwritten while the command ran; another process may have held it "
                        "at the same time"
                    )
    except LockTimeout as error:
        error_line(str(error))
        return conflict_exit_code
    except WdkMutexError as error:
        if not locked:
            error_line(str(error))
            return exit_codes.LOCK_FAILED
        # CMD has ended and its status is what the caller asked for; but it may not have been alone.
        error_line(f"while the command ran: {error}")
    except _Ended as end:
        return 128 + end.signum
    return status


@contextmanager
def _held(mutex: Any, timeout: float | None) -> Iterator[tuple[int | None, int]]:
    """Hold a mutex of any kind.

    Yields None, or the pid (0: unknown) of its last holder if that died while it held it; and the fence.
    """
    if hasattr(mutex, "lock"):
        with mutex.lock(timeout) as guard:
            yield (guard.abandoned_by or 0) if guard.abandoned else None, guard.fence
        return
    mutex.enter(timeout)
    try:
        yield (mutex.abandoned_by or 0) if mutex.abandoned else None, mutex.fence
    finally:
        mutex.leave()


def _say_locked(name: str, dead: int | None) -> None:
    suffix = "" if dead is None else f"; its last holder (pid {dead or 'unknown'}) died while holding it"
    click.echo(f"Locked {name}{suffix}.", err=True)


@contextmanager
def _signals_raise() -> Iterator[None]:
    """While waiting for the lock: end as if by the signal, but orderly."""

    def end(signum: int, frame: FrameType | None) -> NoReturn:
        raise _Ended(signum)

    # A signal that our parent had ignored (nohup) stays ignored.
    before = {number: signal.getsignal(number) for number in _ENDING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _signals_wait() -> Iterator[set[signal.Signals | int]]:
    """While the lock is held: let signals wait until they are asked for.

    Yields the mask from before, for the command.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would never come
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON | {signal.SIGCHLD})
    try:
        yield before
    finally:
        # What was not passed on any more came for a command that has ended: it has had its effect.
        while signal.sigtimedwait(_PASSED_ON, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run(command: tuple[str, ...], mask: set[signal.Signals | int], fence: int) -> int:
    """Run the command to its end, passing signals on, and return its status as a shell would."""
    sys.stdout.flush()
    sys.stderr.flush()
    child, error = _spawn([_as_given(word) for word in command], mask, {**os.environ, "WDKMUTEX_FENCE": str(fence)})
    if error == errno.ENOENT:
        error_line(f"{command[0]}: no such command; use a command on PATH, or a path")
        return exit_codes.NOT_FOUND
    if error:
        error_line(f"{command[0]} cannot be run: {os.strerror(error)}")
        return exit_codes.CANNOT_RUN
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
        info = signal.sigwaitinfo(_PASSED_ON | {signal.SIGCHLD})
        if info.si_signo != signal.SIGCHLD and info.si_code != _SENT_BY_KERNEL:
            os.kill(child, info.si_signo)  # not yet waited for, so the pid is still its own


def _as_given(word: str) -> bytes:
    """A word of the command as the bytes that it was given in; see ``_in_utf8`` in :mod:`wdkmutex_daemon.cli.app`."""
    try:
        return os.fsencode(word)
    except UnicodeEncodeError:
        return word.encode("utf-8", "surrogateescape")


def _spawn(words: list[bytes], mask: set[signal.Signals | int], environment: dict[str, str]) -> tuple[int, int]:
    """Start the command, which ends when this process does. Returns its pid, and 0 or why it cannot be run.

    posix_spawn knows nothing of a parent-death signal. There is one thread here, so the child may do as it likes.
    """
    from wdkmutex_shm.base._os import die_with

    reading, writing = os.pipe()  # closed by the exec
    parent = os.getpid()
    child = os.fork()
    if child == 0:  # pragma: no cover - it becomes the command
        try:
            die_with(parent, signal.SIGKILL)
            for number in _IGNORED_BY_PYTHON:  # what Python ignores must not be ignored in the command
                signal.signal(number, signal.SIG_DFL)
            for passed in _PASSED_ON:  # nor handled by us; what our parent ignored, the command ignores
                if signal.getsignal(passed) is not signal.SIG_IGN:
                    signal.signal(passed, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.execvpe(words[0], words, environment)  # noqa: S606 - that is its job
        except OSError as error:
            os.write(writing, str(error.errno).encode())
        finally:
            os._exit(exit_codes.CANNOT_RUN)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read()
    if said:
        os.waitpid(child, 0)
    return child, int(said or 0)
