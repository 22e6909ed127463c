"""Ctrl-C at every bytecode of an operation, one after the other."""

from __future__ import annotations

import ctypes
import functools
import itertools
import signal
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from wdkmutex_shm import CriticalSection, FastMutex, Grt, KMutex
from wdkmutex_shm.errors import GrtIsEmpty, KeyNotFound
from wdkmutex_shm.memory import shm
from wdkmutex_shm.pool import private

from ..base.compiling import compiled
from ..base.harness import Proof, descriptors

__all__ = ["CASES", "Case", "Interrupter", "at_random_times"]

_PATIENCE = 1.0
_SMALL, _LARGE, _HUGE = b"o" * 20, b"n" * 300, b"h" * 30000


class Case(NamedTuple):
    """An operation that is interrupted.

    Attributes:
        name: of it.
        make: makes what it is done to.
        act: does it.
        settled: what is wrong afterwards, given what ``make`` made and whether ``act`` was done; None if all is well.
        end: gives everything back.
    """

    name: str
    make: Callable[[], Any]
    act: Callable[[Any], object]
    settled: Callable[[Any, bool], str | None]
    end: Callable[[Any], object]


# --- a mutex and its T


class _Mutex:
    """A mutex with its old and new T; it is locked by nobody when nothing happens."""

    def __init__(self, kind: Any, old: Any, new: Any) -> None:
        self.mutex = kind(old)
        self.old = old
        self.new = new

    def settled(self, done: bool) -> str | None:
        """Committed or rolled back, and never stuck."""
        mutex = self.mutex
        if mutex.owner is not None:
            return f"the lock is held: {mutex!r}"
        with mutex.lock(timeout=_PATIENCE) as guard:
            found = guard.value
        allowed = (self.new,) if done else (self.old, self.new)
        if found not in allowed:
            return f"T is {found!r}, done: {done}"
        if mutex.peek() != found:
            return f"peek() says {mutex.peek()!r} and value {found!r}"
        return None

    def end(self) -> None:
        """Take T out: forks of this process may have marked the mutex as shared."""
        self.mutex.to_owned()


class _Consumed(_Mutex):
    def settled(self, done: bool) -> str | None:
        if self.mutex.destroyed:
            return None
        return "it is not consumed" if done else super().settled(False)

    def end(self) -> None:
        if self.mutex.destroyed:
            self.mutex._collect()
        else:
            super().end()


def _plus_one(case: _Mutex) -> None:
    with case.mutex.lock() as guard:
        guard.value += 1


def _nested(case: _Mutex) -> None:
    with case.mutex.lock() as outer:
        outer.value += 1
        with case.mutex.lock() as inner:
            inner.value += 1


def _timed(case: _Mutex) -> None:
    with case.mutex.lock(timeout=5) as guard:
        guard.value += 1
        guard.commit()


def _dropped(case: _Mutex) -> None:
    guard = case.mutex.lock()
    guard.value += 1
    guard.drop_safe()


def _set(case: _Mutex) -> None:
    with case.mutex.lock() as guard:
        guard.value = case.new


def _in_place(case: _Mutex) -> None:
    with case.mutex.lock() as guard:
        for number in range(3):
            guard.value.append(number)


def _mutex_case(
    name: str, kind: Any, old: Any, new: Any, act: Callable[[Any], object], cls: type[_Mutex] = _Mutex
) -> Case:
    return Case(name, lambda: cls(kind, old, new), act, lambda case, done: case.settled(done), lambda case: case.end())


# --- a section


def _enter_and_leave(section: CriticalSection) -> None:
    with section, section:
        pass


def _section_settled(section: CriticalSection, done: bool) -> str | None:
    return "the section is not left" if section.locked() else None


def _section_end(section: CriticalSection) -> None:
    section._vacate()
    section._collect()


# --- what is made, and what is registered


def _made(holder: list[Any]) -> None:
    holder.append(KMutex(_LARGE))


def _made_settled(holder: list[Any], done: bool) -> str | None:
    return None if holder or not done else "nothing was made"


def _made_end(holder: list[Any]) -> None:
    for mutex in holder:
        mutex.to_owned()


_names = itertools.count(1)


def _register(name: str) -> None:
    Grt.register_fast_mutex(name, 1)


def _register_large(name: str) -> None:
    Grt.register_fast_mutex(name, _LARGE)


def _registered(name: str, done: bool) -> str | None:
    """It is there or not, and this process's connection is as good as ever."""
    try:
        mutex = Grt.get_fast_mutex(name)
    except (KeyNotFound, GrtIsEmpty):
        return "it is not registered" if done else None
    with mutex.lock(timeout=_PATIENCE) as guard:
        return None if guard.value in (1, _LARGE) else f"T is {guard.value!r}"


