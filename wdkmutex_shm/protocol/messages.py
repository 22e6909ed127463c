"""What client and daemon say to each other: frames, messages, errors. Both sides use this module and nothing else.

A frame is a length (4 bytes, big endian, at most :data:`FRAME_CAP`) and that many bytes of msgpack. A request is
``[verb, {field: value}]``, a reply ``[true, {field: value}]`` or ``[false, {"error", "message", "facts"}]``. Replies
come in the order of the requests. The first request of a connection is ``hello``.

A request that changes something carries ``request``, a number that its session uses once. The daemon remembers the last
reply of each client session under it: a client whose connection broke sends the same request again and is given the
same reply, so that nothing is done twice and a success is not mistaken for somebody else's.

Decoding is bounded: whatever bytes arrive, it ends in a message or in :class:`ProtocolError`.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple, TypeAlias

import msgpack

from .. import errors
from ..base._os import planted
from ..base.names import INLINE_BYTES
from ..errors import DaemonError, ProtocolError, WdkMutexError

__all__ = [
    "FRAME_CAP",
    "LABEL_BYTES",
    "LIST_PAGE",
    "MODES",
    "NAMES_PAGE",
    "PROTOCOL",
    "READY",
    "VERBS",
    "Frames",
    "Register",
    "Verb",
    "check_request",
    "check_tag",
    "decode_reply",
    "decode_request",
    "encode_error",
    "encode_reply",
    "encode_request",
    "error_from",
]

PROTOCOL = 2
"""Version of everything in this module; the two sides of a connection must agree on it."""

FRAME_CAP = 1 << 20
"""Most bytes of msgpack in one frame. A larger first T travels in a data segment."""

NAMES_PAGE = 4096
"""Most names in one reply to ``names``."""

LIST_PAGE = 512
"""Most rows in one reply to ``list``."""

MODES = ("overwrite", "checked", "get_or_register")
"""What ``register`` does when the name is taken: replaces, refuses with ``KeyExists``, or hands out what is there."""

LABEL_BYTES = 24
"""Longest label of T."""

READY = b"ready"
"""What a daemon that was started with ``--ready-fd`` writes there when it serves; else the frame of an error reply."""

_LENGTH = struct.Struct("!I")
_MAX_ITEMS = 4096
_MAX_FIELDS = 64
_MAX_TEXT = 4096
_MOST_SHAPES = 256


# --- frames


def _framed(body: bytes) -> bytes:
    if len(body) > FRAME_CAP:
        raise ProtocolError(f"a message of {len(body)} bytes is over the cap of {FRAME_CAP} bytes")
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Cuts a stream of bytes into frames. Holds at most one frame that is not complete, and what was fed beyond it."""

    __slots__ = ("_buffer", "_start")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._start = 0

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the stream."""
        if self._start:
            del self._buffer[: self._start]
            self._start = 0
        self._buffer += data

    @property
    def pending(self) -> int:
        """Bytes that were fed and not taken yet."""
        return len(self._buffer) - self._start

    def next(self) -> bytes | None:
        """The next complete frame without its length, or None if more bytes are needed.

        Raises:
            ProtocolError: the length is 0 or over the cap; the stream is of no use from here on.
        """
        buffer, start = self._buffer, self._start
        if len(buffer) - start < 4:
            return None
        (length,) = _LENGTH.unpack_from(buffer, start)
        if not 0 < length <= FRAME_CAP and not planted("no-frame-cap"):
            raise ProtocolError(f"a frame of {length} bytes; 1 to {FRAME_CAP} are allowed")
        end = start + 4 + length
        if len(buffer) < end:
            return None
        self._start = end
        return bytes(buffer[start + 4 : end])


# Whatever the decoder raises: no bytes of a peer may do more than this. What a signal handler raises passes.
_NO_MESSAGE = (
    ValueError,
    TypeError,
    ArithmeticError,
    LookupError,
    MemoryError,
    RecursionError,
    msgpack.UnpackException,
)

_packer = msgpack.Packer()  # one for all: what it does is one step for other threads and for signal handlers


def _pack(message: list[Any]) -> bytes:
    try:
        return _framed(_packer.pack(message))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ProtocolError(f"this cannot be put into a message: {error}") from None


def _unpack(frame: bytes) -> list[Any]:
    try:
        # The limits keep an array's claimed length from reserving memory that no bytes stand behind.
        message = msgpack.unpackb(
            frame,
            max_str_len=FRAME_CAP,
            max_bin_len=FRAME_CAP,
            max_array_len=_MAX_ITEMS,
            max_map_len=_MAX_FIELDS,
            max_ext_len=0,
        )
    except _NO_MESSAGE as error:
        raise ProtocolError(f"a frame that is not a message: {type(error).__name__}") from None
    if type(message) is not list or len(message) != 2 or type(message[1]) is not dict:
        raise ProtocolError("a message is a pair of a verb or outcome and its fields")
    return message


# --- requests


_Fields: TypeAlias = dict[str, tuple[type, ...]]


class Verb(NamedTuple):
    """Fields that a request of one verb has, each with the types that it may be of."""

    required: _Fields
    optional: _Fields


_NONE = type(None)
_CHANGE: _Fields = {"request": (int,)}
_PAGE: _Fields = {"snapshot": (int,), "start": (int,)}

VERBS: dict[str, Verb] = {
    "hello": Verb({"protocol": (int,), "session": (int,)}, {}),
    "register": Verb(
        {"name": (str,), "kind": (int,), "mode": (str,), "tag": (list,), "payload": (bytes,), "data": (list, _NONE)},
        _CHANGE,
    ),
    "register_many": Verb(
        {"names": (list,), "kind": (int,), "mode": (str,), "tags": (list,), "which": (list,), "payloads": (list,)},
        _CHANGE,
    ),
    "get": Verb({"name": (str,)}, {}),
    "get_many": Verb({"names": (list,)}, {}),
    "unregister": Verb({"name": (str,)}, {"generation": (int,), "segment": (str,), "slot": (int,), **_CHANGE}),
    "discard": Verb({"data": (int,)}, {}),
    "names": Verb({}, _PAGE),
    "list": Verb({}, _PAGE),
    "info": Verb({"name": (str,)}, {}),
    "status": Verb({}, {}),
    "sweep": Verb({}, {}),
    "destroy": Verb({}, _CHANGE),
    "stop": Verb({}, _CHANGE),
}
"""Every verb. Their replies are described where they are answered, in the daemon's handlers."""


