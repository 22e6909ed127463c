"""The files of a process's own pool are removed while it lives: by a cleaner, or by hand."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
from support import DEADLINE, Fork

from wdkmutex_shm import KMutex
from wdkmutex_shm.memory import shm
from wdkmutex_shm.pool.private import close, the_pool


@pytest.mark.slow
def test_what_is_made_afterwards_is_found_by_others() -> None:
    def maker() -> tuple[list[int], list[str]]:
        before = KMutex(1)
        prefix = the_pool().prefix
        shm.unlink(before.segment)
        after = KMutex(2)
        with Fork(lambda: [before.fetch_add(1), after.fetch_add(1)]) as sharer:
            assert sharer.result() == [1, 2], "who inherited both has both"
        words = f"import pickle; print(pickle.loads({pickle.dumps(after)!r}).fetch_add(1))"
        said = subprocess.check_output([sys.executable, "-c", words], text=True, timeout=DEADLINE)
        assert said == "3\n"
        values = [before.peek(), after.peek()]
        close()
        return values, [*shm.listing(prefix + "."), *shm.listing(the_pool().prefix + ".")]

    with Fork(maker) as child:
        assert child.result() == ([2, 4], []), "and it is removed as its maker ends"
