"""Prints what users depend on, one fact a line: names, signatures, commands, exit codes, pickles, shared layouts.

``tests/test_public_surface.py`` compares it with ``tests/public_surface.txt``. A change that is meant is recorded by

    python tests/public_surface.py > tests/public_surface.txt

and told in CHANGELOG.md. A change of the layout of memory raises its layout number.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import re
from collections.abc import Iterator
from typing import Any

import click
from wdkmutex_daemon.cli import app, exit_codes

import wdkmutex_shm
from wdkmutex_shm import mp
from wdkmutex_shm.base.layout import LAYOUT
from wdkmutex_shm.core import _core


def parameters_of(what: Any) -> str:
    """Names, kinds and defaults; annotations are what mypy looks at, and print differently on each Python."""
    found = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(what).parameters.values()
        if parameter.name != "self"
    ]
    return str(inspect.Signature(found)).replace("UNSET", "...").replace("Ellipsis", "...")


def members_of(name: str, kind: type) -> Iterator[str]:
    """What the class has from us: not what int, tuple or multiprocessing's contexts give it."""
    ours = {member for base in kind.__mro__ if base.__module__.startswith("wdkmutex_shm") for member in vars(base)}
    for member in sorted(ours):
        if not member.startswith("_"):
            what = getattr(kind, member)
            yield f"{name}.{member}{parameters_of(what) if inspect.isroutine(what) else ''}"


def names() -> Iterator[str]:
    for module in (wdkmutex_shm, mp):
        for name in sorted(module.__all__):
            what = getattr(module, name)
            full = f"{module.__name__}.{name}"
            if not isinstance(what, type):
                yield f"{full}{parameters_of(what)}"
            elif issubclass(what, BaseException):
                yield f"{full}({', '.join(base.__name__ for base in what.__bases__)})"
                yield from (f"{full}.{fact}" for fact in sorted(what.__dict__.get("__annotations__", {})))
            else:
                yield full
                yield from members_of(full, what)


def commands() -> Iterator[str]:
    context = click.Context(app.cli)
    for name in app.cli.list_commands(context):
        command = app.cli.get_command(context, name)
        assert command is not None
        options = ["/".join(one.opts) for one in command.params if not getattr(one, "hidden", False)]
        yield f"wdkmutex-daemon {name}: {', '.join(sorted(options))}"
    for code in ("FAILED", "USAGE", "NO_GRT", "LOCK_TIMEOUT", "LOCK_FAILED", "CANNOT_RUN", "NOT_FOUND"):
        yield f"exit code {code} {getattr(exit_codes, code)}"
    for name in sorted(wdkmutex_shm.__all__):
        kind = getattr(wdkmutex_shm, name)
        if isinstance(kind, type) and issubclass(kind, BaseException):
            yield f"exit code of {name} {exit_codes.code_of(kind())}"


def pickles() -> Iterator[str]:
    for mutex in (wdkmutex_shm.FastMutex(0), wdkmutex_shm.KMutex(0), wdkmutex_shm.CriticalSection()):
        function, arguments = mutex.__reduce__()[:2]  # type: ignore[str-bytes-safe]
        kinds = ", ".join(type(argument).__name__ for argument in arguments)  # type: ignore[union-attr]
        yield f"pickle of {type(mutex).__name__}: {function.__module__}.{function.__qualname__}({kinds})"  # type: ignore[union-attr]


def layout() -> Iterator[str]:
    folder = os.path.dirname(_core.__file__)
    yield f"layout {LAYOUT}"
    for header in ("slot.h", "wait_board.h"):
        with open(os.path.join(folder, header)) as file:
            text = re.sub(r"/\*.*?\*/", "", file.read(), flags=re.DOTALL)
        for body, name in re.findall(r"typedef struct \{(.*?)\} (\w+);", text, re.DOTALL):
            if name in {"wdkm_mapping", "wdkm_local", "wdkm_thread"}:
                continue  # in the memory of one process
            digest = hashlib.sha256(" ".join(body.split()).encode()).hexdigest()
            yield f"{header} {name} {digest[:16]}"


def surface() -> list[str]:
    return [*names(), *commands(), *pickles(), *layout()]


if __name__ == "__main__":
    print("\n".join(surface()))