_good_shapes: set[tuple[object, ...]] = set()
"""Verb, fields and their types of requests that were good: looking them up is all that most requests need."""


def check_request(verb: str, params: dict[str, Any]) -> None:
    """Check a request's verb and the types of its fields.

    Raises:
        ProtocolError: there is no such verb, or a field is missing, unknown or of a type that it cannot have.
    """
    shape = (verb, *params, *map(type, params.values()))
    if shape in _good_shapes:
        return
    spec = VERBS.get(verb)
    if spec is None:
        raise ProtocolError(f"no verb {verb[:64]!r}", name=verb[:64])
    seen = 0
    for field, types in spec.required.items():
        if type(params.get(field, params)) not in types:
            raise ProtocolError(f"{verb}: field {field!r} is missing or of a wrong type", name=verb)
        seen += 1
    if seen != len(params):
        for field, value in params.items():
            if field in spec.required:
                continue
            if field not in spec.optional:
                raise ProtocolError(f"{verb}: unknown field {field[:64]!r}", name=verb)
            if type(value) not in spec.optional[field]:
                raise ProtocolError(f"{verb}: field {field!r} is of a wrong type", name=verb)
    if len(_good_shapes) < _MOST_SHAPES:
        _good_shapes.add(shape)


def encode_request(verb: str, params: dict[str, Any]) -> bytes:
    """A request as a frame. Raises ProtocolError when a field cannot be encoded or the frame is over the cap."""
    return _pack([verb, params])


def decode_request(frame: bytes) -> tuple[str, dict[str, Any]]:
    """A request: its verb and fields, which :func:`check_request` has yet to look at. Raises ProtocolError."""
    verb, params = _unpack(frame)
    if type(verb) is not str:
        raise ProtocolError("a request begins with its verb")
    for field in params:
        if type(field) is not str:
            raise ProtocolError("the fields of a message are named by strings")
    return verb, params


def check_tag(tag: Any) -> tuple[int, int, bytes]:
    """The code, hash and label that a tag in a request is made of. Raises ProtocolError if it is not."""
    if type(tag) is not list or list(map(type, tag)) != [int, int, bytes]:
        raise ProtocolError("a tag is a code, a hash and a label")
    code, digest, label = tag
    if not (0 <= code < 1 << 8 and 0 <= digest < 1 << 64 and len(label) <= LABEL_BYTES):
        raise ProtocolError("a part of the tag is out of range")
    return code, digest, label


