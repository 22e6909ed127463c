"""A process's private pool: made, and swept away after its maker's death."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from wdkmutex_shm import FastMutex, KMutex
from wdkmutex_shm.base.names import user_prefix
from wdkmutex_shm.memory import shm
from wdkmutex_shm.pool import private, sweep

from ..base.children import die, fork
from ..base.harness import Proof
from .scene import Scene, Seen


class CreationScene(Scene):
    """The first anonymous mutexes of a process that has no pool yet, one of them with a T too large for its slot."""

    name = "pool-creation"

    def do(self, mark: Callable[[], object]) -> None:
        FastMutex(0), KMutex(b"x" * 300)

    def look(self, where: str, pid: int) -> Seen:
        """Whether the victim has made anything yet."""
        self.proof.counts["pools left by victims"] += bool(shm.listing(f"{user_prefix()}@{pid}."))
        return super().look(where, pid)

    def check(self, seen: Seen) -> None:
        """A sweep removes whatever the victim has made."""
        sweep.dead_private_pools()
        left = shm.listing(f"{user_prefix()}@{seen.pid}.")
        self.expect(not left, "nothing of a dead process is left after a sweep", left=left)


class SweepScene(Scene):
    """A dead process's pool is swept by a process that is killed in it."""

    name = "pool-sweep"

    def __init__(self, proof: Proof) -> None:
        super().__init__(proof)
        self._dead = 0
        self._bystander = FastMutex(b"y" * 300)
        self._kept = shm.listing(private.the_pool().prefix)
        sweep.dead_private_pools()

    def prepare(self) -> None:
        """A child dies that has a pool of two segments and two data segments, and holds a lock."""

        def live() -> None:
            mutexes: list[KMutex[Any]] = [KMutex(0) for _ in range(65)]
            mutexes += [KMutex(b"x" * 300), KMutex(b"x" * 3000)]
            with mutexes[-1].lock():
                die()

        self._dead = fork(live)
        os.waitpid(self._dead, 0)

    def do(self, mark: Callable[[], object]) -> None:
        sweep.dead_private_pools()

    def _left(self) -> list[str]:
        return shm.listing(f"{user_prefix()}@{self._dead}.")

    def look(self, where: str, pid: int) -> Seen:
        """Whether the victim has begun to remove what is left of the dead one's pool."""
        self.proof.counts["pools half swept by victims"] += 0 < len(self._left()) < 4
        return super().look(where, pid)

    def check(self, seen: Seen) -> None:
        """The next sweep removes the rest, and nothing else."""
        sweep.dead_private_pools()
        self.expect(not self._left(), "nothing of a dead process is left after a sweep", left=self._left())
        kept = shm.listing(private.the_pool().prefix)
        self.expect(kept == self._kept, "a sweep takes nothing of the living", kept=kept)
        found = self._bystander.peek()
        self.expect(found == b"y" * 300, "a living process's T stands", found=found)

    def close(self) -> None:
        """Take the bystander out of the pool."""
        super().close()
        self._bystander.to_owned()
