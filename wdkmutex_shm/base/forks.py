"""What a forked child must not keep of its parent's, forgotten however it was forked.

``os.register_at_fork`` tells of the forks that Python makes. uWSGI, and any C library, forks without a word to Python;
the core is told of those too, by pthread_atfork(3). So whoever keeps something that belongs to one process (who it is,
locks that another thread may have, helper threads, a connection) says here how to forget it, and calls :func:`settle`
before using it.
"""

from __future__ import annotations

import os

from ..base._os import times_forked

TYPE_CHECKING = False  # typing itself takes as long to import as all of this package
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    F = TypeVar("F", bound=Callable[[], object])

__all__ = ["in_child", "settle"]

_forgetters: list[Callable[[], object]] = []
_settled = times_forked()


def in_child(forget: F) -> F:
    """Have ``forget`` called once in each forked child, at the latest by :func:`settle`. It may be called twice."""
    _forgetters.append(forget)
    return forget


def settle() -> None:
    """Forget what is the parent's, if this process was forked and has not yet."""
    if _settled != times_forked():
        _forget()


def _forget() -> None:
    global _settled
    for forget in _forgetters:
        forget()
    _settled = times_forked()


os.register_at_fork(after_in_child=_forget)
