"""Nothing that locking, waiting or their errors can reach imports a module.

A fork in the midst of an import leaves the module's lock behind, and a child that imports it too waits forever.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading

import pytest
from support import Fork

from wdkmutex_shm import FastMutex, LockTimeout

IMPORTING = os.path.join(os.path.dirname(__file__), "importing.py")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["mutexes", "mp"])
def test_nothing_is_imported_by_what_is_done_with_a_mutex(what: str) -> None:
    done = subprocess.run([sys.executable, IMPORTING, what], capture_output=True, text=True, timeout=120, check=False)

    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


@pytest.mark.slow
def test_the_timeout_of_a_child_that_was_forked_in_the_midst_of_an_import() -> None:
    ended = threading.Event()

    def import_forever() -> None:
        while not ended.is_set():
            for name in [name for name in sys.modules if name.partition(".")[0] == "psutil"]:
                sys.modules.pop(name, None)
            importlib.import_module("psutil")

    def expire() -> str:
        try:
            mutex.lock(timeout=0.001)
        except LockTimeout as error:
            return str(error)
        return ""

    mutex = FastMutex(0)
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "psutil"}
    importer = threading.Thread(target=import_forever)
    importer.start()
    try:
        with mutex.lock():
            for _ in range(16):
                with Fork(expire) as child:
                    assert str(os.getpid()) in child.result()
    finally:
        ended.set()
        importer.join()
        sys.modules.update(before)
