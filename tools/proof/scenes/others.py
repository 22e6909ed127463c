"""Operations on what has no T of its own: a section, what is only being made, and what is registered."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from wdkmutex_shm import CriticalSection, Grt, KMutex
from wdkmutex_shm.errors import GrtIsEmpty, KeyNotFound
from wdkmutex_shm.memory import shm
from wdkmutex_shm.pool import private

from ..base.harness import Proof
from .scene import PATIENCE, Scene, Seen

_LARGE = b"n" * 300
_names = itertools.count(1)


class SectionScene(Scene):
    """A critical section, entered twice and left."""

    name = "section"
    warm_up = 50

    def __init__(self, proof: Proof) -> None:
        super().__init__(proof)
        self._section = CriticalSection()
        self.watch(self._section)
        self.warm()

    def do(self, mark: Callable[[], object]) -> None:
        with self._section, self._section:
            pass

    def check(self, seen: Seen) -> None:
        """A survivor enters and is told of the death."""
        section = self._section
        self.expect(bool(seen.pid) or not section.locked(), "who lives on holds no lock")
        try:
            section.enter(PATIENCE)
        except Exception as error:
            self.expect(False, "a survivor enters within 1 s", error=error)
            return
        self.abandoned(section.abandoned, any(seen.held))
        section.leave()

    def close(self) -> None:
        """End the section: this process forked, so the pool does not take it back by itself."""
        super().close()
        self._section._vacate()
        self._section._collect()


class MakingScene(Scene):
    """A mutex in the making, whose T needs a data segment."""

    name = "make"

    def prepare(self) -> None:
        self._made: list[Any] = []
        self._before = self._data()

    def do(self, mark: Callable[[], object]) -> None:
        self._made.append(KMutex(_LARGE))

    def check(self, seen: Seen) -> None:
        """What was made and had no name yet stays until its maker ends, as it would in any program."""
        self.expect(bool(self._made) or not seen.done, "what was made is there")
        for mutex in self._made:
            mutex.to_owned()
        self.proof.counts["mutexes lost in the making"] += len(self._data() - self._before)

    def _data(self) -> set[str]:
        return set(shm.listing(private.the_pool().prefix + ".d"))


class RegisteringScene(Scene):
    """A new name in the attached instance."""

    def __init__(self, proof: Proof, name: str, value: Any) -> None:
        super().__init__(proof)
        self.name = name
        self._value = value

    def prepare(self) -> None:
        self._key = f"n{next(_names)}"

    def do(self, mark: Callable[[], object]) -> None:
        Grt.register_fast_mutex(self._key, self._value)

    def check(self, seen: Seen) -> None:
        """It is there or not, and this process's connection is as good as ever."""
        try:
            mutex = Grt.get_fast_mutex(self._key)
        except (KeyNotFound, GrtIsEmpty):
            self.expect(not seen.done, "what was registered is there")
        else:
            with mutex.lock(timeout=PATIENCE) as guard:
                self.expect(guard.value == self._value, "T is what was registered", found=guard.value)
        if self._key in Grt.names():
            Grt.unregister(self._key)
