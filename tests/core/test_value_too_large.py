"""A T beyond what msgpack and a slot can count is refused with its size, and the old one stands."""

from __future__ import annotations

import pytest

from wdkmutex_shm import FastMutex, ValueTooLarge


@pytest.mark.parametrize("size", [2**32, 2**32 - 1])
def test_4_gib(size: int) -> None:
    try:
        value = bytes(size)  # of pages that are not there until they are written
    except MemoryError:
        pytest.skip("4 GiB of address space are needed")
    mutex = FastMutex(b"small")
    with pytest.raises(ValueTooLarge, match=f"T takes {size if size == 2**32 else 2**32 + 4} bytes") as caught:
        mutex.replace(value)
    assert isinstance(caught.value, ValueError)
    assert caught.value.size is not None
    assert caught.value.size > caught.value.limit == 2**32 - 1
    assert mutex.peek() == b"small"
