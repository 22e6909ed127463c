"""Death is proved, and never concluded from what cannot be seen: hidden processes, other users, other clocks."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from mp_peers import hold
from processes import Child, Line, Worker, in_child, slot_offset, write_shm
from support import DEADLINE, kill, wait_until
from views import OTHER, USER, become, fork_with_another_clock, fork_with_anothers_proc, hide_others, needs_root

from wdkmutex_shm import FastMutex, KMutex, lock_all
from wdkmutex_shm.base import identity
from wdkmutex_shm.base._os import START_OF_ITS_OWN
from wdkmutex_shm.base.names import user_prefix
from wdkmutex_shm.memory import shm
from wdkmutex_shm.mp import barrier, process_key
from wdkmutex_shm.pool import private, sweep

# Children are forked while other threads run, in multiprocessing as here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

KINDS = ("Lock", "RLock", "Semaphore", "BoundedSemaphore")
OWNER_AT = 48  # offset in a slot, see slot.h
SOON = 0.15  # seconds: two looks for the dead, and more


@pytest.fixture(scope="module", autouse=True)
def boards_of_others() -> Iterator[None]:
    """The wait boards of the users that nobody is: only they would remove them."""
    yield
    for user in (USER, OTHER):
        for name in shm.listing(f"{user_prefix(user)}@waits"):
            shm.unlink(name)


def _hidden(line: Line) -> None:
    hide_others(USER)


def _other_user(line: Line) -> None:
    become(USER)


def _ahead(line: Line) -> None:
    fork_with_another_clock(line, 86_400)


VIEWS = pytest.mark.parametrize("view", [_hidden, _other_user, _ahead], ids=["hidden", "other user", "other clock"])


def _look(line: Line, view: Callable[[Line], None], lock: Any) -> None:
    view(line)
    line.say((lock.acquire(False), lock.acquire(timeout=SOON)))
    line.hear()
    line.say(lock.acquire(timeout=DEADLINE))
    lock.release()
    line.say()


@needs_root
@VIEWS
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_living_hold_is_not_taken(fork: Any, kind: str, view: Callable[[Line], None]) -> None:
    lock = getattr(fork, kind)()
    with Child(hold, lock) as holder:
        holder.hear()
        with Child(_look, view, lock) as looker:
            assert looker.hear() == (False, False)
            kill(holder.pid)  # and it is not reaped: a zombie is dead, for whoever looks
            looker.say()
            assert looker.hear() is True
            looker.hear()
            assert looker.end() == 0


def _hold_and_change(line: Line, view: Callable[[Line], None], lock: Any) -> None:
    assert lock.acquire()
    view(line)
    line.say(os.getpid())
    line.hear(3600)


@needs_root
@pytest.mark.parametrize("view", [_hidden, _other_user], ids=["hidden", "other user"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_holder_that_changes_its_user_holds(fork: Any, kind: str, view: Callable[[Line], None]) -> None:
    lock = getattr(fork, kind)()
    with Child(_hold_and_change, view, lock) as holder:
        holder.hear()
        assert not lock.acquire(False)
        with Child(_look, _hide_as_another, lock) as looker:
            assert looker.hear() == (False, False)
            holder.kill()
            looker.say()
            assert looker.hear() is True
            looker.hear()


def _hide_as_another(line: Line) -> None:
    hide_others(OTHER)


def _hold_ahead(line: Line, lock: Any) -> None:
    _ahead(line)
    assert lock.acquire()
    line.say(os.getpid())
    line.hear(3600)


@needs_root
@pytest.mark.parametrize("kind", KINDS)
def test_a_holder_with_another_clock_holds(fork: Any, kind: str) -> None:
    lock = getattr(fork, kind)()
    with Child(_hold_ahead, lock) as holder:
        pid = holder.hear()
        assert not lock.acquire(False)
        assert not lock.acquire(timeout=SOON)
        kill(pid)
        assert lock.acquire(timeout=DEADLINE)


def _come(line: Line, view: Callable[[Line], None], meeting: Any) -> None:
    view(line)
    looked: list[bool] = []

    def look(party: int) -> bool:
        dead = process_key.is_dead(party)
        if not looked:
            line.say(dead)
        looked.append(dead)
        return dead

    barrier.is_dead = look
    meeting.wait(DEADLINE)
    line.say("passed")


@needs_root
@VIEWS
def test_a_barrier_of_processes_that_do_not_see_each_other_opens(fork: Any, view: Callable[[Line], None]) -> None:
    meeting = fork.Barrier(3)
    with Worker(lambda line: line.say(meeting.wait(DEADLINE))) as first:
        wait_until(lambda: meeting.n_waiting == 1)
        with Child(_come, view, meeting) as second:
            assert second.hear() is False  # it has looked whether the first is dead
            meeting.wait(DEADLINE)
            assert second.hear() == "passed"
        first.hear()


def _notify(line: Line, view: Callable[[Line], None], condition: Any) -> None:
    view(line)
    with condition:
        condition.notify()
    line.say()


@needs_root
@VIEWS
def test_a_notification_reaches_a_waiter_that_is_not_seen(fork: Any, view: Callable[[Line], None]) -> None:
    condition = fork.Condition()

    def wait(line: Line) -> None:
        with condition:
            line.say()
            line.say(condition.wait(DEADLINE))

    with Worker(wait) as waiter:
        waiter.hear()
        with Child(_notify, view, condition) as child:
            child.hear()
            assert waiter.hear() is True


def _join(line: Line, view: Callable[[Line], None], items: Any) -> None:
    view(line)
    line.say(items._counts.wait_until_done(SOON))
    line.hear()
    line.say(items._counts.wait_until_done(DEADLINE))


@needs_root
@VIEWS
def test_what_a_taker_that_is_not_seen_has_in_hand_is_not_done(fork: Any, view: Callable[[Line], None]) -> None:
    items = fork.JoinableQueue()
    items.put("one")
    assert items.get() == "one"
    with Child(_join, view, items) as child:
        assert child.hear() is False
        items.task_done()
        child.say()
        assert child.hear() is True
    items.close()
    items.join_thread()


def _publish_together(line: Line) -> None:
    become(USER)
    one, two = FastMutex(0), KMutex(0)
    with lock_all(one, two) as (a, b):
        a.value = b.value = 1
    line.say(_private_names(os.getpid()))
    line.hear()
    private.close()


def _sweep(line: Line) -> None:
    hide_others(USER)
    line.say(sweep.dead_private_pools())


def _private_names(pid: int) -> list[str]:
    return shm.listing(f"{user_prefix(USER)}@{pid}.")


@needs_root
def test_a_sweep_leaves_what_hidden_processes_of_the_user_have() -> None:
    """A process that changed its user is hidden from others of that user, too."""
    with Child(_publish_together) as maker:
        names = maker.hear()
        assert any(name.endswith(".j") for name in names)
        with Child(_sweep) as sweeper:
            assert set(names).isdisjoint(sweeper.hear())
        assert _private_names(maker.pid) == names
        maker.kill()
        with Child(_sweep) as sweeper:
            assert set(names) == set(sweeper.hear())


def _leave_to_child(line: Line) -> None:
    become(USER)
    mutex = KMutex(b"x" * 10_000)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        wait_until(lambda: os.getppid() != parent)
        line.say(len(mutex.peek()))  # from a data segment that it has not mapped before
        line.hear()
        private.close()
        line.say()
        signal.pause()
    line.say(pid)
    line.hear()
    private.close()


@needs_root
def test_a_pool_stays_for_a_child_that_its_maker_may_not_look_into() -> None:
    """As of a server that drops its privileges and then forks: its processes may not read each other's maps."""
    with Child(_leave_to_child) as maker:
        child = maker.hear()
        maker.say("end")
        maker.end()
        try:
            assert maker.hear() == 10_000
            assert _private_names(maker.pid)
            maker.say("end")
            maker.hear()
            assert _private_names(maker.pid) == []  # the last one takes it along, although it cannot see that it is
        finally:
            kill(child)


