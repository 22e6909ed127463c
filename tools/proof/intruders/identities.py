"""Processes that are not who they seem: one that changes its user, and one that has the pid of another that died."""

from __future__ import annotations

import os
import re
import signal
import struct
from collections.abc import Callable
from typing import Any

from wdkmutex_shm import FastMutex, Grt, KMutex
from wdkmutex_shm.base import identity
from wdkmutex_shm.base.names import user_prefix
from wdkmutex_shm.grt import session
from wdkmutex_shm.memory import shm
from wdkmutex_shm.pool import sweep

from ..base import kernel
from ..base.children import Child, in_child
from ..base.harness import Proof
from ..base.instances import NOBODY, ending_of, instance, segments
from .damager import write

#: Offsets in the header of a pool segment, see slot.h.
_CREATOR_START, _CREATOR_PID = 64, 72


def changed_user(proof: Proof, name: str) -> None:
    """A process attaches and then gives up its user: what it does harms nobody, and fails with errors of ours."""
    with instance(name):
        small = Grt.register_fast_mutex("small", 1)
        large = Grt.register_kmutex("large", b"old" * 2000)

        def attached() -> dict[str, str]:
            session.leave()
            Grt.init(name)
            mine = [FastMutex(0) for _ in range(60)]
            handles = Grt.get_fast_mutex("small", int), Grt.get_kmutex("large", bytes)
            assert handles[1].peek() == b"old" * 2000
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            works: dict[str, Callable[[], Any]] = {
                "add": lambda: handles[0].fetch_add(1),
                "peek": lambda: handles[1].peek(),
                "grow": lambda: handles[1].replace(b"new" * 9000, timeout=5),
                "grow small": lambda: Grt.get_kmutex("large").replace(b"new" * 50_000, timeout=5),
                "anonymous": lambda: mine[0].fetch_add(1),
                "names": Grt.names,
                "register": lambda: Grt.register_kmutex("new", b"x" * 5000),
                "more": lambda: mine.extend([FastMutex(number) for number in range(200)]),
                "make large": lambda: KMutex(b"z" * 5000).replace(b"y" * 50_000),
                "again": lambda: (Grt.detach(), Grt.init(name, autostart=False)),
            }
            return {what: ending_of(work)[0] for what, work in works.items()}

        outcome = in_child(attached)
        ends = "after a change of user all ends well or in an error of ours"
        if proof.expect(outcome.well, ends, told=outcome.told()):
            told: dict[str, str] = outcome.value
            proof.expect(told["add"] == "well", "what is mapped works on", told=told["add"])
            proof.expect(told["again"] != "well", "another user attaches to no instance of ours", told=told["again"])
            for what, how in told.items():
                proof.counts[f"after setuid: {what}: {how}"] += 1
        owners = {os.stat(shm.FOLDER + segment).st_uid for segment in segments(name)}
        proof.expect(owners <= {os.geteuid()}, "no segment of our names belongs to another user", owners=owners)
        fresh = in_child(lambda: (Grt.get_fast_mutex("small").peek(), len(Grt.get_kmutex("large").peek())))
        readable = fresh.well and fresh.value[1] in (6000, 27_000, 150_000)
        proof.expect(readable, "T can be read by its user afterwards", told=fresh.value or fresh.told())
        small.replace(3, timeout=5)
        large.replace(b"end" * 4000, timeout=5)
        proof.expect(large.peek() == b"end" * 4000, "T can be written afterwards")
    _clean_up_nobodys()


def _clean_up_nobodys() -> None:
    """The process that changed its user made a private pool as nobody; its own sweep would remove it."""
    in_child(sweep.dead_private_pools, new_user=NOBODY)


def _pools_of(pid: int) -> list[str]:
    return shm.listing(f"{user_prefix()}@{pid}.")


def _inodes(pid: int) -> dict[str, int]:
    return {segment: os.stat(shm.FOLDER + segment).st_ino for segment in _pools_of(pid)}


def _maker(ready: int, value: bytes) -> Callable[[], bool]:
    """A process that makes a private pool, says so, waits to be ended by SIGTERM, and then looks at its T once more."""

    def work() -> bool:
        ended = []
        signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        mutexes = [KMutex(value), FastMutex(value * 2000)]
        os.write(ready, b"r")
        signal.sigwait([signal.SIGTERM])
        mutexes[1].replace(value * 9000)
        return mutexes[0].peek() == value and mutexes[1].peek() == value * 9000

    return work


