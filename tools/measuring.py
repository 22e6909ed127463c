"""A plugin of pytest that tools/coverage uses: goes on measuring where an interpreter has stopped it.

An exception that a signal handler raises while the tracer runs ends the tracing, as any exception in a tracer does.
Tests that interrupt what they test raise many.
"""

from __future__ import annotations

import sys

import coverage


def pytest_runtest_setup() -> None:
    measured = coverage.Coverage.current()
    if measured is not None and sys.gettrace() is None:
        measured.stop()
        measured.start()
