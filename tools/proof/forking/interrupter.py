"""Ctrl-C at every bytecode of a scene's operation, one after the other, and at any time."""

from __future__ import annotations

import ctypes
import itertools
import signal
from collections.abc import Callable, Iterator

from wdkmutex_shm import FastMutex

from ..base.compiling import compiled
from ..base.harness import Proof, descriptors
from ..scenes.scene import Scene, Seen


class Interrupter:
    """Lets a Ctrl-C arrive at a certain bytecode of an operation.

    Args:
        proof: who is told of broken promises.

    Raises:
        CannotCompileError: interrupter.c cannot be compiled.
    """

    def __init__(self, proof: Proof) -> None:
        self._proof = proof
        self._library = ctypes.PyDLL(compiled("interrupter", proof.folder))
        self._library.wdkm_interrupt_at.argtypes = (ctypes.c_longlong,)
        self._library.wdkm_left.restype = ctypes.c_longlong
        FastMutex(0).to_owned()  # so that this process has its own pool already

    def at_every_bytecode(self, scene: Scene) -> Iterator[int]:
        """Interrupt an operation at its first bytecode, its second, and so on to its last; yields each number."""
        for number in itertools.count(1):
            if self._reaches_its_end(scene, number):
                self._proof.counts[f"{scene.name}: bytecodes"] = number - 1
                self._proof.expect(number > 1, "bytecodes can be counted with this Python", case=scene.name)
                return
            yield number

    def _reaches_its_end(self, scene: Scene, number: int) -> bool:
        left = 0

        def interrupted(act: Callable[[], object]) -> None:
            nonlocal left
            self._library.wdkm_interrupt_at(number)
            try:
                act()
            finally:
                left = self._library.wdkm_left()

        _run(self._proof, scene, f"bytecode {number}", interrupted)
        return left > 0


def at_random_times(proof: Proof, scene: Scene) -> None:
    """Interrupt an operation by a timer's signal."""
    microseconds = proof.random.uniform(1, 300)
    _run(proof, scene, f"{microseconds:.0f} us", lambda act: _alarmed(act, microseconds * 1e-6))


def _run(proof: Proof, scene: Scene, where: str, interrupt: Callable[[Callable[[], object]], None]) -> None:
    opened = descriptors()
    scene.prepare()
    done = False
    try:
        interrupt(lambda: scene.do(lambda: None))
        done = True
    except KeyboardInterrupt:
        proof.counts["interrupted"] += 1
    try:
        scene.reached(Seen(where, done))
    except Exception as error:
        promise = "Ctrl-C leaves it done or not done, and never stuck"
        proof.broken(promise, operation=scene.name, where=where, error=error)
    # A number that a call has returned and that nobody has yet. Told, but not promised otherwise.
    proof.counts["descriptors lost"] += max(0, descriptors() - opened)
    proof.counts["interrupts"] += 1


def _alarmed(act: Callable[[], object], seconds: float) -> None:
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        act()
        signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