def _unregistered_at_last(name: str) -> None:
    if name in Grt.names():
        Grt.unregister(name)


CASES = (
    _mutex_case("fast", FastMutex, 0, 1, _plus_one),
    _mutex_case("k", KMutex, 0, 1, _plus_one),
    _mutex_case("k-nested", KMutex, 0, 2, _nested),
    _mutex_case("commit-while-held", FastMutex, 0, 1, _timed),
    _mutex_case("drop-safe", KMutex, 0, 1, _dropped),
    _mutex_case("in-place", KMutex, [], [0, 1, 2], _in_place),
    _mutex_case("grow", FastMutex, _SMALL, _LARGE, _set),
    _mutex_case("grow-again", KMutex, _LARGE, _HUGE, _set),
    _mutex_case("shrink", FastMutex, _HUGE, _SMALL, _set),
    _mutex_case("fetch-add", FastMutex, 0, 1, lambda case: case.mutex.fetch_add(1)),
    _mutex_case("replace", KMutex, _SMALL, _LARGE, lambda case: case.mutex.replace(case.new)),
    _mutex_case("to-owned", FastMutex, _LARGE, _LARGE, lambda case: case.mutex.to_owned(), _Consumed),
    Case("section", CriticalSection, _enter_and_leave, _section_settled, _section_end),
    Case("make", list, _made, _made_settled, _made_end),
    Case("register", lambda: f"n{next(_names)}", _register, _registered, _unregistered_at_last),
    Case("register-large", lambda: f"n{next(_names)}", _register_large, _registered, _unregistered_at_last),
)


class Interrupter:
    """Lets a Ctrl-C arrive at a certain bytecode of an operation.

    Args:
        proof: who is told of broken promises.

    Raises:
        CannotCompileError: interrupter.c cannot be compiled.
    """

    def __init__(self, proof: Proof) -> None:
        self._proof = proof
        self._library = ctypes.PyDLL(compiled("interrupter", proof.folder))
        self._library.wdkm_interrupt_at.argtypes = (ctypes.c_longlong,)
        self._library.wdkm_left.restype = ctypes.c_longlong
        FastMutex(0).to_owned()  # so that this process has its own pool already

    def at_every_bytecode(self, case: Case) -> Iterator[int]:
        """Interrupt an operation at its first bytecode, its second, and so on to its last; yields each number."""
        _run(self._proof, case, "nowhere", lambda act: (act(), True)[1])  # what is done at first use is done
        for number in itertools.count(1):
            if self._reaches_its_end(case, number):
                self._proof.counts[f"{case.name}: bytecodes"] = number - 1
                self._proof.expect(number > 1, "bytecodes can be counted with this Python", case=case.name)
                return
            yield number

    def _reaches_its_end(self, case: Case, number: int) -> bool:
        left = 0

        def interrupted(act: Callable[[], object]) -> bool:
            nonlocal left
            self._library.wdkm_interrupt_at(number)
            try:
                act()
            finally:
                left = self._library.wdkm_left()
            return True

        _run(self._proof, case, f"bytecode {number}", interrupted)
        return left > 0


def at_random_times(proof: Proof, case: Case) -> None:
    """Interrupt an operation by a timer's signal."""
    microseconds = proof.random.uniform(1, 300)
    _run(proof, case, f"{microseconds:.0f} us", lambda act: _alarmed(act, microseconds * 1e-6))


def _run(proof: Proof, case: Case, where: str, interrupt: Callable[[Callable[[], object]], bool]) -> bool:
    """Returns whether the operation came to its end."""
    opened, before = descriptors(), set(shm.listing(private.the_pool().prefix + ".d"))
    subject = case.make()
    done = False
    try:
        done = interrupt(functools.partial(case.act, subject))
    except KeyboardInterrupt:
        proof.counts["interrupted"] += 1
    try:
        wrong = case.settled(subject, done)
        case.end(subject)
    except Exception as error:
        wrong = repr(error)
    promise = "Ctrl-C leaves it done or not done, and never stuck"
    proof.expect(wrong is None, promise, case=case.name, where=where, wrong=wrong)
    del subject
    left = set(shm.listing(private.the_pool().prefix + ".d")) - before
    if case.name == "make":  # what was made and had no name yet stays until its maker ends, as it would in any program
        proof.counts["mutexes lost in the making"] += len(left)
    else:
        proof.expect(not left, "Ctrl-C leaves no data segment", case=case.name, where=where, left=left)
    # A number that a call has returned and that nobody has yet. Told, but not promised otherwise.
    proof.counts["descriptors lost"] += max(0, descriptors() - opened)
    proof.counts["interrupts"] += 1
    return done


def _alarmed(act: Callable[[], object], seconds: float) -> bool:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        act()
        signal.setitimer(signal.ITIMER_REAL, 0)
        return True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
