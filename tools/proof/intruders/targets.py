"""What is fuzzed, and what must hold for any bytes: an error of ours, or a value that means the same once more."""

from __future__ import annotations

import datetime
import math
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack

from wdkmutex_shm.core.types import codec_for
from wdkmutex_shm.errors import MutexDamaged, ProtocolError, WdkMutexError
from wdkmutex_shm.protocol.messages import (
    FRAME_CAP,
    PROTOCOL,
    VERBS,
    Frames,
    Register,
    check_request,
    decode_reply,
    decode_request,
    encode_error,
    encode_reply,
    encode_request,
)


class BrokenError(Exception):
    """What must hold for any bytes did not."""


class Target(NamedTuple):
    """Attributes:
    run: takes any bytes; returns a word for what became of them; raises BrokenError (or anything else: broken too).
    seeds: inputs to begin with.
    """

    run: Callable[[bytes], str]
    seeds: list[bytes]


def _must(holds: bool, what: str) -> None:
    if not holds:
        raise BrokenError(what)


def _refusal(error: ProtocolError) -> str:
    """Why something was refused, without the words that are the input's own."""
    return "refused: " + str(error).partition("'")[0]


def stream(data: bytes) -> str:
    """The frames of a stream are the same however it is cut, and no length over the cap is waited for."""
    if not data:
        return "nothing"
    step, data = data[0] % 61 + 1 + len(data) // 64, data[1:]
    expected, over, at = [], False, 0
    while len(data) - at >= 4:
        length = int.from_bytes(data[at : at + 4], "big")
        over = not 0 < length <= FRAME_CAP
        if over or len(data) - at - 4 < length:
            break
        expected.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    found, refused = [], False
    frames = Frames()
    for start in range(0, len(data), step):
        frames.feed(data[start : start + step])
        try:
            while (frame := frames.next()) is not None:
                found.append(frame)
        except ProtocolError:
            refused = True
            break
    _must(found == expected, "a stream gives the frames that it holds")
    _must(refused == over, "a length that no frame has is refused at once")
    _must(refused or frames.pending == len(data) - at, "what was not taken is pending")
    return f"{min(len(found), 5)} frames, {'refused' if refused else 'taken'}"


def request(frame: bytes) -> str:
    """A request is refused with a ProtocolError, or comes back from its own encoding as it is."""
    try:
        verb, params = decode_request(frame)
        check_request(verb, params)
    except ProtocolError as error:
        return _refusal(error)
    _must(_same(decode_request(encode_request(verb, params)[4:]), (verb, params)), "a request means the same again")
    if verb == "register":
        try:
            meant = Register.parse(params)
        except ProtocolError as error:
            return _refusal(error)
        again = decode_request(encode_request(verb, {**params, **meant.params()})[4:])[1]
        _must(Register.parse(again) == meant, "a registration means the same again")
    return verb


def reply(frame: bytes) -> str:
    """A reply is refused with a ProtocolError, is fields, or is an error of ours that can be sent on."""
    try:
        body, error = decode_reply(frame)
    except ProtocolError as refusal:
        return _refusal(refusal)
    if error is None:
        _must(isinstance(body, dict), "a success has fields")
        return "success"
    _must(isinstance(error, WdkMutexError), "a failure is an error of ours")
    again = decode_reply(encode_error(error)[4:])[1]
    _must(type(again) is type(error), "an error keeps its class when it is sent on")
    return type(error).__name__


def _same(one: Any, other: Any) -> bool:
    """Equality in which NaN equals itself and 1, 1.0 and True differ; of values nested as deep as msgpack takes."""
    pairs = [(one, other)]
    while pairs:
        one, other = pairs.pop()
        if type(one) is not type(other):
            return False
        if isinstance(one, (list, tuple)):
            if len(one) != len(other):
                return False
            pairs += zip(one, other, strict=True)
        elif isinstance(one, dict):
            if len(one) != len(other):
                return False
            pairs += zip(one, other, strict=True)
            pairs += zip(one.values(), other.values(), strict=True)
        elif not (one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other))):
            return False
    return True


#: T, with a first value of it.
_VALUES: list[tuple[Any, Any]] = [
    (int, -70000),
    (float, 2.5),
    (bool, True),
    (str, "stra\u00dfe"),
    (bytes, b"\0\xff"),
    (list, [1, [2.5, "x"], {"k": None}]),
    (dict, {"a": [1, 2], "b": {"c": b"d"}}),
    (None, {"any": [1]}),
    (tuple, (1, "two")),
    (list[int], [1, 2, 3]),
    (dict[str, list[float]], {"a": [1.5]}),
    (datetime.datetime, datetime.datetime(2024, 5, 6, 7, 8, 9, tzinfo=datetime.timezone.utc)),
    (uuid.UUID, uuid.UUID(int=5)),
]
_CODECS = [codec_for(value, kind) for kind, value in _VALUES]


def value(data: bytes) -> str:
    """The bytes of a T are a T of the right type, or MutexDamaged."""
    if len(data) < 2:
        return "nothing"
    number = data[0] % len(_CODECS)
    kind, sample = _VALUES[number]
    try:
        found = _CODECS[number].decode(data[1:])
    except MutexDamaged:
        return f"{number} damaged"
    _must(kind is None or type(found) is type(sample), f"what is read of {kind} is of that type, not {type(found)}")
    return f"{number} {type(found).__name__}"


def _frames(*messages: bytes) -> bytes:
    return b"".join(messages)


_REGISTER = Register("name", 1, "checked", (3, 3, b"int"), b"\x01", None).params()
_REQUESTS = [
    encode_request("hello", {"protocol": PROTOCOL, "session": 1}),
    encode_request("register", {**_REGISTER, "request": 9}),
    encode_request("register", {**_REGISTER, "payload": b"", "data": [5, 500]}),
    encode_request("unregister", {"name": "n", "generation": 3, "segment": "/s", "slot": 1, "request": 1}),
    *(encode_request(verb, dict.fromkeys(VERBS[verb].required, 1)) for verb in VERBS),
]
_REPLIES = [
    encode_reply({"names": ["a", "b"], "snapshot": 1, "next": None}),
    encode_error(ProtocolError("text", name="n")),
    encode_error(MutexDamaged("text", name="n", owner_pid=1)),
    encode_error(OSError("no")),
]

TARGETS = {
    "stream": Target(stream, [b"\x05" + _frames(*_REQUESTS), b"\x00\0\0\0\x01x\xff\xff\xff\xff", b"\x02\0\0\0\0"]),
    "request": Target(request, [frame[4:] for frame in _REQUESTS]),
    "reply": Target(reply, [frame[4:] for frame in _REPLIES] + [msgpack.packb([False, {"error": 1, "facts": 2}])]),
    "value": Target(value, [bytes([n]) + _CODECS[n].encode(sample) for n, (_, sample) in enumerate(_VALUES)]),
}
