"""Programs that close descriptors: the standard three before they begin, or all that are open, as daemons do."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from wdkmutex_shm.base.names import user_prefix
from wdkmutex_shm.memory import shm

USE = """
import fcntl, gc, os, sys, threading
from wdkmutex_shm import CriticalSection, FastMutex, Grt, KMutex, lock_all, mp

def low():
    return sorted(int(fd) for fd in os.listdir("/proc/self/fd") if int(fd) < 3 and os.path.exists(f"/proc/self/fd/{fd}")
                  and not os.readlink(f"/proc/self/fd/{fd}").startswith("/proc"))

def say(*words):
    with open(said, "a") as file:
        print(*words, file=file)

said, instance = sys.argv[1:3]
"""

CLOSED = """
for fd in closed:
    os.close(fd)
before = low()
a, b = KMutex(0), FastMutex(b"")
with lock_all(a, b) as (one, other):
    one.value, other.value = 1, b"x" * 5000
holder = threading.Thread(target=lambda: (a.lock(), threading.Event().wait(0.1)))
holder.start()
a.waiters()
with a.lock(timeout=30) as guard:
    guard.value += 1
holder.join()
items = mp.get_context("fork").Queue()
items.put(b"y" * 300_000)
assert len(items.get()) == 300_000
Grt.init(instance)
Grt.register_fast_mutex("n", "z" * 1000)
assert len(Grt.get_fast_mutex("n", str).peek()) == 1000
for fd in closed:
    try:
        os.write(fd, b"a line that must not come to lie in a segment" * 100)
        say("written to", fd, os.readlink(f"/proc/self/fd/{fd}"))
    except OSError:
        pass
say(a.peek(), len(b.peek()), low() == before)
Grt.destroy()
"""

ALL = """
FILES = 40
def everything():
    os.closerange(3, 1024)
    return [os.open(f"{said}.user", os.O_RDWR | os.O_CREAT) for _ in range(FILES)]

def intact(files):
    for fd in files:
        os.fstat(fd)
    alone = os.open(f"{said}.user", os.O_RDWR)
    fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if one of them has come by a lock
    size = os.fstat(alone).st_size
    os.close(alone)
    return size == 0

a, b, section = KMutex(0), FastMutex(b"w" * 5000), CriticalSection()
items = mp.get_context("fork").Queue()
items.put(1)
assert items.get() == 1
Grt.init(instance)
named = Grt.register_fast_mutex("n", 0)
with a.lock() as guard, section:
    guard.value = 1
    files = everything()
assert named.fetch_add(1) == 0
assert Grt.names() == ["n"]
assert Grt.register_fast_mutex("m", "z" * 1000).peek() == "z" * 1000
with lock_all(a, b) as (one, other):
    one.value, other.value = 2, b"x" * 9000
for use in (lambda: items.get(False), lambda: items._writer.send("x"), items._reader.size):
    try:
        use()
        say("used")
    except OSError as error:
        assert "closed the descriptor of the queue" in str(error), error
say(a.peek(), len(b.peek()), intact(files))
for fd in files:
    os.close(fd)
files = everything()
items.close()
del items
del named
gc.collect()
pid = os.fork()
if pid == 0:
    try:
        made = KMutex(5)
        assert made.fetch_add(1) == 5
        assert a.fetch_add(1) == 2
        assert Grt.names() == ["m", "n"]
        assert intact(files)
    except BaseException as error:
        say("child", repr(error))
    import atexit
    atexit._run_exitfuncs()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert Grt.names() == ["m", "n"]
say(a.peek(), intact(files))
Grt.destroy()
import atexit
atexit._run_exitfuncs()
del a, b, section
gc.collect()
say(intact(files))
"""


def run(script: str, instance: str, tmp_path: Any, *options: str) -> list[str]:
    """Run a program that uses all kinds of things, and return what it has said, line by line."""
    said = tmp_path / "said"
    command = [sys.executable, *options, "-c", USE + script, str(said), instance]
    done = subprocess.run(command, cwd="/", capture_output=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return said.read_text().splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("closed", [(0, 1, 2), (2,), (0,), (1, 2)], ids=str)
def test_the_standard_descriptors_are_closed(instance: str, tmp_path: Any, closed: tuple[int, ...]) -> None:
    assert run(f"closed = {closed!r}\n{CLOSED}", instance, tmp_path) == ["2 5000 True"]


@pytest.mark.slow
def test_all_descriptors_are_closed_and_used_for_other_files(instance: str, tmp_path: Any) -> None:
    """What is ours works on, and what is the user's is neither closed nor locked nor written to, up to the end."""
    before = set(shm.listing(user_prefix()))
    lines = run(ALL, instance, tmp_path)
    assert lines == ["2 9000 True", "3 True", "True"]
    assert not [name for name in set(shm.listing(user_prefix())) - before if "@waits" not in name]
    os.unlink(tmp_path / "said.user")
