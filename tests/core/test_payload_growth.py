"""A T that grows out of its slot and shrinks again, and what is left when there is no room or the holder dies."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import signal
import subprocess
import sys
from typing import Any

import pytest
from processes import Child, Line, in_child, in_thread
from scarce import no_descriptor

from wdkmutex_shm import Grt, PagedPoolAllocFailed
from wdkmutex_shm.base.names import INLINE_BYTES
from wdkmutex_shm.memory import shm
from wdkmutex_shm.pool import private

MIB = 1 << 20


_before: set[str] = set()


@pytest.fixture(autouse=True)
def _baseline() -> None:
    """Other tests' mutexes may still have data segments: what was shared with a forked child stays."""
    _before.clear()
    _before.update(shm.listing(private.the_pool().prefix + ".d"))


def data_segments() -> list[str]:
    """The data segments in this process's pool that the test made."""
    return [name for name in shm.listing(private.the_pool().prefix + ".d") if name not in _before]


def data_bytes() -> int:
    return sum(os.stat(shm.FOLDER + name).st_size for name in data_segments())


class Witness:
    """Keeps the present data segments open, so that their memory can be measured when their names are gone."""

    def __init__(self) -> None:
        self.fds = [os.open(shm.FOLDER + name, os.O_RDONLY) for name in data_segments()]

    def bytes(self) -> int:
        return sum(os.fstat(fd).st_blocks * 512 for fd in self.fds)

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


@pytest.mark.parametrize(
    "size", [1, INLINE_BYTES - 3, INLINE_BYTES - 2, INLINE_BYTES - 1, 100, 4000, 4096, 70_000, MIB]
)
def test_sizes_around_the_edges(cls: Any, size: int) -> None:
    mutex = cls(b"a")
    assert data_bytes() == 0
    for letter in (b"b", b"c", b"d"):
        mutex.replace(letter * size)
        assert mutex.peek() == letter * size
    assert mutex.replace(b"e") == b"d" * size
    made_big = cls(b"f" * size)
    assert made_big.peek() == b"f" * size
    assert (data_bytes() > 0) == (size > INLINE_BYTES - 2)
    del made_big, mutex
    assert data_bytes() == 0
    for shared in (cls(b"g" * size), cls(b"h")):
        shared.replace(b"i" * size)
        assert in_child(shared.peek) == shared.peek() == b"i" * size


def test_from_1_byte_to_64_mib_and_back(cls: Any) -> None:
    mutex = cls(b"")
    size = 1
    while size <= 64 * MIB:
        mutex.replace(b"x" * size)
        assert len(mutex.peek()) == size
        size *= 4
    witness = Witness()
    assert witness.bytes() >= 64 * MIB
    assert mutex.statistics().pool_bytes >= 64 * MIB
    while size:
        with mutex.lock() as guard:
            guard.value = b"y" * size
        assert data_bytes() <= max(10 * size, 2 * 20_000) if size < 64 * MIB else True
        size //= 16
    mutex.replace(b"")
    assert mutex.peek() == b""
    assert data_bytes() <= 40_000
    # The memory itself is back, not only the names.
    assert witness.bytes() < MIB
    witness.close()


def test_memory_is_back_though_another_process_has_it_mapped(cls: Any) -> None:
    mutex = cls(b"x" * 16 * MIB)
    with Child(_hold_mapped, mutex) as child:
        assert child.hear() == 16 * MIB
        witness = Witness()
        assert witness.bytes() >= 16 * MIB
        mutex.replace(b"")
        mutex.replace(b"")
        assert witness.bytes() < MIB
        witness.close()
        child.say("again")
        assert child.hear() == 0


def _hold_mapped(line: Line, mutex: Any) -> None:
    with mutex.lock() as guard:
        line.say(len(guard.value))
    line.hear()
    line.say(len(mutex.peek()))


def mapped() -> int:
    """How many data segments this process has mapped."""
    with open("/proc/self/maps") as maps:
        return len(re.findall(rf"{shm.FOLDER}/wdkm\.\S+\.d[0-9a-f]{{16}}\b", maps.read()))


