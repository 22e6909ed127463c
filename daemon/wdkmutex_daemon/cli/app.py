"""The command itself: its verbs, and what becomes of whatever they raise."""

from __future__ import annotations

import codecs
import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import click

from . import exit_codes, options
from .output import PROGRAM, Failure, error_line

__all__ = ["COMPLETE", "cli", "run"]

#: Verb -> the module that holds it as a function of that name. In the order of the help.
VERBS = {
    "run": "service",
    "start": "service",
    "stop": "service",
    "restart": "service",
    "status": "service",
    "list": "listing",
    "show": "show",
    "get": "show",
    "waits": "waits",
    "set": "values",
    "register": "values",
    "unregister": "values",
    "destroy": "values",
    "lock": "lock",
    "sweep": "maintenance",
    "doctor": "maintenance",
    "demo": "demo",
    "systemd": "units",
    "completion": "completion",
}

COMPLETE = "_WDKMUTEX_DAEMON_COMPLETE"


class _Verbs(click.Group):
    """A group whose verbs are imported when they are wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f".{VERBS[cmd_name]}", __package__)
        command = getattr(module, f"{cmd_name}_verb")
        assert isinstance(command, click.Command)
        return command


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from wdkmutex_shm import __version__

        click.echo(f"{PROGRAM}, version {__version__}")
        ctx.exit()


@click.group(cls=_Verbs, epilog=exit_codes.TABLE, context_settings={"help_option_names": ["-h", "--help"]})
@options.root_instance
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def cli(instance: str | None) -> None:
    """Named mutexes that own their data, shared by processes on this machine.

    One daemon per instance tracks the names. Locking never goes through it.
    """


def _open_what_is_closed() -> None:
    """Let an input or output that the caller has closed be nothing: no socket or log of ours may come to lie there."""
    while (nothing := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # not inherited: for a command that is run, closed stays closed
    os.close(nothing)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def _in_utf8(arg: str) -> str:
    """An argument that the locale cannot decode, as cron's C locale cannot decode a name in UTF-8, is UTF-8."""
    try:
        arg.encode()
    except UnicodeEncodeError:
        return os.fsencode(arg).decode("utf-8", "surrogateescape")
    return arg


def _print_anything() -> None:
    """Whatever the locale: no name may end a command because it cannot be printed."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            plain = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding="utf-8" if plain else None, errors="backslashreplace")


def run(args: Sequence[str]) -> int:
    """Run the command line ``args`` and return its exit status (:mod:`wdkmutex_daemon.cli.exit_codes`)."""
    _open_what_is_closed()
    _print_anything()
    args = [_in_utf8(arg) for arg in args]
    if COMPLETE in os.environ:
        cli.main(list(args), prog_name=PROGRAM, complete_var=COMPLETE)
    try:
        code = _invoke(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read our output has enough. The interpreter must not fail over it again when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        error_line(f"{error.filename or ''}: {error.strerror or error}".lstrip(": "))
        return exit_codes.FAILED


def _invoke(args: Sequence[str]) -> int:
    try:
        with cli.make_context(PROGRAM, list(args) or ["--help"]) as ctx:
            result: Any = cli.invoke(ctx)
            return result if isinstance(result, int) else exit_codes.OK
    except click.exceptions.Exit as end:
        return end.exit_code if args else exit_codes.USAGE
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else PROGRAM
        error_line(f"{error.format_message()} See: {where} --help")
        return exit_codes.USAGE
    except click.ClickException as error:
        error_line(error.format_message())
        return exit_codes.FAILED
    except Failure as failure:
        error_line(str(failure))
        return failure.code
    except (KeyboardInterrupt, click.Abort):
        return 128 + signal.SIGINT
    except Exception as error:
        from wdkmutex_shm.errors import WdkMutexError

        if not isinstance(error, WdkMutexError):
            raise
        error_line(str(error))
        return exit_codes.code_of(error)
