"""Kernels, or filters in front of them, that refuse a system call: gVisor, qemu-user, a service's SystemCallFilter=."""

from __future__ import annotations

import pytest
from refusing import run

from wdkmutex_shm.base.names import user_prefix
from wdkmutex_shm.memory import shm

CODES = ("ENOSYS", "EPERM")

NOTHING_STARTS = """
import sys
from wdkmutex_shm import CriticalSection, FastMutex, Grt, KernelUnsupported, KMutex, WdkMutexError
for make in (lambda: KMutex(0), lambda: FastMutex(b"x" * 9999), CriticalSection, lambda: Grt.init(sys.argv[1])):
    try:
        make()
        print("made")
    except KernelUnsupported as error:
        print(error.system_call, "set_robust_list(2)" in str(error), "seccomp" in str(error))
"""

ROBUST = """
import os
from wdkmutex_shm import KMutex
mutex = KMutex(0)
if os.fork() == 0:
    guard = mutex.lock()
    os.kill(os.getpid(), 9)
os.wait()
with mutex.lock(timeout=30) as guard:
    print(guard.abandoned)
"""

LARGE = """
import os, resource
from wdkmutex_shm import mp
fork = mp.get_context("fork")
items = fork.Queue()
items.put(b"x" * 500_000)
assert items.get(timeout=30) == b"x" * 500_000
with fork.Pool(1) as pool:
    assert pool.apply_async(bytes, (400_000,)).get(30) == bytes(400_000)
reader, writer = items._reader, items._writer
limit = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, limit[1]))
writer.send_bytes(b"y" * 600_000)
assert reader.recv_bytes() == b"y" * 600_000
resource.setrlimit(resource.RLIMIT_NOFILE, limit)
print([name for name in os.listdir("/dev/shm") if name.startswith("wdkm-message")])
"""

ANY = """
import threading, time
from wdkmutex_shm import FastMutex, lock_any
one, other = FastMutex(0), FastMutex(1)
held = threading.Event()
leave = threading.Event()
def hold():
    with one.lock(), other.lock():
        held.set()
        leave.wait(30)
        time.sleep(0.02)
thread = threading.Thread(target=hold)
thread.start()
held.wait(30)
leave.set()
index, guard = lock_any(one, other, timeout=30)
with guard:
    print(index == guard.value)
thread.join()
"""

ALIVE = """
import os
from wdkmutex_shm import FastMutex, mp
from wdkmutex_shm.pool import sweep
lock = mp.get_context("fork").Lock()
mutex = FastMutex(0)
lock.acquire()
read, write = os.pipe()
pid = os.fork()
if pid == 0:
    got = lock.acquire(timeout=0.2)
    os.write(write, b"yes" if got else b"no")
    os._exit(0)
print(os.read(read, 9).decode(), sweep.dead_private_pools())
os.waitpid(pid, 0)
lock.release()
"""

LOCKED = """
from wdkmutex_shm import KMutex, PagedPoolAllocFailed
try:
    KMutex(0)
except PagedPoolAllocFailed as error:
    print("WDKMUTEX_MLOCK" in str(error), "mlock(2)" in str(error))
"""


def _left() -> set[str]:
    return {name for name in shm.listing(user_prefix()) if "@waits" not in name}


@pytest.mark.slow
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("names", [("set_robust_list",), ("set_robust_list", "get_robust_list")], ids="+".join)
def test_nothing_starts_where_the_locks_of_the_dead_would_stay(
    code: str, names: tuple[str, ...], instance: str
) -> None:
    before = _left()
    assert run(code, names, NOTHING_STARTS, instance) == ["set_robust_list True True"] * 4
    assert _left() == before


@pytest.mark.slow
@pytest.mark.parametrize("code", CODES)
def test_memory_that_cannot_be_reserved(code: str, instance: str) -> None:
    before = _left()
    assert run(code, ("fallocate",), NOTHING_STARTS, instance) == ["fallocate False True"] * 4
    assert _left() == before


@pytest.mark.slow
def test_a_kernel_that_only_does_not_tell_of_robust_lists_is_tried_out() -> None:
    assert run("EPERM", ("get_robust_list",), ROBUST) == ["True"]


@pytest.mark.slow
@pytest.mark.parametrize("code", CODES)
def test_large_items_without_memfd(code: str) -> None:
    assert run(code, ("memfd_create",), LARGE) == ["[]"]


@pytest.mark.slow
@pytest.mark.parametrize("code", CODES)
def test_any_of_several_without_futex_waitv(code: str) -> None:
    assert run(code, ("futex_waitv",), ANY) == ["True"]


@pytest.mark.slow
@pytest.mark.parametrize("code", CODES)
def test_who_is_alive_without_pidfds(code: str) -> None:
    assert run(code, ("pidfd_open",), ALIVE) == ["no []"]


@pytest.mark.slow
def test_memory_that_must_not_be_locked() -> None:
    assert run("EPERM", ("mlock",), LOCKED, WDKMUTEX_MLOCK="1") == ["True True"]


@pytest.mark.slow
def test_threads_of_ours_without_clone3() -> None:
    """The C library falls back to clone(2), and so do we."""
    assert run("ENOSYS", ("clone3",), LARGE) == ["[]"]
