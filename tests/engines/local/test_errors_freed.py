"""An error that the daemon answers with keeps nothing alive once it was handled: no frame, and so no guard."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest

from wdkmutex_shm import FastMutex, Grt
from wdkmutex_shm.errors import WdkMutexError


class Kept:
    """What a frame has."""


def failed(call: Callable[[], object]) -> weakref.ref[Kept]:
    kept = Kept()
    try:
        call()
    except WdkMutexError:
        return weakref.ref(kept)
    raise AssertionError("it succeeded")


@pytest.mark.parametrize(
    "call",
    [
        lambda: Grt.get_fast_mutex("none"),
        lambda: Grt.register_fast_mutex_checked("taken", 1),
        lambda: Grt.register_fast_mutex_checked("taken", b"x" * 500),
        lambda: Grt.register_many(FastMutex, {"taken": 1, "other": 2}, mode="checked"),
        lambda: Grt.unregister("none"),
    ],
    ids=["get", "register", "register-large", "register-many", "unregister"],
)
def test_an_error_keeps_no_frame_alive(grt: str, call: Callable[[], object]) -> None:
    Grt.register_fast_mutex("taken", 0)
    gc.collect()
    gc.disable()
    try:
        assert failed(call)() is None
    finally:
        gc.enable()
