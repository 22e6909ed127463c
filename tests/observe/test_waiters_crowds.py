"""What must not grow with what others have: names in shared memory, tasks in a line."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import pytest
from eventloops import nothing_left
from support import Fork

from wdkmutex_shm import FastMutex, LockTimeout
from wdkmutex_shm.memory import shm
from wdkmutex_shm.observe import holder
from wdkmutex_shm.pool import sweep


@pytest.mark.parametrize(("drawn", "expected"), [(0, 1), (1, 0)])
def test_a_large_folder_is_listed_by_few(monkeypatch: pytest.MonkeyPatch, drawn: int, expected: int) -> None:
    names = [f"{shm.FOLDER}/wdkm-crowd.{os.getpid()}.{number}" for number in range(4)]
    monkeypatch.setattr(sweep, "_FEW", 1)  # more than that are many

    def listings() -> int:
        found: list[str] = []
        os.urandom = lambda count: drawn.to_bytes(count, "little")  # in this child alone
        sys.addaudithook(lambda event, args: found.append(event) if event == "os.listdir" else None)
        sweep.dead_private_pools_now_and_then()
        sweep.leave_board()
        return len(found)

    try:
        for name in names:
            with open(name, "xb"):
                pass
        with Fork(listings) as child:
            assert child.result() == expected
    finally:
        for name in names:
            os.unlink(name)


@pytest.mark.slow
def test_many_tasks_that_time_out_together(monkeypatch: pytest.MonkeyPatch) -> None:
    mutex, described, errors = FastMutex(0), [0], []
    describe = holder.describe

    def counted(*args: Any) -> str:
        described[0] += 1
        return describe(*args)

    async def expire() -> None:
        try:
            await mutex.lock_async(timeout=0.5)
        except LockTimeout as error:
            errors.append(error)

    async def main() -> None:
        async with mutex.lock_async():
            await asyncio.gather(*(expire() for _ in range(1000)))

    monkeypatch.setattr(holder, "describe", counted)
    asyncio.run(main())
    assert len(errors) == mutex.statistics().timeouts == 1000
    assert described[0] < 500
    assert all(f"thread {os.getpid()}" in str(error) and error.owner_pid == os.getpid() for error in errors)
    assert nothing_left(mutex)
