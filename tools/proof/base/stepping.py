"""A child process led from instruction to instruction, and what is known of the way that it takes."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import platform
import signal
from array import array
from collections.abc import Callable
from typing import Any, NamedTuple

from wdkmutex_shm.memory import shm

from .children import fork
from .compiling import CannotCompileError, compiled

ARRIVED, AT_END, ENDED, ELSEWHERE = range(4)
"""What the functions of stepper.c return, where it is not a negative errno."""

LONGEST = 300
"""Seconds that a victim's operation may take, in single steps."""
_IS_CALL, _HAS_CHANGED = 1, 2
_TRACEME = 0


class CannotStepError(Exception):
    """Processes cannot be single-stepped here; the text says why."""


class Point(NamedTuple):
    """A place on the way of a victim.

    Attributes:
        calls: system calls made since the mark.
        where, times: then the address to be come to, and how often; 0 and 0 for the place right after the call.
        steps: instructions from there.
    """

    calls: int
    where: int
    times: int
    steps: int


class Region:
    """Bytes of a shared memory segment, mapped here to be looked at while a victim changes them."""

    def __init__(self, segment: str, offset: int, size: int) -> None:
        with open(shm.FOLDER + segment, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._view = memoryview(self._map)[offset : offset + size]
        self.size = size
        self._anchor: Any = ctypes.c_char.from_buffer(self._view)
        self.address = ctypes.addressof(self._anchor)

    def word(self, offset: int, size: int = 8) -> int:
        """An unsigned number in it."""
        return int.from_bytes(self._view[offset : offset + size], "little")

    def content(self) -> bytes:
        """All of it as it is now."""
        return bytes(self._view)

    def close(self) -> None:
        """Unmap it."""
        del self._anchor
        self._view.release()
        self._map.close()

    def __enter__(self) -> Region:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Watch(ctypes.Structure):
    _fields_ = (
        ("shared", ctypes.c_void_p),
        ("last", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("head", ctypes.c_void_p),
        ("last_head", ctypes.c_uint64 * 3),
    )


class Trace:
    """A part of the way of one victim, instruction by instruction, from a system call on.

    Args:
        first_call: how many system calls the victim had made since its mark.
        where: address of each instruction. flags: what each of them was and did.
        complete: whether it leads up to the end of what the victim did.

    Attributes:
        instructions: how many there are.
        calls: how many of them are system calls.
        changes: the instructions before which, and no earlier, something is different for others than the victim.
    """

    def __init__(self, first_call: int, where: array[int], flags: bytes, complete: bool) -> None:
        self.first_call = first_call
        self._where = where
        self._flags = flags
        self.complete = complete
        self.instructions = len(where)
        self.calls = sum(flag & _IS_CALL for flag in flags)
        self.changes = [0] + [number + 1 for number, flag in enumerate(flags[:-1]) if flag]
        self._bases: array[int] = array("Q")
        self._times: array[int] = array("L")
        self._calls: array[int] = array("L")
        self._starts = [0]
        self._plan()

    def _plan(self) -> None:
        """Find for each instruction from where before it it is reached with the fewest stops of the victim."""
        seen: dict[int, int] = {}
        calls = base = times = cost = 0
        for number, where in enumerate(self._where):
            if number and self._flags[number - 1] & _IS_CALL:
                calls, base, times, cost = calls + 1, number, 0, 0
                self._starts.append(number)
                seen.clear()
            count = seen[where] = seen.get(where, 0) + 1
            if 2 * count < cost:
                base, times, cost = number, count, 2 * count
            self._bases.append(base)
            self._times.append(times)
            self._calls.append(calls)
            cost += 1

    def point(self, number: int) -> Point:
        """The place before the instruction of that number."""
        base, times = self._bases[number], self._times[number]
        calls = self.first_call + self._calls[number]
        return Point(calls, self._where[base] if times else 0, times, number - base)

    def counted(self, number: int) -> Point:
        """The same place by counting alone: for a victim that does not come along all the addresses of this one."""
        calls = self._calls[number]
        return Point(self.first_call + calls, 0, 0, number - self._starts[calls])


class Stepper:
    """The compiled stepper.c.

    Args:
        folder: where it is compiled.

    Raises:
        CannotStepError: no C compiler, neither x86-64 nor aarch64, or ptrace(2) is not allowed.
    """

    def __init__(self, folder: str) -> None:
        if platform.machine() not in ("x86_64", "aarch64"):
            raise CannotStepError(f"single steps are known for x86-64 and aarch64, not for {platform.machine()}")
        try:
            self._library = ctypes.CDLL(compiled("stepper", folder))
        except CannotCompileError as error:
            raise CannotStepError(str(error)) from None
        for name in ("wdkm_leap", "wdkm_step"):
            getattr(self._library, name).argtypes = (ctypes.c_int, ctypes.c_uint64)
        self._library.wdkm_run_to.argtypes = (ctypes.c_int, ctypes.c_uint64, ctypes.c_uint64)
        pid = traced_child(lambda: None)
        try:
            if not self.begin(pid):
                raise CannotStepError("ptrace(2) is not allowed here")
            if self.step(pid, 1) != ARRIVED:
                raise CannotStepError("ptrace(2) cannot make single steps here")
        finally:
            end(pid)

    def _called(self, function: str, *args: Any) -> int:
        code: int = getattr(self._library, function)(*args)
        if code < 0:
            raise OSError(-code, f"{function}: {os.strerror(-code)}")
        return code

    def begin(self, pid: int) -> bool:
        """Wait until a child comes to its mark; False if it ends before that."""
        while (code := self._called("wdkm_await", pid)) == ARRIVED:
            self.let_go(pid)
        return code == AT_END

    def let_go(self, pid: int) -> None:
        """Let a child that is stopped run."""
        self._called("wdkm_let_go", pid)

    def step(self, pid: int, steps: int) -> int:
        """Execute so many instructions."""
        return self._called("wdkm_step", pid, steps)

    def go(self, pid: int, point: Point) -> int:
        """Lead a victim from its mark to a place.

        Returns:
            ``ARRIVED``; ``AT_END`` or ``ENDED`` when its way was shorter than that; ``ELSEWHERE`` when it came to a
            system call where another victim had come to the place, and is stopped there.
        """
        code = self._called("wdkm_leap", pid, point.calls)
        if code == ARRIVED and point.times:
            code = self._called("wdkm_run_to", pid, point.where, point.times)
        return self.step(pid, point.steps) if code == ARRIVED else code

    def count_calls(self, pid: int, region: Region | None) -> tuple[int, set[int]]:
        """Lead a victim from its mark to its end.

        Returns:
            How many system calls it made, and after which of them, before the next one, the region changed.
        """
        calls, changing = 0, set[int]()
        last = region.content() if region is not None else b""
        going = True
        while going:
            going = self._called("wdkm_leap", pid, 1) == ARRIVED
            now = region.content() if region is not None else b""
            if now != last:
                changing.add(calls)
                last = now
            calls += going
        return calls, changing

    def trace(self, pid: int, region: Region | None, room: int, first_call: int = 0) -> Trace:
        """Lead a victim from its mark to its end and note its way.

        Args:
            region: where to look for changes.
            room: instructions that are noted at most.
            first_call: system calls after which noting begins.
        """
        if self._called("wdkm_leap", pid, first_call) != ARRIVED:
            return Trace(first_call, array("Q"), b"", True)
        where = array("Q", bytes(8 * room))
        flags = bytearray(room)
        size = region.size if region is not None else 0
        last = ctypes.create_string_buffer(size + 1)
        shared = region.address if region is not None else ctypes.addressof(last)
        ctypes.memmove(last, shared, size)
        watch = _Watch(shared=shared, last=ctypes.addressof(last), size=size)
        count = ctypes.c_size_t()
        address, _ = where.buffer_info()
        raw = (ctypes.c_ubyte * room).from_buffer(flags)
        size_t, pointer, byref = ctypes.c_size_t, ctypes.c_void_p, ctypes.byref
        code = self._called("wdkm_trace", pid, byref(watch), pointer(address), raw, size_t(room), byref(count))
        if code == ENDED:
            raise RuntimeError("the victim ended by itself")
        return Trace(first_call, where[: count.value], bytes(flags[: count.value]), code == AT_END)


_libc = ctypes.CDLL(None)


def mark() -> None:
    """In a traced child: stop, so that the tracer knows where it is."""
    signal.raise_signal(signal.SIGSTOP)


def traced_child(act: Callable[[], object], seconds: int = 0, *, marks: bool = True) -> int:
    """Fork a child that is traced by the calling thread, does ``act`` between two marks, and ends.

    Args:
        act: what it does. marks: False if it calls :func:`mark` itself, twice.
        seconds: after which it ends by itself, so that one that is stuck does not hold up its tracer; 0 for never.
    """

    def live() -> None:
        if _libc.ptrace(_TRACEME, 0, None, None) != 0:
            return
        signal.alarm(seconds)  # the tracer waits for it without an end
        if marks:
            mark()
        act()
        if marks:
            mark()

    return fork(live)


def end(pid: int) -> None:
    """Kill a child, traced or not, and wait for its end."""
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        while os.WIFSTOPPED(os.waitpid(pid, 0)[1]):
            pass
