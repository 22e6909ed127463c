"""T: what a mutex takes, what comes back, and what is refused before anything is written."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import math
import subprocess
import sys
import typing
import uuid
from typing import Any, NamedTuple, Optional, TypedDict, Union

import msgspec
import pytest
from processes import in_child

from wdkmutex_shm import DowncastError, FastMutex, KMutex, MutexDamaged
from wdkmutex_shm.base.names import KIND_FAST, KIND_K
from wdkmutex_shm.base.records import SlotRef
from wdkmutex_shm.core.types import codec_for
from wdkmutex_shm.objects import handles


@dataclasses.dataclass
class Point:
    x: int
    tags: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Pixel(Point):
    colour: int = 0


class Job(msgspec.Struct):
    id: int
    done: bool = False


class Row(TypedDict):
    key: str
    count: int


class Pair(NamedTuple):
    left: int
    right: str


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


UTC = datetime.timezone.utc
MOMENT = datetime.datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC)

PLAIN: list[Any] = [
    0, 1, -1, 127, 128, 255, 256, -32, -33, -128, -129, 2**31, 2**32, 2**63 - 1, -(2**63), 2**64 - 1,
    0.0, -0.0, 1.5, math.inf, -math.inf, 5e-324, True, False, "", "text", "ä€😀\0", "x" * 31, "x" * 32, "x" * 300,
    b"", b"\0\xff", b"x" * 70000, [], [1, "a", None, [2.5, [b"x"]]], {}, {"a": {"b": [1]}}, {1: "a", -2: "b"},
    {"deep": [{"er": [True, None]}]},
]  # fmt: skip

TYPED: list[Any] = [
    Point(1, ["a"]), Job(7), MOMENT, datetime.datetime(2024, 1, 2, 3, 4), datetime.date(2024, 1, 2),
    datetime.time(1, 2, 3), datetime.timedelta(days=1, microseconds=5), uuid.UUID(int=5), decimal.Decimal("1.10"),
    Colour.RED, Level.HIGH, Pair(1, "a"), (), (1, "a", None),
]  # fmt: skip


def _twice(mutex: Any, value: Any) -> list[Any]:
    """T as the holder reads it, as peek shows it, and as another process gets it."""
    with mutex.lock() as guard:
        held = guard.value
    return [held, mutex.peek(), in_child(mutex.peek)]


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: f"{value!r:.20}")
def test_plain_values_come_back(value: Any) -> None:
    for mutex in (KMutex(value), FastMutex(value, type=None), KMutex(value, type=type(value))):
        for back in (mutex.peek(), mutex.lock().value):
            assert back == value
            assert type(back) is type(value)
    assert in_child(KMutex(value).peek) == value


@pytest.mark.parametrize("value", TYPED, ids=lambda value: f"{value!r:.30}")
def test_typed_values_come_back(value: Any) -> None:
    for back in _twice(KMutex(value), value) + _twice(FastMutex(value, type=type(value)), value):
        assert back == value
        assert type(back) is type(value)


@pytest.mark.parametrize(
    ("kind", "good", "wrong"),
    [
        (list[int], [[], [1, 2]], [["a"], (1,), None, [1.5], {1}]),
        (dict[str, int], [{}, {"a": 1}], [{"a": "b"}, {1: 1}, []]),
        (dict[int, list[str]], [{1: ["a"]}], [{"x": ["a"]}, {1: [2]}]),
        (int | None, [None, 1, -(2**63)], ["a", 1.5, [1]]),
        (int | str, [1, "a"], [None, b"a"]),
        (tuple[int, str], [(1, "a")], [(1,), ("a", 1), (1, "a", 2)]),
        (Row, [{"key": "a", "count": 1}], [{"key": "a"}, {"key": 1, "count": 1}, []]),
        (list[Point], [[], [Point(1)]], [[1], [Point("a")], Point(1)]),  # type: ignore[arg-type]
        (typing.Literal["a", "b"], ["a", "b"], ["c", 1]),
        (typing.Annotated[int, msgspec.Meta(ge=0)], [0, 5], [-1, "a"]),
    ],
    ids=str,
)
def test_hints(kind: Any, good: list[Any], wrong: list[Any]) -> None:
    mutex = FastMutex(good[0], type=kind)
    for value in good:
        mutex.replace(value)
        assert mutex.peek() == value
        assert type(mutex.peek()) is type(value)
    for value in wrong:
        with pytest.raises(TypeError):
            mutex.replace(value)
        with pytest.raises(TypeError), mutex.lock() as guard:
            guard.value = value
        assert mutex.peek() == good[-1]
        assert mutex.owner is None
        with pytest.raises(TypeError):
            KMutex(value, type=kind)


@pytest.mark.parametrize("first", [1, 1.5, True, None, "a", b"a", [1], {"a": 1}, Point(1), MOMENT, Colour.RED], ids=str)
def test_another_type_raises_at_once(first: Any) -> None:
    mutex = FastMutex(first, type=type(first))
    others = [1, 1.5, True, None, "a", b"a", [1], {"a": 1}, (1,), Point(1), Job(1), MOMENT, Colour.RED, Level.LOW]
    for other in others:
        if type(other) is type(first) or (type(first), type(other)) == (float, int):
            continue
        with mutex.lock() as guard:
            with pytest.raises(TypeError):
                guard.value = other
            assert guard.value == first
        with pytest.raises(TypeError):
            mutex.replace(other)
    assert mutex.peek() == first
    assert mutex.statistics().commits == 0


@pytest.mark.parametrize("value", [{1}, frozenset(), bytearray(b"a"), memoryview(b"a"), 1j, object(), print])
def test_what_msgpack_cannot_hold(value: Any) -> None:
    if not isinstance(value, (set, frozenset, bytearray)):  # these are T by themselves
        with pytest.raises(TypeError):
            KMutex(value)
    mutex: KMutex[Any] = KMutex([1], type=None)
    if isinstance(value, (bytearray, memoryview)):
        return  # inside a container they are written as the bytes that they equal
    for inside in (value, [value], {"a": [value]}):
        with pytest.raises(TypeError):
            mutex.replace(inside)
        with pytest.raises(TypeError), mutex.lock() as guard:
            guard.value = inside
            guard.commit()
        with pytest.raises(TypeError):
            FastMutex(inside, type=None)
    assert mutex.peek() == [1]
    assert mutex.owner is None


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**30, -(10**30)])
def test_65_bits(number: int) -> None:
    with pytest.raises(OverflowError):
        KMutex(number)
    with pytest.raises(OverflowError):
        KMutex([number])
    scalar = FastMutex(1)
    with scalar.lock() as guard, pytest.raises(OverflowError):
        guard.value = number
    with pytest.raises(OverflowError):
        scalar.replace(number)
    with pytest.raises(OverflowError):
        KMutex(Point(number))
    nested: Any
    for nested in (KMutex([1]), KMutex(1, type=None), KMutex(Point(1))):
        before = nested.peek()
        with pytest.raises(OverflowError), nested.lock() as guard:
            if type(before) is list:
                guard.value.append(number)
            elif type(before) is Point:
                guard.value.x = number
            else:
                guard.value = number
        assert nested.peek() == before
    assert scalar.peek() == 1


def test_tuple_is_what_it_was_or_refused() -> None:
    for value in ((1, {2}), (1, (2, 3)), ([(1,)],), (decimal.Decimal(1),), (MOMENT,)):
        try:
            mutex = KMutex(value)
        except TypeError:
            continue
        assert mutex.peek() == value
    with pytest.raises(TypeError):
        KMutex([(1, 2)])


def test_nan() -> None:
    assert math.isnan(KMutex(math.nan).peek())
    mutex = KMutex([math.nan])
    with mutex.lock() as guard:
        assert math.isnan(guard.value[0])
    assert mutex.statistics().commits == 0


def test_deep_nesting() -> None:
    fine: list[Any] = []
    for _ in range(200):
        fine = [fine]
    assert KMutex(fine).peek() == fine
    mutex = KMutex([0])
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises((ValueError, RecursionError)), mutex.lock() as guard:
        guard.value = deep
    knot: list[Any] = []
    knot.append(knot)
    with pytest.raises((ValueError, RecursionError)):
        mutex.replace(knot)
    assert mutex.peek() == [0]
    assert mutex.owner is None


def test_surrogates() -> None:
    mutex: Any
    for mutex, value in (
        (KMutex("a"), "\ud800"),
        (KMutex(["a"]), ["\udfff"]),
        (KMutex(Point(1)), Point(1, ["\ud800"])),
    ):
        before = mutex.peek()
        with pytest.raises(ValueError):
            mutex.replace(value)
        with pytest.raises(ValueError), mutex.lock() as guard:
            guard.value = value
        assert mutex.peek() == before
        assert mutex.owner is None


def test_subclasses_are_not_t() -> None:
    # They would come back as what they are derived from.
    class Text(str): ...

    class Number(int): ...

    for first, other in (
        ("a", Text("a")),
        (1, Number(1)),
        (1, True),
        (Point(1), Pixel(1)),
        ([1], type("L", (list,), {})()),
    ):
        with pytest.raises(TypeError):
            KMutex(first).replace(other)
    mutex = KMutex(datetime.date(2024, 1, 2))
    with pytest.raises(TypeError):
        mutex.replace(MOMENT)
    assert mutex.peek() == datetime.date(2024, 1, 2)


def test_typed_value_with_a_wrong_field() -> None:
    mutex = KMutex(Point(1))
    wrong: Any = Point("a")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        mutex.replace(wrong)
    with pytest.raises(TypeError), mutex.lock() as guard:
        guard.value = wrong
    with pytest.raises(TypeError):
        KMutex(wrong)
    assert mutex.peek() == Point(1)


@pytest.mark.parametrize("how", ["leave", "commit", "drop_safe", "inner"])
def test_typed_container_changed_in_place_to_a_wrong_one(how: str) -> None:
    mutex: Any
    for mutex, break_it in (
        (KMutex(Point(1)), lambda point: setattr(point, "x", "a")),
        (KMutex([1], type=list[int]), lambda items: items.append("a")),
        (KMutex({"key": "a", "count": 1}, type=Row), lambda row: row.pop("count")),
        (KMutex(Job(1)), lambda job: setattr(job, "done", 3)),
    ):
        before = mutex.peek()
        with pytest.raises(TypeError), mutex.lock() as guard:
            break_it(guard.value)
            if how == "commit":
                guard.commit()
            elif how == "drop_safe":
                guard.drop_safe()
            elif how == "inner":
                with mutex.lock() as inner:
                    inner.commit()
        assert mutex.peek() == before
        assert mutex.owner is None


def _ref(mutex: Any) -> SlotRef:
    return SlotRef(mutex.segment, mutex.nonce, mutex.slot_index, mutex.generation)


def test_attached_as_another_t() -> None:
    mutex = KMutex(1)
    assert handles.attach(_ref(mutex), KIND_K) == mutex
    assert handles.attach(_ref(mutex), KIND_K, int) == mutex
    for wrong in (float, str, None, list, Point, int | None):
        with pytest.raises(DowncastError) as caught:
            handles.attach(_ref(mutex), KIND_K, wrong, "n")
        assert caught.value.found == "int"
        assert caught.value.name == "n"
    with pytest.raises(DowncastError) as caught:
        handles.attach(_ref(mutex), KIND_FAST, int, "n")
    assert (caught.value.found, caught.value.wanted) == ("k", "fast")
    anything: Any = FastMutex(1, type=None)
    assert handles.attach(_ref(anything), KIND_FAST, None) == anything
    with pytest.raises(DowncastError):
        handles.attach(_ref(anything), KIND_FAST, int)


def test_attached_without_knowing_t() -> None:
    mutex = KMutex(Point(1, ["a"]))
    other: Any = handles.attach(_ref(mutex), KIND_K)
    assert other.peek() == {"x": 1, "tags": ["a"]}
    with other.lock() as guard:
        assert guard.value["x"] == 1
        with pytest.raises(TypeError, match="Point"):
            guard.value = {"x": 2, "tags": []}
    with pytest.raises(TypeError), other.lock() as guard:
        guard.value["x"] = 2
    assert mutex.peek() == Point(1, ["a"])
    known: Any = handles.attach(_ref(mutex), KIND_K, Point)
    known.replace(Point(3))
    assert mutex.peek() == Point(3)


@pytest.mark.parametrize(
    ("one", "other"),
    [("Optional[int]", "int | None"), ("Union[int, str]", "Union[str, int]"), ("int | str", "Union[str, int]")],
)
def test_union_is_one_t_in_every_process(one: str, other: str) -> None:
    # Equal types must have one tag, whichever form a process happens to use first.
    code = (
        "from typing import *; from wdkmutex_shm.core.types import codec_for; "
        "print(*[codec_for(type=t).tag[:2] for t in ({}, {})])"
    )
    tags = [
        subprocess.run([sys.executable, "-c", code.format(*pair)], capture_output=True, text=True, check=True).stdout
        for pair in ((one, other), (other, one))
    ]
    assert tags[0] == tags[1]
    assert codec_for(type=Optional[int]).tag == codec_for(type=int | None).tag  # noqa: UP045
    assert codec_for(type=Union[int, str]).tag == codec_for(type=Union[str, int]).tag  # noqa: UP007


def test_damaged_bytes_are_said_to_be() -> None:
    for kind, raw in (
        (int, b"\xa1a"), (int, b"\xcf\0"), (float, b"\x01"), (bool, b"\xc0"), (str, b"\xa5a"), (str, b"\xa1\xff"),
        (bytes, b"\xc4\x05a"), (list, b"\x80"), (dict, b"\x90"), (Point, b"\x81\xa1x\xa1a"), (None, b"\xc1"),
        (int, b""), (type(None), b"\xc3"), (None, b"\x01\x01"),
    ):  # fmt: skip
        with pytest.raises(MutexDamaged):
            codec_for(type=kind).decode(raw)
