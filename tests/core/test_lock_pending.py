"""glibc notes the robust mutex that a thread is about to lock, and no call of ours leaves that note behind.

When the memory is unmapped and used again, the kernel would write into it as the thread ends.
"""

from __future__ import annotations

import ctypes
import platform
import signal

import pytest
from kinds import KINDS, acquire, attempt, make
from processes import held_by_child, in_thread

from wdkmutex_shm import AlreadyOwned, FastMutex, LockTimeout, lock_any

GET_ROBUST_LIST = {"x86_64": 274, "aarch64": 100}


def pending() -> int:
    """The address in the calling thread's list_op_pending."""
    number = GET_ROBUST_LIST.get(platform.machine())
    if number is None:
        pytest.skip("get_robust_list(2) has another number here")
    head, length = ctypes.c_void_p(), ctypes.c_size_t()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.syscall(number, 0, ctypes.byref(head), ctypes.byref(length)) == 0
    assert head.value is not None
    return ctypes.c_uint64.from_address(head.value + 16).value


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_that_was_not_had_in_time(kind: str) -> None:
    mutex = make(kind)

    def wait() -> int:
        assert attempt(mutex) is None
        for timeout in (0.0, 0.001, 0.06):
            with pytest.raises(LockTimeout):
                acquire(mutex, timeout)
        return pending()

    with held_by_child(mutex):
        assert in_thread(wait) == 0


def test_any_of_several_and_a_lock_that_the_thread_has() -> None:
    mutex, mine = FastMutex(0), FastMutex(0)

    def wait() -> int:
        with pytest.raises(LockTimeout):
            lock_any(mutex, timeout=0.02)
        with mine.lock(), pytest.raises(AlreadyOwned):
            mine.lock()
        return pending()

    with held_by_child(mutex):
        assert in_thread(wait) == 0


def test_a_wait_that_a_signal_handler_ends() -> None:
    mutex = FastMutex(0)

    def alarm(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, alarm)
    try:
        with held_by_child(mutex):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(KeyboardInterrupt):
                mutex.lock(timeout=20)
            assert pending() == 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
