"""Which lines follow which in a module while something runs: what guides a fuzzer to inputs that do something new."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import Any


class Edges:
    """Records the pairs of lines (from, to) of some modules that are run one after the other.

    Uses sys.settrace, which every Python has; only frames of the watched modules are traced line by line.

    Args:
        modules: to watch; their code must be Python.
    """

    def __init__(self, *modules: ModuleType) -> None:
        self._files = {str(module.__file__) for module in modules}
        self.found: set[tuple[str, int, int]] = set()
        self._now: set[tuple[str, int, int]] = set()

    @contextmanager
    def watch(self) -> Iterator[set[tuple[str, int, int]]]:
        """Trace what runs in the ``with``; the set is complete when it is left."""
        self._now = set()
        before = sys.gettrace()
        sys.settrace(self._call)
        try:
            yield self._now
        finally:
            sys.settrace(before)

    def take(self, edges: set[tuple[str, int, int]]) -> bool:
        """Remember edges; tells whether one of them is new."""
        size = len(self.found)
        self.found |= edges
        return len(self.found) > size

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in self._files:
            return None
        name, last, now = frame.f_code.co_name, -1, self._now

        def line(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal last
            if event == "line":
                now.add((name, last, frame.f_lineno))
                last = frame.f_lineno
            elif event == "exception":
                now.add((name, last, -1))
            return line

        return line
