"""The messages of the verbs that take many names at once. Both sides use this module, beside :mod:`protocol`.

A batch is cut into requests of at most :data:`BATCH` names, so that no request keeps the daemon from its other clients
for more than a few milliseconds. A reply says where the mutexes live in 16 bytes each, not in a map each.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection
from typing import Any, NamedTuple

from ..base.names import INLINE_BYTES, NAME_BYTES, check_name
from ..base.records import SlotRef
from ..errors import ProtocolError
from .messages import MODES, check_tag

__all__ = ["BATCH", "Places", "RegisterMany", "check_names", "encode_names"]

BATCH = 1024
"""Most names in one request."""

_SLOT_MASK = (1 << 32) - 1


def check_names(verb: str, names: list[Any]) -> list[bytes]:
    """Check the names of a request: 1 to :data:`BATCH` strings, none of them twice. Returns them as UTF-8.

    Raises:
        ProtocolError: they are not that. InvalidName: no mutex can have one of them.
    """
    if not 1 <= len(names) <= BATCH:
        raise ProtocolError(f"{verb}: {len(names)} names; 1 to {BATCH} are allowed")
    if set(map(type, names)) != {str} or len(set(names)) != len(names):
        raise ProtocolError(f"{verb}: a name that is not a string, or is given twice")
    return encode_names(names)


def encode_names(names: Collection[str]) -> list[bytes]:
    """The names as UTF-8. Raises TypeError and InvalidName as :func:`wdkmutex_shm.base.names.check_name`."""
    try:
        raw = [name.encode() for name in names]
        if not raw or (max(map(len, raw)) <= NAME_BYTES and all(raw) and b"\0" not in b"".join(raw)):
            return raw
    except (AttributeError, UnicodeEncodeError):
        pass
    return [check_name(name) for name in names]


class Places(NamedTuple):
    """Where many mutexes live, one after the other.

    Attributes:
        segments: name and nonce of the segments that are meant, by number.
        words: for each mutex its generation, and ``number << 32 | slot``. A generation of 0: there is no such mutex.
            They travel as they lie in memory, for both sides are on one machine.
    """

    segments: dict[int, tuple[str, int]]
    words: array[int]

    def ref(self, index: int) -> SlotRef:
        """The place of one of them."""
        generation, place = self.words[2 * index : 2 * index + 2]
        return SlotRef(*self.segments[place >> 32], place & _SLOT_MASK, generation)

    @classmethod
    def at(cls, handle: Any) -> Places:
        """The place of the one mutex that a handle is to."""
        return cls({0: (handle.segment, handle.nonce)}, array("Q", [handle.generation, handle.slot_index]))

    @classmethod
    def parse(cls, body: dict[str, Any], count: int) -> Places:
        """From the fields of a reply about ``count`` names.

        Raises:
            ProtocolError: a reply that no daemon of this protocol sends.
        """
        segments, raw = body.get("segments"), body.get("places")
        if type(segments) is not list or type(raw) is not bytes or len(raw) != 16 * count:
            raise ProtocolError("a reply for many names without a place for each")
        for segment in segments:
            if type(segment) is not list or [type(part) for part in segment] != [int, str, int]:
                raise ProtocolError("a segment is a number, a name and a nonce")
        places = cls({number: (name, nonce) for number, name, nonce in segments}, array("Q", raw))
        words = places.words
        if not {place >> 32 for there, place in zip(words[::2], words[1::2], strict=True) if there} <= {
            *places.segments
        }:
            raise ProtocolError("a place in a segment that is not named")
        return places


class RegisterMany(NamedTuple):
    """The fields of ``register_many``. A T that does not fit into a message is registered by ``register``.

    Attributes:
        names: of the mutexes.
        kind: of all of them, one of the ``KIND_*`` numbers.
        mode: one of :data:`wdkmutex_shm.protocol.messages.MODES`.
        tags: the different tags (code, hash, label) of their T.
        which: for each mutex, which of ``tags`` is its own.
        payloads: for each mutex, its encoded first T.
    """

    names: list[str]
    kind: int
    mode: str
    tags: list[tuple[int, int, bytes]]
    which: list[int]
    payloads: list[bytes]

    def params(self) -> dict[str, Any]:
        """As the fields of a request."""
        return self._asdict()

    @classmethod
    def parse(cls, params: dict[str, Any]) -> RegisterMany:
        """From the fields of a request that :func:`wdkmutex_shm.protocol.messages.check_request` has passed.

        Raises:
            ProtocolError: a value that no client of this protocol sends.
        """
        names, which, payloads = params["names"], params["which"], params["payloads"]
        mode, kind = params["mode"], params["kind"]
        if mode not in MODES or not 1 <= kind <= 3:
            raise ProtocolError(f"register_many: no kind {kind} or mode {mode[:32]!r}")
        if not len(names) == len(which) == len(payloads):
            raise ProtocolError("register_many: for each name there is a tag and a first T")
        tags = [check_tag(tag) for tag in params["tags"]]
        if set(map(type, which)) != {int} or not 0 <= min(which) <= max(which) < len(tags):
            raise ProtocolError("register_many: a tag that is not there")
        if set(map(type, payloads)) != {bytes}:
            raise ProtocolError("register_many: T is in bytes")
        sizes = [len(payload) for payload in payloads]
        if min(sizes) < 1 or max(sizes) > INLINE_BYTES:
            raise ProtocolError(f"register_many: T in a message has 1 to {INLINE_BYTES} bytes")
        return cls(names, kind, mode, tags, which, payloads)