def forged_start(proof: Proof, name: str) -> None:
    """Names and headers that say that the maker of a pool is dead, or is another process: a sweep leaves what lives."""
    start = identity.me().start
    forgeries: list[tuple[str, int, int]] = [
        ("started a tick earlier", 0, -1),
        ("started long ago", 0, -start + 1),
        ("a pid that is none", 1 << 22, 0),
        ("at random", 0, proof.random.randrange(1, 10_000)),
    ]
    for what, pid_offset, start_offset in forgeries:
        ready, go = os.pipe()
        with Child(_maker(go, b"T")) as child:
            os.read(ready, 1)
            for segment in _pools_of(child.pid):

                def forged(found: re.Match[str], by: int = pid_offset, later: int = start_offset) -> str:
                    return f"@{int(found[1]) + by}.{max(1, int(found[2]) + later)}"

                if not segment.rpartition(".")[2].startswith("d"):
                    pid, begun = child.pid + pid_offset, max(1, start + start_offset)
                    write(segment, _CREATOR_START, struct.pack("=QI", begun, pid))
                    os.rename(shm.FOLDER + segment, shm.FOLDER + re.sub(r"@(\d+)\.(\d+)", forged, segment))
            before = _inodes(child.pid + pid_offset)
            sweep.dead_private_pools()
            KMutex(0)  # whoever makes a pool sweeps as well
            stays = bool(before) and before == _inodes(child.pid + pid_offset)
            proof.expect(stays, "a sweep leaves the pool of a living process", what=what)
            child.kill(signal.SIGTERM)
            outcome = child.outcome(30.0)
            proof.expect(outcome.well, "a living process whose names were forged works on", told=outcome.told())
        os.close(ready)
        os.close(go)
        sweep.dead_private_pools()
        left = _pools_of(child.pid) + _pools_of(child.pid + pid_offset)
        proof.expect(left == [], "what a dead process left is removed", what=what, left=left)
        proof.counts["forgeries"] += 1


def pid_reuse(proof: Proof, name: str) -> None:
    """In a pid namespace: a process is killed, another gets its pid. What the dead one left goes, the other's stays."""

    def world() -> str | None:
        kernel.enter(kernel.CLONE_NEWNS | kernel.CLONE_NEWPID)
        found: str | None = in_child(inside).checked()  # which is pid 1 of the new namespace
        return found

    def inside() -> str | None:
        kernel.mount("proc", "/proc")
        kernel.mount("tmpfs", shm.FOLDER, "size=64m,mode=1777")
        ready, go = os.pipe()
        first = Child(_maker(go, b"1"))
        os.read(ready, 1)
        pid, begun, old = first.pid, identity.start_time(first.pid), _pools_of(first.pid)
        first.kill()
        first.outcome(10.0)
        # Start times are counted in hundredths of a second, and the second process must start later than the first.
        for _ in range(200):
            with open("/proc/sys/kernel/ns_last_pid", "w") as file:
                file.write(str(pid - 1))
            second = Child(_maker(go, b"2"))
            os.read(ready, 1)
            if second.pid == pid and identity.start_time(pid) != begun:
                break
            second.close()
            sweep.dead_private_pools()
        with second:
            new = [segment for segment in _pools_of(pid) if segment not in old]
            if second.pid != pid or not new:
                return f"no process got the pid {pid} again"
            sweep.dead_private_pools()
            left = _pools_of(pid)
            if [segment for segment in left if segment not in new]:
                return f"of the dead process is left: {left}"
            if not set(new) <= set(left):
                return f"of the living process was removed: {set(new) - set(left)}"
            second.kill(signal.SIGTERM)
            outcome = second.outcome(30.0)
            return None if outcome.well and outcome.value else f"the living process: {outcome.told()}"

    outcome = in_child(world, 90.0)
    if outcome.error is not None and "PermissionError" in outcome.error:
        proof.skip("real reuse of a pid: a private pid namespace is not permitted here")
        return
    told = outcome.value if outcome.well else outcome.told()
    proof.expect(told is None, "a pid that is used again is another process", told=told)
    proof.counts["pids used again"] += 1
