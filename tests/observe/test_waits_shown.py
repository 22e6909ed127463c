"""Whatever a mutex is waited for, and however: others see who does, and since when, until the wait is over."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import threading
from typing import Any

import pytest
from eventloops import BACKENDS, anyio, run
from processes import Child, Line, held_by_child, wait_until

from wdkmutex_shm import CriticalSection, FastMutex, KMutex, LockTimeout, lock_all, lock_any
from wdkmutex_shm.core import _core

LONG = 30.0


@pytest.fixture(params=[KMutex, FastMutex])
def cls(request: pytest.FixtureRequest) -> Any:
    return request.param


def never(_: Any) -> bool:
    return False


def _waits(line: Line, form: str, mutexes: list[Any]) -> None:
    one = mutexes[0]
    line.say()
    try:
        if form == "lock":
            one.lock()
        elif form == "lock_when":
            one.lock_when(never)
        elif form == "wait_for":
            one.wait_for(never)
        elif form == "guard.wait_for":
            with one.lock() as guard:
                guard.wait_for(never)
        elif form == "changes":
            for _ in one.changes():
                pass
        elif form == "lock_any":
            lock_any(*mutexes)
        elif form == "lock_all":
            lock_all(*mutexes)
        else:
            asyncio.run(_waits_in_a_loop(form, one))
    except KeyboardInterrupt:
        line.say()
        line.hear()


async def _waits_in_a_loop(form: str, one: Any) -> None:
    if form == "lock_async":
        await one.lock_async()
    elif form == "wait_for_async":
        await one.wait_for_async(never)
    elif form == "lock_when_async":
        await one.lock_when_async(never)
    else:
        async for _ in one.changes():
            pass


VALUES = ["lock_when", "wait_for", "guard.wait_for", "changes", "wait_for_async", "lock_when_async", "async changes"]
FORMS = {"lock": "lock", "lock_all": "lock", "lock_any": "any", "lock_async": "task", **dict.fromkeys(VALUES, "value")}


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("form", FORMS)
def test_who_waits_is_seen_until_the_end(cls: Any, form: str, end: int) -> None:
    # In the order in which lock_all takes them.
    mutexes = sorted([cls(0), cls(0)], key=lambda mutex: (mutex.segment, mutex.slot_index))
    with contextlib.ExitStack() as stack:
        if form not in VALUES:
            for mutex in mutexes:
                stack.enter_context(held_by_child(mutex))
        child = stack.enter_context(Child(_waits, form, mutexes))
        child.hear()
        (found,) = wait_until(lambda: mutexes[0].waiters(), "the waiter is seen")
        assert (found.pid, found.how) == (child.pid, FORMS[form])
        assert 0.001 <= found.waited < LONG
        assert len(mutexes[1].waiters()) == (1 if form == "lock_any" else 0)
        if end == signal.SIGINT:
            wait_until(lambda: child.signal(end) or not child.silent(0.1), "it is interrupted")
        else:
            child.kill()
        wait_until(lambda: not any(mutex.waiters() for mutex in mutexes), "nobody is left")


def test_a_timeout_tells_how_many_wait(cls: Any) -> None:
    """Of whatever kind; who is told does not count itself."""
    mutexes = [cls(0), cls(0)]
    forms = ["lock", "lock_any", "lock_async", "wait_for"]
    with contextlib.ExitStack() as stack:
        for mutex in mutexes:
            stack.enter_context(held_by_child(mutex))
        for form in forms:
            stack.enter_context(Child(_waits, form, mutexes)).hear()
        wait_until(lambda: len(mutexes[0].waiters()) == len(forms), "all are seen")
        with pytest.raises(LockTimeout) as caught:
            mutexes[0].lock(timeout=0.05)
        assert caught.value.waiters == len(forms)

        async def main() -> int:
            with pytest.raises(LockTimeout) as caught:
                await mutexes[0].lock_async(timeout=0.2)
            return int(caught.value.waiters)

        assert asyncio.run(main()) == len(forms)
        assert len(mutexes[0].waiters()) == len(forms)


@pytest.mark.parametrize("form", ["wait_for", "changes", "lock_when"])
def test_an_error_that_is_kept_keeps_no_waiter(cls: Any, form: str) -> None:
    """The error's traceback has the frames of the wait."""
    mutex = cls(0)
    seen = []

    def looks(_: Any) -> bool:
        seen.append(len(mutex.waiters()))
        return False

    kept = None
    try:
        if form == "wait_for":
            mutex.wait_for(looks, timeout=1.2)
        elif form == "lock_when":
            mutex.lock_when(looks, timeout=1.2)
        else:
            assert list(mutex.changes(timeout=1.2)) == [0]
    except LockTimeout as error:
        kept = error
    assert (kept is None) == (form == "changes")
    assert mutex.waiters() == ()
    assert form == "changes" or 1 in seen


