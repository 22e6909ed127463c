"""WDKMUTEX_MLOCK: pool and data segments are locked into memory, or it is said that they cannot be."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

LOCKED = """
from wdkmutex_shm import KMutex

def locked():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmLck")]
    return int(line.split()[1]) * 1024

before = locked()
small = KMutex(1)
pool = locked()
large = KMutex(b"x" * 100_000)
large.replace(b"y" * 100_000)
print(pool > before, locked() - pool >= 100_000)
"""

REFUSED = """
import os, resource
from wdkmutex_shm import KMutex, PagedPoolAllocFailed
import wdkmutex_shm._ready  # while the files of Python can be read
if os.geteuid() == 0:  # root may lock without limit
    os.setgid(65534)
    os.setuid(65534)
resource.setrlimit(resource.RLIMIT_MEMLOCK, (8192, 8192))
try:
    KMutex(1)
except PagedPoolAllocFailed as error:
    print("ulimit -l" in str(error))
"""


def run(code: str, mlock: str) -> str:
    environment = {**os.environ, "WDKMUTEX_MLOCK": mlock}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(("mlock", "said"), [("1", "True True"), ("", "False False")])
def test_mapped_memory_is_locked(mlock: str, said: str) -> None:
    assert run(LOCKED, mlock) == said


def test_beyond_the_limit() -> None:
    said = run(REFUSED, "1")
    assert said == "True"
