"""The context of what is made without one. The contexts know every type of ours, so the types cannot know them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["default_context", "set_default_context"]

_get: Callable[[], Any] | None = None


def set_default_context(get: Callable[[], Any]) -> None:
    """Say how the default context is found. :mod:`wdkmutex_shm.mp.context` does, as the package is imported."""
    global _get
    _get = get


def default_context() -> Any:
    """The crash-proof context of multiprocessing's present start method."""
    assert _get is not None, "the package sets it when it is imported"
    return _get()
