"""A pool of dead processes of another pid namespace, and several who come for it at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from containers import Container, needs_namespaces, pod
from support import segments

from wdkmutex_shm.memory import shm

__all__ = ["pod"]
pytestmark = [pytest.mark.slow, needs_namespaces]

BEGIN = """
from wdkmutex_shm import FastMutex, Grt, KMutex, lock_all
Grt.init({instance!r})
Grt.register_fast_mutex("n", 5)
"""
SECOND = """
import os
from wdkmutex_daemon.serve.pool_lock import PoolLock
from wdkmutex_daemon.serve.lifecycle import _Life, _Ready
from wdkmutex_shm.pool import takeover
from wdkmutex_shm.base.names import instance_prefix

def fork(work):
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(work())
        finally:
            os._exit(99)
    return pid

in_it, has_it = os.pipe()
may_end, is_refused = os.pipe()
make_ours, elsewhere = takeover._make_ours, takeover.elsewhere

def make_ours_at_last(segment):
    os.write(has_it, b"!")
    os.read(may_end, 1)
    make_ours(segment)

def refused(prefix):
    error = elsewhere(prefix)
    os.write(is_refused, b"!")
    return error

def one():
    takeover._make_ours = make_ours_at_last
    with PoolLock(instance_prefix({instance!r})) as pool:
        return len(list(pool.tenants()))

def other():
    os.read(in_it, 1)
    takeover.elsewhere = refused
    with _Life({instance!r}, _Ready(None))._claimed_pool() as pool:
        return len(list(pool.tenants()))

children = [fork(one), fork(other)]
result = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
"""


@pytest.fixture
def name(instance: str, pod: Callable[[], None]) -> Iterator[str]:
    """An instance that lives in containers, and is removed whatever pid namespace it is of."""
    try:
        yield instance
    finally:
        for segment in segments(instance):
            shm.unlink(segment)


def test_who_comes_while_a_sibling_takes_the_pool_over_waits_for_that(name: str) -> None:
    with Container() as first:
        first.run(BEGIN.format(instance=name))
        first.kill()
    with Container() as second:
        assert second.run(SECOND.format(instance=name)) == [1, 1]
