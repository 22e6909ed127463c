"""Several mutexes, of which one is gone and another one lives in its place."""

from __future__ import annotations

from typing import Any

import pytest

from wdkmutex_shm import FastMutex, MutexDestroyed, lock_all, lock_any


@pytest.mark.parametrize("call", [lock_all, lock_any])
def test_a_mutex_that_is_gone_is_not_the_one_that_has_its_slot_now(call: Any) -> None:
    gone = FastMutex(1)
    gone.to_owned()
    present = FastMutex(2)
    assert (present.segment, present.slot_index) == (gone.segment, gone.slot_index)
    for mutexes in ((gone, present), (present, gone)):
        with pytest.raises(MutexDestroyed):
            call(*mutexes, timeout=1)
    assert present.owner is None
