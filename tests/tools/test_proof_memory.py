"""What memcheck finds in our modules is told from what it finds elsewhere, and an injected fault is found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
PLANTED = os.environ.get("WDKM_PLANTED")

pytestmark = pytest.mark.skipif(not (TOOLS / "proof").exists(), reason="not run from the source tree")

OURS = "(in /x/site-packages/wdkmutex_shm/core/_core.cpython-311-x86_64-linux-gnu.so)"
READ = f"""\
==7== Invalid read of size 8
==7==    at 0x4F6F97D: memcpy (memmove.S:415)
==7==    by 0x4A25094: __pyx_f_some {OURS}
==7==  Address 0x5 is 0 bytes inside a block of size 8 free'd
==7==    at 0x48417B4: free (in /usr/libexec/valgrind/vgpreload_memcheck-amd64-linux.so)
"""
FREED = f"""\
==7== Invalid read of size 8
==7==    at 0x4F6F97D: list_sort (listobject.c:1)
==7==  Address 0x5 is 0 bytes inside a block of size 8 free'd
==7==    at 0x48417B4: free (in /usr/libexec/valgrind/vgpreload_memcheck-amd64-linux.so)
==7==    by 0x4A25094: __pyx_f_some {OURS}
"""
LOST = READ.replace("Invalid read of size 8", "40 bytes in 1 blocks are definitely lost in loss record 1 of 2")
ELSEWHERE = READ.replace(OURS, "(in /x/site-packages/other/_core.so)")
DIGIT = f"""\
==7== Conditional jump or move depends on uninitialised value(s)
==7==    at 0x4F6F97D: maybe_small_long (longobject.c:71)
==7==    by 0x4A25094: __pyx_f_some {OURS}
==7==  Uninitialised value was created by a heap allocation
==7==    at 0x48417B4: malloc (in /usr/libexec/valgrind/vgpreload_memcheck-amd64-linux.so)
==7==    by 0x4A25094: PyLong_FromString (longobject.c:2611)
"""
UNSET = DIGIT.replace("PyLong_FromString (longobject.c:2611)", f"__pyx_f_other {OURS}")
IMPORTED = READ.replace(
    "==7==    by", "==7==    by 0x4A25000: PyImport_ImportModuleLevelObject (import.c:1847)\n==7==    by", 1
)
SUMMARY = "==7== ERROR SUMMARY: 1 errors from 1 contexts (suppressed: 0 from 0)\n"


@pytest.mark.parametrize(
    ("text", "is_ours"),
    [
        (READ, True),
        (FREED, True),
        (LOST, True),
        (UNSET, True),
        (ELSEWHERE, False),
        (DIGIT, False),
        (IMPORTED, False),
        (SUMMARY, False),
    ],
    ids=["read", "freed", "lost", "unset", "elsewhere", "digit", "imported", "summary"],
)
def test_findings(text: str, is_ours: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    from proof import memcheck

    found = list(memcheck.findings(f"==7== Memcheck, a memory error detector\n==7== \n{text}==7== \n{SUMMARY}"))
    assert bool(found) is is_ours
    assert all(OURS in finding for finding in found)


def _memcheck(*command: str, plant: str | None = None) -> subprocess.CompletedProcess[str]:
    path, environment = [*filter(None, [os.environ.get("PYTHONPATH")])], dict(os.environ)
    if plant is not None:
        if PLANTED is None:
            pytest.skip("WDKM_PLANTED names no build that carries faults")
        path.insert(0, PLANTED)
        environment["WDKMUTEX_PLANT"] = plant
    environment["PYTHONPATH"] = os.pathsep.join(path)
    words = [sys.executable, str(TOOLS / "proof" / "memcheck.py"), *command]
    return subprocess.run(words, env=environment, cwd=TOOLS, capture_output=True, text=True, timeout=110, check=False)


MAKE_AND_DROP = (
    sys.executable,
    "-c",
    """
from wdkmutex_shm.memory import shm
from wdkmutex_shm.core._core import Segment
from wdkmutex_shm.base.names import user_prefix
name = user_prefix() + "memcheck.p0"
segment = Segment.create(name, user_prefix() + "memcheck", 4)
shm.unlink(name)
del segment
""",
)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed: apt install valgrind")
def test_memcheck_finds_what_is_freed_twice() -> None:
    sound = _memcheck(*MAKE_AND_DROP)
    assert sound.returncode == 0, sound.stderr
    assert "0 findings" in sound.stderr
    spoilt = _memcheck(*MAKE_AND_DROP, plant="free-twice")
    assert spoilt.returncode != 0
    assert "Invalid free()" in spoilt.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed: apt install valgrind")
def test_memcheck_has_the_status_of_its_command() -> None:
    assert _memcheck("sh", "-c", "exit 5").returncode == 5
