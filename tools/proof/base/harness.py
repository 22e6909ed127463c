"""What every tool has: a command line, a seed, a time, a progress line, counts, broken promises, a summary at the end.

A tool is a function of a :class:`Proof` that :func:`tool` makes a command of. It knows nothing of what is tried.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from wdkmutex_shm.core import _core

#: Broken promises that a summary lists; the rest are only counted.
_LISTED = 20
#: Seconds between two looks of the progress line.
_REFRESH = 0.25
_MOST = 5

Expect = Callable[..., bool]
"""``expect(holds, promise, **facts)``: reports the promise as broken unless it holds, and returns ``holds``."""


def tool(
    name: str, *options: Callable[[Any], Any], seconds: float | None = None
) -> Callable[[Callable[..., None]], click.Command]:
    """Make a command of a function, which is given a :class:`Proof` and what its own ``options`` say.

    Args:
        name: of the tool.
        options: its own, beside the seed, the file of the summary, and the time.
        seconds: the default time, None where a time means nothing.
    """
    common = [
        click.option("--seed", type=int, default=None, help="Repeat the run of that seed."),
        click.option("--first", is_flag=True, help="Stop at the first broken promise."),
        click.option("--json", "json_file", type=click.Path(), help="Write the summary there too."),
    ]
    if seconds is not None:
        common.append(click.option("--seconds", type=float, default=seconds, help="How long to go on."))

    def make(play: Callable[..., None]) -> click.Command:
        def run(seed: int | None, first: bool, json_file: str | None, seconds: float | None = None, **own: Any) -> None:
            with _run(Proof(name, seed, seconds, first=first), json_file) as proof:
                play(proof, **own)

        run.__doc__ = play.__doc__
        for option in (*reversed(options), *common):
            run = option(run)
        return click.command(name)(run)

    return make


class Proof:
    """One run of a tool.

    Args:
        tool: its name.
        seed: of :attr:`random`; None takes a random one.
        seconds: how long it may go on; None for as long as it takes.
        first: one broken promise is enough; else a few are looked for, which often say more.

    Attributes:
        random: the source of every choice that the tool makes.
        counts: what was done, for the summary.
        folder: a private runtime folder; ``XDG_RUNTIME_DIR`` points to it while the tool runs.
        instance: name of an instance that nobody else uses.
    """

    def __init__(self, tool: str, seed: int | None, seconds: float | None, *, first: bool) -> None:
        self.tool = tool
        self.seed = secrets.randbelow(1 << 32) if seed is None else seed
        self.random = random.Random(self.seed)
        self.seconds = seconds
        self.counts: Counter[str] = Counter()
        self.folder = tempfile.mkdtemp(prefix="wdkm-proof-")
        self.instance = f"proof-{tool}-{os.getpid()}"
        self._begun = time.monotonic()
        self._most = 1 if first else _MOST
        self._broken: list[dict[str, Any]] = []
        self._skipped: list[str] = []
        self._progress = Progress(
            TextColumn(f"{tool} (seed {self.seed})"),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            auto_refresh=False,  # by a thread, and the tools fork
        )
        self._shown = 0.0
        self._task = self._progress.add_task("", total=None)

    @property
    def elapsed(self) -> float:
        """Seconds since the tool began."""
        return time.monotonic() - self._begun

    @property
    def over(self) -> bool:
        """Whether the time is up, or it is no use to go on."""
        return self.enough or (self.seconds is not None and self.elapsed >= self.seconds)

    @property
    def enough(self) -> bool:
        """Whether so many promises were broken that it is no use to go on."""
        return self.counts["broken"] >= self._most

    @property
    def ok(self) -> bool:
        """Whether no promise was broken so far."""
        return not self._broken

    def progress(self, text: str, done: float | None = None, total: float | None = None) -> None:
        """Say how far it is; without ``done`` the time counts."""
        if done is None and self.seconds is not None:
            done, total = min(self.elapsed, self.seconds), self.seconds
        now = time.monotonic()
        due = now - self._shown >= _REFRESH
        if due:
            self._shown = now
        self._progress.update(self._task, description=text, completed=done, total=total, refresh=due)

    def broken(self, promise: str, **facts: Any) -> None:
        """Report a broken promise, and whatever helps to find out why."""
        self.counts["broken"] += 1
        if len(self._broken) < _LISTED:
            self._broken.append({"promise": promise, **{key: _plain(value) for key, value in facts.items()}})
            self._progress.console.print(f"BROKEN: {promise}", style="red", markup=False, highlight=False)

    def expect(self, holds: bool, promise: str, **facts: Any) -> bool:
        """Report ``promise`` as broken unless it holds. Returns ``holds``."""
        if not holds:
            self.broken(promise, **facts)
        return holds

    def longest(self, what: str, found: int) -> None:
        """Keep the greatest number as a count."""
        self.counts[what] = max(self.counts[what], found)

    def skip(self, why: str) -> None:
        """Say once that a part could not be run here, and why."""
        if why not in self._skipped:
            self._skipped.append(why)
            self._progress.console.print(f"skipped: {why}", markup=False, highlight=False)

    def summary(self) -> dict[str, Any]:
        """What the tool did, as JSON can hold it."""
        return {
            "tool": self.tool,
            "seed": self.seed,
            "seconds": round(self.elapsed, 1),
            "ok": self.ok,
            "counts": dict(self.counts),
            "broken": self._broken,
            "skipped": self._skipped,
        }


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value if isinstance(value, (int, float, str, bool, type(None))) else repr(value)


def descriptors() -> int:
    """Open descriptors, but for those that belong to mapped segments: these go with their mappings."""
    found = 0
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found += not os.readlink(f"/proc/self/fd/{number}").startswith("/dev/shm/wdkm.")
    return found


def mappings(*passed_over: str) -> int:
    """Mapped segments of ours, but for those in whose names one of these is."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        return sum("/dev/shm/wdkm." in line and not any(part in line for part in passed_over) for line in file)


def footprint(*folders: str) -> set[str]:
    """Files of ours in shared memory, and those in ``folders``; not the wait board, which all processes share."""
    found = {f"/dev/shm/{name}" for name in os.listdir("/dev/shm") if name.startswith(f"wdkm.{os.getuid()}.")}
    found.discard(_core.wait_board_path())
    for folder in folders:
        for path, _, files in os.walk(folder):
            found.update(os.path.join(path, file) for file in files)
    return found


@contextmanager
def _run(proof: Proof, json_file: str | None) -> Iterator[Proof]:
    """Print the summary at the end and exit with 1 if a promise was broken.

    The tool's runtime folder is removed; what else it made it removes itself, also when Ctrl-C or SIGTERM ends it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell in the background lets its children ignore the first
        signal.signal(number, signal.default_int_handler)
    saved = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = proof.folder
    try:
        with proof._progress:
            yield proof
    except KeyboardInterrupt:
        proof.skip("interrupted")
    finally:
        if saved is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = saved
        shutil.rmtree(proof.folder, ignore_errors=True)
    text = json.dumps(proof.summary(), indent=2)
    print(text)
    if json_file is not None:
        with open(json_file, "w") as file:
            file.write(text + "\n")
    if not proof.ok:
        sys.exit(1)
