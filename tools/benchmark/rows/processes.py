"""B12 and B14: what a process pays for using the package: to start, and in memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from benchmark import crowd
from benchmark.instance import served
from benchmark.model import Context, Entry, Other, Row, Target

__all__ = ["ROWS"]

_USED = 10
_HANDLES = 1_000
_PROBE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "probe.py")


def _milliseconds(words: Sequence[str], environment: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - began) * 1e3


def _command() -> list[str]:
    """The words that start ``wdkmutex-daemon``: its script beside this Python, where there is one."""
    script = os.path.join(os.path.dirname(sys.executable), "wdkmutex-daemon")
    return [script] if os.access(script, os.X_OK) else [sys.executable, "-m", "wdkmutex_daemon"]


def _starts(context: Context) -> Iterator[Entry]:
    found: dict[str, list[float]] = {}
    with served() as owner:
        environment = {**os.environ, "WDKMUTEX_INSTANCE": owner.instance}
        commands = {
            "bare": [sys.executable, "-c", "pass"],
            "import": [sys.executable, "-c", "import wdkmutex_shm"],
            "multiprocessing": [sys.executable, "-c", "import multiprocessing.sharedctypes"],
            "status": [*_command(), "status"],
        }
        rounds = context.effort.starts
        for number in range(rounds + 1):
            context.tell("starting processes", number / (rounds + 1))
            for name, words in commands.items():
                took = _milliseconds(words, environment)
                if number:  # the first of each only warms up
                    found.setdefault(name, []).append(took)
    bare = found["bare"]
    yield Entry(
        part="import",
        title="import wdkmutex_shm, over a bare interpreter",
        unit="ms",
        ours=_over(found["import"], bare),
        ours_name="import wdkmutex_shm",
        target=Target("ours", at_most=60.0),
        others=[Other("import multiprocessing.sharedctypes", _over(found["multiprocessing"], bare))],
    )
    yield Entry(
        part="status",
        title="wdkmutex-daemon status, from start to end",
        unit="ms",
        ours=tuple(found["status"]),
        ours_name="wdkmutex-daemon status",
        target=Target("ours", at_most=250.0),
        others=[Other("python -c pass", tuple(bare))],
    )


def _over(values: Sequence[float], base: Sequence[float]) -> tuple[float, ...]:
    return tuple(value - other for value, other in zip(values, base, strict=True))


def _memory(context: Context) -> Iterator[Entry]:
    count = context.effort.names
    runs = 3
    with served() as owner:
        context.tell(f"registering {count:,} names", 0.0)
        owner.call(crowd.register_many, 0, count)
        environment = {**os.environ, "WDKMUTEX_INSTANCE": owner.instance}
        words = [sys.executable, _PROBE, str(count), str(_USED), str(_HANDLES)]
        probed = []
        for number in range(runs):
            context.tell("what a process grows by", 0.8 + 0.2 * number / runs)
            done = subprocess.run(words, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=True)
            probed.append(json.loads(done.stdout))
    first = probed[0]
    notes = [
        f"of the growth, {first['private'] / 1e3:.0f} kB are the process's own and the rest is shared memory; "
        f"importing the package took {first['imported'] / 1e6:.1f} MB before that, attaching "
        f"{first['attached'] / 1e6:.1f} MB"
    ]
    yield Entry(
        part="process",
        title=f"a process attached to {count:,} mutexes: growth from using {_USED}",
        unit="MB",
        ours=tuple(probe["growth"] / 1e6 for probe in probed),
        ours_name="resident",
        target=Target("ours", at_most=2.0),
        notes=notes,
    )
    yield Entry(
        part="handle",
        title="a mutex handle",
        unit="B",
        ours=tuple(probe["handle"] for probe in probed),
        ours_name="allocated by Python for each",
        target=Target("ours", at_most=200.0),
        notes=[f"sys.getsizeof of a handle: {first['size']} B"],
    )


ROWS = [
    Row("B12", "starting", _starts),
    Row("B14", "memory", _memory),
]
