"""Fixtures of all tests: a runtime folder and an instance of their own, and nothing left behind."""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from commands import Command
from kinds import KINDS, make
from lost_replies import Lost
from mp_peers import METHODS, Clock
from support import daemon_pid, remove_instance, wait_until

from wdkmutex_shm import FastMutex, Grt, Irql, KMutex, current_irql, mp
from wdkmutex_shm.base.names import user_prefix
from wdkmutex_shm.core import _core
from wdkmutex_shm.core._core import set_raised_level
from wdkmutex_shm.engines.local.client import connect
from wdkmutex_shm.errors import WdkMutexError
from wdkmutex_shm.grt import session
from wdkmutex_shm.memory import shm
from wdkmutex_shm.mp import item_counts
from wdkmutex_shm.pool import sweep
from wdkmutex_shm.pool.pool import Pool

_numbers = itertools.count(1)

# Started in the background of a shell (or by nohup), this process and its children would ignore these.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
    signal.signal(_number, signal.SIG_DFL)


def _ticks() -> int:
    """Now, in the unit of the start times of processes."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def _is_anothers(name: str, base: str, begun: int) -> bool:
    """Whether a segment belongs to a process that the test has not started: it is older, or lives and is no child."""
    if shm.FOLDER + name == _core.wait_board_path():
        return True  # everybody's; it goes with the last who uses it
    private = re.match(r"/wdkm\.\d+\.@(\d+)\.(\d+)\.", name)
    if private is None:
        server = Pool.server_of(name[: name.rindex(".")])
        return server is not None and psutil.pid_exists(server[0]) and not server[1].startswith(base)
    pid = int(private[1])
    if int(private[2]) < begun:
        return True
    try:
        return os.getpid() not in (pid, *(parent.pid for parent in psutil.Process(pid).parents()))
    except psutil.NoSuchProcess:
        return False


def _left(before: set[str], base: str, begun: int) -> list[str]:
    own = f"{user_prefix()}@{os.getpid()}."
    names = set(shm.listing(user_prefix())) - before
    return sorted(name for name in names if not name.startswith(own) and not _is_anothers(name, base, begun))


def _end_daemons(base: str) -> list[str]:
    """Destroy the instances whose socket lies in the test's own folder: who serves there was started by the test."""
    found = []
    for path in glob.glob(f"{glob.escape(base)}/wdkmutex/*.sock"):
        name = os.path.basename(path).removesuffix(".sock")
        with contextlib.suppress(WdkMutexError), connect(name, timeout=5.0) as client:
            if client.path == path:
                found.append(name)
                client.call("destroy")
    return found


@pytest.fixture(autouse=True)
def runtime_base(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A new XDG_RUNTIME_DIR for each test. Afterwards nothing may be left in it or, of ours, in /dev/shm."""
    before, begun = set(shm.listing(user_prefix())), _ticks() - 1
    base = tempfile.mkdtemp(prefix="wdkm", dir="/tmp")
    monkeypatch.setenv("XDG_RUNTIME_DIR", base)
    monkeypatch.delenv("WDKMUTEX_INSTANCE", raising=False)
    monkeypatch.delenv("WDKMUTEX_DAEMON", raising=False)
    try:
        yield base
        session.leave()
        served = _end_daemons(base)
        # No segment is removed here by its name: it may be another's. The package's own sweep asks for proof of death.
        try:
            wait_until(lambda: sweep.dead_private_pools() is not None and not _left(before, base, begun), seconds=5.0)
        except AssertionError:
            left = _left(before, base, begun)
            raise AssertionError(f"{len(left)} segments are left in /dev/shm, such as {left[:5]}") from None
        assert not served, f"daemons were left running: {served}"
        files = [name for _, _, found in os.walk(base) for name in found]
        assert not files, f"left in the runtime folder: {files}"
    finally:
        session.leave()
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def instance(runtime_base: str) -> Iterator[str]:
    """The name of an instance that nobody else uses. It is destroyed, with its daemon, after the test."""
    name = f"t{os.getpid()}-{next(_numbers)}"
    try:
        yield name
    finally:
        remove_instance(name)
        for folder, _, files in os.walk(runtime_base):
            for file in files:
                if file.startswith(f"{name}."):
                    os.unlink(os.path.join(folder, file))


@pytest.fixture
def grt(instance: str) -> str:
    """An instance to which this process is attached; returns its name."""
    from wdkmutex_shm import Grt

    Grt.init(instance)
    return instance


@pytest.fixture
def serves(grt: str) -> Iterator[str]:
    """An instance whose daemon must be the same, and answer, after the test."""
    Grt.register_fast_mutex("n", 5)
    pid = daemon_pid(grt)
    yield grt
    assert daemon_pid(grt) == pid, "it has not exited"
    assert Grt.get_fast_mutex("n", int).peek() == 5
    assert Grt.names() == ["n"]


# --- what it is done to, and how


@pytest.fixture(params=[KMutex, FastMutex])
def cls(request: pytest.FixtureRequest) -> Any:
    """The kinds of mutex that have a T."""
    return request.param


@pytest.fixture(params=METHODS)
def context(request: pytest.FixtureRequest) -> Any:
    """A crash-proof context of each start method."""
    return mp.get_context(request.param)


@pytest.fixture
def fork() -> Any:
    """A crash-proof context whose processes are forked."""
    return mp.get_context("fork")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """In the place of the clock of the queues' books; it stands still until it is set."""
    fake = Clock(item_counts._now())
    monkeypatch.setattr(item_counts, "_now", fake)
    return fake


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Every kind, see `kinds.py`."""
    return str(request.param)


@pytest.fixture(params=["anonymous", "registered"])
def mutex(kind: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A mutex of every kind, without a name and with one."""
    name = None
    if request.param == "registered":
        request.getfixturevalue("grt")
        name = "n"
    made = make(kind, name)
    yield made
    del made


@pytest.fixture
def passive() -> Iterator[None]:
    """The test must not leave the level raised behind it."""
    yield
    level = current_irql()
    set_raised_level(Irql.PASSIVE)  # so that one failure is one
    assert level is Irql.PASSIVE


@pytest.fixture
def cli(instance: str) -> Command:
    """The command line for an instance that does not run yet."""
    return Command(instance)


@pytest.fixture
def served(cli: Command) -> Command:
    """The command line for an instance that runs."""
    cli("start")
    return cli


@pytest.fixture
def lossy(grt: str, monkeypatch: pytest.MonkeyPatch) -> Lost:
    """A client that loses replies, as the one that the Grt uses; it starts daemons where there are none."""
    from wdkmutex_shm.engines.local.autostart import start

    client = Lost(grt, revive=lambda left: start(grt, left))
    client.open()
    monkeypatch.setattr(session, "_session", session._Session(grt, client, os.getpid()))
    return client
