"""What doctor says of limits, and of segments that come and go while it looks."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import Callable
from typing import Any

import pytest
from support import Fork, segments
from wdkmutex_daemon.inspect import doctor, leftovers
from wdkmutex_daemon.inspect.doctor import FAIL, OK, WARN

from wdkmutex_shm import Grt
from wdkmutex_shm.base import runtime_dir
from wdkmutex_shm.base.names import instance_prefix, user_prefix
from wdkmutex_shm.memory import data_segments, shm

ROOT = os.geteuid() == 0
NOBODY = 65534


def _of(check: Callable[..., doctor.Found], *args: Any) -> list[tuple[str, str, str]]:
    return list(check(*args))


def test_no_shared_memory_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shm, "FOLDER", str(tmp_path / "missing"))
        ((level, text, remedy),) = _of(doctor._shm)
    assert level == FAIL
    assert "missing or not writable" in text
    assert remedy.startswith("mount -t tmpfs")


@pytest.mark.parametrize(("limit", "level"), [(64, WARN), (256, OK)])
def test_few_open_files(limit: int, level: str) -> None:
    def look() -> list[tuple[str, str, str]]:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
        found = _of(doctor._limits)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)  # more may be open already
        return found

    with Fork(look) as child:
        found = child.result()[0]
    assert found[0] == level
    assert f"{limit} open files" in found[1]
    assert ("ulimit -n" in found[2]) == (level == WARN)


@pytest.mark.parametrize(("locked", "level"), [("1", FAIL), ("0", OK)])
def test_memory_that_cannot_be_locked(locked: str, level: str) -> None:
    def look() -> list[tuple[str, str, str]]:
        os.environ["WDKMUTEX_MLOCK"] = locked
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (4096, resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]))
        if ROOT:
            os.seteuid(NOBODY)  # root may lock whatever it likes
        found = _of(doctor._limits)
        if ROOT:
            os.seteuid(0)
        return found

    with Fork(look) as child:
        found = child.result()[1]
    assert found[0] == level
    assert ("WDKMUTEX_MLOCK=1" in found[1]) == (level == FAIL)


def _vanishing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The segment goes between the listing and the look at it, as those of a process that ends just then do."""
    real = shm.listing

    def listing(prefix: str) -> list[str]:
        found = real(prefix)
        if name in found:
            shm.unlink(name)
        return found

    monkeypatch.setattr(shm, "listing", listing)


@pytest.mark.parametrize("what", ["p0", "d", "private"])
def test_a_segment_that_goes_while_it_looks(instance: str, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    if what == "p0":
        prefix = instance_prefix(instance)
        name = f"{prefix}.p0"
    elif what == "d":
        prefix = instance_prefix(instance)
        name = f"{prefix}.d{7:016x}"
    else:
        prefix = f"{user_prefix()}@{os.getpid()}.1.0123abcd"  # a process of that pid lived before
        name = f"{prefix}.p0"
    os.close(shm.create(name, 4096))
    with monkeypatch.context() as patch:
        _vanishing(patch, name)
        found = _of(leftovers.segments)
    assert [level for level, text, _ in found if level == FAIL] == []
    assert [text for level, text, _ in found if "is incomplete" in text and prefix in text] == []
    assert leftovers._maker_is_dead(name) is False
    assert leftovers._is_used(name) is False
    assert shm.listing(prefix) == []


def test_a_pool_segment_that_goes_while_its_data_is_counted(grt: str) -> None:
    """Half of what there was is gone: what is left of it is no orphan, for its maker lives."""
    Grt.register_fast_mutex("n", "x" * 1000)
    prefix = instance_prefix(grt)
    names = [f"{prefix}.p7", *segments(grt)]
    assert leftovers._orphans(prefix, names) == []


def test_data_without_a_pool(instance: str) -> None:
    prefix = instance_prefix(instance)
    alive = data_segments.create(prefix, b"x" * 1000)
    assert [text for _, text, _ in _of(leftovers.segments) if instance in text] == [], "its maker lives"
    with Fork(lambda: data_segments.create(prefix, b"x" * 1000)) as child:
        child.result()
    ((level, text, remedy),) = [found for found in _of(leftovers.segments) if instance in found[1]]
    assert level == WARN
    assert text.startswith("1 data segments")
    assert "start" in remedy
    data_segments.unlink(prefix, alive)
    Grt.init(instance)  # the remedy
    Grt.destroy()
    assert segments(instance) == []


def test_a_data_segment_without_a_header_is_left_alone(instance: str) -> None:
    name = f"{instance_prefix(instance)}.d{7:016x}"
    os.close(shm.create(name, 4096))
    assert leftovers._maker_is_dead(name) is False
    shm.unlink(name)


@pytest.mark.skipif(not ROOT, reason="only root can act as another user")
def test_a_segment_of_another_user(instance: str) -> None:
    name = f"{instance_prefix(instance)}.p0"
    os.close(shm.create(name, 4096))
    os.chown(shm.FOLDER + name, NOBODY, NOBODY)
    ((level, text, remedy),) = [found for found in _of(leftovers.segments) if name in found[1]]
    assert level == FAIL
    assert f"uid {NOBODY}" in text
    assert remedy == f"ask uid {NOBODY} or root to remove {shm.FOLDER}{name}"
    os.unlink(shm.FOLDER + name)


def test_a_listener_that_is_no_daemon(instance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its backlog is full, so it lives; and whoever is no socket is stale."""
    path = runtime_dir.socket_path(instance)
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        sock.bind(path)
        sock.listen(0)
        filler = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        filler.connect(path)
        assert doctor._answers(path)
        assert [level for level, text, _ in _of(doctor._daemons) if path in text] == [FAIL]
    assert not doctor._answers(path)
    os.unlink(path)
    assert not doctor._answers(path)


def test_a_daemon_of_another_protocol(instance: str) -> None:
    from pretender import Pretender

    from wdkmutex_shm.errors import DaemonError, ProtocolError
    from wdkmutex_shm.protocol.messages import encode_error

    for error, words in ((ProtocolError("speaks 9"), "has another version"), (DaemonError("broken"), "broken")):
        said = encode_error(error)
        with Pretender(instance, lambda verb, params, said=said: said) as daemon:  # type: ignore[misc]
            daemon.epoch = 0
            ((level, text, remedy),) = _of(doctor._daemons)
            assert level == FAIL
            assert words in text
            assert "restart" in remedy
            assert leftovers._is_served(instance), "it lives, if it is of no use"
