"""A container is killed, /dev/shm stays, and its next life, in another pid namespace, goes on with what was there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from containers import Container, Raised, needs_namespaces, of_processes, pod
from support import DEADLINE, remove_instance, segments

from wdkmutex_shm.base.layout import HEADER_BYTES, LAYOUT, SLOT_BYTES
from wdkmutex_shm.memory import shm

__all__ = ["pod"]
pytestmark = [pytest.mark.slow, needs_namespaces]

BEGIN = """
from wdkmutex_shm import FastMutex, Grt, KMutex, lock_all
Grt.init({instance!r})
Grt.register_fast_mutex("n", 5)
Grt.register_kmutex("large", "x" * 10_000)
Grt.register_fast_mutex("held", "committed")
"""
HOLD = """
own = KMutex(1)
kept = Grt.get_fast_mutex("held", str).lock()
kept.value = "not committed"
"""
RECEIVE = """
from wdkmutex_shm import Grt
from wdkmutex_shm.pool import sweep
Grt.init({instance!r})
result = sorted(Grt.names())
"""


@pytest.fixture
def name(instance: str, pod: Callable[[], None]) -> Iterator[str]:
    """An instance that lives in containers, and is removed whatever pid namespace it is of."""
    try:
        yield instance
    finally:
        for segment in segments(instance):
            shm.unlink(segment)


def test_the_next_life_has_the_names_and_values_and_the_locks_of_the_dead_are_free(
    name: str, pod: Callable[[], None]
) -> None:
    before = of_processes()
    with Container() as first:
        first.run(BEGIN.format(instance=name) + HOLD)
        first.run("with lock_all(KMutex(1), KMutex(2)) as (a, b):\n    a.value = b.value = 3")
        first.kill()
        assert len(of_processes() - before) >= 2, "a private pool and a journal"
        pod()
        with Container() as second:
            assert second.run(RECEIVE.format(instance=name)) == ["held", "large", "n"]
            assert second.run("result = Grt.get_kmutex('large', str).peek()") == "x" * 10_000
            assert second.run("result = Grt.get_fast_mutex('n', int).fetch_add(1)") == 5
            assert second.run(
                "with Grt.get_fast_mutex('held', str).lock(10) as guard: result = [guard.value, guard.abandoned]"
            ) == ["committed", True]
            second.run("sweep.dead_private_pools()")
            assert of_processes() - before == set()
            second.run("Grt.destroy()")
    assert segments(name) == []


def test_a_lock_whose_holder_the_kernel_did_not_mark(name: str) -> None:
    """Nobody alive has the pool, so whoever a lock names is dead."""
    with Container() as first:
        first.run(BEGIN.format(instance=name))
        word = first.run(
            "import os\nwith Grt.get_fast_mutex('n', int).lock() as guard:\n"
            "    guard.commit(); m = Grt.get_fast_mutex('n', int); result = [m.segment, m.slot_index]"
        )
        first.kill()
    segment, index = word
    with open(shm.FOLDER + segment, "r+b") as file:
        file.seek(HEADER_BYTES + index * SLOT_BYTES)
        file.write((2).to_bytes(4, sys.byteorder))
    with Container() as second:
        second.run(RECEIVE.format(instance=name))
        assert second.run(
            "with Grt.get_fast_mutex('n', int).lock(timeout=10) as guard: result = [guard.value, guard.abandoned]"
        ) == [5, True]
        second.run("Grt.destroy()")


PUBLISH = """
import struct
from wdkmutex_shm.base import layout
from wdkmutex_shm.base import identity
from wdkmutex_shm.memory import journal_files
from wdkmutex_shm.base.layout import HEADER_BYTES
from wdkmutex_shm.base.names import user_prefix
mutexes = [Grt.register_fast_mutex(f"m{{n}}", 10) or Grt.get_fast_mutex(f"m{{n}}", int) for n in range(3)]
with lock_all(*mutexes) as guards:
    for guard in guards:
        guard.value = 10
held = [mutex.lock() for mutex in mutexes]
pid, start = identity.me()
note = layout.NOTE | pid << layout.NOTE_PID | start
def at(mutex, offset, data=None):
    with open("/dev/shm" + mutex.segment, "r+b") as file:
        file.seek(HEADER_BYTES + mutex.slot_index * layout.SLOT_BYTES + offset)
        return file.read(8) if data is None else file.write(data)
