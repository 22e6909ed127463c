"""The limit: what a lock of this design costs in C, with no Python in the loop; and what copying T costs.

The few lines of C beside this module (``c_limit.c``) share the layout of a slot with the package. They are compiled
when they are first used.
"""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import sysconfig
import tempfile
from types import TracebackType
from typing import Any, Literal

import wdkmutex_shm

__all__ = ["Limit", "copy"]


@functools.cache
def _library() -> ctypes.CDLL:
    package = os.path.dirname(os.path.abspath(wdkmutex_shm.__file__))
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "c_limit.c")
    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, "c_limit.so")
        words = [*compiler, "-O3", "-g0", "-D_GNU_SOURCE", "-pthread", "-shared", "-fPIC", "-o", target, source]
        subprocess.run([*words, f"-I{package}/core", f"-I{package}/base"], check=True)
        library = ctypes.CDLL(target, use_errno=True)
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    for name, result, arguments in (
        ("make", pointer, []),
        ("free", None, [pointer]),
        ("increment", ctypes.c_int, [pointer, number]),
        ("lock_unlock", ctypes.c_int, [pointer, number]),
        ("lock", ctypes.c_int, [pointer]),
        ("unlock", ctypes.c_int, [pointer]),
        ("value", ctypes.c_uint64, [pointer]),
        ("copy", None, [pointer, pointer, ctypes.c_size_t, number]),
    ):
        function = getattr(library, f"limit_{name}")
        function.restype, function.argtypes = result, arguments
    return library


def _check(code: int, function: str) -> None:
    if code:
        raise OSError(code, os.strerror(code), function)


class Limit:
    """A robust mutex and an int in memory that forked children share.

    Raises:
        OSError: there is no memory for it.
    """

    def __init__(self) -> None:
        self._held = False
        self._c = _library()
        self._slot = self._c.limit_make()
        if not self._slot:
            _check(ctypes.get_errno(), "pthread_mutex_init")

    def __del__(self) -> None:
        # A held robust mutex is linked into its thread's list: its memory must stay.
        if getattr(self, "_slot", None) and not self._held:
            self._c.limit_free(self._slot)

    def increment(self, n: int) -> None:
        """Lock, add one to the int and unlock, ``n`` times in one C loop. Waits with the GIL released."""
        _check(self._c.limit_increment(self._slot, n), "pthread_mutex_lock")

    def lock_unlock(self, n: int) -> None:
        """Lock and unlock, ``n`` times in one C loop."""
        _check(self._c.limit_lock_unlock(self._slot, n), "pthread_mutex_lock")

    def __enter__(self) -> Limit:
        _check(self._c.limit_lock(self._slot), "pthread_mutex_lock")
        self._held = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        self._held = False
        _check(self._c.limit_unlock(self._slot), "pthread_mutex_unlock")
        return False

    @property
    def value(self) -> int:
        """The int."""
        return int(self._c.limit_value(self._slot))


def copy(destination: Any, source: Any, n: int) -> None:
    """Copy ``source`` to ``destination``, both writable buffers, ``n`` times in one C loop.

    Raises:
        TypeError: one of them is not writable. ValueError: ``destination`` is the shorter one.
    """
    target, origin = (memoryview(buffer).cast("B") for buffer in (destination, source))
    if len(target) < len(origin):
        raise ValueError("the destination is shorter than the source")
    size = len(origin)
    whole = ctypes.c_char * size
    _library().limit_copy(whole.from_buffer(target), whole.from_buffer(origin), size, n)