@pytest.mark.parametrize("backend", BACKENDS)
def test_tasks_that_wait(cls: Any, backend: str) -> None:
    """Each is seen, with the thread of its loop; those that are cancelled, served or late are not any more."""
    mutex = cls(0)

    async def shows(how: list[str]) -> None:
        while sorted(waiter.how for waiter in mutex.waiters()) != how:
            await anyio.sleep(0.005)

    async def locks() -> None:
        async with mutex.lock_async():
            pass

    async def main() -> None:
        async with anyio.create_task_group() as group, mutex.lock_async():
            for _ in range(3):
                group.start_soon(locks)
            group.start_soon(mutex.wait_for_async, bool)
            await shows(["task", "task", "task", "value"])
            assert {waiter.tid for waiter in mutex.waiters()} == {threading.get_native_id()}
            with pytest.raises(LockTimeout) as caught:
                await mutex.wait_for_async(never, 0.2)
            assert caught.value is not None
            assert len(mutex.waiters()) == 4
            group.cancel_scope.cancel()
        assert mutex.waiters() == ()
        async with anyio.create_task_group() as group, mutex.lock_async() as guard:
            group.start_soon(locks)
            group.start_soon(mutex.wait_for_async, bool)
            await shows(["task", "value"])
            guard.value = 1
        assert mutex.waiters() == ()

    run(backend, main)


def test_the_board_is_not_for_one_crowd_alone(cls: Any) -> None:
    """A thousand tasks that wait leave room for others."""
    mutex, other = cls(0), cls(0)

    async def main() -> None:
        async with mutex.lock_async():
            tasks = [asyncio.ensure_future(_takes(mutex)) for _ in range(1000)]
            while not mutex.waiters():
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.2)
            assert 1 <= len(mutex.waiters()) <= 64
            assert len(_core.wait_records()) < 200
            child.say("go")
            while not other.waiters():
                await asyncio.sleep(0.005)
        await asyncio.gather(*tasks)

    with held_by_child(other), Child(_waits_when_told, other) as child:
        asyncio.run(main())
    assert mutex.waiters() == ()


async def _takes(mutex: Any) -> None:
    async with mutex.lock_async():
        pass


def _waits_when_told(line: Line, mutex: Any) -> None:
    line.hear()
    mutex.lock()


def test_a_section_that_is_one_of_several() -> None:
    section, mutex = CriticalSection(), KMutex(0)
    with held_by_child(section), held_by_child(mutex), Child(_waits, "lock_any", [section, mutex]) as child:
        child.hear()
        for each in (section, mutex):
            (found,) = wait_until(each.waiters, "it is seen")
            assert (found.pid, found.how) == (child.pid, "any")


def test_a_wait_that_is_dropped_or_forked(cls: Any) -> None:
    mutex = cls(0)
    wait = _core.Wait(_core.WAIT_VALUE)
    wait.show((mutex,))
    wait.show((mutex,))
    (found,) = mutex.waiters()
    assert (found.pid, found.how) == (os.getpid(), "value")
    pid = os.fork()
    if pid == 0:
        wait.show((mutex,))
        wait.end()
        del wait
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert len(mutex.waiters()) == 1
    del wait
    gc.collect()
    assert mutex.waiters() == ()
    wait = _core.Wait(_core.WAIT_VALUE)
    wait.end()
    wait.show((mutex,))
    assert mutex.waiters() == ()


def test_room_on_the_board_is_looked_for_more_and_more_rarely() -> None:
    """Many who wait for the same commits look at every one of them; what each can show must not depend on that."""
    mutex = KMutex(0)
    tickets = []
    while ticket := _core.begin_wait(mutex, _core.WAIT_VALUE, 0):
        tickets.append(ticket)
    try:
        wait = _core.Wait(_core.WAIT_VALUE)
        wait_until(lambda: wait.waited > 0.5, "it waits")
        wait.show((mutex,))
        assert wait.ticket() == 0
        _core.end_wait(tickets.pop())
        wait.show((mutex,))
        assert wait.ticket() == 0 or wait.waited >= 1  # unless this was kept from running
        wait_until(lambda: wait.show((mutex,)) or wait.ticket(), "there is room")
        assert wait.waited >= 1
        wait.end()
    finally:
        for ticket in tickets:
            _core.end_wait(ticket)
    assert not mutex.waiters()
