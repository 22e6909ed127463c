"""What :class:`wdkmutex_shm.Grt` asks of the daemon: how each verb is asked, and what is done when its reply is lost.

A first T of more than ``INLINE_BYTES`` is put into a data segment first, and the daemon adopts it. Whoever made the
segment removes it again when it is certain that the daemon did not. Where a daemon died before it replied, the next one
is asked (``discard``): it knows from the slots whether the segment was adopted, so that the registration is neither
lost nor done twice. A small T leaves no such trace; then a checked registration that finds the name taken, after a
daemon died over it, cannot be told from its own success and raises ``DaemonUnavailable``.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING, Any

from ...base.names import INLINE_BYTES, KIND_FAST, KIND_SECTION, check_name, instance_prefix
from ...base.unset import UNSET
from ...core._core import current_level
from ...core.irql import Irql
from ...core.types import SECTION, codec_for
from ...errors import (
    DaemonUnavailable,
    GrtIsEmpty,
    GrtIsNull,
    IrqlTooHigh,
    KeyExists,
    KeyNotFound,
    MutexDestroyed,
)
from ...objects.handles import attach_at
from ...protocol.messages import Register
from ..driver_errors import from_the_grt

if TYPE_CHECKING:
    from ...core.types import Codec
    from .client import Client

__all__ = [
    "NIL",
    "check_level",
    "create",
    "create_section",
    "destroy",
    "get",
    "names",
    "register",
    "unregister",
    "unregister_slot",
]

NIL = b"\xc0"
"""What a CriticalSection has in T's place."""

_TRIES = 16
_PAUSE = 0.002


@from_the_grt
def get(client: Client, name: str, kind: int, wanted: Any = UNSET) -> Any:
    """A handle to the mutex ``name``.

    Args:
        client: to the instance.
        name: of the mutex.
        kind: one of the ``KIND_*`` numbers.
        wanted: T, or UNSET for whatever it is.

    Raises:
        InvalidName, GrtIsNull, GrtIsEmpty, KeyNotFound, DowncastError, DaemonUnavailable.
        MutexDestroyed: the name is overwritten again and again, for as long as a call may take.
    """
    check_name(name)
    deadline = 0.0
    while True:
        try:
            return _attach(client.call("get", name=name), kind, wanted, name)
        except MutexDestroyed:  # overwritten between the reply and now: ask again
            deadline = deadline or time.monotonic() + client.timeout
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)


def _attach(body: dict[str, Any], kind: int, wanted: Any, name: str) -> Any:
    return attach_at(body["segment"], body["nonce"], body["slot"], body["generation"], kind, wanted, name)


@from_the_grt
def create(client: Client, name: str, kind: int, mode: str, v: Any, wanted: Any) -> Any:
    """Check the IRQL, encode the first T and register it. Arguments and errors as :func:`register`, and:

    Raises:
        IrqlTooHigh: a FastMutex cannot be made at the thread's level.
        TypeError, OverflowError: msgpack cannot hold ``v``, or it is not a ``wanted``.
    """
    check_level(kind, "register_fast_mutex", name)
    codec = codec_for(v, wanted)
    return register(client, name, kind, mode, codec, codec.encode(v), codec.type)


def check_level(kind: int, operation: str, name: str = "") -> None:
    """Raise IrqlTooHigh if a mutex of that kind cannot be made at the thread's level."""
    if kind == KIND_FAST and (level := current_level()) > Irql.DISPATCH:
        raise IrqlTooHigh(
            f"a FastMutex can be made up to DISPATCH ({int(Irql.DISPATCH)}) and this thread is at {level}; make it in "
            "another thread, or make a KMutex",
            name=name,
            level=level,
            limit=int(Irql.DISPATCH),
            operation=operation,
        )


@from_the_grt
def create_section(client: Client, name: str, mode: str) -> Any:
    """Register a CriticalSection. Arguments and errors as :func:`register`."""
    return register(client, name, KIND_SECTION, mode, SECTION, NIL, UNSET)


def register(client: Client, name: str, kind: int, mode: str, codec: Codec, payload: bytes, wanted: Any) -> Any:
    """Register a mutex and return a handle to it.

    Args:
        client: to the instance.
        name: of the mutex.
        kind: one of the ``KIND_*`` numbers.
        mode: one of :data:`wdkmutex_shm.protocol.messages.MODES`.
        codec: of T.
        payload: the encoded first T.
        wanted: T, for the handle.

    Raises:
        InvalidName, GrtIsNull, DaemonUnavailable.
        KeyExists: the name is taken (``checked``).
        PagedPoolAllocFailed: no room; an old mutex of that name stands.
        DowncastError: the name is taken by another kind or T (``get_or_register``).
        MutexDestroyed: another process has already overwritten the name.
    """
    check_name(name)
    request = Register(name, kind, mode, codec.tag, payload, None)
    large = len(payload) > INLINE_BYTES
    deadline = time.monotonic() + client.timeout
    while True:
        try:
            if large and mode == "get_or_register":
                try:
                    return get(client, name, kind, wanted)  # spares the making of a segment that nobody adopts
                except (KeyNotFound, GrtIsEmpty):
                    pass
            body = _register_large(client, request) if large else _register_small(client, request)
            return _attach(body, kind, wanted, name)
        except MutexDestroyed:
            if mode != "get_or_register" or time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)