class Register(NamedTuple):
    """The fields of ``register``, for the one verb that has many.

    Attributes:
        name: name of the mutex.
        kind: one of the ``KIND_*`` numbers.
        mode: one of :data:`MODES`.
        tag: T's code, hash and label.
        payload: the encoded first T, empty when it is in a data segment.
        data: id and length (bytes) of the data segment that holds the first T, else None.
    """

    name: str
    kind: int
    mode: str
    tag: tuple[int, int, bytes]
    payload: bytes
    data: tuple[int, int] | None

    def params(self) -> dict[str, Any]:
        """As the fields of a request."""
        return {
            "name": self.name,
            "kind": self.kind,
            "mode": self.mode,
            "tag": self.tag,
            "payload": self.payload,
            "data": self.data,
        }

    @classmethod
    def parse(cls, params: dict[str, Any]) -> Register:
        """From the fields of a request that :func:`check_request` has passed.

        Raises:
            ProtocolError: a value that no client of this protocol sends.
        """
        tag, data, mode, kind = params["tag"], params["data"], params["mode"], params["kind"]
        if mode not in MODES or not 1 <= kind <= 3:
            raise ProtocolError(f"register: no kind {kind} or mode {mode[:32]!r}")
        if data is not None:
            if [type(part) for part in data] != [int, int] or not (0 < data[0] < 1 << 64 and 0 < data[1] < 1 << 48):
                raise ProtocolError("register: data is the id and the length of a data segment")
            if params["payload"]:
                raise ProtocolError("register: T is either in the message or in a data segment, not in both")
            data = (data[0], data[1])
        elif not 1 <= len(params["payload"]) <= INLINE_BYTES:
            raise ProtocolError(f"register: T in a message has 1 to {INLINE_BYTES} bytes, a larger one a data segment")
        return cls(params["name"], kind, mode, check_tag(tag), params["payload"], data)


# --- replies


def encode_reply(body: dict[str, Any]) -> bytes:
    """A reply of success as a frame. Raises ProtocolError if it is over the cap."""
    return _pack([True, body])


def decode_reply(frame: bytes) -> tuple[dict[str, Any] | None, WdkMutexError | None]:
    """A reply: its fields and None, or None and the error that the daemon answered with.

    Raises:
        ProtocolError: the frame is not a reply.
    """
    outcome, body = _unpack(frame)
    if outcome is True:
        return body, None
    if outcome is False:
        return None, error_from(body)
    raise ProtocolError("a reply begins with its outcome")


def _plain(value: Any) -> Any:
    """A fact of an error as msgpack can carry it, of bounded size."""
    if value is None or type(value) in (bool, float):
        return value
    if type(value) is int and -(1 << 63) <= value < 1 << 64:
        return value
    text = value if isinstance(value, str) else repr(value)
    return text[:_MAX_TEXT].encode("utf-8", "replace").decode()


def error_fields(error: BaseException) -> dict[str, Any]:
    """An exception as the fields of an error reply. Any class that is not ours becomes ``DaemonError``."""
    if isinstance(error, WdkMutexError):
        kind, text, facts = type(error).__name__, str(error), error.facts
    else:
        kind, text, facts = "DaemonError", f"{type(error).__name__}: {error}", {}
    return {
        "error": kind,
        "message": _plain(text),
        "facts": {key[:64]: _plain(value) for key, value in list(facts.items())[:_MAX_FIELDS]},
    }


def encode_error(error: BaseException) -> bytes:
    """A reply of failure as a frame."""
    return _pack([False, error_fields(error)])


def _attributes(kind: type[WdkMutexError]) -> set[str]:
    """Facts that an error class declares; nothing else of a peer's may become an attribute."""
    return {name for base in kind.__mro__ for name in getattr(base, "__annotations__", {})} - {"facts"}


def error_from(body: dict[str, Any]) -> WdkMutexError:
    """The exception that an error reply speaks of.

    An unknown class (a newer daemon's) becomes :class:`DaemonError` and keeps its name in the message.
    """
    name, message, facts = body.get("error"), body.get("message"), body.get("facts")
    text = message if isinstance(message, str) else ""
    kind = getattr(errors, name, None) if isinstance(name, str) and name in errors.__all__ else None
    if not (isinstance(kind, type) and issubclass(kind, WdkMutexError)):
        return DaemonError(f"{str(name)[:64]}: {text}")
    known = _attributes(kind)
    return kind(text, **{k: v for k, v in facts.items() if k in known} if isinstance(facts, dict) else {})
