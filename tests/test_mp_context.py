"""The contexts themselves, and what else is made with them."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from peers import METHODS

from wdkmutex_shm import mp

# Children are forked while other threads run, in multiprocessing as here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

KINDS = ("Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition")


@pytest.fixture
def fork() -> Any:
    return mp.get_context("fork")


def test_contexts() -> None:
    for method in METHODS:
        context = mp.get_context(method)
        assert context.get_start_method() == method
        assert context.get_context() is context
        assert context.get_context("spawn") is mp.get_context("spawn")
    with pytest.raises(ValueError, match="cannot find context"):
        mp.get_context("threads")


@pytest.mark.parametrize("kind", [*KINDS, "Event", "Queue", "SimpleQueue", "JoinableQueue"])
def test_is_handed_to_children_only_while_they_start(fork: Any, kind: str) -> None:
    with pytest.raises(RuntimeError, match="only be shared between processes through inheritance"):
        pickle.dumps(getattr(fork, kind)())


def test_a_queue_in_a_process_pool_executor() -> None:
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(2, mp_context=mp.get_context("spawn")) as executor:
        assert list(executor.map(abs, range(-20, 0))) == list(range(20, 0, -1))
