"""Verbs that change a mutex or the instance: ``set``, ``register``, ``unregister``, ``destroy``."""

from __future__ import annotations

import sys
from typing import Any

import click

from . import exit_codes, options, session
from .output import Failure, note

__all__ = ["destroy_verb", "register_verb", "set_verb", "unregister_verb"]

_TYPES: dict[str, Any] = {
    "any": None, "bool": bool, "bytes": bytes, "dict": dict, "float": float, "int": int, "list": list, "str": str
}  # fmt: skip


# JSON may begin with a minus sign; what is no option is an argument then.
_NUMBERS = {"ignore_unknown_options": True}


@click.command("set", context_settings=_NUMBERS)
@options.instance
@options.timeout("Give up after S seconds (0: immediately); exit status 6.")
@options.name
@click.argument("text", metavar="JSON")
def set_verb(instance: str, timeout: float | None, name: str, text: str) -> None:
    """Lock a mutex and set its value.

    JSON may be - to read stdin. For values that JSON cannot represent, see `get --help`.
    """
    value = options.json_value(text)
    with session.connect(instance) as client:
        facts = session.info(client, name)
    if facts["kind"] == "section":
        raise Failure(f"mutex {name!r} is a critical section and protects no T", exit_codes.WRONG_TYPE)
    mutex = session.attach(facts)
    if facts["label"] == "float" and type(value) is int:
        value = float(value)  # JSON writes 1.0 as 1
    try:
        with mutex.lock(timeout) as guard:
            guard.value = value
    except (TypeError, OverflowError, ValueError) as error:
        raise Failure(f"mutex {name!r} (T is {facts['label']}): {error}", exit_codes.WRONG_TYPE) from None


@click.command("register", context_settings=_NUMBERS)
@options.instance
@click.option(
    "--kind", type=click.Choice(["fast", "k", "section"]), default="fast", show_default=True, help="Kind of mutex."
)
@click.option(
    "--type", "type_", type=click.Choice(sorted(_TYPES)), help="Type of T; by default that of JSON (any for null)."
)
@click.option("--checked", is_flag=True, help="Fail with exit status 5 if the name is taken.")
@options.name
@click.argument("text", metavar="JSON", required=False)
def register_verb(instance: str, kind: str, type_: str | None, checked: bool, name: str, text: str | None) -> None:
    """Register a mutex that protects a value.

    JSON may be - to read stdin. An existing mutex of that name is destroyed and replaced, unless --checked is given. A
    section protects no value: omit JSON.
    """
    from wdkmutex_shm.base.names import KIND_FAST, KIND_K
    from wdkmutex_shm.base.unset import UNSET
    from wdkmutex_shm.engines.local import requests

    mode = "checked" if checked else "overwrite"
    if kind == "section":
        if type_ is not None or text not in (None, "null"):
            raise click.UsageError("A section protects no value: omit JSON and --type.")
        with session.connect(instance) as client:
            requests.create_section(client, name, mode)
        return
    if text is None:
        raise click.UsageError("Missing argument 'JSON'.")
    value = options.json_value(text)
    wanted: Any = UNSET if type_ is None else _TYPES[type_]
    if type_ is None and type(value) not in _TYPES.values():
        wanted = None  # a time or another extension of msgpack's: no T of its own, but any holds it
    if wanted is float and type(value) is int:
        value = float(value)
    try:
        with session.connect(instance) as client:
            requests.create(client, name, KIND_FAST if kind == "fast" else KIND_K, mode, value, wanted)
    except (TypeError, OverflowError, ValueError) as error:
        if isinstance(error, _library_error()):
            raise
        raise Failure(f"{error}", exit_codes.WRONG_TYPE) from None


def _library_error() -> type[Exception]:
    from wdkmutex_shm.errors import WdkMutexError

    return WdkMutexError


@click.command("unregister")
@options.instance
@options.name
def unregister_verb(instance: str, name: str) -> None:
    """Destroy one mutex.

    Waiters, and later users of a handle, get MutexDestroyed.
    """
    from wdkmutex_shm.engines.local import requests

    with session.connect(instance) as client:
        requests.unregister(client, name)


@click.command("destroy")
@options.instance
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
def destroy_verb(instance: str, yes: bool) -> None:
    """Destroy all mutexes and stop the daemon.

    This affects all processes. The shared memory of the instance is freed.
    """
    from wdkmutex_shm.base.identity import start_time
    from wdkmutex_shm.engines.local import requests

    with session.revived(instance) as client:
        pid = client.daemon["pid"]
        started = start_time(pid)
        if not yes:
            _ask(instance, client.call("status")["names"])
        destroyed = requests.destroy(client)
    session.wait_for_end(pid, started, 10.0)
    note(f"Destroyed instance {instance}: {destroyed} mutexes.")


def _ask(instance: str, count: int) -> None:
    question = f"Destroy instance {instance} and its {count} mutexes, for all processes?"
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} No terminal is available for the answer: add --yes.")
    if not click.confirm(question, err=True):
        raise Failure("nothing was destroyed", exit_codes.FAILED)
