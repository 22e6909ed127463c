"""Ctrl-C in a call to the daemon: the next call works, wherever it came."""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wdkmutex_shm import Grt

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def interrupter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets a Ctrl-C arrive at the n-th bytecode; see tools/proof/base/interrupter.c."""
    monkeypatch.syspath_prepend(str(TOOLS))
    compiling = pytest.importorskip("proof.base.compiling", reason="not run from the source tree")
    try:
        library = ctypes.PyDLL(compiling.compiled("interrupter", str(tmp_path)))
    except compiling.CannotCompileError as error:
        pytest.skip(str(error))
    library.wdkm_interrupt_at.argtypes = (ctypes.c_longlong,)
    library.wdkm_left.restype = ctypes.c_longlong
    return library


def registered() -> None:
    Grt.register_fast_mutex("n", 0)


def registered_large() -> None:
    Grt.register_fast_mutex("n", b"x" * 300)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # files that nobody has got yet
@pytest.mark.parametrize("call", [Grt.names, registered, registered_large])
def test_the_next_call_works(grt: str, interrupter: Any, call: Callable[[], object]) -> None:
    call()  # what a process loads with its first mutex is not the matter here
    for number in itertools.count(1):
        left = 0
        try:
            interrupter.wdkm_interrupt_at(number)
            try:
                call()
            finally:
                left = interrupter.wdkm_left()
        except KeyboardInterrupt:
            pass
        found: list[object] = []
        # In a thread, so that a call that never gets its turn fails here and now.
        thread = threading.Thread(target=lambda found=found: found.append(Grt.names()), daemon=True)
        thread.start()
        thread.join(5)
        assert found, f"stuck after a Ctrl-C at bytecode {number}"
        if left > 0:
            break
    assert number > 20
