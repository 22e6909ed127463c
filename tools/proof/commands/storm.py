"""The crash storm: workers are killed, stopped and interrupted at random, and their books must stay right."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Sized
from functools import partial
from typing import Any

import click
import psutil

from wdkmutex_shm import Grt
from wdkmutex_shm.base.names import instance_prefix
from wdkmutex_shm.base.runtime_dir import log_path
from wdkmutex_shm.engines.local.client import connect
from wdkmutex_shm.errors import DaemonUnavailable, GrtIsNull, WdkMutexError
from wdkmutex_shm.memory import shm
from wdkmutex_shm.pool import sweep
from wdkmutex_shm.pool.pool import Pool

from ..base.children import fork, undisturbed
from ..base.harness import Proof, footprint, tool
from ..storm.audit import audit
from ..storm.board import Log
from ..storm.helpers import HELPERS, run_helper
from ..storm.life import INTERRUPTED, run_worker
from ..storm.setup import KINDS, make_world
from ..storm.table import COUNTED

_MOST_WORKERS = 6
_TURN = 0.01
_STALL = 0.05
_LONGER = 60
_LAST_SECONDS = 60
_DAEMON_SECONDS = 30


@tool(
    "storm",
    click.option("--workers", type=click.IntRange(1, _MOST_WORKERS), default=4, help="Processes that work at a time."),
    click.option("--mutexes", type=click.IntRange(1), default=len(KINDS), help="Mutexes that they keep books in."),
    click.option("--every", type=float, default=0.05, help="Mean seconds between two blows."),
    click.option(
        "--at-least", type=int, default=0, help="Go on until so many operations are done; 60 s longer at most."
    ),
    seconds=60,
)
def command(proof: Proof, workers: int, mutexes: int, every: float, at_least: int) -> None:
    """Let processes keep books in shared mutexes while they, and the daemon, are killed, stopped and interrupted."""
    storm = _Storm(proof, workers, mutexes, every, at_least)
    try:
        storm.rage()
        storm.calm_down()
    finally:
        storm.close()


class _Storm:
    """The storm, from the first worker to the last."""

    def __init__(self, proof: Proof, workers: int, mutexes: int, every: float, at_least: int) -> None:
        self._proof = proof
        self._workers = workers
        self._every = every
        self._at_least = at_least
        self._logs = [Log(proof.folder, number) for number in range(workers + 1)]
        self._alive: dict[int, int] = {}
        self._helpers: dict[int, str] = {}
        self._lives: set[int] = set()
        self._stopped: tuple[int, float] | None = None
        Grt.init(proof.instance)
        self._world = make_world(proof.folder, proof.instance, workers, mutexes, proof.random, COUNTED)
        self._board = self._world.board

    # --- while it rages

    def rage(self) -> None:
        """Strike until the time is up."""
        proof, random = self._proof, self._proof.random
        for name in HELPERS:
            helper = partial(run_helper, name, self._world, self._workers, random.getrandbits(32))
            self._helpers[self._fork(helper)] = name
        last = due = time.monotonic()
        while not self._is_over():
            self._reap()
            for number in range(self._workers):
                if number not in self._alive.values():
                    self._alive[self._fork(partial(run_worker, self._world, number, random.getrandbits(32)))] = number
                    proof.counts["lives"] += 1
            now = time.monotonic()
            if now - last > _STALL + _TURN:
                self._board.excuse(int((now - last) * 1e9))  # the machine did something else
                proof.counts["stalls of the machine"] += 1
            last = now
            if self._stopped is not None and now > self._stopped[1]:
                self._go_on()
            if now > due:
                due = now + random.expovariate(1 / self._every)
                self._strike()
            self._collect()
            totals = self._board.totals()
            proof.progress(f"{totals['operations']} operations, {proof.counts['kills']} kills")
            time.sleep(_TURN)

    def _is_over(self) -> bool:
        proof = self._proof
        if not proof.over or proof.seconds is None:
            return False
        enough = self._board.totals()["operations"] >= self._at_least
        return enough or proof.enough or proof.elapsed > proof.seconds + _LONGER

    def _fork(self, act: Callable[[], object]) -> int:
        # No Ctrl-C before the child is a worker: it would be one in a second coordinator. The worker lets it through.
        with undisturbed():
            pid = fork(act)
        self._lives.add(pid)
        return pid

    def _reap(self) -> None:
        for pid in list(self._alive):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                del self._alive[pid]
                code = os.waitstatus_to_exitcode(status)
                well = code in (0, INTERRUPTED, -signal.SIGKILL)
                self._proof.expect(well, "no worker ends but by the storm's hand", status=code)

    def _strike(self) -> None:
        random, counts = self._proof.random, self._proof.counts
        pid = random.choice(list(self._alive))
        blow = random.choices(("kill", "interrupt", "stop", "daemon"), (50, 30, 15, 3))[0]
        if blow == "kill":
            if self._stopped is not None and self._stopped[0] == pid:
                self._go_on()
            os.kill(pid, signal.SIGKILL)
            counts["kills"] += 1
        elif blow == "interrupt":
            os.kill(pid, signal.SIGINT)
            counts["interrupts sent"] += 1
        elif blow == "stop" and self._stopped is None:
            self._board.begin_excuse()
            os.kill(pid, signal.SIGSTOP)
            self._stopped = (pid, time.monotonic() + random.uniform(0.001, 0.3))
            counts["stops"] += 1
        elif blow == "daemon":
            self._kill_daemon()

    def _go_on(self) -> None:
        assert self._stopped is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._stopped[0], signal.SIGCONT)
        self._board.end_excuse()
        self._stopped = None

    def _kill_daemon(self) -> None:
        """The next worker that needs one starts another."""
        server = Pool.server_of(instance_prefix(self._proof.instance))
        if server is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(server[0])
            if self._proof.instance in process.cmdline():
                process.kill()
                self._proof.counts["daemons killed"] += 1

    def _collect(self) -> None:
        """Tell of what the workers found broken."""
        for log in self._logs:
            for finding in log.new_findings():
                self._proof.broken(**finding)

    # --- afterwards

    def calm_down(self) -> None:
        """Let the workers end, and then their helpers; then look at the books, and at what is left in memory."""
        if self._stopped is not None:
            self._go_on()
        self._board.set_word("stop", 1)
        self._await_end(self._reap, self._alive)
        if self._proof.ok:
            self._proof.expect(not self._alive, "every worker ends when it is told to", left=len(self._alive))
        for pid in self._helpers:
            os.kill(pid, signal.SIGTERM)
        self._await_end(self._reap_helpers, self._helpers)
        if self._proof.ok:
            self._proof.expect(not self._helpers, "every helper ends when it is told to", left=str(self._helpers))
        self._collect()
        self._proof.counts.update(self._board.totals())
        if self._proof.ok:
            audit(self._proof, self._world, self._logs)

    def _await_end(self, reap: Callable[[], None], running: Sized) -> None:
        deadline = time.monotonic() + (_LAST_SECONDS if self._proof.ok else 1)
        while running and time.monotonic() < deadline:
            reap()
            time.sleep(_TURN)

    def _reap_helpers(self) -> None:
        for pid, name in list(self._helpers.items()):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                del self._helpers[pid]
                self._proof.expect(status == 0, "a helper ends well", name=name, status=status)

    def close(self) -> None:
        """End every process and give everything back."""
        children = [child for pid in self._helpers for child in psutil.Process(pid).children(recursive=True)]
        for pid in [*self._alive, *self._helpers]:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self._alive.clear()
        self._helpers.clear()
        for log in self._logs:
            log.close()
        self._board.close()
        self._destroy()
        sweep.dead_private_pools()
        left = self._left()
        self._proof.expect(not left, "nothing is left", left=sorted(left))
        for name in shm.listing(instance_prefix(self._proof.instance) + "."):
            shm.unlink(name)

    def _left(self) -> set[str]:
        return {name for name in footprint(self._proof.folder) if self._is_ours(name)}

    def _is_ours(self, name: str) -> bool:
        private = re.search(r"/wdkm\.\d+\.@(\d+)\.", name)
        if private:
            return int(private[1]) in self._lives
        return self._proof.instance in name

    def _destroy(self) -> None:
        """Destroy the instance, and what comes up afterwards: a killed worker may have been starting a daemon."""
        deadline = time.monotonic() + _DAEMON_SECONDS
        try:
            Grt.destroy()
            # Who starts one is not yet to be told by its command line.
            while ((daemons := self._daemons()) or self._left()) and time.monotonic() < deadline:
                sweep.dead_private_pools()
                time.sleep(0.2)
                with contextlib.suppress(GrtIsNull, DaemonUnavailable), connect(self._proof.instance) as client:
                    client.call("destroy")
        except WdkMutexError as error:
            self._proof.broken("the instance can be destroyed in the end", error=error)
            daemons = self._daemons()
        if daemons:
            log = ""
            with contextlib.suppress(OSError), open(log_path(self._proof.instance), encoding="utf-8") as file:
                log = file.read()[-2000:]
            self._proof.broken("no daemon is left", pids=daemons, log=log)
            for pid in self._daemons():
                psutil.Process(pid).kill()

    def _daemons(self) -> list[Any]:
        found: list[Any] = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if self._proof.instance in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
        return found
