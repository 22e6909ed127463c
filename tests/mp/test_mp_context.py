"""The contexts themselves: what a user of ``multiprocessing.get_context()`` finds, and what else is made with them."""

from __future__ import annotations

import inspect
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest
from mp_peers import METHODS, Peer
from processes import Line, in_child
from support import DEADLINE, kill

from wdkmutex_shm import mp

# Children are forked while other threads run, in multiprocessing as here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

ARGUMENTS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Event"), ()),
    "Barrier": (2,),
    "Value": ("i",),
    "Array": ("i", 3),
    "Pool": (1,),
    **dict.fromkeys(("Queue", "JoinableQueue", "SimpleQueue"), ()),
}


def test_contexts() -> None:
    for method in METHODS:
        context = mp.get_context(method)
        assert context.get_start_method() == method
        assert context.get_context() is context
        assert context.get_context("spawn") is mp.get_context("spawn")
        assert isinstance(context, type(multiprocessing.get_context(method)))
        with pytest.raises(ValueError, match="cannot set start method"):
            context.set_start_method("spawn")
    assert mp.get_context().get_start_method() == multiprocessing.get_start_method()
    with pytest.raises(ValueError, match="cannot find context"):
        mp.get_context("threads")


def _calls(thing: Any) -> dict[str, list[tuple[Any, ...]]]:
    """The public methods of an object, and what they take."""
    found = {}
    variable = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    for name in dir(thing):
        if (not name.startswith("_") or name in ("__enter__", "__exit__")) and callable(getattr(thing, name)):
            parameters = inspect.signature(getattr(thing, name)).parameters.values()
            found[name] = [(*([] if p.kind in variable else [p.name]), p.default, p.kind) for p in parameters]
    return found


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_what_is_made_is_used_as_that_of_multiprocessing(fork: Any, kind: str) -> None:
    stock = multiprocessing.get_context("fork")
    theirs, ours = (getattr(one, kind)(*ARGUMENTS[kind]) for one in (stock, fork))
    try:
        assert isinstance(ours, type(theirs))
        missing = {name for name in dir(theirs) if not name.startswith("_")} - set(dir(ours))
        assert not missing
        expected, found = _calls(theirs), _calls(ours)
        assert {name: found[name] for name in expected} == expected
        assert (
            inspect.signature(getattr(fork, kind)).parameters.keys()
            == inspect.signature(getattr(stock, kind)).parameters.keys()
        )
        same = kind.endswith(("Lock", "Semaphore", "Condition", "Value"))
        assert not same or repr(ours) == repr(theirs)
        assert type(ours).__name__ in repr(ours)
    finally:
        if kind == "Pool":
            for pool in (theirs, ours):
                pool.terminate()
                pool.join()


@pytest.mark.parametrize("kind", sorted(set(ARGUMENTS) - {"Pool"}))
def test_is_handed_to_children_only_while_they_start(fork: Any, kind: str) -> None:
    thing = getattr(fork, kind)(*ARGUMENTS[kind])
    with pytest.raises(RuntimeError, match="only be shared between processes through inheritance"):
        pickle.dumps(thing)


def _outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return type(error), str(error).partition(" ")[0]


@pytest.mark.parametrize("used", [True, False])
@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_a_queue_that_is_closed(fork: Any, kind: str, used: bool) -> None:
    def outcomes(context: Any) -> list[Any]:
        items = getattr(context, kind)()
        if used:
            items.put(1)
        items.close()
        items.close()
        if kind != "SimpleQueue":
            items.join_thread()
        names = ("get", "get_nowait", "empty", "full", "qsize", "close")
        calls = [getattr(items, name) for name in names if hasattr(items, name)]
        return [_outcome(lambda: items.put(1)), *(_outcome(call) for call in calls)]

    assert outcomes(fork) == outcomes(multiprocessing.get_context("fork"))


def test_a_pool_ends_with_its_with(context: Any) -> None:
    with context.Pool(1) as pool:
        assert repr(pool).endswith("Pool state=RUN pool_size=1>")
        assert pool.apply(abs, (-3,)) == 3
        with pytest.raises(NotImplementedError, match="cannot be passed between processes"):
            pickle.dumps(pool)
    with pytest.raises(ValueError, match="Pool not running"):
        pool.apply(abs, (-3,))
    pool.join()
    assert repr(pool).endswith("Pool state=TERMINATE pool_size=1>")


def _change(line: Line, shared: Any, queue: Any, lock: Any) -> None:
    with lock:
        shared["child"] = queue.get()
    line.say("changed")


def test_a_manager(context: Any) -> None:
    with context.Manager() as manager:
        shared, queue, lock = manager.dict(), manager.Queue(), manager.Lock()
        queue.put(5)
        with Peer(context, _change, shared, queue, lock) as child:
            assert child.hear() == "changed"
        assert dict(shared) == {"child": 5}
        assert manager.Pool(1).apply(abs, (-3,)) == 3


def test_an_executor(context: Any) -> None:
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        assert list(executor.map(abs, range(-20, 0))) == list(range(20, 0, -1))
        assert executor.submit(bytes, 300_000).result(DEADLINE) == bytes(300_000)


@pytest.mark.parametrize("busy", [True, False])
def test_an_executor_whose_worker_is_killed_says_so(context: Any, busy: bool) -> None:
    # An executor is broken then by its own rules; but it tells everybody, and ends.
    with context.Manager() as manager, ProcessPoolExecutor(2, mp_context=context) as executor:
        gate = manager.Event()
        assert executor.submit(abs, -1).result(DEADLINE) == 1
        futures = [executor.submit(gate.wait) for _ in range(6)] if busy else []
        kill(next(iter(executor._processes)))
        for future in futures:
            with pytest.raises(BrokenProcessPool):
                future.result(DEADLINE)
        with pytest.raises(BrokenProcessPool):
            _until_broken(executor)
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        assert executor.submit(abs, -2).result(DEADLINE) == 2


def _until_broken(executor: ProcessPoolExecutor) -> None:
    while True:
        executor.submit(abs, -1).result(DEADLINE)


def _acquire_as_annotated(lock: multiprocessing.synchronize.Lock, work: Callable[[], Any]) -> Any:
    with lock:
        return work()


def test_a_lock_is_what_is_annotated(fork: Any) -> None:
    assert _acquire_as_annotated(mp.get_context("fork").Lock(), lambda: 3) == 3
    assert in_child(_acquire_as_annotated, fork.Lock(), int) == 0
