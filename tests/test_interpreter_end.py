"""What is alive when the interpreter ends goes without a word."""

from __future__ import annotations

import subprocess
import sys

import pytest

ALIVE = {
    "mutexes": "m = KMutex([1] * 5000); n = FastMutex(1)",
    "guard": "m = KMutex([1] * 5000); g = m.lock(); g.value.append(1)",
    "section": "s = CriticalSection(); s.enter()",
    "box": "b = KMutex([1] * 5000).to_owned_box(); v = b.buffer",
    "in a class": "class C:\n    m = KMutex(1)\n    g = m.lock()",
    "thread": (
        "import threading\nm = KMutex(1)\nl = []\n"
        "t = threading.Thread(target=lambda: l.append(m.lock()))\nt.start(); t.join()"
    ),
    "threads at first use": (
        "import threading\nout = {}\n"
        "ts = [threading.Thread(target=lambda i=i: out.update({i: KMutex([i] * 5000)})) for i in range(8)]\n"
        "[t.start() for t in ts]; [t.join() for t in ts]"
    ),
    "other handle": "import pickle\nm = KMutex(1); n = pickle.loads(pickle.dumps(m))",
}


@pytest.mark.parametrize("code", ALIVE.values(), ids=ALIVE)
@pytest.mark.parametrize("end", ["", "import sys; sys.exit(3)", "1 / 0"], ids=["plain", "exit", "error"])
def test_silent_end(code: str, end: str) -> None:
    program = f"from wdkmutex_shm import *\n{code}\n{end}\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    words = [line for line in done.stderr.splitlines() if not line.startswith(("  ", "Traceback"))]
    assert words == (["ZeroDivisionError: division by zero"] if end == "1 / 0" else [])
    assert done.returncode == {"": 0, "1 / 0": 1}.get(end, 3)
