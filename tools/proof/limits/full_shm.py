"""What is done where there is no room: in a private mount namespace whose /dev/shm has a megabyte.

Each scene runs in a process of its own (a SIGBUS ends that one alone) and a namespace of its own, and raises
AssertionError where a promise is broken.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from wdkmutex_shm import FastMutex, Grt, KMutex
from wdkmutex_shm.base.names import instance_prefix
from wdkmutex_shm.errors import PagedPoolAllocFailed
from wdkmutex_shm.grt import session
from wdkmutex_shm.memory import shm
from wdkmutex_shm.pool import sweep

from ..base import kernel
from ..base.children import Child, Outcome, in_child
from ..base.instances import remove_instance, segments
from .remains import refused, register_until, set_by_with, value_of

#: Bytes of /dev/shm in a scene.
SIZE = 1 << 20
_FILLER = shm.FOLDER + "/filler"


def enter() -> None:
    """Have a small /dev/shm of one's own.

    Raises:
        OSError: it is not permitted.
    """
    kernel.enter(kernel.CLONE_NEWNS)
    kernel.mount("tmpfs", shm.FOLDER, f"size={SIZE},mode=1777")


def in_small_room(scene: Callable[[random.Random, str], Any], seed: int, name: str, seconds: float) -> Outcome:
    """Run a scene; a child enters the namespace, and a child of its own plays."""

    def play() -> Any:
        return scene(random.Random(seed), name)

    def stage() -> Outcome:
        enter()
        try:
            return in_child(play, seconds)
        finally:
            remove_instance(name)

    outcome = in_child(stage, seconds + 30.0)
    return outcome.value if outcome.well else outcome


@contextlib.contextmanager
def filled(source: random.Random) -> Iterator[None]:
    """Nothing is free in /dev/shm, or a page or two."""
    with open(_FILLER, "wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        file.truncate(max(0, file.tell() - 4096 * source.choice([0, 0, 1, 2])))
        file.seek(0, os.SEEK_END)
    try:
        yield
    finally:
        os.unlink(_FILLER)


def _value(source: random.Random, size: int) -> bytes:
    """A T that can be told from any other, and is whole or not."""
    return source.randbytes(4) * (size // 4 + 1)


def _whole(value: bytes) -> None:
    assert value == value[:4] * (len(value) // 4), "T is torn"


def _kind(source: random.Random) -> Any:
    return source.choice([FastMutex, KMutex])


def creation(source: random.Random, name: str) -> int:
    """Mutexes are made until there is no room; those that there are stand, and when some go there is room again."""
    made: list[tuple[Any, bytes]] = []
    while True:
        value = _value(source, source.choice([4, 60, 5000, 100_000]))
        try:
            made.append((_kind(source)(value), value))
        except PagedPoolAllocFailed as error:
            assert error.errno == errno.ENOSPC, error
            break
    with filled(random.Random(0)):
        refused(lambda: KMutex(b"x" * 200_000), errno.ENOSPC)
        for mutex, value in made:
            assert mutex.peek() == value
            assert value_of(mutex) == value
            assert mutex.owner is None
    count = len(made)
    del made[: count // 2 + 1], mutex
    again = [_kind(source)(b"y" * 4) for _ in range(count // 2)]
    assert all(mutex.peek() == b"y" * 4 for mutex in again)
    assert all(mutex.peek() == value for mutex, value in made)
    return count


def growth(source: random.Random, name: str) -> int:
    """A T that would have to grow does not; the old one stands and the lock is free, however it was tried."""
    old = _value(source, source.choice([4, 60, 5000]))
    large = _value(source, source.choice([50_000, 300_000]))
    mutex = _kind(source)(old)
    tries = 0
    with filled(source):

        def by_commit() -> None:
            with mutex.lock(timeout=5) as guard:
                guard.value = large
                try:
                    guard.commit()
                finally:
                    guard.rollback()

        def by_inner() -> None:
            with mutex.lock(timeout=5) as guard:
                with mutex.lock(timeout=5) as inner:
                    inner.value = large
                assert guard.value == large

        ways = [lambda: set_by_with(mutex, large), by_commit, lambda: mutex.replace(large, timeout=5)]
        if isinstance(mutex, KMutex):
            ways.append(by_inner)
        for way in source.sample(ways, len(ways)):
            refused(way, errno.ENOSPC)
            assert mutex.peek() == old
            assert mutex.owner is None
            tries += 1
        small = _value(source, 4)
        mutex.replace(small, timeout=5)  # what needs no more room works
        assert mutex.peek() == small
    mutex.replace(large, timeout=5)
    assert mutex.peek() == large
    return tries


def reserved(source: random.Random, name: str) -> int:
    """What a T has already is its own: writing to it is never a SIGBUS, although all other memory goes meanwhile."""
    size = source.choice([5000, 100_000, 200_000])
    mutex = _kind(source)(_value(source, size))
    mutex.replace(_value(source, size))
    with filled(source):
        for _ in range(20):
            with contextlib.suppress(PagedPoolAllocFailed):
                mutex.replace(_value(source, size - source.randrange(size // 5)), timeout=5)
            _whole(mutex.peek())
            _whole(value_of(mutex))
    return 20


def promised(source: random.Random, name: str) -> int:
    """A segment that was made can be written to its last byte, although there is less memory than its size by then."""
    made = []
    with contextlib.suppress(PagedPoolAllocFailed):
        for _ in range(20):
            made.append(FastMutex(_value(source, 200_000)))
    for mutex in made:
        _whole(mutex.peek())
    return len(made)


def registration(source: random.Random, name: str) -> int:
    """Names are registered until there is no room: what is registered stands, overwriting fails and changes nothing."""
    Grt.init(name)
    old = _value(source, 5000)
    Grt.register_kmutex("old", old)
    large = _value(source, 600_000)
    with filled(source):
        for register in (Grt.register_kmutex, Grt.register_kmutex_checked, Grt.get_or_register_kmutex):
            refused(partial(register, "new", large), errno.ENOSPC)
        refused(lambda: Grt.register_kmutex("old", large), errno.ENOSPC)
        assert Grt.get_kmutex("old", bytes).peek() == old
        assert Grt.names() == ["old"]
        count = register_until(PagedPoolAllocFailed, 5000, errno.ENOSPC)
        refused(lambda: Grt.register_fast_mutex("n0", -1), errno.ENOSPC)
        assert len(Grt.names()) == count + 1
        assert Grt.get_fast_mutex("n0", int).fetch_add(1) == 0
        assert Grt.get_fast_mutex(f"n{count - 1}", int).peek() == count - 1
    Grt.register_fast_mutex("more", 1)
    Grt.register_kmutex("old", b"z" * 9000)
    assert Grt.get_kmutex("old", bytes).peek() == b"z" * 9000
    Grt.destroy()
    return count


def start(source: random.Random, name: str) -> int:
    """A daemon that finds no room says so and leaves nothing; with room it starts."""
    with filled(source):
        refused(lambda: Grt.init(name), errno.ENOSPC)
        assert Grt.instance() is None
        assert segments(name) == []
        folder = os.path.join(os.environ["XDG_RUNTIME_DIR"], "wdkmutex")
        left = [file for file in os.listdir(folder) if file.startswith(name) and not file.endswith(".log")]
        assert left == [], f"left behind: {left}"
    Grt.init(name)
    Grt.register_fast_mutex("n", 1)
    Grt.destroy()
    return 1


def tide(source: random.Random, name: str) -> int:
    """Processes make, grow and shrink at random while free memory comes and goes; no T is torn, no lock stays."""
    Grt.init(name)
    shared = [Grt.register_fast_mutex(f"shared {number}", _value(source, 4)) for number in range(3)]
    until = time.monotonic() + 1.5
    seeds = [source.getrandbits(32) for _ in range(2)]

    def swim(seed: int) -> int:
        mine, steps = random.Random(seed), 0
        own: list[Any] = []
        while time.monotonic() < until:
            steps += 1
            try:
                mutex = mine.choice(shared)
                _whole(mutex.peek())
                with mutex.lock(timeout=10) as guard:
                    _whole(guard.value)
                    guard.value = _value(mine, mine.choice([4, 60, 500, 9000, 100_000, 400_000]))
                if mine.random() < 0.2:
                    own.append(KMutex(_value(mine, mine.choice([4, 9000, 200_000]))))
                    del own[:-5]
                if mine.random() < 0.1:
                    Grt.register_kmutex(f"mine {seed}", _value(mine, mine.choice([4, 9000, 200_000])))
            except PagedPoolAllocFailed as error:
                assert error.errno == errno.ENOSPC, error
        return steps

    steps = 0
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(Child(partial(swim, seed))) for seed in seeds]
        with open(_FILLER, "wb", buffering=0) as file:
            while time.monotonic() < until:
                with contextlib.suppress(OSError):
                    os.posix_fallocate(file.fileno(), 0, source.choice([1, 4096 * source.randrange(1, 200), SIZE]))
                time.sleep(source.random() * 0.02)
                file.truncate(0)
        os.unlink(_FILLER)
        for child in children:
            steps += child.outcome(30.0).checked()
    for mutex in shared:
        _whole(mutex.peek())
        assert mutex.owner is None
        mutex.replace(_value(source, 4), timeout=5)
    Grt.destroy()
    session.leave()
    sweep.dead_private_pools()
    assert shm.listing(instance_prefix(name)) == []
    return steps


SCENES: dict[str, Callable[[random.Random, str], int]] = {
    scene.__name__: scene for scene in (creation, growth, reserved, promised, registration, start, tide)
}
"""Every scene; each returns how often it tried."""