def test_mutexes_that_are_gone_leave_no_memory_mapped(cls: Any) -> None:
    """A mapping keeps the memory of a segment although its name is gone."""
    before = mapped()
    mutexes = [cls(b"") for _ in range(50)]
    for mutex in mutexes:
        mutex.replace(b"x" * 5000)
        mutex.replace(b"y" * 50_000)
    assert mapped() == before + 100
    del mutexes, mutex
    assert mapped() == before
    mutex = cls(b"x" * 5000)
    assert mutex.peek() == b"x" * 5000
    assert mutex.to_owned() == b"x" * 5000
    del mutex
    with cls(b"x" * 5000).to_owned_box() as box:
        view = box.buffer
        assert mapped() == before + 1
        again = cls(b"z" * 5000)
        again.peek()
        del again
        assert bytes(view[-1:]) == b"x"
        view.release()
    assert mapped() == before


def test_a_registered_mutex_that_is_gone_leaves_no_memory_mapped(cls: Any, grt: str) -> None:
    before = mapped()
    for number in range(5):
        mutex = Grt.register_kmutex("n", b"x" * 5000)
        mutex.replace(b"y" * 9000)
        Grt.unregister("n")
        assert mapped() <= before + 2, number
        del mutex
        assert mapped() == before, number


def test_alternating_sizes_do_not_pile_up(cls: Any) -> None:
    mutex = cls(b"")
    for _ in range(50):
        for size in (0, 200, 50_000, 10, 5000):
            mutex.replace(b"z" * size)
            assert data_bytes() < 300_000
    assert len(data_segments()) <= 2