def _register_small(client: Client, request: Register) -> dict[str, Any]:
    reply = client.submit("register", request.params())
    if reply.error is None:
        assert reply.body is not None
        return reply.body
    if reply.doubtful and isinstance(reply.error, KeyExists):
        raise DaemonUnavailable(
            f"the daemon of instance {client.instance!r} died while registering {request.name!r}; a mutex of that "
            "name exists now, but it is unknown whether this call made it: check it with Grt.get_*, or "
            "unregister it",
            name=request.name,
            instance=client.instance,
            path=client.path,
        ) from reply.error
    try:
        return reply.fields()
    finally:
        del reply


def _register_large(client: Client, request: Register) -> dict[str, Any]:
    from ...memory import data_segments

    prefix = instance_prefix(client.instance)
    client.open()  # where there is no Grt, nothing is made for it
    _remove_forgotten()
    for _ in range(_TRIES):
        ident = data_segments.new_id()
        _staged[ident] = prefix, time.monotonic()
        data_segments.create(prefix, request.payload, ident=ident, staged=True)
        staged = request._replace(payload=b"", data=(ident, len(request.payload)))
        # Interrupted in here (Ctrl-C), it may be adopted or not.
        reply = client.submit("register", staged.params(), resend=False)
        if reply.error is None:
            assert reply.body is not None
            if not reply.body["created"]:
                data_segments.unlink(prefix, ident)
            _staged.pop(ident, None)
            return reply.body
        error = reply.error
        try:
            adopted = reply.doubtful and client.call("discard", data=ident)["adopted"]
        except GrtIsNull as gone:  # with the instance went all that could have adopted it
            adopted, error = False, gone
        if adopted or reply.doubtful:
            _staged.pop(ident, None)
        if adopted:
            return client.call("get", name=request.name)
        if not reply.doubtful or isinstance(error, GrtIsNull):
            data_segments.unlink(prefix, ident)
            _staged.pop(ident, None)
            break
    try:
        raise error
    finally:
        del error, reply


# The data segments that registrations made, and when, until it is certain whether they were adopted; the oldest first.
_staged: dict[int, tuple[str, float]] = {}
_FORGOTTEN = 60.0  # seconds after which no daemon can be about to adopt one
_AT_ONCE = 2  # that a registration removes: more than it can leave, and its cost does not grow with what is left


def _remove_forgotten() -> None:
    """Remove what registrations have left that a signal handler ended, unless it was adopted meanwhile."""
    from ...memory import data_segments

    for ident, (prefix, made) in list(islice(_staged.items(), _AT_ONCE)):
        if time.monotonic() - made <= _FORGOTTEN:
            return
        if data_segments.is_staged(prefix, ident):
            data_segments.unlink(prefix, ident)
        _staged.pop(ident, None)


@from_the_grt
def unregister(client: Client, name: str) -> None:
    """Destroy the mutex ``name``. Raises InvalidName, GrtIsNull, GrtIsEmpty, KeyNotFound, DaemonUnavailable."""
    check_name(name)
    reply = client.submit("unregister", {"name": name})
    if reply.error is None:
        return
    if reply.doubtful and isinstance(reply.error, (KeyNotFound, GrtIsEmpty)):
        return  # it is gone, most likely by the hand of the daemon that died over it
    try:
        reply.fields()
    finally:
        del reply


def unregister_slot(
    client: Client, name: str, generation: int, segment: str | None = None, slot: int | None = None
) -> bool:
    """Destroy the mutex ``name`` if it is still the tenant that is meant. Tells whether it was.

    Args:
        client: to the instance.
        name: of the mutex.
        generation: of the tenant that is meant.
        segment, slot: where it lives; two tenants of one name in different slots can have one generation.

    Raises:
        GrtIsNull, DaemonUnavailable.
    """
    params: dict[str, Any] = {"name": name, "generation": generation}
    if segment is not None and slot is not None:
        params.update(segment=segment, slot=slot)
    reply = client.submit("unregister", params)
    if reply.error is None:
        return True
    if isinstance(reply.error, (KeyNotFound, GrtIsEmpty)):
        return reply.doubtful
    try:
        raise reply.error
    finally:
        del reply


@from_the_grt
def names(client: Client) -> list[str]:
    """All names of the instance, sorted."""
    return sorted(client.collect("names", "names"))


@from_the_grt
def destroy(client: Client) -> int:
    """Destroy every mutex of the instance and end its daemon. Returns how many mutexes there were.

    Raises:
        GrtIsNull: there is no Grt. DaemonUnavailable: its daemon does not answer.
    """
    reply = client.submit("destroy", {})
    if reply.error is None:
        assert reply.body is not None
        return int(reply.body["destroyed"])
    if reply.doubtful and isinstance(reply.error, GrtIsNull):
        return 0  # the daemon ended before it could say so
    raise reply.error
