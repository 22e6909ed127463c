"""The error tree: what derives from what, what an error carries, and that it crosses from process to process."""

from __future__ import annotations

import copy
import inspect
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

import wdkmutex_shm
from wdkmutex_shm import FastMutex, KMutex, LockTimeout, errors, raise_irql
from wdkmutex_shm.errors import DaemonError, DriverMutexError, GrtError, WdkMutexError

ALL = [getattr(errors, name) for name in errors.__all__]

ALSO = {
    "PagedPoolAllocFailed": MemoryError,
    "LockTimeout": TimeoutError,
    "AlreadyOwned": RuntimeError,
    "NotOwned": RuntimeError,
    "DeadlockError": RuntimeError,
    "KernelUnsupported": OSError,
    "MutexBusy": RuntimeError,
    "MutexDestroyed": RuntimeError,
    "SegmentRefused": PermissionError,
    "GrtAlreadyExists": RuntimeError,
    "GrtIsNull": RuntimeError,
    "GrtIsEmpty": LookupError,
    "KeyExists": LookupError,
    "KeyNotFound": LookupError,
    "DowncastError": TypeError,
    "InvalidName": ValueError,
    "DaemonUnavailable": ConnectionError,
    "EngineUnavailable": ConnectionError,
    "ValueTooLarge": ValueError,
    "LeaseLost": RuntimeError,
    "CommitUnknown": RuntimeError,
    "RuntimeFolderRefused": PermissionError,
    "WorkerDied": RuntimeError,
    "PoolBroken": RuntimeError,
}


def test_every_error_is_exported() -> None:
    defined = {name for name, found in vars(errors).items() if inspect.isclass(found) and issubclass(found, Exception)}
    assert defined == set(errors.__all__)
    for name in errors.__all__:
        assert getattr(wdkmutex_shm, name) is getattr(errors, name)
        assert name in wdkmutex_shm.__all__


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_place_in_the_tree(cls: type[WdkMutexError]) -> None:
    assert issubclass(cls, WdkMutexError)
    if cls is errors.GrtDriverMutexError:
        assert issubclass(cls, DriverMutexError)
        assert issubclass(cls, GrtError)
    elif cls not in (WdkMutexError, errors.WorkerDied, errors.PoolBroken):
        assert issubclass(cls, DriverMutexError) != issubclass(cls, GrtError)
    also = ALSO.get(cls.__name__)
    assert also is None or issubclass(cls, also)
    assert cls.__doc__


def test_branches() -> None:
    of_grt = {cls.__name__ for cls in ALL if issubclass(cls, GrtError)}
    assert of_grt == {
        "GrtError", "GrtDriverMutexError",
        "GrtAlreadyExists", "GrtIsNull", "GrtIsEmpty", "KeyExists", "KeyNotFound", "DowncastError",
        "InvalidName", "DaemonError", "DaemonUnavailable", "ProtocolError", "RuntimeFolderRefused", "EngineUnavailable",
    }  # fmt: skip
    assert {cls.__name__ for cls in ALL if issubclass(cls, DaemonError)} == {
        "DaemonError", "DaemonUnavailable", "ProtocolError", "RuntimeFolderRefused",
    }  # fmt: skip


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_pickled_with_its_facts(cls: type[WdkMutexError]) -> None:
    facts = {"name": "n", "owner_pid": 5, "errno": 28, "instance": "i", "path": "/p", "level": 2, "anything": [1]}
    error = cls("what went wrong", **facts)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is cls
        assert str(again) == str(error) == "what went wrong"
        assert again.facts == facts
        for key, value in facts.items():
            assert getattr(again, key) == value
        assert again.args == error.args


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_without_facts(cls: type[WdkMutexError]) -> None:
    error = cls()
    assert error.facts == {}
    assert error.name is None
    assert str(pickle.loads(pickle.dumps(error))) == ""
    documented = [line.split(":")[0].strip() for line in (cls.__doc__ or "").splitlines() if ": " in line]
    for attribute in documented:
        if attribute.isidentifier() and attribute not in ("facts", "Raised"):
            assert getattr(error, attribute) in (None, ())


def _time_out() -> None:
    mutex = FastMutex(0)
    with mutex.lock(), pytest.raises(RuntimeError):
        mutex.lock()
    raise LockTimeout("late", name="n", owner_pid=7, timeout=0.5)


def test_across_a_pool_of_workers() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with pytest.raises(LockTimeout) as caught:
            pool.submit(_time_out).result(60)
        assert (caught.value.owner_pid, caught.value.timeout, caught.value.name) == (7, 0.5, "n")


def test_errors_name_the_way_out() -> None:
    mutex = KMutex(1)
    with raise_irql(2), pytest.raises(DriverMutexError, match="try_lock"):
        mutex.lock()
    with mutex.lock() as guard:
        pass
    with pytest.raises(DriverMutexError, match="lock the mutex again"):
        guard.commit()
    mutex.to_owned()
    with pytest.raises(DriverMutexError, match="get it again"):
        mutex.lock()