for mutex in mutexes:
    (commit,) = struct.unpack("=Q", at(mutex, 72))
    coming = commit + 1 & 1
    at(mutex, 128 + 72 * coming, bytes([20]))
    at(mutex, 88 + 4 * coming, struct.pack("=I", 1))
    at(mutex, layout.PENDING_AT, struct.pack("=Q", note | coming << layout.NOTE_COMMIT))
    if mutex is mutexes[1] and {decided}:
        at(mutex, 72, struct.pack("=Q", commit + 1))  # this one was published, the others were to come
name = journal_files.name_of(note, user_prefix(), identity.pid_namespace())
with open("/dev/shm" + name, "r+b") as file:
    file.seek(8)
    file.write(struct.pack("=Q", {decided}))
"""


@pytest.mark.parametrize("decided", [0, 1])
def test_what_was_published_together_is_so_as_a_whole_or_not_at_all(name: str, decided: int) -> None:
    with Container() as first:
        first.run(BEGIN.format(instance=name))
        first.run(PUBLISH.format(decided=decided))
        first.kill()
    with Container() as second:
        second.run(RECEIVE.format(instance=name))
        values = second.run("result = [Grt.get_fast_mutex(f'm{n}', int).peek() for n in range(3)]")
        assert values == [20 if decided else 10] * 3
        second.run("for n in range(3): Grt.get_fast_mutex(f'm{n}', int).fetch_add(1)")
        second.run("Grt.destroy()")


HALF_WAY = """
import os
from wdkmutex_shm.pool import takeover
from wdkmutex_shm.base.names import instance_prefix
from wdkmutex_daemon.serve.pool_lock import PoolLock
left = {steps}
def step(call):
    def wrapped(*args):
        global left
        if left == 0:
            os._exit(9)
        left -= 1
        return call(*args)
    return wrapped
class Stepped:
    leave_to_the_next = staticmethod(step(takeover._core.leave_to_the_next))
    settle_slot_note = staticmethod(step(takeover._core.settle_slot_note))
takeover._core = Stepped
takeover._make_ours = step(takeover._make_ours)
pid = os.fork()
if pid == 0:
    with PoolLock(instance_prefix({instance!r})):
        pass
    os._exit(0)
result = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def test_killed_in_the_midst_of_it_the_next_life_goes_on(name: str) -> None:
    with Container() as first:
        first.run(BEGIN.format(instance=name) + HOLD)
        first.run("Grt.register_many(FastMutex, {f'many{n}': n for n in range(1500)})")
        first.run(PUBLISH.format(decided=1))
        first.kill()
    lives = 0
    for steps in range(20):
        with Container() as next_one:
            lives += 1
            if next_one.run(HALF_WAY.format(instance=name, steps=steps)) == 0:
                break
    assert 4 <= lives < 20
    with Container() as last:
        assert len(last.run(RECEIVE.format(instance=name))) == 1506
        assert last.run("result = [Grt.get_fast_mutex(f'm{n}', int).peek() for n in range(3)]") == [20] * 3
        assert last.run("result = Grt.get_fast_mutex('many1499', int).peek()") == 1499
        assert last.run("with Grt.get_fast_mutex('held', str).lock(10) as guard: result = guard.abandoned") is True
        last.run("Grt.destroy()")


# --- somebody lives


def test_while_somebody_alive_has_it_the_other_container_is_told_so(name: str) -> None:
    with Container() as first, Container() as second:
        first.run(BEGIN.format(instance=name) + HOLD)
        for lost in ("nothing", "its daemon"):
            if lost == "its daemon":  # a client has the pool as well
                first.run(
                    "import os, signal\nfrom wdkmutex_shm.grt import session\n"
                    "os.kill(session.current().daemon['pid'], signal.SIGKILL)"
                )
            with pytest.raises(Raised) as caught:
                second.run(RECEIVE.format(instance=name))
            assert caught.value.kind == "OtherPidNamespace", caught.value
            assert "in use by processes of another container" in caught.value.text
            assert "docs/how-to/containers.md" in caught.value.text
            assert "kill" not in caught.value.text
        first.run("kept.drop_safe()")
        assert first.run("result = Grt.get_fast_mutex('held', str).peek()") == "not committed", "its daemon is revived"
        first.run("Grt.destroy()")


def test_who_reaches_the_daemon_of_another_container_gets_no_mutex(name: str, runtime_base: str) -> None:
    with Container(runtime=runtime_base) as first, Container(runtime=runtime_base) as second:
        first.run(BEGIN.format(instance=name))
        second.run(f"from wdkmutex_shm import Grt; Grt.init({name!r})")
        with pytest.raises(Raised) as caught:
            second.run("Grt.get_fast_mutex('n', int)")
        assert caught.value.kind == "OtherPidNamespace"
        assert "docs/how-to/containers.md" in caught.value.text
        first.run("Grt.destroy()")


