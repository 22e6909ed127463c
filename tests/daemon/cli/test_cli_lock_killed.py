"""``wdkmutex-daemon lock`` that is killed, and names that its locale cannot read."""

from __future__ import annotations

import os
import signal

import pytest
from commands import Command
from support import DEADLINE, gone, kill, wait_until

from wdkmutex_shm import Grt
from wdkmutex_shm.base._os import die_with

PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.slow
def test_a_killed_lock_takes_its_command_along(served: Command) -> None:
    served("register", "a", "0")
    with served.running("lock", "a", "--", "sh", "-c", "echo $$; exec sleep 1000") as process:
        assert process.stdout is not None
        command = int(process.stdout.readline())
        kill(process.pid)
        wait_until(lambda: gone(command), "the command ends with its lock")
        Grt.init(served.instance)
        with Grt.get_fast_mutex("a", int).lock(timeout=DEADLINE) as guard:
            assert guard.abandoned_by == process.pid


def test_a_parent_that_has_died_already() -> None:
    pid = os.fork()
    if pid == 0:
        try:
            die_with(os.getppid() + 1, signal.SIGKILL)  # as if this process had been given to another one meanwhile
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.slow
def test_utf_8_in_a_locale_that_has_none(served: Command) -> None:
    served("register", "zähler", '"grün"', env=PLAIN)
    assert served("get", "zähler", env=PLAIN) == '"grün"\n'
    assert "zähler" in served("list", env=PLAIN)
    assert served("lock", "zähler", "--", "echo", "läuft", env=PLAIN) == "läuft\n"
    assert "日本" in served("get", "日本", code=4, env=PLAIN)
    served("unregister", "zähler", env=PLAIN)


@pytest.mark.slow
def test_what_is_no_utf_8_is_refused(served: Command) -> None:
    latin = os.fsdecode("zähler".encode("latin-1"))
    for env in ({}, PLAIN):
        assert "not valid Unicode" in served("get", latin, code=2, env=env)
