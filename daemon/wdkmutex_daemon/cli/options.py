"""Options and arguments that several verbs share."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["Seconds", "Whole", "as_json", "instance", "instance_of", "json_value", "name", "timeout"]

F = TypeVar("F", bound=Callable[..., Any])

_INSTANCE_HELP = "Instance of the Grt. [env: WDKMUTEX_INSTANCE; default: default]"


def instance_of(ctx: click.Context, given: str | None) -> str:
    """Return the instance that a command is about: its own option, that before the verb, the environment's.

    Raises:
        InvalidName: the name is not valid for an instance. EngineUnavailable: it is a URL, and its engine is not here.
    """
    from wdkmutex_shm.base import names

    given = given or ctx.find_root().params.get("instance")
    return names.instance_of(given) if given else names.default_instance()


def _to_instance(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    return value if ctx.resilient_parsing else instance_of(ctx, value)


def instance(command: F) -> F:
    """``--instance NAME``, passed as ``instance``: checked, and never None."""
    return click.option("--instance", metavar="NAME", callback=_to_instance, help=_INSTANCE_HELP)(command)


def root_instance(command: F) -> F:
    """``--instance NAME`` before the verb."""
    return click.option("--instance", metavar="NAME", expose_value=True, help=_INSTANCE_HELP)(command)


def as_json(command: F) -> F:
    """``--json``, passed as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


if TYPE_CHECKING:
    _Type = click.ParamType[Any]
else:
    _Type = click.ParamType


class Seconds(_Type):
    """A time span in seconds, at least ``least``."""

    name = "seconds"

    def __init__(self, least: float = 0) -> None:
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number; fail in words."""
        try:
            seconds = float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number of seconds, such as 5 or 0.5.", param, ctx)
        if not math.isfinite(seconds):
            self.fail(
                f"{value} is not a number of seconds; without the option there is no limit or the default.", param, ctx
            )
        if seconds < self.least:
            self.fail(f"{value} seconds are too few; the least is {self.least:g}.", param, ctx)
        return seconds


class Whole(_Type):
    """A whole number, at least ``least`` and at most ``most``."""

    name = "number"

    def __init__(self, least: int, most: int | None = None) -> None:
        self.least, self.most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number; fail in words."""
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{value!r} is not a whole number.", param, ctx)
        if self.most is not None and not self.least <= number <= self.most:
            self.fail(f"{number} is not between {self.least} and {self.most}.", param, ctx)
        if number < self.least:
            self.fail(f"{number} is too small; the least is {self.least}.", param, ctx)
        return number


def timeout(help_text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--timeout S``, passed as ``timeout``: seconds, None for no limit."""
    return click.option("--timeout", metavar="S", type=Seconds(), help=help_text)


def _complete_name(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of the instance's mutexes; none if its daemon does not answer at once."""
    from wdkmutex_shm.engines.local import client

    try:
        with client.connect(instance_of(ctx, ctx.params.get("instance")), timeout=1.0) as daemon:
            names = daemon.collect("names", "names")
    except Exception:
        return []
    from click.shell_completion import CompletionItem

    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]


def name(command: F) -> F:
    """The argument ``NAME``, passed as ``name``; completed from the running instance."""
    return click.argument("name", metavar="NAME", shell_complete=_complete_name)(command)


def json_value(text: str) -> Any:
    """Return the value of a JSON argument; ``-`` reads it from stdin.

    Raises:
        click.UsageError: it is no JSON.
    """
    from .json_values import loads

    source = text
    try:
        if text == "-":
            source = sys.stdin.buffer.read().decode()
        return loads(source)
    except (ValueError, RecursionError) as error:
        hint = "; quote a string twice, for JSON and for the shell: '\"text\"'" if source.strip().isidentifier() else ""
        raise click.UsageError(f"{source[:40]!r} is not JSON: {error}{hint}") from None
