"""T of the types that people have: numpy's scalars, Python's containers and paths, models, and types of their own."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import Path, PosixPath
from typing import Any

import pytest
from processes import in_child

from wdkmutex_shm import DowncastError, FastMutex, KMutex, MutexDamaged, register_type
from wdkmutex_shm.base.names import KIND_FAST
from wdkmutex_shm.base.records import SlotRef
from wdkmutex_shm.core.types import codec_for
from wdkmutex_shm.objects import handles

numpy = pytest.importorskip("numpy")

CONTAINERS: list[Any] = [
    set(), {1, "a", None, 2.5, b"x"}, frozenset({1, 2}), (), (1, "a"), deque(), deque([1, 2], maxlen=2),
    defaultdict(int, a=1), defaultdict(list, {1: [2]}), defaultdict(None, {}), Counter("abca"),
    OrderedDict([("b", 1), ("a", 2)]), bytearray(b"a\0"), Path("/tmp/ä"), Path("."), Path("\udcff"),
]  # fmt: skip


def _attached(mutex: Any, *wanted: Any) -> Any:
    return handles.attach(SlotRef(mutex.segment, mutex.nonce, mutex.slot_index, mutex.generation), KIND_FAST, *wanted)


@pytest.mark.parametrize("value", CONTAINERS, ids=lambda value: f"{value!r:.40}")
def test_containers_come_back(value: Any) -> None:
    mutex = FastMutex(value)
    for back in (mutex.peek(), mutex.lock().value, in_child(mutex.peek), _attached(mutex, type(value)).peek()):
        assert back == value
        assert type(back) is type(value)
    assert getattr(mutex.peek(), "maxlen", None) == getattr(value, "maxlen", None)
    assert getattr(mutex.peek(), "default_factory", None) == getattr(value, "default_factory", None)
    assert _attached(mutex).peek() == value, "the slot alone says what T is"
    with pytest.raises(DowncastError):
        _attached(mutex, int)
    with pytest.raises(TypeError):
        mutex.replace([1])  # type: ignore[arg-type]
    assert list(mutex.peek()) == list(value) if isinstance(value, OrderedDict) else mutex.peek() == value


@pytest.mark.parametrize("value", CONTAINERS, ids=lambda value: f"{value!r:.40}")
def test_reading_is_no_change(value: Any) -> None:
    mutex = FastMutex(value)
    with mutex.lock() as guard:
        assert guard.value == value
    assert mutex.statistics().commits == 0


def test_containers_are_changed_in_place() -> None:
    names, recent, hits = FastMutex({"a"}), FastMutex(deque([1, 2], maxlen=2)), FastMutex(Counter(a=1))
    with names.lock() as one, recent.lock() as two, hits.lock() as three:
        one.value.add("b")
        two.value.append(3)
        three.value["b"] += 1
    assert (names.peek(), recent.peek(), hits.peek()) == ({"a", "b"}, deque([2, 3], maxlen=2), Counter(a=1, b=1))
    with pytest.raises(RuntimeError), names.lock() as one:
        one.value.clear()
        raise RuntimeError
    assert names.peek() == {"a", "b"}


def test_a_set_reads_the_same_after_any_history() -> None:
    mutex = FastMutex(set(range(1000)))
    with mutex.lock() as guard:
        guard.value -= set(range(8, 1000))
        guard.value |= {10**6, 9}
    commits = mutex.statistics().commits
    with mutex.lock() as guard:
        assert guard.value == {0, 1, 2, 3, 4, 5, 6, 7, 9, 10**6}
    assert mutex.statistics().commits == commits


def test_paths_are_of_one_type() -> None:
    mutex = FastMutex(Path("/a"), type=Path)
    assert mutex.peek() == PosixPath("/a")
    mutex.replace(Path("/b"))
    assert _attached(mutex, Path).peek() == Path("/b")
    with pytest.raises(TypeError):
        mutex.replace("/b")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [{(1, 2)}, defaultdict(lambda: 0), deque([{1}]), {frozenset()}], ids=repr)
def test_containers_that_cannot_be_kept(value: Any) -> None:
    with pytest.raises(TypeError):
        FastMutex(value)


@pytest.mark.parametrize(
    ("kind", "raw"),
    [(set, b"\x01"), (deque, b"\x80"), (Counter, b"\x90"), (defaultdict, b"\x90"), (defaultdict, b"\x92\xa1x\x80"),
     (Path, b"\xa1a"), (bytearray, b"\xc0"), (tuple, b"\x01")],
)  # fmt: skip
def test_damaged_bytes_are_said_to_be(kind: Any, raw: bytes) -> None:
    with pytest.raises(MutexDamaged):
        codec_for(type=kind).decode(raw)


@pytest.mark.parametrize("scalar", ["int8", "int64", "uint64", "intc"])
def test_numpy_integers_where_t_is_int(scalar: str) -> None:
    number = getattr(numpy, scalar)(7)
    for mutex in (FastMutex(0), FastMutex(number), KMutex(0)):
        with mutex.lock() as guard:
            guard.value = number
            assert type(guard.value) is int
        mutex.replace(number)
        assert mutex.fetch_add(number) == 7
        assert (mutex.peek(), type(mutex.peek())) == (14, int)


@pytest.mark.parametrize("number", [1, numpy.float64(1), numpy.float32(1), numpy.int16(1)], ids=repr)
def test_what_equals_a_float_where_t_is_float(number: Any) -> None:
    for mutex in (FastMutex(0.0), KMutex(0.0)):
        with mutex.lock() as guard:
            guard.value = number
            assert type(guard.value) is float
        assert mutex.fetch_add(number) == 1.0
        assert mutex.replace(number) == 2.0
        assert type(mutex.peek()) is float


def test_numpy_bools_and_strings() -> None:
    flag, text = FastMutex(False), FastMutex("")
    flag.replace(numpy.bool_(True))
    text.replace(numpy.str_("a"))
    assert flag.peek() is True
    assert (text.peek(), type(text.peek())) == ("a", str)
    assert FastMutex(numpy.float64(1.5)).peek() == 1.5


@pytest.mark.parametrize(
    ("first", "refused"), [(0, 1.5), (0, numpy.float64(1)), (0, True), (False, 1), (0.0, True), ("", 1)]
)
def test_what_does_not_equal_a_t_is_still_refused(first: Any, refused: Any) -> None:
    mutex = FastMutex(first)
    with pytest.raises(TypeError):
        mutex.replace(refused)
    assert mutex.statistics().commits == 0


def test_numpy_scalars_in_containers() -> None:
    mutex: FastMutex[Any] = FastMutex({"a": [numpy.int64(1), numpy.float32(0.5)], numpy.int32(5): numpy.bool_(True)})
    assert mutex.peek() == {"a": [1, 0.5], 5: True}
    with mutex.lock() as guard:
        guard.value["a"].append(numpy.float64(2.5))
    assert mutex.peek()["a"] == [1, 0.5, 2.5]
    anything: FastMutex[Any] = FastMutex(None, type=None)
    anything.replace(numpy.uint8(3))
    assert anything.peek() == 3


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"jobs": [1, {"when": {1}}]}, r"T\['jobs'\]\[1\]\['when'\] is of type set"),
        ([(1, 2)], r"T\[0\] is of type tuple.*type=list\[tuple"),
        ([[numpy.zeros(3)]], r"T\[0\]\[0\] is of type numpy.ndarray.*tolist"),
        ({(1, 2): 3}, r"the key \(1, 2\) of T is of type tuple"),
        ([OrderedDict()], r"T\[0\] is of type collections.OrderedDict.*base class"),
        ([object()], r"T\[0\] is of type object.*register_type"),
    ],
    ids=lambda value: None if isinstance(value, str) else repr(value)[:30],
)
def test_what_is_refused_says_which_and_where(value: Any, says: str) -> None:
    mutex: FastMutex[Any] = FastMutex([], type=None)
    for refuse in (lambda: FastMutex(value), lambda: mutex.replace(value)):
        with pytest.raises(TypeError, match=says):
            refuse()
    with pytest.raises(TypeError, match=says), mutex.lock() as guard:
        guard.value = value
    assert mutex.peek() == []
    assert mutex.owner is None


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1])
def test_an_int_beyond_64_bits_says_the_limit(number: int) -> None:
    for value in (number, [number], {"a": {"b": number}}):
        with pytest.raises(OverflowError, match=r"2\*\*64 - 1"):
            FastMutex(value)
    with pytest.raises(OverflowError, match=r"T\['a'\]\['b'\] is an int beyond 64 bits"):
        FastMutex({"a": {"b": number}})


class Money:
    def __init__(self, cents: int, currency: str) -> None:
        self.cents, self.currency = cents, currency

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and (self.cents, self.currency) == (other.cents, other.currency)

    def __hash__(self) -> int:
        return hash((self.cents, self.currency))


register_type(Money, lambda money: [money.cents, money.currency], lambda plain: Money(*plain))


def test_a_registered_type_is_t() -> None:
    mutex = FastMutex(Money(5, "EUR"))
    with mutex.lock() as guard:
        guard.value.cents += 1
    assert mutex.peek() == Money(6, "EUR")
    assert in_child(mutex.peek) == Money(6, "EUR")
    assert _attached(mutex, Money).peek() == Money(6, "EUR")
    assert _attached(mutex).peek() == [6, "EUR"], "who does not say T sees what was written"
    with pytest.raises(TypeError):
        mutex.replace(5)  # type: ignore[arg-type]


def test_what_a_decoder_raises_is_raised() -> None:
    class Broken: ...

    def decode(plain: Any) -> Broken:
        raise ZeroDivisionError(plain)

    register_type(Broken, lambda _: 1, decode)
    mutex = FastMutex(Broken())
    with pytest.raises(ZeroDivisionError):
        mutex.peek()
    with mutex.lock() as guard, pytest.raises(ZeroDivisionError):
        _ = guard.value
    assert mutex.owner is None


@pytest.mark.parametrize("cls", [int, dict, "Money", None])
def test_register_type_refuses(cls: Any) -> None:
    with pytest.raises(TypeError):
        register_type(cls, lambda value: value, lambda plain: plain)


def test_pydantic_models() -> None:
    pydantic = pytest.importorskip("pydantic")
    Order = pydantic.create_model("Order", id=(int, ...), tags=(list[str], []), when=("datetime.datetime | None", None))
    Order.model_rebuild(_types_namespace={"datetime": __import__("datetime")})
    mutex = FastMutex(Order(id=1))
    with mutex.lock() as guard:
        guard.value.tags.append("new")
    assert mutex.peek() == Order(id=1, tags=["new"])
    assert type(mutex.peek()) is Order


def test_attrs_classes() -> None:
    attrs = pytest.importorskip("attrs")
    Point = attrs.make_class("Point", {"x": attrs.field(type=int), "y": attrs.field(type=int, default=0)})
    mutex = FastMutex(Point(1))
    with mutex.lock() as guard:
        guard.value.y = 5
    assert mutex.peek() == Point(1, 5)


def test_pathlib_is_only_imported_for_paths() -> None:
    code = (
        "import sys; before = 'pathlib' in sys.modules; import wdkmutex_shm; wdkmutex_shm.FastMutex({1}); "
        "sys.exit('pathlib' in sys.modules and not before)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
