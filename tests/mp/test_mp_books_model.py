"""The books of a queue against a model of its processes, which put, take, finish and die in any order."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from wdkmutex_shm.mp import count_table, item_counts
from wdkmutex_shm.mp.count_table import FIRST, IN_HAND, RESERVED, SENT, STILL, WIDTH, total
from wdkmutex_shm.mp.item_counts import ItemCounts

SEEDS = 40
SETTLED = 50  # milliseconds


class Process:
    """What one process has, of which its books may know or not."""

    def __init__(self, world: World, party: int) -> None:
        self.world, self.party, self.alive = world, party, True
        self.buffered = self.unnoted = self.in_hand = 0
        self.taken: list[tuple[int, int]] = []  # and not noted: who had put it, and when it was taken
        self.counts = ItemCounts(world.first, None, world.most, world, True)  # type: ignore[arg-type]

    @property
    def has(self) -> int:
        return self.buffered + len(self.taken) + self.in_hand

    def put(self) -> None:
        if self.counts.reserve(False, None):
            self.buffered += 1
            self.world.unfinished += 1
        else:
            assert self.world.most

    def send(self) -> None:
        if self.buffered:
            self.buffered -= 1
            self.unnoted += 1
            self.world.channel.append(self.party)

    def note_sent(self) -> None:
        if self.unnoted:
            self.counts.sent(self.unnoted)
            self.unnoted = 0

    def take(self) -> None:
        self.counts.will_take()
        if self.world.channel:
            self.taken.append((self.world.channel.pop(0), self.world.now))

    def note_taken(self) -> None:
        if self.taken:
            noted: list[bool] = []
            self.counts.taken(self.taken.pop(0)[0], noted)
            assert noted
            self.in_hand += 1

    def finish(self) -> None:
        if self.in_hand:
            self.in_hand -= 1
            self.finish_any()

    def finish_any(self) -> None:
        """As who calls it done before it is taken, or in the place of who took it."""
        if self.world.unfinished > 0:
            self.counts.done()
            self.world.unfinished -= 1
        else:
            with pytest.raises(ValueError, match="called too many times"):
                self.counts.done()

    def lose(self) -> None:
        """As a call that takes an item and is interrupted."""
        if self.taken:
            self.taken.pop()
            self.counts.may_have_lost_one()

    def drop(self) -> None:
        """As the feeder thread does with what it cannot pickle, after it noted what it had sent before."""
        if self.buffered:
            self.note_sent()
            self.buffered -= 1
            self.world.unfinished = max(0, self.world.unfinished - 1)  # zero, where it was done early
            self.counts.release()

    def mend(self) -> None:
        self.counts.mend()

    def leave(self) -> None:
        """End in good order."""
        while self.buffered:
            self.send()
        self.note_sent()
        while self.taken:
            self.note_taken()
        while self.in_hand:
            self.finish()
        self.counts.leave(self.party)
        self.alive = False

    def die(self) -> None:
        self.alive = False


class World:
    """All processes, the clock, and the channel."""

    def __init__(self, dice: random.Random, most: int, late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.dice, self.most, self.late = dice, most, late
        self.now, self.current, self.first = 1000, 0, None
        self.channel: list[int] = []
        self.unfinished = 0  # also what died
        self.all: dict[int, Process] = {}
        self.first = self.new().counts.cell.mutex
        monkeypatch.setattr(item_counts, "_now", lambda: self.now)
        monkeypatch.setattr(item_counts, "me", lambda: self.current)
        monkeypatch.setattr(count_table, "is_dead", lambda party: not self.all[party].alive)
        monkeypatch.setattr(item_counts.util, "Finalize", lambda *_, **__: None)

    def new(self) -> Process:
        party = len(self.all) + 1
        self.all[party] = Process(self, party)
        return self.all[party]

    def living(self) -> list[Process]:
        return [process for process in self.all.values() if process.alive]

    def size(self) -> int:
        return len(self.channel)

    def let(self, process: Process, step: Callable[[Process], Any]) -> Any:
        self.current = process.party
        return step(process)

    def pass_time(self, milliseconds: int) -> None:
        """Whoever has taken an item notes that before 50 ms have passed, unless it is ``late``."""
        for process in self.living():
            while not self.late and process.taken and self.now + milliseconds >= process.taken[0][1] + SETTLED:
                self.let(process, Process.note_taken)
        self.now += milliseconds

    def open(self) -> int:
        return len(self.channel) + sum(process.has for process in self.living())

    def is_joined(self) -> bool:
        return self.all[1].counts._all_done() is True

    def settle(self) -> None:
        """Let who lives finish everything, and some time pass."""
        cleaner = self.new()
        for process in self.living():
            while process.buffered:
                self.let(process, Process.send)
            self.let(process, Process.note_sent)
        while self.channel:
            self.let(cleaner, Process.take)
        for process in self.living():
            while process.taken:
                self.let(process, Process.note_taken)
            while process.in_hand:
                self.let(process, Process.finish)
        for _ in range(2):
            self.let(cleaner, Process.mend)
            self.pass_time(SETTLED)
        self.let(cleaner, Process.mend)


STEPS = [
    *[Process.put, Process.send, Process.take, Process.note_taken] * 3,
    *[Process.note_sent, Process.finish] * 2,
    *[Process.mend] * 4,
    *(Process.drop, Process.leave),
]


@pytest.mark.parametrize("late", [False, True], ids=["in time", "late"])
@pytest.mark.parametrize("deaths", [False, True], ids=["all live", "some die"])
@pytest.mark.parametrize("most", [0, 3])
def test_the_books_follow_their_processes(most: int, deaths: bool, late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(SEEDS):
        dice = random.Random(seed)
        with monkeypatch.context() as patch:
            _follow(World(dice, most, late, patch), dice, deaths)


def _follow(world: World, dice: random.Random, deaths: bool) -> None:
    steps = [*STEPS, *((Process.die, Process.lose) if deaths else (Process.finish_any,))]
    for _ in range(120):
        if len(world.living()) < 3:
            world.new()
        world.let(dice.choice(world.living()), dice.choice(steps))
        if dice.random() < 0.3:
            world.pass_time(dice.choice((1, 20, 49, 50)))
        if not deaths:
            assert world.is_joined() == (world.unfinished == 0)
        elif not world.late:
            assert not (world.is_joined() and world.open())
    world.settle()
    state = world.all[1].counts.cell.peek()
    assert world.is_joined()
    assert not any(state[:STILL])
    assert not total(state, RESERVED)
    assert not total(state, SENT)
    assert not total(state, IN_HAND)
    assert len(state) <= FIRST + WIDTH * len(world.living())
    world.current = world.new().party
    places = sum(world.all[1].counts.reserve(False, None) for _ in range(10))
    assert places == (world.most or 10)
