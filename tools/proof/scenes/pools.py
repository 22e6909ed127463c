"""A process's private pool: made, and swept away after its maker's death."""

from __future__ import annotations

import os
import signal
from typing import Any

from wdkmutex_shm import FastMutex, KMutex
from wdkmutex_shm.base.names import user_prefix
from wdkmutex_shm.memory import shm
from wdkmutex_shm.pool import private, sweep

from ..base.harness import Proof
from ..base.stepping import LONGEST, Stepper, traced_child
from . import Scene

__all__ = ["CreationScene", "SweepScene"]


class CreationScene(Scene):
    """The first anonymous mutexes of a process, one of them with a T too large for its slot."""

    name = "pool-creation"

    def __init__(self, proof: Proof, stepper: Stepper) -> None:
        super().__init__(proof, stepper)
        self._pid = 0
        FastMutex(0)

    def begin(self) -> int:
        """A child that has no pool yet."""
        self._pid = traced_child(lambda: (FastMutex(0), KMutex(b"x" * 300)), LONGEST)
        assert self.stepper.begin(self._pid)
        return self._pid

    def look(self, pid: int) -> None:
        """Whether the victim has made anything yet."""
        self.proof.counts["pools left by victims"] += bool(shm.listing(f"{user_prefix()}@{pid}."))

    def check(self, where: str) -> None:
        """A sweep removes whatever the victim has made."""
        sweep.dead_private_pools()
        left = shm.listing(f"{user_prefix()}@{self._pid}.")
        self.expect(not left, "nothing of a dead process is left after a sweep", where, left=left)


class SweepScene(Scene):
    """A dead process's pool is swept by a process that is killed in it."""

    name = "pool-sweep"

    def __init__(self, proof: Proof, stepper: Stepper) -> None:
        super().__init__(proof, stepper)
        self._dead = 0
        self._bystander = FastMutex(b"y" * 300)
        self._kept = self._listing()
        sweep.dead_private_pools()

    def _listing(self) -> list[str]:
        return shm.listing(private.the_pool().prefix)

    def begin(self) -> int:
        """A child dies that has a pool of two segments and two data segments, and holds a lock."""
        self._dead = os.fork()
        if self._dead == 0:
            mutexes: list[KMutex[Any]] = [KMutex(0) for _ in range(65)]
            mutexes += [KMutex(b"x" * 300), KMutex(b"x" * 3000)]
            with mutexes[-1].lock():
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(self._dead, 0)
        pid = traced_child(sweep.dead_private_pools, LONGEST)
        assert self.stepper.begin(pid)
        return pid

    def look(self, pid: int) -> None:
        """Whether the victim has begun to remove what is left of the dead one's pool."""
        left = len(shm.listing(f"{user_prefix()}@{self._dead}."))
        self.proof.counts["pools half swept by victims"] += 0 < left < 4

    def check(self, where: str) -> None:
        """The next sweep removes the rest, and nothing else."""
        sweep.dead_private_pools()
        left = shm.listing(f"{user_prefix()}@{self._dead}.")
        self.expect(not left, "nothing of a dead process is left after a sweep", where, left=left)
        kept = self._listing()
        self.expect(kept == self._kept, "a sweep takes nothing of the living", where, kept=kept)
        found = self._bystander.peek()
        self.expect(found == b"y" * 300, "a living process's T stands", where, found=found)

    def close(self) -> None:
        """Take the bystander out of the pool."""
        super().close()
        self._bystander.to_owned()