def test_a_pool_goes_with_the_last_of_forked_processes() -> None:
    with Child(_make_and_fork) as maker:
        child = maker.hear()
        names = shm.listing(f"{user_prefix()}@{maker.pid}.")
        maker.say("end")
        assert maker.hear() == names  # the child has it mapped
        kill(child)
        maker.say("end")
        assert maker.hear() == []


def _make_and_fork(line: Line) -> None:
    mutex = KMutex(1)
    child = os.fork()
    if child == 0:
        signal.pause()
    line.say(child)
    for _ in range(2):
        line.hear()
        sweep.leave_private_pools()
        line.say(shm.listing(f"{user_prefix()}@{os.getpid()}."))
    with mutex.lock() as guard:  # what is mapped anew, in place, is what it was
        assert guard.value == 1


def _judge(line: Line) -> None:
    fork_with_anothers_proc(line)
    line.say((os.getpid(), identity.is_dead(os.getpid(), identity.me().start + 1), identity.is_dead(99, 1)))


@needs_root
def test_another_namespaces_proc_proves_nothing() -> None:
    """There the file of that pid is another process's, and it began at another time."""
    with Child(_judge) as child:
        assert child.hear() == (1, False, True)


def test_another_start_time_is_another_process() -> None:
    pid, start = identity.me()
    assert not identity.is_dead(pid, start)
    assert not identity.is_dead(pid, None)
    assert identity.is_dead(pid, start + 1)
    assert not identity.is_dead(pid, (start + 1) | START_OF_ITS_OWN)
    assert identity.is_dead(0, start)
    assert identity.is_dead(1 << 40, start)