def _summed(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest() + body


def _whole(value: bytes) -> bool:
    return _summed(value[16:]) == value


def _grow_and_shrink(line: Line, mutex: Any) -> None:
    line.say("ready")
    number = 0
    while line.silent(0):
        for size in (1, 40, 60, 500, 30_000, 1_100_000, 3_000_000, 20_000, 90):
            number += 1
            mutex.replace(_summed(bytes([number % 256]) * size))


def test_peek_while_another_process_grows_it(cls: Any) -> None:
    mutex = cls(_summed(b""))
    with Child(_grow_and_shrink, mutex) as child:
        child.hear()
        sizes: set[int] = set()
        looks = 0
        while looks < 1500 or len(sizes) < 4:
            value = mutex.peek()
            assert _whole(value)
            sizes.add(len(value))
            looks += 1
        child.say("enough")
        assert child.end() == 0


def _die_in(call: str, mutex: Any, size: int) -> None:
    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(os, call, die)
    mutex.replace(b"n" * size)


@pytest.mark.parametrize("call", ["posix_fallocate", "fchmod", "pwrite"])
@pytest.mark.parametrize("size", [5000, 2 * MIB])
def test_holder_killed_while_it_makes_a_data_segment(cls: Any, call: str, size: int) -> None:
    mutex = cls(b"old")
    with Child(lambda line: _die_in(call, mutex, size)) as child:
        assert child.end() == -signal.SIGKILL
    assert len(data_segments()) == 1
    with mutex.lock(5) as guard:
        assert guard.abandoned
        assert guard.abandoned_by == child.pid
        # What the dead left is removed before the lock is handed on.
        assert data_segments() == []
        assert guard.value == b"old"


@pytest.mark.parametrize("call", ["pwrite", "posix_fallocate"])
def test_holder_killed_growing_a_large_t(cls: Any, call: str) -> None:
    mutex = cls(b"o" * 10_000)
    with Child(lambda line: _die_in(call, mutex, 90_000)) as child:
        assert child.end() == -signal.SIGKILL
    with mutex.lock(5) as guard:
        assert guard.abandoned
        assert guard.value == b"o" * 10_000
    mutex.replace(b"")
    mutex.replace(b"")
    assert data_bytes() <= 40_000


def _no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_no_room_to_grow(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mutex = cls([1])
    with mutex.lock() as guard:
        guard.value.append("x" * 1000)
        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", _no_room)
            with pytest.raises(PagedPoolAllocFailed) as caught:
                guard.commit()
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.requested is not None
        assert caught.value.requested >= 1000
        assert "/dev/shm" in str(caught.value)
        assert mutex.peek() == [1]
        assert data_bytes() == 0
        assert in_thread(mutex.try_lock) is None
        # With room again the same guard commits.
        guard.commit()
        assert mutex.peek() == [1, "x" * 1000]
    monkeypatch.setattr(os, "posix_fallocate", _no_room)
    with pytest.raises(MemoryError), mutex.lock() as guard:
        guard.value = ["y" * 100_000]
    with pytest.raises(PagedPoolAllocFailed):
        mutex.replace(["y" * 100_000])
    assert mutex.peek() == [1, "x" * 1000]
    assert mutex.owner is None
    with pytest.raises(PagedPoolAllocFailed):
        cls(b"x" * 1000)


FULL = """
import os, sys
from wdkmutex_shm import {cls}, PagedPoolAllocFailed
from wdkmutex_shm.memory import shm
mutex = {cls}(b"a")
mutex.replace(b"b" * 300_000)
for size in (5_000_000, 1_000_000):
    try:
        mutex.replace(b"c" * size)
    except PagedPoolAllocFailed as error:
        print(type(error).__name__, error.errno, mutex.peek() == b"b" * 300_000, mutex.owner)
# Room in the file system goes to others: what is reserved is ours all the same.
with open("/dev/shm/filler", "wb", buffering=0) as file:
    try:
        while file.write(b"x" * 4096):
            pass
    except OSError:
        pass
for _ in range(5):
    try:
        mutex.replace(b"d" * 300_000)
        print("replaced", mutex.peek() == b"d" * 300_000)
    except PagedPoolAllocFailed:
        print("refused", mutex.peek() == b"b" * 300_000)
try:
    more = [{cls}(0) for _ in range(5000)]
except PagedPoolAllocFailed:
    print("pool full", mutex.peek() is not None)
mutex.replace(b"e")
mutex.replace(b"f")
print(mutex.peek(), len(shm.listing("/wdkm.0.@")))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small /dev/shm takes root")
def test_dev_shm_is_really_full(cls: Any) -> None:
    inside = f'mount -t tmpfs -o size=1m none /dev/shm && exec "{sys.executable}" -c "$CODE"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", inside],
        env={**os.environ, "CODE": FULL.format(cls=cls.__name__)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    assert done.returncode == 0, done
    lines = done.stdout.splitlines()
    assert lines[:2] == [f"PagedPoolAllocFailed {errno.ENOSPC} True None"] * 2, done
    assert all(line.endswith("True") for line in lines[2:8]), done
    assert "pool full True" in lines
    assert lines[-1].startswith("b'f'")


def _without_descriptors(work: Any) -> Any:
    """Run work in a child that has no file descriptor left."""

    def starve() -> Any:
        with no_descriptor():
            return work()

    return in_child(starve)


def test_no_file_descriptor_left(cls: Any) -> None:
    mutex = cls(b"a")

    def work() -> list[Any]:
        told: list[Any] = []
        with mutex.lock() as guard:
            guard.value = b"b"
        for size in (5000, 5 * MIB):
            try:
                mutex.replace(b"c" * size)
            except PagedPoolAllocFailed as error:
                told.append(error.errno)
        told.append(mutex.peek())
        return told

    assert _without_descriptors(work) == [errno.EMFILE, errno.EMFILE, b"b"]
    assert mutex.peek() == b"b"
    assert mutex.owner is None
    assert data_bytes() == 0


def test_no_file_descriptor_to_read_with(cls: Any) -> None:
    mutex = cls(b"a" * 5000)

    def work() -> list[str]:
        told = []
        for use in (mutex.peek, lambda: mutex.lock().value):
            try:
                told.append(str(len(use())))
            except PagedPoolAllocFailed as error:
                told.append(errno.errorcode[error.errno or 0])
        return told

    assert set(_without_descriptors(work)) <= {"5000", "EMFILE"}
    assert mutex.owner is None
    assert mutex.peek() == b"a" * 5000
