"""Signal handlers at DISPATCH: a lock in one raises or is had, never waits; the level is always restored."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from kinds import KINDS, acquire, attempt, make
from processes import Child, Line, held_by_child, in_child, wait_for_waiter

from wdkmutex_shm import FastMutex, Irql, IrqlTooHigh, KMutex, current_irql, raise_irql, signal_handler
from wdkmutex_shm.core._core import set_raised_level


@pytest.fixture(autouse=True)
def _as_found() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    yield
    level = current_irql()
    set_raised_level(Irql.PASSIVE)
    for number, handler in before.items():
        signal.signal(number, handler)
    assert level is Irql.PASSIVE


def on(number: int, handler: Callable[..., Any]) -> None:
    signal.signal(number, signal_handler(handler))


def send(number: int = signal.SIGUSR1) -> None:
    """Send this process a signal; its handler has run when this returns."""
    signal.raise_signal(number)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("held", [True, False])
def test_a_blocking_lock_raises_at_once(kind: str, held: bool) -> None:
    mutex = make(kind)
    on(signal.SIGUSR1, lambda number, frame: acquire(mutex))
    hold = acquire(mutex) if held else None
    with pytest.raises(IrqlTooHigh) as caught:
        send()
    assert caught.value.level == Irql.DISPATCH
    assert ("try_enter" if kind == "section" else "try_lock") in str(caught.value)
    if hold is not None:
        hold.release()
    with acquire(mutex):
        pass


@pytest.mark.parametrize("kind", ["k", "section"])
def test_try_lock_works_free_and_held(kind: str) -> None:
    mutex, had = make(kind), []

    def handler(number: int, frame: object) -> None:
        hold = attempt(mutex)
        had.append(hold is not None)
        if hold is not None:
            hold.release()

    on(signal.SIGUSR1, handler)
    send()
    with held_by_child(mutex):
        send()
    with acquire(mutex):
        send()  # an inner hold
    assert had == [True, False, True]


def test_a_fast_mutex_cannot_even_be_tried() -> None:
    mutex = FastMutex(0)
    on(signal.SIGUSR1, lambda number, frame: mutex.try_lock())
    with pytest.raises(IrqlTooHigh):
        send()
    assert mutex.fetch_add(1) == 0


def test_the_level_inside_and_after() -> None:
    seen: list[int] = []
    on(signal.SIGUSR1, lambda number, frame: seen.append(current_irql()))
    send()
    with raise_irql(Irql.APC):
        send()
        assert current_irql() == Irql.APC
    with raise_irql(5):
        send()
        assert current_irql() == 5
    with FastMutex(0).lock():
        send()
        assert current_irql() == Irql.APC
    assert seen == [Irql.DISPATCH, Irql.DISPATCH, 5, Irql.DISPATCH]


def test_the_level_is_restored_after_an_error() -> None:
    def handler(number: int, frame: object) -> None:
        raise TimeoutError("told to")

    on(signal.SIGUSR1, handler)
    for level in (Irql.PASSIVE, Irql.APC):
        with raise_irql(level):
            with pytest.raises(TimeoutError, match="told to"):
                send()
            assert current_irql() == level


def test_handlers_interrupt_each_other() -> None:
    seen: list[int] = []

    def outer(number: int, frame: object) -> None:
        with pytest.raises(ZeroDivisionError):
            send(signal.SIGUSR2)
        seen.append(current_irql())

    def inner(number: int, frame: object) -> None:
        seen.append(current_irql())
        raise ZeroDivisionError

    on(signal.SIGUSR1, outer)
    on(signal.SIGUSR2, inner)
    send()
    assert seen == [Irql.DISPATCH, Irql.DISPATCH]


def test_it_wraps_as_a_decorator_does() -> None:
    @signal_handler
    def handler(number: int, frame: object, *, extra: int = 1) -> tuple[int, int, int]:
        """Says so."""
        return number, extra, current_irql()

    assert handler.__name__ == "handler"
    assert handler.__doc__ == "Says so."
    assert handler(10, None, extra=2) == (10, 2, Irql.DISPATCH)
    assert current_irql() is Irql.PASSIVE


def test_in_the_midst_of_an_event_loop() -> None:
    mutex, seen = KMutex(0), []

    def handler(number: int, frame: object) -> None:
        guard = mutex.try_lock()
        assert guard is not None
        with guard:
            guard.value += 1
        with pytest.raises(IrqlTooHigh):
            mutex.lock()
        seen.append(current_irql())

    async def main() -> None:
        on(signal.SIGUSR1, handler)
        for _ in range(3):
            send()
            await asyncio.sleep(0)
            assert current_irql() == Irql.DISPATCH
        asyncio.get_running_loop().call_soon(send)
        await asyncio.sleep(0)

    asyncio.run(main())
    assert seen == [Irql.DISPATCH] * 4
    assert mutex.peek() == 4


def _waits(line: Line, mutex: Any) -> None:
    seen: list[int] = []
    other = KMutex(0)

    def handler(number: int, frame: object) -> None:
        seen.append(current_irql())
        other.lock()

    on(signal.SIGUSR1, handler)
    line.say("waiting")
    try:
        acquire(mutex)
    except IrqlTooHigh:
        line.say((seen, current_irql()))
    with acquire(mutex):
        line.say("had")


@pytest.mark.parametrize("kind", KINDS)
def test_a_handler_that_interrupts_a_wait(kind: str) -> None:
    mutex = make(kind)
    hold = acquire(mutex)
    with Child(_waits, mutex) as child:
        child.hear()
        wait_for_waiter(mutex)
        child.signal(signal.SIGUSR1)
        assert child.hear() == ([Irql.DISPATCH], Irql.PASSIVE)
        wait_for_waiter(mutex)
        hold.release()
        assert child.hear() == "had"


def _forks(line: Line) -> None:
    def handler(number: int, frame: object) -> None:
        if os.fork() == 0:
            line.say(("child", current_irql()))

    on(signal.SIGUSR1, handler)
    parent = os.getpid()
    send()
    if os.getpid() != parent:
        line.say(("child after", current_irql()))
        os._exit(0)
    os.wait()
    line.say(("parent after", current_irql()))


def test_a_handler_that_forks() -> None:
    with Child(_forks) as child:
        said = {child.hear() for _ in range(3)}
    assert said == {("child", Irql.DISPATCH), ("child after", Irql.PASSIVE), ("parent after", Irql.PASSIVE)}


def _storm() -> tuple[int, int]:
    """Signals at any bytecode of a wrapped handler, whose own handlers raise: the level survives all of them."""
    ended, raised = 0, 0

    def slow(number: int, frame: object) -> None:
        for _ in range(50):
            current_irql()

    def alarm(number: int, frame: FrameType | None) -> None:
        while frame is not None:
            if frame.f_code.co_name == "at_dispatch":
                raise LookupError
            frame = frame.f_back

    on(signal.SIGUSR1, slow)
    signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.00007)
    for _ in range(20_000):
        try:
            signal.raise_signal(signal.SIGUSR1)
            ended += 1
        except LookupError:
            raised += 1
        assert current_irql() is Irql.PASSIVE
    signal.setitimer(signal.ITIMER_REAL, 0)
    return ended, raised


def test_the_level_survives_handlers_that_raise_in_handlers() -> None:
    ended, raised = in_child(_storm)
    assert ended + raised == 20_000
    assert raised > 100
