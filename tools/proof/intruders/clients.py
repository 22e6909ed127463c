"""Clients of damaged mutexes: each operation ends in a value of the right type or in an error of ours, in time."""

from __future__ import annotations

import dataclasses
import functools
import os
import random
import resource
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from wdkmutex_shm import FastMutex, Grt, KMutex
from wdkmutex_shm.errors import LockTimeout, MutexDamaged, MutexDestroyed, WdkMutexError
from wdkmutex_shm.grt import session

from . import multi

__all__ = ["Client", "Point", "SPECS", "Spec", "register_all", "work"]

#: Seconds that a lock may be waited for, and seconds after which an operation hangs.
TIMEOUT = 0.3
HANG = 15.0
#: What a client may grow by, in address space: any T here is far smaller.
MEMORY = 1 << 30
_RARELY = 0.1


@dataclasses.dataclass
class Point:
    """A T that is checked by msgspec."""

    x: int
    label: str
    more: list[float]


class Spec(NamedTuple):
    """Attributes:
    name, kind: of the mutex; a kind is ``fast``, ``k`` or ``section``.
    type: T, None for any.
    make: makes a value.
    """

    name: str
    kind: str
    type: Any
    make: Callable[[random.Random], Any]


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


def _register(spec: Spec, source: random.Random) -> None:
    if spec.kind == "section":
        Grt.register_critical_section(spec.name)
    elif spec.kind == "fast":
        Grt.register_fast_mutex(spec.name, spec.make(source), spec.type)
    else:
        Grt.register_kmutex(spec.name, spec.make(source), spec.type)


def _get(spec: Spec) -> Any:
    if spec.kind == "section":
        return Grt.get_critical_section(spec.name)
    return (Grt.get_fast_mutex if spec.kind == "fast" else Grt.get_kmutex)(spec.name, spec.type)


def register_all(source: random.Random) -> None:
    """Register every mutex of :data:`SPECS` in the attached instance."""
    for spec in SPECS:
        _register(spec, source)


class Client:
    """One process that works on damaged mutexes."""

    specs = SPECS

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.handles: dict[str, Any] = {}

    def right(self, spec: Spec, value: Any) -> None:
        """Complain about a value that is no T."""
        assert spec.type is None or type(value) is spec.type, f"T of {spec.name!r} is of {type(value)}"
        self.counts["values"] += 1

    def handle(self, spec: Spec) -> Any:
        """The handle that this process has; now and then a new one, or that of an anonymous mutex."""
        known = self.handles.get(spec.name)
        if known is None or self.random.random() < 0.02:
            if spec.kind != "section" and self.random.random() < 0.3:
                cls = FastMutex if spec.kind == "fast" else KMutex
                known = cls(spec.make(self.random), type=spec.type)
            else:
                known = _get(spec)
            self.handles[spec.name] = known
        return known

    def step(self) -> None:
        """One operation on one mutex."""
        spec = self.random.choice(SPECS)
        operations = [self.look, self.name_it]
        operations += [self.enter] if spec.kind == "section" else [self.hold, self.hold, self.peek, self.change]
        if self.random.random() < 0.4:
            several = [multi.hold_several, multi.hold_several, multi.hold_any]
            if spec.kind != "section":
                several.append(multi.await_value)
            if self.random.random() < _RARELY:
                several = [multi.run_tasks, multi.die]
            operations = [functools.partial(each, self) for each in several]
        operation = self.random.choice(operations)
        begun = time.monotonic()
        try:
            operation(spec)
        except LockTimeout:
            self.counts["timeouts"] += 1
        except (MutexDamaged, MutexDestroyed) as error:
            self.counts[type(error).__name__] += 1
            self.mend(spec, isinstance(error, MutexDestroyed))
        except WdkMutexError as error:
            self.counts[type(error).__name__] += 1
            self.handles.pop(spec.name, None)
        except OverflowError:
            assert spec.type is int, spec  # a sum beyond 64 bits, as documented
        took = time.monotonic() - begun
        assert took < HANG, f"{operation} on {spec.name!r} took {took:.1f} s"
        self.counts["operations"] += 1

    def mend(self, spec: Spec, gone: bool) -> None:
        """What the messages say: register it again, or set it with replace()."""
        try:
            if gone or spec.kind == "section" or self.random.random() < 0.5:
                self.handles.pop(spec.name, None)
                _register(spec, self.random)
            else:
                self.handle(spec).replace(spec.make(self.random), timeout=TIMEOUT)
        except WdkMutexError as error:
            self.counts[f"mending: {type(error).__name__}"] += 1

    def enter(self, spec: Spec) -> None:
        section = self.handle(spec)
        section.enter(TIMEOUT)
        try:
            assert section.locked() in (True, False)
        finally:
            section.leave()

    def hold(self, spec: Spec) -> None:
        mutex = self.handle(spec)
        with mutex.lock(timeout=TIMEOUT) as guard:
            self.right(spec, guard.value)
            if self.random.random() < 0.5:
                guard.value = spec.make(self.random)
            if spec.kind == "k":
                with mutex.lock(timeout=TIMEOUT) as inner:
                    self.right(spec, inner.value)
            if self.random.random() < 0.2:
                guard.commit()
            elif self.random.random() < 0.2:
                guard.rollback()

    def peek(self, spec: Spec) -> None:
        self.right(spec, self.handle(spec).peek())

    def change(self, spec: Spec) -> None:
        mutex = self.handle(spec)
        choice = self.random.randrange(4)
        if choice == 0 and spec.type in (int, float):
            self.right(spec, mutex.fetch_add(1, timeout=TIMEOUT))
        elif choice == 1:
            guard = mutex.try_lock()
            if guard is not None:
                with guard:
                    self.right(spec, guard.value)
        elif choice == 2 and mutex.name == "":
            del self.handles[spec.name]
            with mutex.to_owned_box() as box:
                self.right(spec, box.value)
        else:
            old = mutex.replace(spec.make(self.random), timeout=TIMEOUT)
            if old is not None:  # as one that could not be read
                self.right(spec, old)

    def look(self, spec: Spec) -> None:
        """What never waits in any state."""
        mutex = self.handle(spec)
        assert repr(mutex)
        assert mutex.statistics().value_bytes >= 0
        owner = mutex.owner
        assert owner is None or owner.held_for >= 0

    def name_it(self, spec: Spec) -> None:
        """What asks the daemon."""
        choice = self.random.randrange(3)
        if choice == 0:
            assert isinstance(Grt.names(), list)
        elif choice == 1:
            assert isinstance(session.current().collect("list", "mutexes"), list)
        else:
            self.handles[spec.name] = _get(spec)


def work(seed: int, seconds: float) -> dict[str, int]:
    """Work for so long in the attached instance, and return what happened how often.

    Raises:
        AssertionError, and whatever is no error of ours: the promise is broken.
    """
    client = Client(seed)
    with open("/proc/self/statm") as file:
        space = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (space + MEMORY, space + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    until = time.monotonic() + seconds
    while time.monotonic() < until and os.getppid() != 1:
        client.step()
    return dict(client.counts)
