"""Where /proc or /dev/shm is missing, read-only, closed, or of no use: errors that say so, and what to do about it."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import wdkmutex_daemon

import wdkmutex_shm

ROOT = os.geteuid() == 0

TRY = """
import os, sys
from wdkmutex_shm import CriticalSection, FastMutex, Grt, KMutex, WdkMutexError, mp
import wdkmutex_shm.mp.locks, wdkmutex_shm.mp.rlock  # while they can be read
import wdkmutex_shm.pool.private, wdkmutex_shm.pool.sweep
instance = sys.argv[-1]
if instance == "nobody":
    os.setresuid(65534, 65534, 65534)
calls = [lambda: KMutex(0), lambda: FastMutex(b"x" * 9999), CriticalSection, lambda: mp.get_context("fork").Lock()]
if instance != "nobody":
    calls.append(lambda: Grt.init(instance, timeout=20))
for call in calls:
    try:
        call()
        print("nothing is wrong")
    except WdkMutexError as error:
        print(f"{type(error).__name__}: {error}")
"""

NO_DEV_SHM = """
t=$(mktemp -d); mount -t tmpfs tmpfs $t
for f in null urandom; do touch $t/$f; mount --bind /dev/$f $t/$f; done
mount --rbind $t /dev; umount -l $t; rmdir $t
"""
PROC = r"/proc/\S+ cannot be read .*: mount -t proc proc /proc"


def inside(mounts: str, program: str, *words: str) -> list[str]:
    """Run a program in a mount namespace of its own and return the lines that it has printed.

    Args:
        words: an option of Python's, and the arguments.
    """
    shell = ["unshare", "--mount", "sh", "-ec", f'{mounts}\nexec "$@"', "sh"]
    done = subprocess.run(
        [*shell, sys.executable, *words[:1], "-c", program, *words[1:]],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.skipif(not ROOT, reason="only root may mount")
@pytest.mark.parametrize(
    ("mounts", "name", "text"),
    [
        (NO_DEV_SHM, "PagedPoolAllocFailed", "there is no /dev/shm.*mount -t tmpfs"),
        ("mount -t tmpfs -o ro tmpfs /dev/shm", "PagedPoolAllocFailed", "/dev/shm is read-only.*mount -o remount,rw"),
        ("mount -t tmpfs tmpfs /proc", "KernelUnsupported", PROC),
        ("umount -l /proc", "KernelUnsupported", PROC),
        (
            "mount --bind /dev/null /proc/sys/kernel/random/boot_id",
            "KernelUnsupported",
            "boot_id cannot be read.*empty",
        ),
    ],
    ids=["no /dev/shm", "read-only /dev/shm", "empty /proc", "no /proc", "no boot id"],
)
def test_what_is_missing_is_named(mounts: str, name: str, text: str, instance: str) -> None:
    lines = inside(mounts, TRY, "-OO", instance)  # without asserts
    assert len(lines) == 5
    for line in lines:
        assert line.startswith(f"{name}: "), lines
        assert re.search(text, line), line


@pytest.mark.slow
@pytest.mark.skipif(not ROOT, reason="only root may mount")
@pytest.mark.parametrize("mode", ["755", "711", "700", "000"])
def test_a_folder_that_is_not_ours_to_write_to(mode: str) -> None:
    lines = inside(f"mount -t tmpfs -o mode={mode} tmpfs /dev/shm", TRY, "-OO", "nobody")
    assert len(lines) == 4
    for line in lines:
        assert re.match("PagedPoolAllocFailed: .*uid 65534 may not write to /dev/shm .*chmod 1777 /dev/shm", line), (
            lines
        )


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [0, 1])
def test_files_that_may_not_grow(blocks: int, instance: str) -> None:
    """ulimit -f counts for shared memory too."""
    command = ["sh", "-c", f'ulimit -f {blocks}; exec "$@"', "sh", sys.executable, "-OO", "-c", TRY, instance]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=100, check=False)
    lines = done.stdout.splitlines()
    assert len(lines) == 5, done.stderr
    assert all(re.match(r"PagedPoolAllocFailed: .*\(ulimit -f, LimitFSIZE=\)", line) for line in lines[:4]), lines
    assert re.match(r"(PagedPoolAllocFailed|DaemonUnavailable): .*\(ulimit -f, LimitFSIZE=\)", lines[4]), lines


LARGE = """
import resource
from wdkmutex_shm import mp
items = mp.get_context("fork").SimpleQueue()
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
items.put(b"x" * 150_000)
print(len(items.get()))
try:
    items.put(b"x" * 300_000)
except OSError as error:
    print(error)
"""


def test_a_large_item_where_files_may_not_grow() -> None:
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, timeout=100, check=True)
    first, second = done.stdout.splitlines()
    assert first == "150000"
    assert "ulimit -f" in second


@pytest.mark.slow
@pytest.mark.skipif(not ROOT, reason="only root may mount")
def test_the_doctor_without_proc() -> None:
    program = "import sys; from wdkmutex_daemon.cli import main; sys.argv[:] = ['wdkmutex-daemon', 'doctor']; main()"
    lines = "\n".join(inside("mount -t tmpfs tmpfs /proc", f"try:\n  {program}\nexcept SystemExit: pass", "-B"))
    assert "mount -t proc proc /proc" in lines
    assert "report this" not in lines


def test_a_condition_that_is_not_acquired_is_refused_without_asserts_too() -> None:
    program = """
from wdkmutex_shm import mp
one = mp.get_context("fork").Condition()
for call in (one.wait, one.notify):
    try:
        call()
    except AssertionError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-OO", "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert len(done.stdout.splitlines()) == 2


def test_asserts_carry_no_behaviour() -> None:
    """Python -O leaves them out: they may tell a type checker what is known, and no more."""
    found = []
    for package in (wdkmutex_shm, wdkmutex_daemon):
        for path in Path(package.__path__[0]).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Assert) and not re.search(
                    r"^(isinstance\(.*\)|.* is not None)$", ast.unparse(node.test)
                ):
                    found.append(f"{path}:{node.lineno}")
        for path in Path(package.__path__[0]).rglob("*.p[yx][xi]"):
            found += [
                f"{path}: {line}" for line in path.read_text().splitlines() if line.lstrip().startswith("assert ")
            ]
    assert not found
