"""Checked by mypy --strict, never run: what the types of the mutexes are to whoever uses them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from typing_extensions import assert_type

from wdkmutex_shm import (
    Box,
    CriticalSection,
    DeadlockError,
    DeadlockLink,
    FastMutex,
    Guard,
    Holder,
    Irql,
    KMutex,
    LockTimeout,
    Statistics,
    Waiter,
    current_irql,
    lock_all,
    lock_any,
    raise_irql,
    signal_handler,
)


@dataclass
class Point:
    x: int


k = KMutex(0)
assert_type(k, KMutex[int])
assert_type(KMutex([1]), KMutex[list[int]])
assert_type(KMutex({"a": 1}), KMutex[dict[str, int]])
assert_type(KMutex({}, type=None), KMutex[Any])
assert_type(KMutex(Point(1)), KMutex[Point])
assert_type(FastMutex(Point(1), type=Point), FastMutex[Point])
assert_type(FastMutex(1.5), FastMutex[float])
assert_type(FastMutex("a").peek(), str)
assert_type(FastMutex(None, type=None), FastMutex[Any])

assert_type(k.lock(), Guard[int])
assert_type(k.lock(timeout=1.5), Guard[int])
assert_type(k.try_lock(), "Guard[int] | None")
with k.lock() as guard:
    assert_type(guard, Guard[int])
    assert_type(guard.value, int)
    guard.value += 1
    guard.value = "text"  # type: ignore[assignment]
    assert_type(guard.abandoned, bool)
    assert_type(guard.abandoned_by, "int | None")
    assert_type(guard.commit(), None)
    assert_type(guard.drop_safe(), None)
    assert_type(guard.released, bool)
    assert_type(f"{guard:03d}", str)
after = 1  # reachable: leaving the with swallows nothing

assert_type(k.peek(), int)
assert_type(k.fetch_add(2), int)
assert_type(k.replace(5), int)
k.replace("text")  # type: ignore[arg-type]
assert_type(k.to_owned(), int)
assert_type(k.to_owned_box(), Box[int])
assert_type(k.to_owned_box().value, int)
assert_type(k.to_owned_box().buffer, memoryview)
with k.to_owned_box() as box:
    assert_type(box, Box[int])
assert_type(k.owner, "Holder | None")
assert_type(k.statistics(), Statistics)
assert_type(k.waiters(), tuple[Waiter, ...])
assert_type(k.name, str)
assert_type(k.destroyed, bool)
if (holder := k.owner) is not None:
    assert_type(holder, Holder)
    assert_type(holder.pid, int)
for link in DeadlockError().chain:
    assert_type(link, DeadlockLink)
    assert_type(link.waited, float)
assert_type(LockTimeout().waiters, "int | None")


@signal_handler
def handler(number: int, frame: object) -> str:
    return "handled"


assert_type(handler(1, None), str)

KMutex()  # type: ignore[call-overload]
k.unknown  # type: ignore[attr-defined]

section = CriticalSection()
assert_type(section.acquire(True, 1.0), bool)
assert_type(section.try_enter(), bool)
assert_type(section.enter(timeout=None), None)
with section as entered:
    assert_type(entered, bool)
condition = threading.Condition(section)  # type: ignore[arg-type]

assert_type(current_irql(), int)
with raise_irql(Irql.DISPATCH):
    pass


async def in_an_event_loop() -> None:
    assert_type(await k.lock_async(), Guard[int])
    async with k.lock_async(timeout=1) as inner, section.lock_async() as hold:
        assert_type(inner, Guard[int])
        assert_type(inner.value, int)
        assert_type(hold, Guard[None])


def takes_any(mutex: KMutex[Any]) -> FastMutex[int]:
    return FastMutex(mutex.peek(), type=int)


def waiting(mutex: FastMutex[int], names: KMutex[list[str]], section: CriticalSection) -> None:
    with mutex.lock_when(lambda value: value > 1, timeout=1.0) as guard:
        assert_type(guard, Guard[int])
        guard.wait_for(lambda value: value > 2)
    assert_type(names.wait_for(len), list[str])
    for value in names.changes(timeout=None):
        assert_type(value, list[str])
    with lock_all(mutex, names, timeout=5) as (number, strings):
        assert_type(number, Guard[int])
        assert_type(strings, Guard[list[str]])
    with lock_all(mutex, names, mutex, names, mutex) as (_, second, _, _, fifth):
        assert_type(second, Guard[list[str]])
        assert_type(fifth, Guard[int])
    with lock_all(mutex, section) as guards:
        assert_type(guards, tuple[Any, ...])
    index, _ = lock_any(mutex, section)
    assert_type(index, int)


async def waiting_in_a_loop(mutex: FastMutex[int]) -> None:
    assert_type(await mutex.wait_for_async(bool, timeout=1), int)
    assert_type(await mutex.lock_when_async(bool), Guard[int])
    async with mutex.lock_when_async(lambda value: value > 1, timeout=1) as guard:
        assert_type(guard, Guard[int])
    async for value in mutex.changes():
        assert_type(value, int)
