"""What is told when the command that is to start a daemon does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from wdkmutex_shm import Grt
from wdkmutex_shm.errors import DaemonUnavailable


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo hello >&2; echo goodbye >&2; exit 1", "ended during startup.*goodbye"),
        ("exit 1", "ended during startup.*none"),
        ("for word; do fd=$word; done; printf 'nonsense' >&$fd", "ended during startup"),
    ],
    ids=["words", "silent", "nonsense"],
)
def test_a_daemon_that_does_not_come_up(
    script: str, said: str, instance: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = tmp_path / "daemon"
    command.write_text(f"#!/bin/bash\n{script}\n", encoding="ascii")
    command.chmod(0o755)
    monkeypatch.setenv("WDKMUTEX_DAEMON", str(command))
    with pytest.raises(DaemonUnavailable, match=said):
        Grt.init(instance, timeout=20.0)


def test_a_daemon_that_hangs_before_it_serves(instance: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command = tmp_path / "daemon"
    command.write_text("#!/bin/bash\necho hanging >&2\nexec sleep 60\n", encoding="ascii")
    command.chmod(0o755)
    monkeypatch.setenv("WDKMUTEX_DAEMON", str(command))
    with pytest.raises(DaemonUnavailable, match="was not ready in time.*hanging"):
        Grt.init(instance, timeout=1.5)


def test_a_command_that_is_not_there(instance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WDKMUTEX_DAEMON", "/nonexistent/daemon --fast")
    with pytest.raises(DaemonUnavailable, match="/nonexistent/daemon --fast.*WDKMUTEX_DAEMON"):
        Grt.init(instance)
