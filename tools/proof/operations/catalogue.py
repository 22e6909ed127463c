"""Every operation on mutexes that the tools do, by name.

The storm and the clients of damaged memory choose from it by tables of their own; what is killed at every instruction
and interrupted at every bytecode are cases of it, with T that are known before and after.
"""

from __future__ import annotations

import os
from typing import Any

from . import multi, single, waiting
from .actor import ALL_KINDS, T_KINDS, Actor, Operation, one, some, unchecked


def _tasks_gone(actor: Actor, *places: Any) -> None:
    """Once the loop is closed no task of it holds or waits."""
    mutex = actor.handle(places[0])
    owner = mutex.owner
    if owner is not None and owner.pid == os.getpid():
        actor.broken("no task that was cancelled leaves a lock held", owner=str(owner))
    mine = [waiter for waiter in mutex.waiters() if waiter.pid == os.getpid()]
    if mine:
        actor.broken("no task that was cancelled is waiting still", waiters=str(mine))


OPERATIONS = {
    operation.name: operation
    for operation in (
        Operation("commit", single.commit),
        Operation("commit in place", single.commit_in_place),
        Operation("commit nested", single.commit_nested, one("k")),
        Operation("commit twice", single.commit_twice),
        Operation("commit while held", single.commit_while_held),
        Operation("commit by dropping the guard", single.commit_by_dropping),
        Operation("commit by drop_safe", single.commit_by_release),
        Operation("commit in a task", single.commit_in_task),
        Operation("try_lock", single.try_lock),
        Operation("exception", single.fail),
        Operation("rollback", single.rollback),
        Operation("peek", single.peek),
        Operation("replace", single.replace),
        Operation("fetch_add", single.fetch_add),
        Operation("to_owned", single.to_owned, check=unchecked),
        Operation("look", single.look, one(*ALL_KINDS), check=unchecked),
        Operation("hold", single.hold, one("section")),
        Operation("hold twice", single.hold_twice, one("section")),
        Operation("lock_all", multi.commit_all, some(*T_KINDS)),
        Operation("lock_all, committed while held", multi.commit_all_while_held, some(*T_KINDS)),
        Operation("lock_all, exception", multi.fail_all, some(*T_KINDS)),
        Operation("lock_any", multi.commit_any, some(*ALL_KINDS)),
        Operation("lock_when", waiting.lock_when),
        Operation("wait_for", waiting.wait_for),
        Operation("guard.wait_for", waiting.wait_in_guard),
        Operation("changes", waiting.changes),
        Operation("wait_for_async", waiting.wait_in_task),
        Operation("lock_async", waiting.lock_in_task),
        Operation("tasks of an event loop", waiting.run_tasks, one(*T_KINDS), _tasks_gone),
    )
}