def test_the_private_memory_of_a_living_container_stays(pod: Callable[[], None]) -> None:
    before = of_processes()
    with Container() as first, Container() as second:
        first.run("from wdkmutex_shm import KMutex, lock_all; a, b = KMutex(1), KMutex('x' * 10_000)")
        first.run("with lock_all(a, KMutex(2)) as (g, h):\n    g.value = h.value = 3")
        names = of_processes() - before
        pod()
        second.run(
            "from wdkmutex_shm import KMutex; from wdkmutex_shm.pool import sweep\n"
            "m = KMutex(1); result = sweep.dead_private_pools()"
        )
        assert names <= of_processes()
        assert first.run("result = [a.fetch_add(1), len(b.peek())]") == [3, 10_000]


# --- two at once


def test_processes_with_one_pid_and_start_time_each_have_a_journal(pod: Callable[[], None]) -> None:
    same = (
        "from wdkmutex_shm import KMutex, lock_all\nfrom wdkmutex_shm.base import identity\n"
        "identity.me = lambda: identity.Identity(1, 12345)"
    )
    publish = "with lock_all(KMutex(1), KMutex(2)) as (a, b):\n    a.value = b.value = 3"
    with Container() as first, Container() as second:
        for container in (first, second, first):
            container.run(same)
            container.run(publish)


def test_the_command_line_says_so_too(name: str) -> None:
    with Container() as first:
        first.run(BEGIN.format(instance=name))
        done = subprocess.run(
            [sys.executable, "-m", "wdkmutex_daemon", "start", "--instance", name],
            capture_output=True, text=True, timeout=DEADLINE, check=False,
        )  # fmt: skip
        assert done.returncode == 8, done.stderr
        assert "in use by processes of another container" in done.stderr
        first.kill()
    remove_instance(name)


# --- doctor, and the recipe of docs/how-to/containers.md


def _doctor(container: Container, name: str) -> list[tuple[str, str]]:
    code = "from wdkmutex_daemon.inspect.leftovers import segments; result = [[f[1], f[2]] for f in segments()]"
    return [(text, remedy) for text, remedy in container.run(code) if name in text]


def test_doctor_advises_to_remove_only_what_nobody_uses(name: str) -> None:
    with Container() as first, Container() as second:
        first.run(BEGIN.format(instance=name))
        ((text, remedy),) = _doctor(second, name)
        assert "in use by processes of another container" in text
        assert "rm " not in remedy
        assert "WDKMUTEX_INSTANCE" in remedy
        with open(shm.FOLDER + segments(name)[-1], "r+b") as file:  # a pool of another version, in use
            file.seek(8)
            file.write(b"\x63\0\0\0")
        ((text, remedy),) = _doctor(second, name)
        assert "layout is 99" in text
        assert "rm " not in remedy
        with open(shm.FOLDER + segments(name)[-1], "r+b") as file:
            file.seek(8)
            file.write(LAYOUT.to_bytes(4, sys.byteorder))
        first.kill()
        ((text, remedy),) = _doctor(second, name)
        assert "left by a container that no longer exists" in text
        assert f"wdkmutex-daemon start --instance {name}" in remedy


def test_containers_that_share_a_pid_namespace_share_an_instance(name: str, runtime_base: str) -> None:
    with (
        Container(runtime=runtime_base) as both,
        Container(runtime=runtime_base, inside=both) as web,
        Container(runtime=runtime_base, inside=both) as worker,
    ):
        web.run(BEGIN.format(instance=name) + HOLD)
        pid = web.run("import os; result = os.getpid()")
        worker.run(RECEIVE.format(instance=name))
        assert worker.run("held = Grt.get_fast_mutex('held', str); result = [held.owner.pid, held.owner.alive]") == [
            pid,
            True,
        ]
        web.run(
            "import os, signal\nfrom wdkmutex_shm.grt import session\n"
            "os.kill(session.current().daemon['pid'], signal.SIGKILL)"
        )
        web.kill()
        assert worker.run(
            "with held.lock(10) as guard: result = [guard.value, guard.abandoned, guard.abandoned_by]"
        ) == ["committed", True, pid]
        with Container(runtime=runtime_base, inside=both) as again:
            assert again.run(RECEIVE.format(instance=name)) == ["held", "large", "n"]
            again.run("Grt.destroy()")
