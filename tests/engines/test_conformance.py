"""The behaviour of mutexes, as the tests of anonymous ones have it, over mutexes that the Grt of each engine keeps.

An engine conforms if all of this passes over it: what a guard commits and rolls back, waiting for values, several
mutexes at once. Today the one engine is a machine's shared memory. One instance serves all of these tests.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from core.test_guard import *  # noqa: F403
from core.test_multi_lock_all import *  # noqa: F403
from support import remove_instance, segments
from wait.test_value import *  # noqa: F403

from wdkmutex_shm import FastMutex, Grt, KMutex
from wdkmutex_shm.core.types import UNSET
from wdkmutex_shm.errors import GrtIsEmpty, KeyNotFound
from wdkmutex_shm.grt import session

ENGINES = ["local"]


class Registering:
    """In the place of a class of mutexes: each call registers one under a new name."""

    def __init__(self, kind: type) -> None:
        self.kind = kind
        self.__name__ = kind.__name__
        self._names = itertools.count(1)

    def __call__(self, value: Any, *, type: Any = UNSET) -> Any:
        register = Grt.register_kmutex if self.kind is KMutex else Grt.register_fast_mutex
        return register(f"n{next(self._names)}", value, type)


@pytest.fixture(scope="module", params=ENGINES)
def kept(request: pytest.FixtureRequest) -> Iterator[str]:
    """An instance of each engine, for all tests of this file; the folder of its socket."""
    instance = f"conformance{os.getpid()}"
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="wdkm", dir="/tmp") as base:
        patch.setenv("XDG_RUNTIME_DIR", base)
        patch.setenv("WDKMUTEX_INSTANCE", instance)
        Grt.init(instance)
        try:
            yield base
        finally:
            remove_instance(instance)
            assert segments(instance) == []


@pytest.fixture(autouse=True)
def runtime_base(kept: str) -> Iterator[str]:
    """Instead of a folder for each test. What a test has registered goes with it."""
    yield kept
    assert session.attached_instance() is not None
    for name in Grt.names():
        with contextlib.suppress(KeyNotFound, GrtIsEmpty):  # the test has ended it already, behind the daemon's back
            Grt.unregister(name)


@pytest.fixture(params=[KMutex, FastMutex])
def cls(request: pytest.FixtureRequest) -> Registering:
    """The kinds of mutex that have a T."""
    return Registering(request.param)
