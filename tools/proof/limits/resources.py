"""What is done where the kernel gives no descriptor, no locked memory or no address space.

``python -m proof.limits.resources SCENE INSTANCE`` plays one scene in a new process and prints what came of it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import sys
from collections.abc import Callable, Iterator
from functools import partial

from wdkmutex_shm import FastMutex, Grt, KMutex
from wdkmutex_shm.engines.local import autostart
from wdkmutex_shm.engines.local.client import connect
from wdkmutex_shm.errors import GrtError, PagedPoolAllocFailed
from wdkmutex_shm.grt import session

from ..base import kernel
from ..base.children import in_child, space_of
from ..base.instances import daemon_of, remove_instance, segments
from .remains import Remains, limited, refused, refused_by_grt, register_until, value_of

_CAP_IPC_LOCK = 14


class SkipError(Exception):
    """A scene cannot be played here."""


@contextlib.contextmanager
def _no_descriptors() -> Iterator[None]:
    kept = []
    with limited(resource.RLIMIT_NOFILE, min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 100)):
        try:
            with contextlib.suppress(OSError):
                while True:
                    kept.append(os.dup(2))
            yield
        finally:
            for fd in kept:
                os.close(fd)


def descriptors(name: str) -> int:
    """No descriptor is left in this process (EMFILE)."""
    remains = Remains(name)
    with _no_descriptors():
        tries = remains.do_not_grow(500_000, errno.EMFILE) + remains.no_more(errno.EMFILE)
        remains.stand()
    remains.work()
    return tries


def no_connection(name: str) -> int:
    """No descriptor is left for a connection to the daemon, or to start one."""
    remains = Remains(name)
    Grt.detach()
    pid = daemon_of(name)
    with _no_descriptors():
        inits = partial(Grt.init, name), partial(Grt.init, name, autostart=False), partial(Grt.init, name + "x")
        tries = refused_by_grt(*inits)
        os.environ["WDKMUTEX_INSTANCE"] = name
        get, register = partial(Grt.get_fast_mutex, "registered"), partial(Grt.register_kmutex, "new", 1)
        tries += refused_by_grt(Grt.names, get, register)
        remains.stand()
    assert daemon_of(name) == pid
    assert segments(name + "x") == []
    Grt.init(name)
    remains.work()
    return tries


def daemon_descriptors(name: str) -> int:
    """No descriptor is left in the daemon: it says so, serves on, and works again when it has some."""
    remains = Remains(name)
    pid = int(session.current().daemon["pid"])  # without another connection, which would leave a free descriptor
    with limited(resource.RLIMIT_NOFILE, len(os.listdir(f"/proc/{pid}/fd")), pid):
        count = register_until(PagedPoolAllocFailed, 5000, errno.EMFILE)
        assert len(Grt.names()) == count + 1
        remains.stand()
    Grt.register_fast_mutex_checked("more", 1)
    assert session.current().daemon["pid"] == pid
    remains.work()
    return count


def files_of_the_system(name: str) -> int:
    """No descriptor is left in the whole system (ENFILE): a filter answers so for the kernel, to this process alone."""
    remains = Remains(name)
    Grt.register_kmutex("large", b"old" * 3000)
    Grt.get_kmutex("large").replace(b"old")
    try:
        kernel.refuse_system_calls(errno.ENFILE)
    except OSError as error:
        raise SkipError(f"ENFILE: {error}") from None
    tries = remains.do_not_grow(500_000, errno.ENFILE) + remains.no_more(errno.ENFILE)
    remains.stand()
    Grt.detach()
    os.environ["WDKMUTEX_INSTANCE"] = name
    return tries + refused_by_grt(partial(Grt.init, name), Grt.names, partial(Grt.register_kmutex, "new", 1))


def locked_memory(name: str) -> int:
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
    codes = errno.ENOMEM, errno.EAGAIN
    with limited(resource.RLIMIT_MEMLOCK, room):
        remains = Remains(name)
        tries = remains.do_not_grow(4 << 20, *codes)
        with limited(resource.RLIMIT_MEMLOCK, 4096):
            refused(lambda: [FastMutex(number) for number in range(100_000)], *codes)
            refused(lambda: KMutex(b"x" * 50_000).replace(b"y" * 60_000), *codes)
            remains.stand()
            refused(lambda: _start(name + "x"), *codes)
            assert segments(name + "x") == []
        _start(name + "x")
        remains.work()
    return tries + 3


def _start(name: str) -> None:
    """Start a daemon of another instance and end it."""
    autostart.start(name)
    with connect(name) as client:
        client.call("destroy")


def address_space(name: str) -> int:
    """Little address space is left (RLIMIT_AS)."""
    remains = Remains(name)
    value = b"x" * (64 << 20)
    kept = []
    with limited(resource.RLIMIT_AS, space_of() + (16 << 20)):
        for mutex, old in remains.mutexes:
            refused(partial(mutex.replace, value, timeout=5), errno.ENOMEM)
            assert mutex.peek() == old
            assert mutex.owner is None
        with contextlib.suppress(MemoryError):  # PagedPoolAllocFailed, or Python's own
            for number in range(100_000):
                kept.append(FastMutex(number))
    remains.stand()  # with room again: without any, Python itself may have none for what is read
    assert all(mutex.peek() == number for number, mutex in enumerate(kept))
    del kept
    many, large = KMutex([0.5] * 4_000_000), remains.mutexes[0][0]
    large.replace(value)
    space = space_of()
    for mutex in (large, many):
        # T is whole and there; only this process has no memory to read it. That is not damage, and not a lost T.
        for read in (mutex.peek, partial(value_of, mutex), mutex.to_owned):
            with limited(resource.RLIMIT_AS, space + (50 << 20)), contextlib.suppress(MemoryError):
                read()
                raise AssertionError("it read a large T without the memory for that")
    assert large.peek() == value
    assert many.peek() == [0.5] * 4_000_000
    large.replace(b"old")
    remains.work()
    return 12


def daemon_address_space(name: str) -> int:
    """The daemon has no address space to grow its pool; and none to start with."""
    remains = Remains(name)
    pid = daemon_of(name)
    with limited(resource.RLIMIT_AS, space_of(pid), pid):
        count = register_until((PagedPoolAllocFailed, GrtError), 20_000)
    assert daemon_of(name) == pid
    Grt.register_fast_mutex_checked("more", 1)
    assert len(Grt.names()) == count + 2
    remains.work()
    return count


SCENES: dict[str, Callable[[str], int]] = {
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


def main(scene: str, name: str) -> None:
    """Play one scene and print the outcome as JSON."""
    outcome = in_child(lambda: _played(scene, name))
    remove_instance(name)
    remove_instance(name + "x")
    print(json.dumps({"value": outcome.value, "told": None if outcome.well else outcome.told()}))


def _played(scene: str, name: str) -> int | str:
    try:
        return SCENES[scene](name)
    except SkipError as error:
        return str(error)


if __name__ == "__main__":
    main(*sys.argv[1:])
