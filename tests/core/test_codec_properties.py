"""The core's msgpack against the msgpack package, and against bytes that nobody should have written."""

from __future__ import annotations

import contextlib
from typing import Any

import msgpack  # type: ignore[import-untyped, unused-ignore]
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wdkmutex_shm import FastMutex, MutexDamaged
from wdkmutex_shm.core._core import pack
from wdkmutex_shm.core.types import codec_for

QUICK = settings(max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck))
INTS = st.integers(-(2**63), 2**64 - 1) | st.sampled_from(
    [sign * 2**bits + step for bits in (5, 7, 8, 15, 16, 31, 32, 63) for sign in (1, -1) for step in (-1, 0, 1)][:-1]
).filter(lambda number: -(2**63) <= number < 2**64)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
SCALARS = st.none() | st.booleans() | INTS | st.floats(allow_nan=False) | TEXT | st.binary(max_size=300)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT | INTS, inner, max_size=5),
    max_leaves=20,
)
KINDS: list[Any] = [None, int, float, bool, type(None), str, bytes, list, dict, list[int], dict[str, float], int | None]


def packed(value: Any) -> bytes:
    raw: bytes = msgpack.packb(value, use_bin_type=True)
    return raw


@QUICK
@given(INTS | st.floats() | TEXT | st.binary(max_size=300) | st.booleans())
def test_scalars_byte_for_byte(value: Any) -> None:
    raw = codec_for(value).encode(value)
    assert raw == packed(value)
    back = codec_for(value).decode(raw)
    assert type(back) is type(value)
    assert packed(back) == raw  # a NaN does not equal itself, its bytes do
    assert codec_for(type=None).encode(value) == raw


@pytest.mark.parametrize("size", [0, 31, 32, 255, 256, 65535, 65536, 1 << 20])
def test_lengths_at_the_edges(size: int) -> None:
    for value in ("x" * size, b"x" * size):
        assert codec_for(value).encode(value) == packed(value)
        assert codec_for(value).decode(packed(value)) == value


@QUICK
@given(VALUES)
def test_values_come_back(value: Any) -> None:
    for codec in (codec_for(type=None), codec_for(value)):
        back = codec.decode(codec.encode(value))
        assert back == value
        assert type(back) is type(value)


@settings(QUICK, max_examples=100)
@given(st.lists(VALUES, min_size=1, max_size=8))
def test_values_come_back_from_a_mutex(values: list[Any]) -> None:
    mutex: FastMutex[Any] = FastMutex(None, type=None)
    for value in values:
        with mutex.lock() as guard:
            guard.value = value
        assert mutex.peek() == value
    assert mutex.to_owned() == values[-1]


@settings(QUICK, max_examples=1000)
@given(st.sampled_from(KINDS), st.binary(min_size=0, max_size=60))
def test_any_bytes_are_a_t_or_damage(kind: Any, raw: bytes) -> None:
    codec = codec_for(type=kind)
    try:
        value = codec.decode(raw)
    except MutexDamaged:
        return
    if kind is not None and not hasattr(kind, "__args__"):
        assert type(value) is kind
    codec.decode(memoryview(raw))


@QUICK
@given(st.sampled_from(KINDS), VALUES, st.data())
def test_bytes_bent_by_one_bit(kind: Any, value: Any, data: st.DataObject) -> None:
    raw = bytearray(packed(value))
    index = data.draw(st.integers(0, len(raw) - 1))
    raw[index] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(MutexDamaged):
        codec_for(type=kind).decode(bytes(raw))


def test_bombs_are_refused() -> None:
    for raw in (
        b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff",
        b"\x91" * 100_000 + b"\x01", b"\x81" * 100_000, b"\x81\x91\x01\x01", b"\xc7\xff\xff",
    ):  # fmt: skip
        for kind in KINDS:
            with pytest.raises((MutexDamaged, RecursionError)):
                codec_for(type=kind).decode(raw)


@pytest.mark.parametrize("kind", [list, dict, None, list[int]])
def test_no_memory_to_read_t_with_is_not_damage(kind: Any) -> None:
    """T is whole; "register it again" would be bad advice."""
    known = codec_for(type=kind)

    def starve(raw: bytes) -> Any:
        raise MemoryError

    codec = type(known)(known.code, known.type_hash, known.label, known.type, pack=pack, unpack=starve, mutable=True)
    with pytest.raises(MemoryError) as caught:
        codec.decode(b"\x90")
    assert type(caught.value) is MemoryError
