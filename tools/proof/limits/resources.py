"""What is done where the kernel gives no descriptor, no locked memory or no address space.

``python -m proof.limits.resources SCENE SEED INSTANCE`` plays one scene in a new process and prints what came of it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import resource
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from wdkmutex_shm import FastMutex, Grt, KMutex
from wdkmutex_shm.errors import GrtError, PagedPoolAllocFailed
from wdkmutex_shm.grt import session

from ..base import kernel
from ..base.children import Child
from ..base.instances import daemon_of, remove_instance, segments
from .full_shm import refused

_CAP_IPC_LOCK = 14


class SkipError(Exception):
    """A scene cannot be played here."""


def _refused_by_grt(work: Callable[[], Any]) -> None:
    """Work must fail for want of room, or because the daemon cannot be reached without."""
    try:
        work()
    except (PagedPoolAllocFailed, GrtError):
        return
    raise AssertionError("it found what there was none of")


def _warm(name: str) -> tuple[Any, Any, Any]:
    """What there was before: an anonymous mutex, a registered one, and one whose T is in a data segment."""
    Grt.init(name)
    registered = Grt.register_fast_mutex("registered", b"old")
    Grt.get_fast_mutex("registered")
    Grt.names()
    anonymous, large = KMutex(b"old"), FastMutex(b"old" * 3000)
    large.replace(b"old" * 3000)
    assert large.peek() == b"old" * 3000
    return anonymous, registered, large


def _stands(mutexes: tuple[Any, Any, Any]) -> None:
    anonymous, registered, large = mutexes
    for mutex, old in ((anonymous, b"old"), (registered, b"old"), (large, b"old" * 3000)):
        assert mutex.peek() == old
        assert mutex.lock(timeout=5).value == old
        assert mutex.owner is None


def _grow_all(mutexes: tuple[Any, Any, Any], size: int, *codes: int) -> int:
    """Each of them must refuse to grow and keep its T."""
    for mutex in mutexes:
        old = mutex.peek()
        value = b"x" * size
        refused(partial(mutex.replace, value, timeout=5), *codes)

        def by_with(mutex: Any = mutex, value: bytes = value) -> None:
            with mutex.lock(timeout=5) as guard:
                guard.value = value

        refused(by_with, *codes)
        assert mutex.peek() == old
        assert mutex.owner is None
    return 2 * len(mutexes)


def _locked_value(mutex: Any) -> Any:
    return mutex.lock(timeout=5).value


def _make_many() -> None:
    """Anonymous mutexes until a new pool segment is needed."""
    kept = [FastMutex(number) for number in range(100_000)]
    assert kept


@contextlib.contextmanager
def _no_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 100), hard))
    kept = []
    try:
        with contextlib.suppress(OSError):
            while True:
                kept.append(os.dup(2))
        yield
    finally:
        for fd in kept:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def descriptors(source: random.Random, name: str) -> int:
    """No descriptor is left in this process (EMFILE)."""
    mutexes = _warm(name)
    with _no_descriptors():
        tries = _grow_all(mutexes, 500_000, errno.EMFILE)
        refused(lambda: KMutex(b"x" * 5000), errno.EMFILE)
        refused(_make_many, errno.EMFILE)
        refused(lambda: Grt.register_kmutex("new", b"x" * 5000), errno.EMFILE)
        _stands(mutexes)
    _works(mutexes)
    return tries + 3


def no_connection(source: random.Random, name: str) -> int:
    """No descriptor is left for a connection to the daemon, or to start one."""
    mutexes = _warm(name)
    Grt.detach()
    pid = daemon_of(name)
    with _no_descriptors():
        _refused_by_grt(lambda: Grt.init(name))
        _refused_by_grt(lambda: Grt.init(name, autostart=False))
        _refused_by_grt(lambda: Grt.init(name + "x"))
        os.environ["WDKMUTEX_INSTANCE"] = name
        _refused_by_grt(Grt.names)
        _refused_by_grt(lambda: Grt.get_fast_mutex("registered"))
        _refused_by_grt(lambda: Grt.register_kmutex("new", 1))
        _stands(mutexes)
    assert daemon_of(name) == pid
    assert segments(name + "x") == []
    Grt.init(name)
    _works(mutexes)
    return 6


def daemon_descriptors(source: random.Random, name: str) -> int:
    """No descriptor is left in the daemon: it says so, serves on, and works again when it has some."""
    mutexes = _warm(name)
    pid = int(session.current().daemon["pid"])  # without another connection, which would leave a free descriptor
    old = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = len(os.listdir(f"/proc/{pid}/fd"))
    count = 0
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, old[1]))
    try:
        try:
            while count < 5000:
                Grt.register_fast_mutex_checked(f"n{count}", count)
                count += 1
            raise AssertionError("the daemon made segments without a descriptor")
        except PagedPoolAllocFailed as error:
            assert error.errno == errno.EMFILE, error
        assert len(Grt.names()) == count + 1
        _stands(mutexes)
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, old)
    Grt.register_fast_mutex_checked("more", 1)
    assert session.current().daemon["pid"] == pid
    _works(mutexes)
    return count


def files_of_the_system(source: random.Random, name: str) -> int:
    """No descriptor is left in the whole system (ENFILE): a filter answers so for the kernel, to this process alone."""
    mutexes = _warm(name)
    Grt.register_kmutex("large", b"old" * 3000)
    Grt.get_kmutex("large").replace(b"old")
    try:
        kernel.refuse_system_calls(errno.ENFILE)
    except OSError as error:
        raise SkipError(f"ENFILE: {error}") from None
    tries = _grow_all(mutexes, 500_000, errno.ENFILE)
    refused(lambda: KMutex(b"x" * 5000), errno.ENFILE)
    refused(_make_many, errno.ENFILE)
    refused(lambda: Grt.register_kmutex("new", b"x" * 5000), errno.ENFILE)
    _stands(mutexes)
    Grt.detach()
    os.environ["WDKMUTEX_INSTANCE"] = name
    _refused_by_grt(lambda: Grt.init(name))
    _refused_by_grt(Grt.names)
    _refused_by_grt(lambda: Grt.register_kmutex("new", 1))
    return tries + 6


def locked_memory(source: random.Random, name: str) -> int:
    """WDKMUTEX_MLOCK=1 and little that may be locked (RLIMIT_MEMLOCK)."""
    assert os.environ.get("WDKMUTEX_MLOCK") == "1"
    if os.geteuid() == 0:
        try:
            kernel.drop_capability(_CAP_IPC_LOCK)
        except OSError as error:
            raise SkipError(f"RLIMIT_MEMLOCK: root may lock what it likes, and cannot give that up: {error}") from None
    hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    room = 2 << 20
    if hard != resource.RLIM_INFINITY and hard < room:
        raise SkipError(f"RLIMIT_MEMLOCK: {hard} bytes may be locked here, {room} are needed")
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (room, hard))
    mutexes = _warm(name)
    tries = _grow_all(mutexes, 4 << 20, errno.ENOMEM, errno.EAGAIN)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (4096, hard))
    refused(_make_many, errno.ENOMEM, errno.EAGAIN)
    refused(lambda: KMutex(b"x" * 50_000).replace(b"y" * 60_000), errno.ENOMEM, errno.EAGAIN)
    _stands(mutexes)
    refused(lambda: _start(name + "x"), errno.ENOMEM, errno.EAGAIN)
    assert segments(name + "x") == []
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (room, hard))
    _start(name + "x")
    _works(mutexes)
    return tries + 3


def _start(name: str) -> None:
    """Start a daemon of another instance and end it."""
    from wdkmutex_shm.engines.local import autostart
    from wdkmutex_shm.engines.local.client import connect

    autostart.start(name)
    with connect(name) as client:
        client.call("destroy")


def address_space(source: random.Random, name: str) -> int:
    """Little address space is left (RLIMIT_AS)."""
    mutexes = _warm(name)
    size = 64 << 20
    value = b"x" * size
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        space = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (space + (16 << 20), before[1]))
    try:
        for mutex in mutexes:
            old = mutex.peek()
            refused(partial(mutex.replace, value, timeout=5), errno.ENOMEM)
            assert mutex.peek() == old
            assert mutex.owner is None
        kept = []
        with contextlib.suppress(MemoryError):  # PagedPoolAllocFailed, or Python's own
            for number in range(100_000):
                kept.append(FastMutex(number))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    _stands(mutexes)  # with room again: without any, Python itself may have none for what is read
    assert all(mutex.peek() == number for number, mutex in enumerate(kept))
    del kept
    many = KMutex([0.5] * 4_000_000)
    mutexes[0].replace(value)
    with open("/proc/self/statm") as file:
        space = int(file.read().split()[0]) * resource.getpagesize()
    for mutex in (mutexes[0], many):
        # T is whole and there; only this process has no memory to read it. That is not damage, and not a lost T.
        for read in (mutex.peek, partial(_locked_value, mutex), mutex.to_owned):
            resource.setrlimit(resource.RLIMIT_AS, (space + (50 << 20), before[1]))
            try:
                read()
                raise AssertionError("it read a large T without the memory for that")
            except MemoryError:
                pass
            finally:
                resource.setrlimit(resource.RLIMIT_AS, before)
    assert mutexes[0].peek() == value
    assert many.peek() == [0.5] * 4_000_000
    mutexes[0].replace(b"old")
    _works(mutexes)
    return 12


def daemon_address_space(source: random.Random, name: str) -> int:
    """The daemon has no address space to grow its pool; and none to start with."""
    mutexes = _warm(name)
    pid = daemon_of(name)
    old = resource.prlimit(pid, resource.RLIMIT_AS)
    with open(f"/proc/{pid}/statm") as file:
        space = int(file.read().split()[0]) * resource.getpagesize()
    resource.prlimit(pid, resource.RLIMIT_AS, (space, old[1]))
    count = 0
    try:
        while count < 20_000:
            Grt.register_fast_mutex_checked(f"n{count}", count)
            count += 1
        raise AssertionError("the daemon found address space where there was none")
    except (PagedPoolAllocFailed, GrtError):
        pass
    finally:
        resource.prlimit(pid, resource.RLIMIT_AS, old)
    assert daemon_of(name) == pid
    Grt.register_fast_mutex_checked("more", 1)
    assert len(Grt.names()) == count + 2
    _works(mutexes)
    return count


def _works(mutexes: tuple[Any, Any, Any]) -> None:
    """There is room again: everything works again."""
    _stands(mutexes)
    for mutex in mutexes:
        mutex.replace(b"new" * 5000, timeout=5)
        assert mutex.peek() == b"new" * 5000
    assert KMutex(b"x" * 5000).peek() == b"x" * 5000
    Grt.register_kmutex("again", b"x" * 5000)
    assert Grt.get_kmutex("again", bytes).peek() == b"x" * 5000


SCENES: dict[str, Callable[[random.Random, str], int]] = {
    scene.__name__: scene
    for scene in (
        descriptors,
        no_connection,
        daemon_descriptors,
        files_of_the_system,
        locked_memory,
        address_space,
        daemon_address_space,
    )
}
"""Every scene; each returns how often it tried, and raises AssertionError where a promise is broken."""


def main(scene: str, seed: str, name: str) -> None:
    """Play one scene and print the outcome as JSON."""
    with Child(lambda: _played(scene, int(seed), name)) as child:
        outcome = child.outcome(60.0)
    remove_instance(name)
    remove_instance(name + "x")
    print(json.dumps({"value": outcome.value, "told": None if outcome.well else outcome.told()}))


def _played(scene: str, seed: int, name: str) -> int | str:
    try:
        return SCENES[scene](random.Random(seed), name)
    except SkipError as error:
        return str(error)


if __name__ == "__main__":
    main(*sys.argv[1:])
