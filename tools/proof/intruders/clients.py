"""Clients of damaged mutexes: each operation ends in a value of the right type or in an error of ours, in time."""

from __future__ import annotations

import dataclasses
import functools
import os
import random
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from wdkmutex_shm import FastMutex, Grt, KMutex, lock_all, lock_any
from wdkmutex_shm.errors import LockTimeout, MutexDamaged, MutexDestroyed, WdkMutexError
from wdkmutex_shm.grt import session

from ..base.children import die, fork, space_of
from ..operations.actor import ALL_KINDS, T_KINDS, Actor, Entered, Operation, nothing, one, some, unchecked
from ..operations.catalogue import OPERATIONS

#: Seconds that a lock may be waited for, and seconds after which an operation hangs.
TIMEOUT = 0.3
HANG = 15.0
#: What a client may grow by, in address space: any T here is far smaller.
MEMORY = 1 << 30
_DYING = 5  # seconds in which a child that dies locks what it is to hold


@dataclasses.dataclass
class Point:
    """A T that is checked by msgspec."""

    x: int
    label: str
    more: list[float]


class Spec(NamedTuple):
    """A mutex.

    Attributes:
        name, kind: of it; a kind is ``fast``, ``k`` or ``section``.
        type: T, None for any.
        make: makes a value.
    """

    name: str
    kind: str
    type: Any
    make: Callable[[random.Random], Any]

    def register(self, source: random.Random) -> None:
        """Register it again."""
        if self.kind == "section":
            Grt.register_critical_section(self.name)
        else:
            register: Any = Grt.register_fast_mutex if self.kind == "fast" else Grt.register_kmutex
            register(self.name, self.make(source), self.type)

    def get(self) -> Any:
        """The registered one."""
        if self.kind == "section":
            return Grt.get_critical_section(self.name)
        return (Grt.get_fast_mutex if self.kind == "fast" else Grt.get_kmutex)(self.name, self.type)


def _dict(source: random.Random, size: int) -> dict[str, Any]:
    return {str(number): [number, "x" * 50, b"y" * 20, None] for number in range(source.randrange(size) + 1)}


SPECS = [
    Spec("int", "fast", int, lambda source: source.getrandbits(40)),
    Spec("float", "k", float, lambda source: source.random()),
    Spec("bool", "fast", bool, lambda source: source.random() < 0.5),
    Spec("str", "k", str, lambda source: "\u00fcber" * source.choice([1, 3, 50, 5000])),
    Spec("bytes", "fast", bytes, lambda source: b"z" * source.choice([0, 70, 71, 5000, 100_000, 2_000_000])),
    Spec("dict", "fast", dict, lambda source: _dict(source, 60)),
    Spec("more", "k", dict, lambda source: _dict(source, 2000)),
    Spec("list", "k", list, lambda source: list(range(source.choice([3, 300, 30_000])))),
    Spec("any", "fast", None, lambda source: source.choice([1, "two", [3.0], {"four": None}, b"5" * 500])),
    Spec("point", "k", Point, lambda source: Point(source.randrange(99), "p" * source.randrange(200), [1.5])),
    Spec("section", "section", None, lambda source: None),
]


class Client(Actor):
    """One process that works on damaged mutexes: an actor whose places are specs."""

    timeout = TIMEOUT

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self._handles: dict[str, Any] = {}
        self._chosen: tuple[Spec, ...] = ()

    def step(self) -> None:
        """One operation."""
        self._chosen = tuple[Spec, ...]()
        operation = self.chance.choices(*zip(*_TABLE, strict=True))[0]
        begun = time.monotonic()
        try:
            operation.run(self)
        except LockTimeout:
            self.counts["timeouts"] += 1
        except WdkMutexError as error:
            self.counts[type(error).__name__] += 1
            self._mend(error)
        except OverflowError:
            assert any(spec.type is int for spec in self._chosen), self._chosen  # a sum beyond 64 bits, as documented
        took = time.monotonic() - begun
        assert took < HANG, f"{operation.name} on {[spec.name for spec in self._chosen]} took {took:.1f} s"
        self.counts["operations"] += 1

    def _mend(self, error: WdkMutexError) -> None:
        """What the messages say: register it again, or set it with replace(). Everything else is looked up again."""
        if not self._chosen:
            return
        spec, gone = self._chosen[0], isinstance(error, MutexDestroyed)
        for other in self._chosen[1:]:
            self._handles.pop(other.name, None)
        try:
            if not isinstance(error, (MutexDamaged, MutexDestroyed)):
                self._handles.pop(spec.name, None)
            elif gone or spec.kind == "section" or self.chance.random() < 0.5:
                self._handles.pop(spec.name, None)
                spec.register(self.chance)
            else:
                self._known(spec).replace(spec.make(self.chance), timeout=TIMEOUT)
        except WdkMutexError as other_error:
            self.counts[f"mending: {type(other_error).__name__}"] += 1

    def _known(self, spec: Spec) -> Any:
        """The handle that this process has; now and then a new one, or that of an anonymous mutex."""
        known = self._handles.get(spec.name)
        if known is None or self.chance.random() < 0.02:
            if spec.kind != "section" and self.chance.random() < 0.3:
                cls = FastMutex if spec.kind == "fast" else KMutex
                known = cls(spec.make(self.chance), type=spec.type)
            else:
                known = spec.get()
            self._handles[spec.name] = known
        return known

    # --- the actor

    @property
    def patience(self) -> float:
        return self.chance.choice((0, 0.001, 0.02))

    def choose(self, kinds: tuple[str, ...], least: int = 1, most: int = 1) -> tuple[Spec, ...]:
        specs = [spec for spec in SPECS if spec.kind in kinds]
        self._chosen = tuple(self.chance.sample(specs, self.chance.randint(least, min(most, len(specs)))))
        handles = [self._known(spec) for spec in self._chosen]
        if len({(handle.segment, handle.slot_index) for handle in handles}) < len(handles):
            for spec in self._chosen:  # one of them is gone, and another one has its slot
                self._handles.pop(spec.name, None)
            return ()
        return self._chosen

    def handle(self, at: Spec) -> Any:
        return self._handles[at.name]

    def lock(self, at: Spec) -> Any:
        mutex = self.handle(at)
        return Entered(mutex, TIMEOUT) if at.kind == "section" else mutex.lock(TIMEOUT)

    def lock_all(self, *places: Spec) -> Any:
        return lock_all(*map(self.handle, places), timeout=TIMEOUT)

    def lock_any(self, *places: Spec) -> tuple[int, Any]:
        return lock_any(*map(self.handle, places), timeout=TIMEOUT)

    def inside(self, at: Spec, hold: Any) -> None:
        assert self.handle(at).locked() in (True, False)

    def see(self, at: Spec, value: Any) -> None:
        """Complain about a value that is no T."""
        assert at.type is None or type(value) is at.type, f"T of {at.name!r} is of {type(value)}"
        self.counts["values"] += 1

    def next(self, at: Spec, value: Any) -> Any:
        if value is not None:
            self.see(at, value)
            if self.chance.random() < 0.3:
                return value
        return at.make(self.chance)

    def spoil(self, at: Spec, value: Any) -> Any:
        self.see(at, value)
        return at.make(self.chance)

    def amount(self, at: Spec) -> int:
        return 1

    def news(self, at: Spec) -> Any:
        return functools.partial(self._is_news, at)

    def _is_news(self, at: Spec, value: Any) -> bool:
        self.see(at, value)
        return self.chance.random() < 0.5

    def arrived(self, news: Any, value: Any) -> None:
        self.see(news.args[0], value)

    def follow(self, news: Any, value: Any) -> bool:
        self.see(news.args[0], value)
        return self.chance.random() < 0.5

    def count(self, what: str, number: int = 1) -> None:
        self.counts[what] += number


