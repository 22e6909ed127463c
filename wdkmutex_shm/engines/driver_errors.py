"""Errors of a mutex or its memory that come out of a call to the Grt: caught by both branches of the error tree."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from ..errors import DriverMutexError, GrtDriverMutexError, GrtError

__all__ = ["from_the_grt"]

P = ParamSpec("P")
R = TypeVar("R")

_both: dict[type[DriverMutexError], Any] = {}


def _class_for(cls: type[DriverMutexError]) -> Any:
    """The class that is ``cls`` and a :class:`GrtDriverMutexError`; it bears the name of ``cls``."""
    found = _both.get(cls)
    if found is None:
        facts = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
        made = type(cls.__name__, (cls, GrtDriverMutexError), {**facts, "__reduce__": _reduce, "_of": cls})
        found = _both.setdefault(cls, made)
    return found


def _reduce(error: Any) -> tuple[Any, ...]:
    return rebuild, (error._of, error.args[0] if error.args else "", error.facts)


def rebuild(cls: type[DriverMutexError], message: str, facts: dict[str, Any]) -> DriverMutexError:
    rebuilt: DriverMutexError = _class_for(cls)(message, **facts)
    return rebuilt


def from_the_grt(call: Callable[P, R]) -> Callable[P, R]:
    """Let every :class:`DriverMutexError` that comes out of a function be a :class:`GrtError` as well."""

    @functools.wraps(call)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(*args, **kwargs)
        except DriverMutexError as error:
            if isinstance(error, GrtError):
                raise
            instance = getattr(args[0], "instance", None) if args else None
            facts = error.facts if instance is None else {"instance": instance, **error.facts}
            both = rebuild(type(error), str(error.args[0]) if error.args else "", facts)
            both.__cause__, both.__suppress_context__ = error.__cause__, True
            try:
                raise both.with_traceback(error.__traceback__)  # the same error, its cause included
            finally:
                del both

    return told
