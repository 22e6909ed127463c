"""lock_async(): what runs in the middle of a task's release, and who leaves an ``async with`` in its stead."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest
from eventloops import BACKENDS, anyio, nothing_left, run, until

from wdkmutex_shm import AlreadyOwned, KMutex, NotOwned
from wdkmutex_shm.memory import data_segments

pytestmark = pytest.mark.parametrize("backend", BACKENDS)


def test_a_lock_asked_for_in_the_middle_of_the_commit(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a signal handler: the guard is as good as released then, but the thread still has the lock."""
    mutex = KMutex(b"", type=bytes)
    refused: list[AlreadyOwned] = []
    real = data_segments.new_id

    def handler() -> int:
        monkeypatch.setattr(data_segments, "new_id", real)
        for call in (mutex.try_lock, lambda: mutex.replace(b"", timeout=0)):
            with pytest.raises(AlreadyOwned) as caught:
                call()
            refused.append(caught.value)
        return real()

    async def main() -> None:
        async with mutex.lock_async() as guard:
            guard.value = b"x" * 5000  # too long for the slot: its place is made by Python code
            monkeypatch.setattr(data_segments, "new_id", handler)

    run(backend, main)
    assert len(refused) == 2
    assert mutex.peek() == b"x" * 5000
    assert nothing_left(mutex)


@pytest.mark.parametrize("inner", [False, True])
def test_an_async_generator_that_is_closed_by_another_task(backend: str, inner: bool) -> None:
    """What was half done is rolled back, although the task that closes it may not release the lock."""
    mutex = KMutex({"a": 0, "b": 0})

    async def halves() -> AsyncIterator[None]:
        async with mutex.lock_async() as guard:
            guard.value["a"] = 1
            if inner:
                async with mutex.lock_async() as again:
                    again.value["b"] = 2
                    yield
            yield
            guard.value["b"] = 1

    async def close(generator: AsyncIterator[None]) -> None:
        with pytest.raises(NotOwned, match="another task"):
            await generator.aclose()  # type: ignore[attr-defined]

    async def main() -> None:
        generator = halves()
        await anext(generator)
        async with anyio.create_task_group() as group:
            group.start_soon(close, generator)
        del generator
        gc.collect()
        assert nothing_left(mutex)

    run(backend, main)
    assert mutex.peek() == {"a": 0, "b": 0}


def test_an_async_generator_that_is_left_to_the_loop(backend: str) -> None:
    if backend == "trio":
        pytest.skip("Trio closes it where it was dropped")
    mutex = KMutex({"a": 0, "b": 0})

    async def halves() -> AsyncIterator[None]:
        async with mutex.lock_async() as guard:
            guard.value["a"] = 1
            yield
            guard.value["b"] = 1

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context["exception"]))
        async for _ in halves():
            break
        gc.collect()
        await until(lambda: told)
        told[0] = type(told[0])  # it knows the frames, and they the guard
        gc.collect()
        await until(lambda: nothing_left(mutex))

    told: list[object] = []
    run(backend, main)
    assert told == [NotOwned]
    assert mutex.peek() == {"a": 0, "b": 0}
