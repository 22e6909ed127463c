"""Processes that use all types of a crash-proof context at full speed, and are killed at random instants.

Each test is short. WDKM_STORM_SECONDS=180 makes it long, WDKM_STORM_SEED=5 another one.
"""

from __future__ import annotations

import itertools
import os
import random
import struct
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mp_peers import METHODS
from processes import in_thread, state_of, wait_until
from support import DEADLINE, kill

from wdkmutex_shm import WorkerDied, mp

# Children are forked while other threads run, in multiprocessing as here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

SECONDS = float(os.environ.get("WDKM_STORM_SECONDS", "0"))
SEED = int(os.environ.get("WDKM_STORM_SEED", "1"))
LATE = 90.0  # seconds after which whoever waits was forgotten
PLACES = 3  # of the bounded queue
TAKEN = struct.Struct("=II")  # who put an item, and its number there


class Me:
    """One process of the storm: what it shares with the others, and how it tells that it goes on."""

    def __init__(self, shared: dict[str, Any], folder: str, slot: int, number: int) -> None:
        self.shared, self.folder, self.slot, self.number = shared, folder, slot, number
        self._files: dict[str, int] = {}

    def __getitem__(self, name: str) -> Any:
        return self.shared[name]

    def did(self, done: object = True) -> None:
        """An operation is over; ``done``: whether it did what it should."""
        assert done
        self.shared["done"][self.slot] += 1

    def alone(self, at: int) -> None:
        """Nobody else is in here: a lock is held."""
        inside = self.shared["inside"]
        inside[at] = self.number
        for _ in range(20):
            assert inside[at] == self.number, f"two are in {at}"
        inside[at] = 0

    def log(self, name: str, what: bytes) -> None:
        """Append to a file, at one go."""
        if name not in self._files:
            self._files[name] = os.open(f"{self.folder}/{name}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(self._files[name], what)


def _lock(me: Me) -> None:
    assert me["lock"].acquire()
    me.alone(0)
    me["lock"].release()


def _try_lock(me: Me) -> None:
    while not me["lock"].acquire(False):
        time.sleep(0.0001)
    me.alone(0)
    me["lock"].release()


def _rlock(me: Me) -> None:
    assert me["rlock"].acquire()
    with me["rlock"]:
        me.alone(1)
    me["rlock"].release()


def _value(me: Me) -> None:
    with me["value"].get_lock():
        before = me["value"].value
        me.alone(2)
        me["value"].value = before + 1
        assert me["value"].value == before + 1
    with me["array"]:
        me["array"][1] += 1


def _semaphore(me: Me) -> None:
    assert me["semaphore"].acquire()
    sum(range(500))  # so that many die while they have it
    me["semaphore"].release()


def _waiter(me: Me) -> None:
    with me["condition"]:
        assert me["condition"].wait()


def _notifier(me: Me) -> None:
    with me["condition"]:
        me["condition"].notify()


def _event(me: Me) -> None:
    assert me["event"].wait()


def _setter(me: Me) -> None:
    me["event"].set()
    me["event"].clear()


def _barrier(me: Me) -> None:
    try:
        me["barrier"].wait()
    except threading.BrokenBarrierError:
        me["barrier"].reset()


def _put(name: str) -> Callable[[Me], None]:
    def put(me: Me) -> None:
        me.put = getattr(me, "put", itertools.count())  # type: ignore[attr-defined]
        item = TAKEN.pack(me.number, next(me.put))  # type: ignore[attr-defined]
        me[name].put(item + bytes(random.choice((0, 0, 0, 5_000, 140_000))))

    return put


def _get(name: str) -> Callable[[Me], None]:
    def get(me: Me) -> None:
        me.log(name, me[name].get()[: TAKEN.size])

    return get


def _join(me: Me) -> None:
    for _ in range(3):
        _put("tasks")(me)
    me["tasks"].join()


def _work(me: Me) -> None:
    _get("tasks")(me)
    me["tasks"].task_done()


def _square(n: int) -> int:
    return n * n


def _pool(me: Me) -> None:
    with mp.get_context(me["method"]).Pool(2) as pool:
        for _ in range(20):
            workers = [worker.pid for worker in list(pool._pool)]
            me.log("workers", struct.pack(f"={len(workers)}I", *workers))
            results = [pool.apply_async(_square, (n,)) for n in range(20)]
            if workers:
                kill(random.choice(workers))
            died = 0
            for n, result in enumerate(results):
                try:
                    assert result.get() == n * n
                except WorkerDied:
                    died += 1
            assert died <= 1
            me.did()


ROLES: dict[str, Callable[[Me], None]] = {
    "lock": _lock,
    "lock too": _lock,
    "lock try": _try_lock,
    "rlock": _rlock,
    "rlock too": _rlock,
    "value": _value,
    "value too": _value,
    "semaphore": _semaphore,
    "semaphore too": _semaphore,
    "semaphore third": _semaphore,
    "waiter": _waiter,
    "waiter too": _waiter,
    "notifier": _notifier,
    "event": _event,
    "setter": _setter,
    "barrier": _barrier,
    "barrier too": _barrier,
    "put": _put("queue"),
    "put too": _put("queue"),
    "get": _get("queue"),
    "get too": _get("queue"),
    "simple put": _put("simple"),
    "simple get": _get("simple"),
    "simple get too": _get("simple"),
    "join": _join,
    "join too": _join,
    "work": _work,
    "work too": _work,
    "pool": _pool,
}
# Starting a process by another method than fork takes a hundred times as long: short storms have fewer there.
FEW = ("lock", "value", "semaphore", "barrier", "barrier too", "put", "get", "join", "work", "pool")


def _run(role: str, shared: dict[str, Any], folder: str, slot: int, number: int) -> None:
    random.seed(number)
    me = Me(shared, folder, slot, number)
    try:
        while True:
            ROLES[role](me)
            me.did()
            time.sleep(me["rest"])
    except BaseException:
        me.log("errors", f"{role}: {traceback.format_exc()}".encode())
        raise


class Storm:
    """The processes of all roles."""

    def __init__(self, method: str, folder: Path) -> None:
        self.context = context = mp.get_context(method)
        self.folder = folder
        self.names = list(ROLES) if SECONDS or method == "fork" else list(FEW)
        self.shared: dict[str, Any] = {
            "method": method,
            "rest": 0 if method == "fork" else 0.001,  # seconds: else nobody else would come to begin
            "done": context.RawArray("q", len(self.names)),
            "inside": context.RawArray("q", 3),
            "lock": context.Lock(),
            "rlock": context.RLock(),
            "value": context.Value("q", 0),
            "array": context.Array("q", 2),
            "semaphore": context.BoundedSemaphore(2),
            "condition": context.Condition(),
            "event": context.Event(),
            "barrier": context.Barrier(2),
            "queue": context.Queue(PLACES),
            "tasks": context.JoinableQueue(),
            "simple": context.SimpleQueue(),
        }
        self._numbers = itertools.count(1)
        self._seen = [(-1, time.monotonic())] * len(self.names)
        self.killed = 0
        self.processes = [self._start(slot) for slot in range(len(self.names))]

    def _start(self, slot: int) -> Any:
        words = (self.names[slot], self.shared, str(self.folder), slot, next(self._numbers))
        process = self.context.Process(target=_run, args=words)
        process.start()
        self._seen[slot] = (-1, time.monotonic())
        return process

    def kill_one(self, slot: int) -> None:
        kill(self.processes[slot].pid)
        self.processes[slot].join()
        self.killed += 1
        self.processes[slot] = self._start(slot)

    def look(self) -> int:
        """How much was done so far. Fails if a process waits for ever, or has failed."""
        errors = self.folder / "errors"
        assert not errors.exists(), errors.read_text()
        done, now = list(self.shared["done"]), time.monotonic()
        for slot, count in enumerate(done):
            if self._seen[slot][0] != count:
                self._seen[slot] = (count, now)
            assert now - self._seen[slot][1] < LATE, f"{self.names[slot]} does not go on: {done}"
        return sum(done)

    def goes_on(self) -> bool:
        """Whether each process has done something since its start."""
        before = list(self.shared["done"])
        wait_until(lambda: self.look() and all(map(int.__lt__, before, self.shared["done"])), "each goes on", LATE)
        return True

    def end(self) -> None:
        for process in self.processes:
            kill(process.pid)
            process.join()


@pytest.mark.slow
@pytest.mark.timeout(300 + SECONDS)
@pytest.mark.parametrize("method", METHODS)
def test_nobody_is_forgotten(method: str, tmp_path: Path) -> None:
    dice = random.Random(SEED)
    storm = Storm(method, tmp_path)
    try:
        storm.goes_on()
        until = time.monotonic() + (SECONDS or 2.0)
        while time.monotonic() < until:
            before, more = storm.look(), dice.randrange(200 if method == "fork" else 20)
            wait_until(lambda before=before, more=more: storm.look() > before + more, "work goes on", LATE)
            storm.kill_one(dice.randrange(len(storm.names)))
            if storm.killed % 25 == 0:
                storm.goes_on()  # who waits for ever is found out only where nobody is killed for a while
        storm.goes_on()
    finally:
        storm.end()
    print(f"{method}: {storm.killed} killed, {sum(storm.shared['done'])} operations")
    _all_is_free(storm)
    for file in set(os.listdir(tmp_path)) - {"workers"}:
        _nothing_came_twice(storm, file)
    workers = {pid for (pid,) in struct.iter_unpack("=I", (tmp_path / "workers").read_bytes())}
    wait_until(lambda: not any(map(_is_alive, workers)), "the workers of killed pools end")


def _all_is_free(storm: Storm) -> None:
    shared = storm.shared
    for lock in (shared["lock"], shared["rlock"], shared["value"].get_lock(), shared["condition"]):
        assert lock.acquire(timeout=DEADLINE)
        lock.release()
    for acquire in (shared["semaphore"].acquire,) * 2:
        assert acquire(timeout=DEADLINE)
    assert not shared["semaphore"].acquire(False)
    for _ in range(2):
        shared["semaphore"].release()
    assert shared["semaphore"].get_value() == 2
    shared["barrier"].reset()
    assert not shared["barrier"].broken

    queue, tasks = shared["queue"], shared["tasks"]
    while not queue.empty():
        queue.get()
    wait_until(lambda: _is_settled(queue), "places that the dead took are free")
    for _ in range(PLACES):
        queue.put(b"", timeout=DEADLINE)
    assert queue.full()
    for _ in range(PLACES):
        queue.get(timeout=DEADLINE)
    assert queue.qsize() == 0
    while not tasks.empty():
        tasks.get()
        tasks.task_done()
    in_thread(tasks.join)
    for items in (queue, tasks):
        items.close()
        items.join_thread()


def _is_settled(items: Any) -> bool:
    """Whether the books of an empty queue say so: what the dead had in hand is struck off once nobody puts or takes."""
    items._counts.mend()
    return bool(items.qsize() == 0)


def _nothing_came_twice(storm: Storm, name: str) -> None:
    taken = list(TAKEN.iter_unpack((storm.folder / name).read_bytes()))
    assert not [item for item, count in Counter(taken).items() if count > 1]
    lost = 0
    for writer in {writer for writer, _ in taken}:
        seen = [number for who, number in taken if who == writer]
        lost += max(seen) + 1 - len(seen)
    assert lost <= storm.killed + len(ROLES)  # one in the hands of each reader that was killed


def _is_alive(pid: int) -> bool:
    try:
        return state_of(pid) not in "ZX"
    except OSError:
        return False