# --- what only these clients do


def _number(client: Client) -> tuple[Spec, ...]:
    client._chosen = (client.chance.choice([spec for spec in SPECS if spec.type in (int, float)]),)
    client._known(client._chosen[0])
    return client._chosen


def _take_out(client: Client, at: Spec) -> None:
    """The end of an anonymous mutex."""
    mutex = client.handle(at)
    if mutex.name == "":
        del client._handles[at.name]
        with mutex.to_owned_box() as box:
            client.see(at, box.value)


def _ask(client: Client) -> None:
    """What asks the daemon."""
    assert isinstance(Grt.names(), list)
    assert isinstance(session.current().collect("list", "mutexes"), list)


def _die(client: Client, *places: Spec) -> None:
    """A child is killed that holds several: the next one finds what it left, and the notes that the damage forged."""

    def live() -> None:
        signal.alarm(_DYING)
        client.lock_all(*places).commit()
        die()

    os.waitpid(fork(live), 0)
    client.count("deaths")
    OPERATIONS["lock_all"].do(client, *places)


def _tasks(client: Client) -> tuple[Any, ...]:
    chosen = client.choose(ALL_KINDS)
    return (*chosen, None if chosen[0].kind == "section" else chosen[0]) if chosen else ()


def _known(name: str, prepare: Callable[[Any], tuple[Any, ...]] | None = None) -> Operation:
    operation = OPERATIONS[name]
    return operation._replace(prepare=prepare or operation.prepare, check=unchecked)


_TABLE: list[tuple[Operation, float]] = [
    (_known("commit"), 4),
    (_known("commit nested"), 2),
    (_known("commit twice"), 1),
    (_known("commit by dropping the guard"), 1),
    (_known("commit by drop_safe"), 1),
    (_known("exception"), 1),
    (_known("rollback"), 2),
    (_known("try_lock"), 1),
    (_known("peek"), 4),
    (_known("replace"), 2),
    (_known("fetch_add", _number), 1),
    (_known("look"), 3),
    (_known("hold"), 1),
    (_known("hold twice"), 1),
    (_known("lock_all", some(*ALL_KINDS, most=3)), 4),
    (_known("lock_all, committed while held", some(*ALL_KINDS, most=3)), 2),
    (_known("lock_any", some(*ALL_KINDS, most=3)), 3),
    (_known("lock_when"), 1),
    (_known("wait_for"), 1),
    (_known("guard.wait_for"), 1),
    (_known("changes"), 1),
    (_known("tasks of an event loop", _tasks), 0.6),
    (Operation("took out", _take_out, one(*T_KINDS), unchecked), 1),
    (Operation("asked", _ask, nothing, unchecked), 3),
    (Operation("died", _die, some(*ALL_KINDS, most=3), unchecked), 0.6),
]


def register_all(source: random.Random) -> None:
    """Register every mutex of :data:`SPECS` in the attached instance."""
    for spec in SPECS:
        spec.register(source)


def work(seed: int, seconds: float) -> dict[str, int]:
    """Work for so long in the attached instance, and return what happened how often.

    Raises:
        AssertionError, and whatever is no error of ours: the promise is broken.
    """
    client = Client(seed)
    most = space_of() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    until = time.monotonic() + seconds
    while time.monotonic() < until and os.getppid() != 1:
        client.step()
    return dict(client.counts)
