"""Checked by mypy --strict, never run: what the Grt returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from typing_extensions import assert_type

from wdkmutex_shm import (
    CriticalSection,
    FastMutex,
    Grt,
    Holder,
    KMutex,
    MutexInfo,
    Statistics,
    Waiter,
    anonymous_snapshot,
)


@dataclass
class Point:
    x: int


Grt.init()
Grt.init(instance="web", autostart=False)
assert_type(Grt.instance(), "str | None")
assert_type(Grt.names(), list[str])

assert_type(Grt.get_fast_mutex("n", int), FastMutex[int])
assert_type(Grt.get_fast_mutex("n"), FastMutex[Any])
assert_type(Grt.get_fast_mutex("n", Point), FastMutex[Point])
assert_type(Grt.get_kmutex("n", list[int]), KMutex[list[int]])
assert_type(Grt.get_kmutex("n"), KMutex[Any])
with Grt.get_kmutex("n", Point).lock() as guard:
    assert_type(guard.value, Point)

assert_type(Grt.register_fast_mutex("n", 0), FastMutex[int])
assert_type(Grt.register_fast_mutex_checked("n", 0.5), FastMutex[float])
assert_type(Grt.register_kmutex("n", Point(1)), KMutex[Point])
assert_type(Grt.register_kmutex("n", None), KMutex[Any])
assert_type(Grt.register_kmutex_checked("n", "a", str), KMutex[str])
assert_type(Grt.get_or_register_kmutex("n", {"a": 1}), KMutex[dict[str, int]])
assert_type(Grt.get_or_register_fast_mutex("n", 1), FastMutex[int])

assert_type(Grt.register_critical_section("n"), CriticalSection)
assert_type(Grt.get_critical_section("n"), CriticalSection)
assert_type(Grt.get_or_register_critical_section("n"), CriticalSection)

assert_type(Grt.register_many(FastMutex, {"n": 0}), dict[str, FastMutex[int]])
assert_type(Grt.register_many(KMutex, {"n": Point(1)}, mode="checked"), dict[str, KMutex[Point]])
assert_type(Grt.register_many(FastMutex, {"n": "a"}, type=str), dict[str, FastMutex[str]])
assert_type(Grt.register_many(KMutex, {"n": 1, "m": "a"}, type=None), dict[str, KMutex[Any]])
assert_type(Grt.register_many(CriticalSection, ["n"], mode="get_or_register"), dict[str, CriticalSection])
assert_type(Grt.get_many(FastMutex, ["n"], int), dict[str, FastMutex[int]])
assert_type(Grt.get_many(KMutex, ["n"]), dict[str, KMutex[Any]])
assert_type(Grt.get_many(CriticalSection, ("n",)), dict[str, CriticalSection])

assert_type(Grt.snapshot(), list[MutexInfo])
assert_type(anonymous_snapshot(), list[MutexInfo])
for info in Grt.snapshot():
    assert_type(info.holder, Holder | None)
    assert_type(info.waiters, tuple[Waiter, ...])
    assert_type(info.statistics, Statistics)
    assert_type(info.abandoned_by, int | None)

Grt.get_many(int, ["n"])  # type: ignore[arg-type]
Grt.register_many(FastMutex, {"n": 0}, mode="sometimes")  # type: ignore[call-overload]
Grt.get_fast_mutex(5)  # type: ignore[call-overload]
Grt.register_critical_section("n", 0)  # type: ignore[call-arg]
