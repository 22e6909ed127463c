"""Lists of names that are read in pages: what is kept of them, and for how long."""

from __future__ import annotations

import contextlib
from typing import Any

import psutil
import pytest
from peer import Peer
from support import daemon_pid
from wdkmutex_daemon.serve import listings
from wdkmutex_daemon.serve.listings import Reading, Snapshots

from wdkmutex_shm import FastMutex, Grt
from wdkmutex_shm.errors import ProtocolError
from wdkmutex_shm.protocol.messages import NAMES_PAGE


class Names:
    """Stands for a registry."""

    def __init__(self, count: int) -> None:
        self.version = 0
        self.all = [f"n{number}".encode() for number in range(count)]

    def names(self) -> list[bytes]:
        return list(self.all)

    def add(self, name: bytes) -> None:
        self.all.append(name)
        self.version += 1


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "KEPT", 100)
    monkeypatch.setattr(listings, "LISTS", 2)


def _snapshots(names: Any) -> Snapshots:
    return Snapshots(names)


def _kept(shared: Snapshots) -> int:
    return sum(length for _, length in shared._kept())


def test_pages_neither_repeat_nor_miss_a_name() -> None:
    names = Names(25)
    reading = Reading(_snapshots(names))
    page, number, start = reading.page(0, 0, 10)
    read = page
    while start is not None:
        names.add(f"later {start}".encode())
        page, number, start = reading.page(number, start, 10)
        read += page
    assert read == names.all[:25]
    with pytest.raises(ProtocolError, match="begin again"):
        reading.page(number, 20, 10)


def test_the_same_names_are_one_list() -> None:
    names = Names(50)
    shared = _snapshots(names)
    readings = [Reading(shared) for _ in range(20)]
    for reading in readings:
        reading.page(0, 0, 10)
    assert _kept(shared) == 50
    names.add(b"new")
    assert b"new" in readings[0].page(0, 0, 51)[0]  # at its end, so it is given up
    assert _kept(shared) == 50
    assert [reading.page(1, 40, 10)[2] for reading in readings] == [None] * 20
    assert _kept(shared) == 0


def test_a_reader_that_goes_gives_its_lists_up() -> None:
    shared = _snapshots(Names(50))
    reading = Reading(shared)
    reading.page(0, 0, 10)
    assert _kept(shared) == 50
    reading.end()
    assert _kept(shared) == 0
    with pytest.raises(ProtocolError):
        reading.page(1, 10, 10)


def test_one_reader_has_four_lists() -> None:
    names = Names(50)
    shared = _snapshots(names)
    reading = Reading(shared)
    for _ in range(5):
        reading.page(0, 0, 10)
        names.add(b"x")
    assert _kept(shared) == 51 + 52 + 53 + 54
    with pytest.raises(ProtocolError):
        reading.page(1, 10, 10)
    assert len(reading.page(2, 10, 100)[0]) == 41


@pytest.mark.usefixtures("small")
def test_all_lists_are_bounded_together() -> None:
    names = Names(30)
    shared = _snapshots(names)
    readings = []
    for _ in range(50):
        readings.append(Reading(shared))
        readings[-1].page(0, 0, 10)
        names.add(b"x")
        assert _kept(shared) <= max(100, 2 * len(names.all))
    assert len(readings[-1].page(1, 10, 100)[0]) == 69
    with pytest.raises(ProtocolError, match="begin again"):
        readings[0].page(1, 10, 10)
    names.all = names.all[:5]
    names.version += 1
    assert len(readings[0].page(0, 0, 3)[0]) == 3
    assert _kept(shared) <= 100


@pytest.mark.slow
def test_many_clients_that_begin_to_read_cost_the_daemon_a_few_lists(grt: str) -> None:
    count = 20_000
    Grt.register_many(FastMutex, dict.fromkeys((f"name {number}" for number in range(count)), 0))
    daemon = psutil.Process(daemon_pid(grt))
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(grt)) for _ in range(120)]
        for verb in ("list", "names"):
            peers[0].ask(verb)
        before = daemon.memory_info().rss - daemon.memory_info().shared
        for turn in range(4):
            for number, peer in enumerate(peers):
                body, error = peer.ask("names")
                assert error is None
                assert body is not None
                assert body["next"] == NAMES_PAGE
                if number % 2:
                    Grt.register_fast_mutex(f"more {turn} {number}", 0)
        grown = daemon.memory_info().rss - daemon.memory_info().shared - before
        # Each list is 160 kB: a list for each of 480 would be 77 MB, one for each of 240 versions 38 MB.
        assert grown < 24 << 20, f"{grown >> 20} MiB"
        assert len(Grt.names()) == count + 240
