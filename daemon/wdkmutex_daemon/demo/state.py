"""The job's state: three Grt mutexes, and every change that is made to them.

``demo.plan`` (KMutex of list)
    the tasks. Written once, before any worker runs; workers peek at it.
``demo.claims`` (FastMutex of dict)
    ``next``: the first task that nobody claimed yet; ``held``: task -> worker who works on it; ``back``: tasks whose
    worker died before it was done.
``demo.totals`` (KMutex of dict)
    the counts, and ``done``: one bit for each task.

Why the totals are right, whenever a worker is killed: a task's counts and its done-mark are one commit, which is there
as a whole or not at all. Killed before it: the task is still claimed, the parent puts it back, another worker counts
it. Killed after it: the parent sees the mark and drops the claim. And whoever counts a task a second time finds the
mark under the lock and adds nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from wdkmutex_shm import FastMutex, Grt, KMutex

from .counting import Counts, Piece, Plan

__all__ = ["Job"]


@dataclass(frozen=True)
class Job:
    """The handles of the job's mutexes."""

    plan: KMutex[list[Any]]
    claims: FastMutex[dict[str, Any]]
    totals: KMutex[dict[str, Any]]

    @classmethod
    def create(cls, plan: Plan) -> Job:
        """Register the mutexes in the Grt of this process."""
        totals = {"done": bytes(-(-len(plan.tasks) // 8)), "files": 0, "lines": 0, "words": 0, "by_suffix": {}}
        return cls(
            Grt.register_kmutex_checked("demo.plan", [[list(piece) for piece in task] for task in plan.tasks]),
            Grt.register_fast_mutex_checked("demo.claims", {"next": 0, "held": {}, "back": []}),
            Grt.register_kmutex_checked("demo.totals", totals),
        )

    @classmethod
    def find(cls) -> Job:
        """Look the mutexes up in the Grt of this process."""
        return cls(
            Grt.get_kmutex("demo.plan", list),
            Grt.get_fast_mutex("demo.claims", dict),
            Grt.get_kmutex("demo.totals", dict),
        )

    def tasks(self) -> list[list[Piece]]:
        """All tasks, in the order in which they are claimed."""
        return [[Piece(*piece) for piece in task] for task in self.plan.peek()]

    # --- what a worker does

    def claim(self, worker: int, count: int, finished: int | None) -> int | None:
        """Claim a task for ``worker`` and give up the claim on the one that it ``finished``.

        Args:
            worker: number of the worker.
            count: how many tasks there are.
            finished: the task that the worker has just recorded, if any.

        Returns:
            The task, None if there is none to claim now: all are done, or in the hands of others.
        """
        with self.claims.lock() as guard:
            claims = guard.value
            claims["held"].pop(finished, None)
            if claims["back"]:
                task: int = claims["back"].pop()
            elif claims["next"] < count:
                task = claims["next"]
                claims["next"] += 1
            else:
                return None
            claims["held"][task] = worker
            return task

    def record(self, task: int, counts: Counts) -> None:
        """Add the counts of a task to the totals, together with its done-mark, unless it is done already."""
        with self.totals.lock() as guard:
            totals = guard.value
            done = bytearray(totals["done"])
            if done[task >> 3] & 1 << (task & 7):
                return
            done[task >> 3] |= 1 << (task & 7)
            totals["done"] = bytes(done)
            totals["files"] += counts.files
            totals["lines"] += counts.lines
            totals["words"] += counts.words
            for suffix, words in counts.by_suffix.items():
                totals["by_suffix"][suffix] = totals["by_suffix"].get(suffix, 0) + words

    # --- what the parent does

    def put_back(self, dead: int) -> None:
        """Make the tasks claimable again that a dead worker had claimed and not recorded."""
        done = self.totals.peek()["done"]  # of a dead worker nothing more can come, so this needs no lock
        with self.claims.lock() as guard:
            claims = guard.value
            for task in [task for task, worker in claims["held"].items() if worker == dead]:
                del claims["held"][task]
                if not done[task >> 3] & 1 << (task & 7):
                    claims["back"].append(task)

    def done(self) -> int:
        """How many tasks are recorded, without waiting for anybody."""
        return int.from_bytes(self.totals.peek()["done"], "little").bit_count()

    def result(self) -> Counts:
        """The totals. Taken under the locks, so that an owner that died while it held one is noticed and counted."""
        with self.claims.lock(), self.totals.lock() as guard:
            totals = guard.value
        return Counts(totals["files"], totals["lines"], totals["words"], Counter(totals["by_suffix"]))

    def abandoned(self) -> int:
        """How often a worker took one of the mutexes over from a dead one."""
        return sum(mutex.statistics().abandoned for mutex in (self.plan, self.claims, self.totals))
