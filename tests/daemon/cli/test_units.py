"""The units for systemd: they come with the package, and a verb puts them where systemd looks."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Command
from support import DEADLINE
from wdkmutex_daemon.cli import exit_codes

pytestmark = pytest.mark.slow  # each of them starts processes


def _install(cli: Command, base: Path, *more: str) -> list[Path]:
    said = cli("systemd", "install", *more, env={"XDG_CONFIG_HOME": str(base)})
    return [Path(line) for line in said.splitlines()]


def test_install(cli: Command, tmp_path: Path) -> None:
    paths = _install(cli, tmp_path)
    folder = tmp_path / "systemd" / "user"
    assert paths == [folder / "wdkmutex-daemon@.service", folder / "wdkmutex-daemon@.socket"]
    assert sorted(paths) == sorted(folder.iterdir())
    service, socket = (path.read_text(encoding="utf-8") for path in paths)
    assert f"\nExecStart={sys.executable} -m wdkmutex_daemon run --instance %i\n" in service
    assert "\nListenStream=%t/wdkmutex/%i.sock\n" in socket
    assert _install(cli, tmp_path) == paths, "an upgrade writes them anew"


def test_a_unit_of_the_users_own_stands(cli: Command, tmp_path: Path) -> None:
    own = tmp_path / "wdkmutex-daemon@.socket"
    own.write_text("[Socket]\n", encoding="ascii")
    said = cli.error("systemd", "install", "--folder", str(tmp_path), code=exit_codes.FAILED)
    assert str(own) in said
    assert "--force" in said
    assert list(tmp_path.iterdir()) == [own]
    assert own.read_text(encoding="ascii") == "[Socket]\n"
    assert own in _install(cli, tmp_path, "--folder", str(tmp_path), "--force")
    assert "ListenStream=" in own.read_text(encoding="utf-8")


def test_a_folder_that_cannot_be_made(cli: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert str(tmp_path) in cli.error(
        "systemd", "install", "--folder", str(tmp_path / "file" / "x"), code=exit_codes.FAILED
    )


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
@pytest.mark.parametrize("name", ["wdkmutex-daemon", "b in/%n $x ${y} z;/wdkmutex-daemon"])
def test_systemd_takes_the_units(name: str, cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / name
    command.parent.mkdir(parents=True, exist_ok=True)
    command.write_text("#!/bin/sh\n", encoding="ascii")
    command.chmod(0o755)
    monkeypatch.setenv("WDKMUTEX_DAEMON", f"{shlex.quote(str(command))} '--log=$HOME %h'")
    units = []
    for path in _install(cli, tmp_path, "--folder", str(tmp_path / "units")):
        unit = path.with_name(path.name.replace("@", "@one"))  # an instance of the template
        path.rename(unit)
        units.append(str(unit))
    assert "'--log" not in Path(units[0]).read_text(encoding="utf-8")
    assert ' "--log=$$HOME %%h" run --instance %i\n' in Path(units[0]).read_text(encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", *units], capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
