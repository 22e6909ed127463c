"""peek() of a T of megabytes: copied from a mapping whose memory is taken from under nobody while it is read."""

from __future__ import annotations

import errno
import os
import re
import resource
import subprocess
import sys
from typing import Any

import pytest
import support
from processes import in_child
from refusing import refuse

from wdkmutex_shm import FastMutex
from wdkmutex_shm.memory import shm

MIB = 1 << 20

# A reader is stopped in its copy, which the lock on the data segment tells.
STOP = """
import fcntl, os, signal, sys
from support import wait_until
from wdkmutex_shm import FastMutex
from wdkmutex_shm.memory import shm
from wdkmutex_shm.pool import private

SIZE = 4 << 20
mutex = FastMutex(b"x" * SIZE)
with mutex.lock() as guard:
    assert len(guard.value) == SIZE  # mapped, here and in the child
(name,) = shm.listing(private.the_pool().prefix + ".d")
segment = os.open(shm.FOLDER + name, os.O_RDONLY)
told, tell = os.pipe()
ends, end = os.pipe()
reader = os.fork()
if reader == 0:
    os.close(segment)
    os.close(end)
    while os.path.exists(shm.FOLDER + name) and (value := mutex.peek()):
        assert value == b"x" * SIZE
    os.write(tell, b".")
    os.read(ends, 1)  # with the mapping, until the memory was looked at
    os._exit(0)

def is_in_the_copy():
    os.kill(reader, signal.SIGSTOP)
    _, status = os.waitpid(reader, os.WUNTRACED)
    assert os.WIFSTOPPED(status), status
    try:
        fcntl.flock(segment, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(segment, fcntl.LOCK_UN)
    os.kill(reader, signal.SIGCONT)
    return False

def used():
    return os.fstat(segment).st_blocks * 512

wait_until(is_in_the_copy)
"""
# Then T moves out and all memory is used up,
MOVED = """
assert mutex.replace(b"") == b"x" * SIZE
assert shm.listing(private.the_pool().prefix + ".d") == []
print("kept while it is read:", used() >= SIZE)
filler = os.open(shm.FOLDER + "/filler", os.O_RDWR | os.O_CREAT)
free = os.statvfs(shm.FOLDER)
os.posix_fallocate(filler, 0, free.f_bavail * free.f_frsize)
print("full:", os.statvfs(shm.FOLDER).f_bavail == 0)
"""
# or a cleaner removes the file of a T that lives on.
REMOVED = """
os.unlink(shm.FOLDER + name)
"""
GO_ON = """
os.kill(reader, signal.SIGCONT)
os.close(tell)
print("went on:", os.read(told, 1) == b".")
print("given back:", used() <= 1 << 16)
os.close(end)
_, status = os.waitpid(reader, 0)
print("ended:", status)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small /dev/shm takes root")
@pytest.mark.parametrize("mlock", ["", "1"])
def test_a_reader_stopped_in_its_copy_meets_no_hole(mlock: str) -> None:
    inside = f'mount -t tmpfs -o size=16m none /dev/shm && exec "{sys.executable}" -c "$CODE"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", inside],
        env={
            **os.environ,
            "CODE": STOP + MOVED + GO_ON,
            "WDKMUTEX_MLOCK": mlock,
            "PYTHONPATH": os.path.dirname(support.__file__),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    assert done.stdout.splitlines() == [
        "kept while it is read: True",
        "full: True",
        "went on: True",
        "given back: True",
        "ended: 0",
    ], done


@pytest.mark.slow
def test_a_t_whose_file_was_removed_is_not_taken_for_a_discarded_one() -> None:
    code = STOP + REMOVED + GO_ON + "print('T stands:', mutex.try_lock().value == b'x' * SIZE)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.path.dirname(support.__file__)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == ["went on: True", "given back: False", "ended: 0", "T stands: True"], done


def test_where_the_lock_of_readers_is_refused() -> None:
    """Without it nothing is read through a mapping, and nothing is taken from under those who have one."""
    mutex: Any = FastMutex(b"x" * 3 * MIB)
    mutex.peek()

    def work() -> bool | None:
        try:
            refuse(errno.EPERM, "flock")
        except (OSError, KeyError):
            return None
        return bool(mutex.peek() == b"x" * 3 * MIB and mutex.replace(b"y" * 6 * MIB) == b"x" * 3 * MIB)

    done = in_child(work)
    if done is None:
        pytest.skip("no seccomp filter here")
    assert done
    assert mutex.peek() == b"y" * 6 * MIB


@pytest.mark.slow
def test_where_there_is_no_room_for_a_mapping() -> None:
    mutex: Any = FastMutex(b"x" * 8 * MIB)
    assert in_child(_peek_without_room, mutex, method="spawn")  # a forked child has the mapping of its parent


def _peek_without_room(mutex: Any) -> bool:
    prefix = re.escape(mutex.segment.rpartition(".")[0])
    with open("/proc/self/statm") as sizes:
        here = int(sizes.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (here + 12 * MIB, hard))  # for T, and not for its mapping
    for mapped in (False, True):
        assert mutex.peek().count(b"x") == 8 * MIB
        with open("/proc/self/maps") as maps:
            assert bool(re.search(rf"{shm.FOLDER}{prefix}\.d", maps.read())) == mapped
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    return True


@pytest.mark.slow
def test_more_than_is_read_through_a_mapping() -> None:
    mutex: Any = FastMutex(b"x" * 33 * MIB)
    assert mutex.peek() == b"x" * 33 * MIB