def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after CRIU: this process knows itself by the start time of a life before."""
    pid, start = identity.me()
    monkeypatch.setattr(identity, "_mine", identity.Identity(pid, start - 1))
    monkeypatch.setattr(process_key, "_me", 0)
    monkeypatch.setattr(identity, "_restored", False)


def test_a_restored_process_takes_nobody_for_dead_by_its_start_time(monkeypatch: pytest.MonkeyPatch) -> None:
    _restored(monkeypatch)
    assert not identity.is_dead(os.getpid(), identity.me().start + 10)
    assert not in_child(identity.is_dead, os.getpid(), 1)  # nor do its children
    with Child(_wait) as child:
        child.hear()
        assert not identity.is_dead(child.pid, 1)
        child.kill()
        assert identity.is_dead(child.pid, 1)


def _wait(line: Line) -> None:
    line.say()
    line.hear(3600)


def test_the_kernel_may_have_no_pidfd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity._os, "process_state", lambda pid: identity._os.CANNOT_ASK)
    with Child(_wait) as child:
        child.hear()
        start = identity.start_time(child.pid)
        assert not identity.has_ended(child.pid)
        kill(child.pid)
        assert identity.has_ended(child.pid)
        assert identity.is_dead(child.pid, start)


def test_an_owner_that_does_not_exist_is_not_alive(cls: Any) -> None:
    mutex = cls(0)
    with Child(_wait) as child:
        child.hear()
        gone = child.pid
        child.kill()
    with mutex.lock():
        assert mutex.owner.alive
        write_shm(mutex.segment, slot_offset(mutex, OWNER_AT), (gone << 32 | gone).to_bytes(8, "little"))
        assert not mutex.owner.alive
        write_shm(mutex.segment, slot_offset(mutex, OWNER_AT), (os.getpid() << 32 | gone).to_bytes(8, "little"))
        assert not mutex.owner.alive  # a thread that has ended
        write_shm(mutex.segment, slot_offset(mutex, OWNER_AT), (os.getpid() << 32 | os.getpid()).to_bytes(8, "little"))
