"""Names: which ones are allowed, and what the segments behind them are called in ``/dev/shm``.

Everything of ours there begins with ``/wdkm.<uid>.``; an instance's segments follow with the instance, a process's
private ones with ``@<pid>.<start time>.<pid namespace>.<random>``. No instance can begin with ``@``, so the two never
meet. A pid says nothing without its namespace: containers that share ``/dev/shm`` all have a process 1.
"""

from __future__ import annotations

import os

from ..errors import InvalidName

__all__ = [
    "INLINE_BYTES",
    "KIND_BOX",
    "KIND_FAST",
    "KIND_K",
    "KIND_SECTION",
    "KIND_WORDS",
    "NAME_BYTES",
    "check_instance",
    "check_name",
    "data_ident",
    "data_segment",
    "default_instance",
    "instance_of",
    "instance_prefix",
    "pool_segment",
    "private_prefix",
    "process_prefix",
    "user_prefix",
]

#: Longest name of a mutex, in bytes of UTF-8.
NAME_BYTES = 104
#: Longest msgpack form of T, in bytes, that lives in the slot itself.
INLINE_BYTES = 72

KIND_FAST = 1
KIND_K = 2
KIND_SECTION = 3
#: A T that was moved out of its mutex and is owned by a :class:`wdkmutex_shm.Box`.
KIND_BOX = 4
KIND_WORDS = {KIND_FAST: "fast", KIND_K: "k", KIND_SECTION: "section", KIND_BOX: "box"}

_HEX = frozenset("0123456789abcdef")
_INSTANCE_LENGTH = 32


def check_name(name: str) -> bytes:
    """Return the UTF-8 bytes of a mutex name.

    Any Unicode is allowed but NUL and lone surrogates; the length is 1 to :data:`NAME_BYTES` bytes. Two names that
    differ in their normal form are two names.

    Raises:
        TypeError: ``name`` is not a str.
        InvalidName: it is empty, too long, or holds what UTF-8 or a C string cannot.
    """
    if not isinstance(name, str):
        raise TypeError(f"a mutex name is a str, not {type(name).__name__}")
    try:
        raw = name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidName(f"mutex name {name!r} is not valid Unicode: {error.reason}", name=name) from None
    if not 1 <= len(raw) <= NAME_BYTES:
        raise InvalidName(
            f"mutex name {name[:32]!r} has {len(raw)} bytes of UTF-8; 1 to {NAME_BYTES} are allowed", name=name
        )
    if b"\0" in raw:
        raise InvalidName(f"mutex name {name!r} contains a NUL character", name=name)
    return raw


def check_instance(instance: str) -> str:
    """Return ``instance`` if it can name an instance: a letter or digit, then up to 31 of ``A-Za-z0-9_-``.

    Raises:
        TypeError: it is not a str.
        InvalidName: it is a str of another form.
    """
    if not isinstance(instance, str):
        raise TypeError(f"an instance name is a str, not {type(instance).__name__}")
    plain = instance.replace("_", "0").replace("-", "0")
    if not (plain.isascii() and plain.isalnum() and instance[0] not in "_-" and len(instance) <= _INSTANCE_LENGTH):
        raise InvalidName(
            f"instance name {instance!r} is not allowed: a letter or digit, then at most 31 of A-Z a-z 0-9 _ -",
            name=instance,
            instance=instance,
        )
    return instance


def instance_of(text: str) -> str:
    """Return the instance that a user means: its name, or the URL of one beyond this machine.

    Raises:
        TypeError: it is not a str.
        InvalidName: it is neither a name nor a URL of an engine. The message does not repeat a password.
        EngineUnavailable: this version does not have the engine that the URL names.
    """
    if isinstance(text, str) and "://" in text:
        from . import engine_url

        raise engine_url.missing(engine_url.parse(text))
    return check_instance(text)


def default_instance() -> str:
    """Return the instance that a process means when it names none: ``WDKMUTEX_INSTANCE``, else ``default``.

    Raises as :func:`instance_of`.
    """
    return instance_of(os.environ.get("WDKMUTEX_INSTANCE") or "default")


def user_prefix(uid: int | None = None) -> str:
    """Return what all shared memory names of a user begin with (by default of the effective user)."""
    return f"/wdkm.{os.geteuid() if uid is None else uid}."


def instance_prefix(instance: str, uid: int | None = None) -> str:
    """Return what the names of an instance's segments begin with."""
    return user_prefix(uid) + check_instance(instance)


def process_prefix(pid: int, start: int, namespace: int, user: str | None = None) -> str:
    """Return what all names begin with that are a process's own.

    ``start`` is its start time in clock ticks, ``namespace`` the inode of its pid namespace, ``user`` what the names of
    its user begin with.
    """
    return f"{user_prefix() if user is None else user}@{pid}.{start}.{namespace:08x}"


def private_prefix(pid: int, start: int, namespace: int, image: int) -> str:
    """Return what the names of a process's private segments begin with.

    ``image`` is a random number, because exec keeps the others.
    """
    return f"{process_prefix(pid, start, namespace)}.{image:08x}"


def pool_segment(prefix: str, number: int) -> str:
    """Return the name of pool segment ``number`` of the pool at ``prefix``."""
    return f"{prefix}.p{number}"


def data_ident(prefix: str, name: str) -> int | None:
    """Return the id in the name of a data segment of the pool at ``prefix``; None for any other name.

    Anybody can make files in ``/dev/shm``, so names there are not taken on trust.
    """
    start, digits = prefix + ".d", name[len(prefix) + 2 :]
    return int(digits, 16) if name.startswith(start) and len(digits) == 16 and _HEX.issuperset(digits) else None


def data_segment(prefix: str, ident: int) -> str:
    """Return the name of the data segment ``ident`` of the pool at ``prefix``."""
    return f"{prefix}.d{ident:016x}"
