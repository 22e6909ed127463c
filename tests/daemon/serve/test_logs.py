"""The daemon's log: it cannot be made to fill the disk, and says what it left out."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator

import pytest
from wdkmutex_daemon.serve import logs


class Clock:
    """Stands for the time module."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(logs, "time", made)
    return made


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """The error output of this process."""
    made = io.StringIO()
    monkeypatch.setattr(sys, "stderr", made)
    return made


@pytest.fixture
def log(clock: Clock, said: io.StringIO) -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []  # the test runner's own
    logs.set_up_log()
    try:
        yield logging.getLogger("wdkmutex_daemon.test")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def _lines(said: io.StringIO) -> list[str]:
    """What was said since the last look."""
    lines = said.getvalue().splitlines()
    said.seek(0)
    said.truncate()
    return lines


def test_a_burst_goes_through_and_then_a_line_a_second(log: logging.Logger, clock: Clock, said: io.StringIO) -> None:
    for number in range(150):
        log.warning("line %d", number)
    lines = _lines(said)
    assert len(lines) == 100
    assert lines[-1].endswith("WARNING line 99")
    clock.now += 1.0
    log.warning("line %s", "one")
    log.warning("line %s", "two")
    assert [line.split("WARNING ")[1] for line in _lines(said)] == ["(50 lines omitted) line one"]
    clock.now += 1000.0
    for number in range(150):
        log.warning("line %d", number)
    assert len(_lines(said)) == 100, "a pause is not saved up beyond the burst"


def test_details_are_not_logged(log: logging.Logger, said: io.StringIO) -> None:
    log.debug("detail")
    log.info("news")
    (line,) = _lines(said)
    assert line.endswith("INFO news")
