"""Killed at every instruction: an operation is led to its n-th instruction and killed there, for every n."""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Iterator

import click

from wdkmutex_shm import FastMutex
from wdkmutex_shm.base.names import user_prefix
from wdkmutex_shm.memory import shm

from ..base.harness import Proof, descriptors, tool
from ..base.stepping import ELSEWHERE, ENDED, CannotStepError, Point, Stepper, Trace, end
from ..scenes.catalogue import KILLED, make
from ..scenes.scene import Scene

_LONGEST = 4_000_000
"""Instructions of an operation that are looked at; none has so many."""
_PART = 8_000
"""Instructions that are looked at in one go where the time is limited."""
_ANYWHERE = 10
"""Kills in such a part beside those at changes."""
_REACHED = ("where it was meant", "at the end", "after its own end", "at the next system call")


@tool(
    "instructions",
    click.option("--operation", "names", multiple=True, type=click.Choice(KILLED), help="Only these; else all."),
    click.option("--stride", type=click.IntRange(1), help="Kill after every so many instructions, whatever it takes."),
    seconds=60,
)
def command(proof: Proof, names: tuple[str, ...], stride: int | None) -> None:
    """Kill a process after its n-th instruction in an operation, for every n, and see what the survivors find.

    Without --stride as many n as fit the time: first those before and after which something is different for others (a
    store to shared memory, a system call), then any. Where the time is too short for all operations, some are left out.
    """
    chosen = list(names or KILLED)
    if stride is not None:
        proof.seconds = None
    limit = proof.seconds
    with _one_processor():
        try:
            stepper = Stepper(proof.folder)
        except CannotStepError as error:
            proof.skip(str(error))
            return
        proof.counts["operations there are"] = len(chosen)
        proof.random.shuffle(chosen)
        for done, name in enumerate(chosen):
            if done and proof.over:
                break
            left = None if limit is None else max(0.2, (limit - proof.elapsed) / (len(chosen) - done))
            _attack(proof, stepper, name, left, stride)


@contextlib.contextmanager
def _one_processor() -> Iterator[None]:
    """Stay on one processor: to wake a process on another one takes longer than an instruction's step."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        os.sched_setaffinity(0, allowed)


def _attack(proof: Proof, stepper: Stepper, name: str, seconds: float | None, stride: int | None) -> None:
    FastMutex(0).to_owned()  # so that this process has its own pool already
    before, opened = set(shm.listing(user_prefix())), descriptors()
    deadline = None if seconds is None else time.monotonic() + seconds
    with contextlib.closing(make(proof, name)) as scene:
        hunt = _Hunt(proof, stepper, scene)
        for _ in hunt.all_of_it(stride) if stride is not None else hunt.by_parts():
            if proof.enough or (deadline is not None and time.monotonic() > deadline):
                break
    proof.counts["operations"] += 1
    found = descriptors()
    proof.expect(found == opened, "no descriptor is left", operation=name, before=opened, after=found)
    own = f"{user_prefix()}@{os.getpid()}.", f"{user_prefix()}{proof.instance}."
    left = {entry for entry in shm.listing(user_prefix()) if entry.startswith(own)} - before
    proof.expect(not left, "no segment is left", operation=name, left=sorted(left))


class _Hunt:
    """The victims of one operation."""

    def __init__(self, proof: Proof, stepper: Stepper, scene: Scene) -> None:
        self._proof = proof
        self._stepper = stepper
        self._scene = scene
        self._kills = f"{scene.name}: kills"
        self._seen = f"{scene.name}: instructions seen"

    def all_of_it(self, stride: int) -> Iterator[None]:
        """Look at the whole way, then kill after every ``stride``-th instruction from a random one on."""
        trace = self._look(0, _LONGEST)
        for number in range(self._proof.random.randrange(stride), trace.instructions, stride):
            self._kill_at(trace, number)
            self._proof.progress(f"{self._scene.name}: {trace.instructions} instructions", number, trace.instructions)
            yield

    def by_parts(self) -> Iterator[None]:
        """Look at a part of the way after the other, and kill in each. When all was seen: anywhere.

        The parts come in random order, those first in which the memory that others see changes.
        """
        random, traces = self._proof.random, list[Trace]()
        calls, changing = self._count_calls()
        unseen = set(range(calls + 1))
        while unseen:
            first = random.choice(sorted(unseen & changing or unseen))
            trace = self._look(first, 2 * _PART if first in changing else _PART)
            unseen -= set(range(first, first + trace.calls + 1))
            if not trace.instructions:
                continue
            traces.append(trace)
            # Right before a change as well: what changed last may lie where nobody looks, as a journal does.
            numbers = sorted({number - before for number in trace.changes for before in (0, 1) if number >= before})
            numbers += [random.randrange(trace.instructions) for _ in range(_ANYWHERE)]
            random.shuffle(numbers)
            for number in numbers:
                self._kill_at(trace, number)
                self._proof.progress(f"{self._scene.name}: {calls - len(unseen)} of {calls} system calls seen")
                yield
        while True:
            trace = random.choice(traces)
            self._kill_at(trace, random.randrange(trace.instructions))
            self._proof.progress(f"{self._scene.name}: anywhere")
            yield

    def _look(self, first_call: int, room: int) -> Trace:
        pid = self._scene.begin(self._stepper)
        trace = self._stepper.trace(pid, self._scene.region, room, first_call)
        self._proof.counts[self._seen] += trace.instructions
        self._die(pid, "the end" if trace.complete else f"call {first_call} + {room} instructions")
        return trace

    def _count_calls(self) -> tuple[int, set[int]]:
        pid = self._scene.begin(self._stepper)
        calls, changing = self._stepper.count_calls(pid, self._scene.region)
        self._proof.counts[f"{self._scene.name}: system calls"] = calls
        self._die(pid, "the end")
        return calls, changing

    def _kill_at(self, trace: Trace, number: int) -> None:
        if self._kill(trace.point(number)) == ELSEWHERE:
            self._kill(trace.counted(number))

    def _kill(self, point: Point) -> int:
        pid = self._scene.begin(self._stepper)
        code = self._stepper.go(pid, point)
        self._proof.counts[_REACHED[code]] += 1
        where = f"call {point.calls}, {point.times} times at {point.where:#x}, {point.steps} instructions"
        self._proof.expect(code != ENDED, "the operation goes well until it is killed", where=where)
        self._die(pid, where)
        return code

    def _die(self, pid: int, where: str) -> None:
        self._proof.counts["kills"] += 1
        self._proof.counts[self._kills] += 1
        seen = self._scene.look(where, pid)
        end(pid)
        self._scene.reached(seen)
