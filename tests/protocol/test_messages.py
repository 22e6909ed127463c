"""Frames, messages and errors as bytes: they come back as they went, and nothing else that arrives does harm."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wdkmutex_shm.errors import InvalidName, ProtocolError
from wdkmutex_shm.protocol import messages as protocol
from wdkmutex_shm.protocol.bulk import BATCH, Places, RegisterMany, check_names
from wdkmutex_shm.protocol.messages import FRAME_CAP, MODES, VERBS, Frames, Register

names = st.text(min_size=1, max_size=30)
plain = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False), names)
tags = st.tuples(st.integers(0, 255), st.integers(0, 2**64 - 1), st.binary(max_size=protocol.LABEL_BYTES))
registers = st.builds(
    Register,
    name=names,
    kind=st.integers(1, 3),
    mode=st.sampled_from(MODES),
    tag=tags,
    payload=st.just(b""),
    data=st.tuples(st.integers(1, 2**64 - 1), st.integers(1, 2**48 - 1)),
) | st.builds(
    Register,
    name=names,
    kind=st.integers(1, 3),
    mode=st.sampled_from(MODES),
    tag=tags,
    payload=st.binary(min_size=1, max_size=72),
    data=st.none(),
)


def _frame(data: bytes) -> bytes:
    """The one frame that ``data`` is."""
    frames = Frames()
    frames.feed(data)
    frame = frames.next()
    assert frame is not None
    assert frames.next() is None
    assert frames.pending == 0
    return frame


# --- frames


@given(bodies=st.lists(st.binary(min_size=1, max_size=200), max_size=8), data=st.data())
def test_frames_come_back_however_the_stream_is_cut(bodies: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(len(body).to_bytes(4, "big") + body for body in bodies)
    frames, found, at = Frames(), [], 0
    while at < len(stream):
        size = data.draw(st.integers(1, 64))
        frames.feed(stream[at : at + size])
        at += size
        while (frame := frames.next()) is not None:
            found.append(frame)
    assert found == bodies
    assert frames.pending == 0


lengths = st.integers(0, 40) | st.sampled_from([FRAME_CAP, FRAME_CAP + 1, 2**31, 2**32 - 1])


@given(pieces=st.lists(st.tuples(lengths, st.binary(max_size=40)), max_size=6), step=st.integers(1, 50))
def test_any_stream_gives_the_frames_that_it_holds(pieces: list[tuple[int, bytes]], step: int) -> None:
    """However it is cut, whatever lengths it claims: the frames before a length that none has, and then an error."""
    stream = b"".join(length.to_bytes(4, "big") + body for length, body in pieces)
    expected, at, refused = [], 0, False
    while len(stream) - at >= 4:
        length = int.from_bytes(stream[at : at + 4], "big")
        refused = not 0 < length <= FRAME_CAP
        if refused or len(stream) - at - 4 < length:
            break
        expected.append(stream[at + 4 : at + 4 + length])
        at += 4 + length
    frames, found, error = Frames(), [], None
    for start in range(0, len(stream), step):
        frames.feed(stream[start : start + step])
        try:
            while (frame := frames.next()) is not None:
                found.append(frame)
        except ProtocolError as caught:
            error = caught
            break
    assert found == expected
    assert (error is not None) == refused
    assert error is not None or frames.pending == len(stream) - at


@pytest.mark.parametrize("length", [0, FRAME_CAP + 1, 2**31, 2**32 - 1])
def test_a_length_that_no_frame_has(length: int) -> None:
    frames = Frames()
    frames.feed(length.to_bytes(4, "big"))
    with pytest.raises(ProtocolError, match="allowed"):
        frames.next()


def test_the_largest_frame() -> None:
    body = b"x" * FRAME_CAP
    assert _frame(len(body).to_bytes(4, "big") + body) == body


def test_a_message_over_the_cap_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match="over the cap"):
        protocol.encode_request("get", {"name": "x" * FRAME_CAP})


def test_a_frame_in_single_bytes_takes_no_quadratic_time() -> None:
    body = b"y" * (1 << 17)
    frames = Frames()
    for byte in len(body).to_bytes(4, "big") + body:
        assert frames.next() is None
        frames.feed(bytes([byte]))
    assert frames.next() == body


# --- requests


@given(request=registers, number=st.integers(0, 2**64 - 1))
def test_register_comes_back(request: Register, number: int) -> None:
    frame = _frame(protocol.encode_request("register", {**request.params(), "request": number}))
    verb, params = protocol.decode_request(frame)
    protocol.check_request(verb, params)
    assert verb == "register"
    assert params["request"] == number
    assert Register.parse(params) == request


def _good(field: str) -> Any:
    return {
        "protocol": 1, "session": 1, "name": "n", "kind": 1, "mode": "checked", "tag": [3, 3, b"int"], "payload": b"x",
        "data": None, "generation": 1, "segment": "/s", "slot": 1, "snapshot": 1, "start": 1, "request": 1,
        "names": ["a", "b"], "tags": [[3, 3, b"int"]], "which": [0, 0], "payloads": [b"x", b"y"],
    }[field]  # fmt: skip


def _params(verb: str) -> dict[str, Any]:
    params = {field: _good(field) for field in VERBS[verb].required}
    if verb == "discard":
        params["data"] = 1
    return params


@pytest.mark.parametrize("verb", VERBS)
def test_fields_of_every_verb_are_checked(verb: str) -> None:
    params = _params(verb)
    protocol.check_request(verb, params)
    for field, types in VERBS[verb].optional.items():
        protocol.check_request(verb, {**params, field: types[0]()})
        with pytest.raises(ProtocolError, match="wrong type"):
            protocol.check_request(verb, {**params, field: 1.5})
    with pytest.raises(ProtocolError, match="unknown field"):
        protocol.check_request(verb, {**params, "surprise": 1})
    for field in params:
        without = {key: value for key, value in params.items() if key != field}
        with pytest.raises(ProtocolError, match="missing"):
            protocol.check_request(verb, without)
        with pytest.raises(ProtocolError, match="wrong type"):
            protocol.check_request(verb, {**params, field: 1.5})


def test_true_is_no_number() -> None:
    with pytest.raises(ProtocolError):
        protocol.check_request("hello", {"protocol": True, "session": 1})


def test_no_such_verb() -> None:
    with pytest.raises(ProtocolError, match="no verb 'dance'"):
        protocol.check_request("dance", {})


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "sometimes"},
        {"kind": 0},
        {"kind": 4},
        {"tag": []},
        {"tag": [1, 2, "text"]},
        {"tag": [1, True, b""]},
        {"tag": [256, 0, b""]},
        {"tag": [1, -1, b""]},
        {"tag": [1, 2, b"x" * 25]},
        {"data": [1]},
        {"data": [0, 1]},
        {"data": [1, 0]},
        {"data": [1, 2**48]},
        {"data": [1.0, 2]},
        {"data": [-5, 2]},
        {"payload": b""},
        {"payload": b"x" * 73},
        {"data": [1, 2], "payload": b"both"},
    ],
)
def test_values_of_register_that_no_client_sends(change: dict[str, Any]) -> None:
    params = {**_params("register"), "payload": b"" if "data" in change else b"x", **change}
    protocol.check_request("register", params)
    with pytest.raises(ProtocolError):
        Register.parse(params)


@given(
    names=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=26),
        min_size=1,
        max_size=20,
        unique=True,
    ),
    kind=st.integers(1, 3),
    mode=st.sampled_from(MODES),
    tags=st.lists(tags, min_size=1),
    data=st.data(),
)
def test_register_many_comes_back(names: list[str], kind: int, mode: str, tags: Any, data: st.DataObject) -> None:
    which = data.draw(st.lists(st.integers(0, len(tags) - 1), min_size=len(names), max_size=len(names)))
    payloads = data.draw(st.lists(st.binary(min_size=1, max_size=72), min_size=len(names), max_size=len(names)))
    request = RegisterMany(names, kind, mode, tags, which, payloads)
    verb, params = protocol.decode_request(_frame(protocol.encode_request("register_many", request.params())))
    protocol.check_request(verb, params)
    assert RegisterMany.parse(params) == request
    assert check_names(verb, params["names"]) == [name.encode() for name in names]


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "sometimes"},
        {"kind": 0},
        {"kind": 4},
        {"tags": []},
        {"tags": [[1, 2]]},
        {"tags": [[1, 2, "text"]]},
        {"tags": [[1, -1, b""]]},
        {"tags": [1]},
        {"which": [0]},
        {"which": [0, 1]},
        {"which": [0, -1]},
        {"which": [0, True]},
        {"which": [0, None]},
        {"which": [0, 0, 0]},
        {"payloads": [b"x"]},
        {"payloads": [b"x", b""]},
        {"payloads": [b"x", b"x" * 73]},
        {"payloads": [b"x", "text"]},
        {"payloads": [b"x", b"y", b"z"]},
        {"names": [], "which": [], "payloads": []},
    ],
)
def test_values_of_register_many_that_no_client_sends(change: dict[str, Any]) -> None:
    params = {**_params("register_many"), **change}
    protocol.check_request("register_many", params)
    with pytest.raises(ProtocolError):
        check_names("register_many", params["names"])
        RegisterMany.parse(params)


@pytest.mark.parametrize(
    "wrong", [[], ["a", "a"], ["a", b"a"], ["a", 1], ["a", ["a"]], [None], [str(n) for n in range(BATCH + 1)]]
)
def test_names_that_no_client_sends(wrong: list[Any]) -> None:
    with pytest.raises(ProtocolError):
        check_names("get_many", wrong)


@pytest.mark.parametrize("name", ["", "x" * 105, "a\0b"])
def test_names_that_no_mutex_has(name: str) -> None:
    with pytest.raises(InvalidName):
        check_names("get_many", ["good", name])


def test_the_largest_batch_fits_into_a_frame() -> None:
    names = [f"{number:0104}" for number in range(BATCH)]
    tags = [(9, 2**64 - 1, b"x" * 24)] * BATCH
    request = RegisterMany(names, 1, "overwrite", tags, list(range(BATCH)), [b"x" * 72] * BATCH)
    assert len(protocol.encode_request("register_many", request.params())) < FRAME_CAP // 2


@pytest.mark.parametrize(
    "change",
    [
        {"segments": None},
        {"segments": [[0, "/s"]]},
        {"segments": [["0", "/s", 1]]},
        {"segments": []},
        {"segments": [[1, "/s", 1]]},
        {"places": None},
        {"places": b""},
        {"places": bytes(31)},
        {"places": bytes(48)},
    ],
)
def test_places_that_no_daemon_sends(change: dict[str, Any]) -> None:
    good = {"segments": [[0, "/s", 7]], "places": struct.pack("=4Q", 1, 5, 0, 0)}
    assert Places.parse(good, 2).ref(0) == ("/s", 7, 5, 1)
    with pytest.raises(ProtocolError):
        Places.parse({**good, **change}, 2)


# --- anything else


def _decode_both(frame: bytes) -> None:
    """Both decoders end in a message or in ProtocolError."""
    for decode in (protocol.decode_request, protocol.decode_reply):
        try:
            result = decode(frame)
        except ProtocolError:
            continue
        assert isinstance(result, tuple)
        if decode is protocol.decode_reply and isinstance(result[0], dict):
            with contextlib.suppress(ProtocolError):
                Places.parse(result[0], 2)
        if decode is protocol.decode_request:
            verb, params = result
            try:
                protocol.check_request(verb, params)  # type: ignore[arg-type]
                if verb == "register":
                    Register.parse(params)  # type: ignore[arg-type]
                if verb == "register_many":
                    RegisterMany.parse(params)  # type: ignore[arg-type]
                if "names" in params:
                    check_names("get_many", params["names"])  # type: ignore[call-overload, arg-type]
            except (ProtocolError, InvalidName):
                continue


@settings(max_examples=500)
@given(st.binary(max_size=200))
def test_any_bytes(frame: bytes) -> None:
    _decode_both(frame)


anything = st.recursive(
    st.one_of(plain, st.binary(max_size=20), st.floats(), st.builds(msgpack.ExtType, st.integers(0, 127), st.binary())),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.one_of(names, st.integers(0, 9), st.binary(max_size=4)), inner, max_size=5)
    ),
    max_leaves=20,
)


@settings(max_examples=300)
@given(anything)
def test_any_msgpack(value: Any) -> None:
    _decode_both(msgpack.packb(value))


@settings(max_examples=300)
@given(verb=st.sampled_from(sorted(VERBS)) | names, params=st.dictionaries(names, anything, max_size=5))
def test_any_fields(verb: str, params: dict[str, Any]) -> None:
    _decode_both(msgpack.packb([verb, params]))


@settings(max_examples=300)
@given(verb=st.sampled_from(sorted(VERBS)), data=st.data())
def test_any_value_in_a_known_field(verb: str, data: st.DataObject) -> None:
    fields = {**VERBS[verb].required, **VERBS[verb].optional}
    params = {field: data.draw(anything | st.just(_good(field)), label=field) for field in fields}
    _decode_both(msgpack.packb([verb, params]))


@settings(max_examples=300)
@given(request=registers, data=st.data())
def test_a_request_with_some_bytes_changed(request: Register, data: st.DataObject) -> None:
    frame = bytearray(_frame(protocol.encode_request("register", request.params())))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    _decode_both(bytes(frame[: data.draw(st.integers(1, len(frame)))]))


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        b"\x91" * 100_000,  # nested deeper than any message
        b"\x91" * 500 + b"\xc0",
        b"\xdd\xff\xff\xff\xff",  # an array that claims 4 billion items
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\x92\xa3get\x81\x90\x01",  # a list as a key
        b"\x92\xa3get\x81\x01\x01",
        b"\x92\xa3get\x80\x00",  # bytes left over
        b"\x92\xa2\xff\xfe\x80",  # not UTF-8
        b"\x92\xd6\xff\x00\x00\x00\x00\x80",  # a timestamp as the verb
        b"\xd6\xff\x00\x00\x00\x00",
    ],
)
def test_bytes_that_try_something(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        protocol.decode_request(frame)
    with pytest.raises(ProtocolError):
        protocol.decode_reply(frame)


def test_claimed_lengths_reserve_no_memory() -> None:
    frame = b"\x92\xa3get" + b"\xdc\x0f\xff" * 1000  # 1000 arrays, each inside the last, each of 4095 items
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            protocol.decode_request(frame)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


# --- replies


@given(st.dictionaries(names, plain, max_size=5))
def test_a_reply_comes_back(body: dict[str, Any]) -> None:
    assert protocol.decode_reply(_frame(protocol.encode_reply(body))) == (body, None)
