"""A plugin of pytest that tools/coverage uses: goes on measuring where an interpreter has stopped it.

An exception that a signal handler raises while the tracer runs ends the tracing, as any exception in a tracer does, and
leaves the tracer's lock locked, on which the next one to meet a new file would wait for ever. Tests that interrupt what
they test raise many.
"""

from __future__ import annotations

import sys

import coverage


def pytest_runtest_setup() -> None:
    measured = coverage.Coverage.current()
    if measured is None:
        return
    collector = measured._collector
    if collector is not None:
        collector.data_lock = None  # what it guards is whole under the GIL
    if sys.gettrace() is None:
        measured.stop()
        measured.start()
