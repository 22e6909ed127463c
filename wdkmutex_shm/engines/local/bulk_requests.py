"""How :class:`wdkmutex_shm.Grt` asks for many names at once: in requests of at most ``protocol.bulk.BATCH`` names.

Each name by itself is registered as by a single call. The names of one request are registered together: the daemon
looks at all of them before it changes anything. A first T that does not fit into a message is registered by a call of
its own, after the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import compress
from typing import TYPE_CHECKING, Any, NamedTuple

from ...base.names import INLINE_BYTES, KIND_SECTION
from ...base.unset import UNSET
from ...core.types import KNOWN, SECTION, Codec, codec_for
from ...errors import (
    DaemonError,
    DaemonUnavailable,
    GrtIsEmpty,
    GrtIsNull,
    KeyExists,
    KeyNotFound,
    ProtocolError,
    WdkMutexError,
)
from ...objects.handles import attach, attach_many
from ...protocol.bulk import BATCH, Places, RegisterMany, encode_names
from ..driver_errors import from_the_grt
from . import requests as verbs

if TYPE_CHECKING:
    from .client import Client

__all__ = ["get", "register"]

_SHOWN = 5


def _batches(names: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), BATCH):
        yield names[start : start + BATCH]


def _listed(names: Sequence[str]) -> str:
    """A few of the names, and how many they are."""
    shown = ", ".join(map(repr, names[:_SHOWN]))
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


# --- get


@from_the_grt
def get(client: Client, kind: int, names: Iterable[str], wanted: Any = UNSET) -> dict[str, Any]:
    """Handles to the mutexes ``names``, by name.

    Args:
        client: to the instance.
        kind: one of the ``KIND_*`` numbers.
        names: of the mutexes; one that comes twice is asked for once.
        wanted: T of all of them, or UNSET for whatever it is.

    Raises:
        KeyNotFound: there is no mutex of one of the names, or of several. GrtIsEmpty: there is none at all.
        InvalidName, GrtIsNull, DowncastError, DaemonUnavailable, MutexDestroyed: as :func:`verbs.get`.
    """
    asked = list(dict.fromkeys(names))
    encode_names(asked)
    codec = None if wanted is UNSET else codec_for(type=wanted)
    found: dict[str, Any] = {}
    missing: list[str] = []
    for batch in _batches(asked):
        places, known = _find(client, batch)
        if not known:
            raise GrtIsEmpty(
                f"the Grt of instance {client.instance!r} has no mutex at all, so none named {batch[0]!r}; register it",
                name=batch[0],
                instance=client.instance,
            )
        absent = [name for name, generation in zip(batch, places.words[::2], strict=True) if not generation]
        missing += absent
        if not missing:
            handles, failed = attach_many(places, kind, None if codec is None else [codec] * len(batch))
            for index in failed:  # asked for by itself, which says why
                handles[index] = verbs.get(client, batch[index], kind, wanted)
            found.update(zip(batch, handles, strict=True))
    if missing:
        raise KeyNotFound(
            f"{len(missing)} of {len(asked)} names are unknown in instance {client.instance!r}: "
            f"{_listed(missing)}; Grt.names() or wdkmutex-daemon list shows the existing ones",
            name=missing[0],
            instance=client.instance,
        )
    return found


def _find(client: Client, names: list[str]) -> tuple[Places, int]:
    """Where mutexes live, with a generation of 0 for those that do not exist; and how many names there are at all."""
    body = client.call("get_many", names=names)
    known = body.get("known")
    if type(known) is not int:
        raise ProtocolError("a reply to get_many that does not say how many names there are", instance=client.instance)
    return Places.parse(body, len(names)), known


# --- register


@from_the_grt
def register(client: Client, kind: int, values: Mapping[str, Any], wanted: Any, mode: str) -> dict[str, Any]:
    """Register mutexes and return handles to them, by name.

    Args:
        client: to the instance.
        kind: one of the ``KIND_*`` numbers.
        values: first T of each name.
        wanted: T of all of them, or UNSET for the type of each value.
        mode: one of :data:`wdkmutex_shm.protocol.messages.MODES`.

    Raises:
        TypeError, OverflowError, IrqlTooHigh, InvalidName, GrtIsNull: nothing was registered.
        KeyExists: a name is taken (``checked``); nothing is registered.
        DaemonUnavailable, PagedPoolAllocFailed, DowncastError, MutexDestroyed: as :func:`verbs.register`. What was
            registered before stands, and the message says how many that are; what is ``checked`` is taken back.
    """
    verbs.check_level(kind, "register_many")
    first = _FirstValues.of(kind, values, wanted)
    if mode == "checked":
        _refuse_taken(client, first.names)
    made: dict[str, Any] = dict.fromkeys(values)
    done: list[tuple[list[str], Places]] = []
    try:
        for batch in first.batches():
            places = _register(client, kind, batch, mode)
            done.append((batch.names, places))
            handles, failed = attach_many(places, kind, batch.codecs)
            for index in failed:
                handles[index] = _attach_again(client, kind, mode, batch, index, places)
            made.update(zip(batch.names, handles, strict=True))
        for name, codec, payload in first.large():
            handle = made[name] = verbs.register(client, name, kind, mode, codec, payload, codec.type)
            done.append(([name], Places.at(handle)))
    except WdkMutexError as error:
        if not done:
            raise
        stand = _take_back(client, done) if mode == "checked" else sum(len(names) for names, _ in done)
        raise type(error)(f"{error} ({stand} of the {len(values)} names are registered)", **error.facts) from error
    return made


class _FirstValues(NamedTuple):
    """Mutexes to be registered: names, and for each of them how its T is written, and what the first one is."""

    names: list[str]
    codecs: list[Codec]
    payloads: list[bytes]

    @classmethod
    def of(cls, kind: int, values: Mapping[str, Any], wanted: Any) -> _FirstValues:
        names = list(values)
        encode_names(names)
        if kind == KIND_SECTION:
            return cls(names, [SECTION] * len(names), [verbs.NIL] * len(names))
        firsts = values.values()
        codec = None if wanted is UNSET else codec_for(type=wanted)
        if codec is not None and codec.code in KNOWN:
            codecs = [codec] * len(names)
        else:
            codecs = [codec_for(v, wanted) for v in firsts]
        return cls(names, codecs, [codec.encode(v) for codec, v in zip(codecs, firsts, strict=True)])

    def batches(self) -> Iterator[_FirstValues]:
        """Those whose T fits into a message, in the numbers that one request takes."""
        fits = self
        if max(map(len, self.payloads), default=0) > INLINE_BYTES:
            small = [len(payload) <= INLINE_BYTES for payload in self.payloads]
            fits = _FirstValues(*(list(compress(column, small)) for column in self))  # type: ignore[arg-type]
        for start in range(0, len(fits.names), BATCH):
            yield _FirstValues(*(column[start : start + BATCH] for column in fits))  # type: ignore[arg-type]

    def large(self) -> list[tuple[str, Codec, bytes]]:
        """Those whose T needs a data segment."""
        return [item for item in zip(*self, strict=True) if len(item[2]) > INLINE_BYTES]


def _register(client: Client, kind: int, batch: _FirstValues, mode: str) -> Places:
    """Register what fits into one request."""
    numbers: dict[int, int] = {}
    which = [numbers.setdefault(id(codec), len(numbers)) for codec in batch.codecs]
    tags = {id(codec): codec.tag for codec in batch.codecs} if len(numbers) > 1 else {0: batch.codecs[0].tag}
    request = RegisterMany(batch.names, kind, mode, list(tags.values()), which, batch.payloads)
    reply = client.submit("register_many", request.params())
    if reply.error is None:
        assert reply.body is not None
        return Places.parse(reply.body, len(batch.names))
    if reply.doubtful and isinstance(reply.error, KeyExists):
        raise DaemonUnavailable(
            f"the daemon of instance {client.instance!r} died while registering names; mutexes of some of these "
            f"exist now, but it is unknown whether this call made them: {_listed(batch.names)}",
            name=batch.names[0],
            instance=client.instance,
            path=client.path,
        ) from reply.error
    try:
        raise reply.error
    finally:
        del reply


def _attach_again(client: Client, kind: int, mode: str, batch: _FirstValues, index: int, places: Places) -> Any:
    """A handle that was not made at the first attempt, or the error that says why it cannot be."""
    name, codec, payload = batch.names[index], batch.codecs[index], batch.payloads[index]
    if mode == "get_or_register":
        return verbs.register(client, name, kind, mode, codec, payload, codec.type)
    return attach(places.ref(index), kind, codec.type, name)


def _refuse_taken(client: Client, names: list[str]) -> None:
    """Raise KeyExists if there are mutexes of any of these names."""
    taken: list[str] = []
    for batch in _batches(names):
        places, _ = _find(client, batch)
        taken += [name for name, generation in zip(batch, places.words[::2], strict=True) if generation]
    if taken:
        raise KeyExists(
            f"{len(taken)} of {len(names)} names are taken in instance {client.instance!r} already: {_listed(taken)}; "
            "get them with Grt.get_many, or replace them with an unchecked registration",
            name=taken[0],
            instance=client.instance,
        )


def _take_back(client: Client, done: list[tuple[list[str], Places]]) -> int:
    """Unregister what was registered. Returns how many still are, because the daemon does not answer any more."""
    made = [(name, places.ref(index)) for names, places in done for index, name in enumerate(names)]
    for count, (name, ref) in enumerate(made):
        try:
            verbs.unregister_slot(client, name, ref.generation, ref.segment, ref.slot)
        except DaemonError:
            return len(made) - count
        except GrtIsNull:
            return 0
    return 0
