"""Damaged memory: bytes of segments are changed while clients work, and segments that are not ours are refused."""

from __future__ import annotations

import contextlib
import time
from functools import partial

import psutil

from wdkmutex_shm import Grt
from wdkmutex_shm.base.names import instance_prefix, user_prefix
from wdkmutex_shm.engines.local import autostart
from wdkmutex_shm.errors import WdkMutexError
from wdkmutex_shm.grt import session
from wdkmutex_shm.memory import shm
from wdkmutex_shm.pool import sweep

from ..base.children import Child
from ..base.harness import Proof, tool
from ..base.instances import daemon_of, end_daemon, remove_instance
from ..intruders import clients
from ..intruders.damager import Damager
from ..intruders.refusals import refusals

_CLIENTS = 3
_ROUND = 2.0


def _round(proof: Proof, name: str, seconds: float, headers: bool) -> None:
    """One instance, damaged while clients use it; then its daemon is killed and started again on what is left."""
    Grt.init(name)
    clients.register_all(proof.random)
    daemon = psutil.Process(daemon_of(name))
    damager = Damager(proof.random, headers=headers, slots=len(clients.SPECS) + 6)
    until = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        seeds = [proof.random.getrandbits(32) for _ in range(_CLIENTS)]
        children = [stack.enter_context(Child(partial(clients.work, seed, seconds))) for seed in seeds]
        prefixes = [instance_prefix(name) + "."] + [f"{user_prefix()}@{child.pid}." for child in children]
        while time.monotonic() < until:
            for _ in range(proof.random.choice([1, 3, 20])):
                damager.strike(prefixes)
            time.sleep(proof.random.choice([0, 0.001, 0.005]))
            if all(child.ended() for child in children):
                break
        for child in children:
            outcome = child.outcome(clients.HANG + seconds)
            proof.counts["clients"] += 1
            for what, count in (outcome.value or {}).items():
                proof.counts[what] += count
            proof.expect(
                outcome.well, "a client of damaged memory gets a T or an error of ours, in time", told=outcome.told()
            )
    for prefix in prefixes[1:]:
        for left in shm.listing(prefix):
            if left.endswith(".j"):  # a sweep leaves one alone that seems to be another container's
                shm.unlink(left)
    proof.counts["places changed"] += damager.done
    proof.counts["journals and notes changed"] += damager.journals
    alive = daemon.is_running() and daemon.status() != psutil.STATUS_ZOMBIE
    proof.expect(alive, "the daemon of damaged memory never exits", headers=headers)
    _go_on(proof, name, daemon.pid)


def _go_on(proof: Proof, name: str, pid: int) -> None:
    """A daemon that starts on damaged segments serves, or says what is wrong with them."""
    end_daemon(pid, name)
    try:
        autostart.start(name, 20.0)
        proof.counts["restarts that served"] += 1
        for mutex in Grt.names():
            with contextlib.suppress(WdkMutexError):
                Grt.get_kmutex(mutex).peek()
        Grt.destroy()
    except WdkMutexError as error:
        proof.counts[f"restarts: {type(error).__name__}"] += 1
        # A DaemonError of no other class is what an error that is not ours becomes on its way from the daemon.
        proof.expect(type(error).__name__ != "DaemonError", "what a daemon meets is an error of ours", error=error)
    finally:
        session.leave()


@tool("damage", seconds=60)
def command(proof: Proof) -> None:
    """Change bytes of pool and data segments, outside the pthread mutexes, while clients work with them."""
    assert proof.seconds is not None
    refusals(proof)
    number = 0
    while number == 0 or not proof.over:
        number += 1
        name = f"{proof.instance}-{number}"
        proof.progress(f"round {number}: {proof.counts['places changed']} places changed")
        try:
            _round(proof, name, min(_ROUND, max(0.5, proof.seconds - proof.elapsed)), headers=number % 2 == 0)
        except WdkMutexError as error:
            proof.broken("the round itself works", error=error)
        finally:
            remove_instance(name)
            sweep.dead_private_pools()
    proof.counts["rounds"] = number
