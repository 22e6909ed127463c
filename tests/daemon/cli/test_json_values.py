"""The JSON form of values: nothing that msgpack holds is lost on the way there and back."""

from __future__ import annotations

import json
import math
from collections import Counter, deque
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wdkmutex_daemon.cli import json_values

_keys = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.text(), st.binary(), st.just("$bytes"))
_leaves = st.one_of(
    _keys,
    st.floats(allow_nan=False),
    st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=8)),
)
_values = st.recursive(
    _leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_keys, inner, max_size=4)),
    max_leaves=12,
)


@given(_values)
def test_there_and_back(value: Any) -> None:
    text = json_values.dumps(value)
    assert "\n" not in text
    assert json_values.loads(text) == value
    # It is JSON in the strict sense: no NaN or Infinity.
    json.loads(text, parse_constant=lambda word: pytest.fail(word))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({2, 1, "a", None}, '[null, 1, 2, "a"]'),
        (deque([1, {3}], maxlen=2), "[1, [3]]"),
        (Path("/a/ä"), '"/a/ä"'),
        (Path("\udcff"), '{"$bytes": "/w=="}'),
        (Counter("aab"), '{"a": 2, "b": 1}'),
    ],
)
def test_what_is_shown_as_something_plainer(value: Any, text: str) -> None:
    assert json_values.dumps(value) == text


def test_nan() -> None:
    assert json_values.dumps([math.nan]) == '[{"$float": "nan"}]'
    assert math.isnan(json_values.loads('{"$float": "nan"}'))


def test_time() -> None:
    stamp = msgpack.Timestamp(1_700_000_000, 123_456_000)
    assert json_values.dumps(stamp) == '{"$time": "2023-11-14T22:13:20.123456+00:00"}'
    assert json_values.loads(json_values.dumps(stamp)) == stamp


def test_plain_json_stays_as_it_is() -> None:
    text = '{"a": [1, 2.5, null, true, "x"], "$b": 1, "c": {}}'
    assert json_values.dumps(json.loads(text)) == text


def test_what_has_no_form() -> None:
    with pytest.raises(TypeError, match="complex has no JSON form"):
        json_values.dumps(1j)


@pytest.mark.parametrize(
    "text", ['{"$bytes": 1}', '{"$float": "x"}', '{"$map": 3}', '{"$ext": [1]}', '{"$time": "now"}', '{"$x": 0}', "NaN"]
)
def test_what_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"form|not JSON"):
        json_values.loads(text)
