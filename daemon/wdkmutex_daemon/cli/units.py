"""``systemd``: the units that come with the package, put where systemd looks for a user's."""

from __future__ import annotations

import os

import click

from . import exit_codes, options
from .output import PROGRAM, Failure, note

__all__ = ["systemd_verb"]

_UNITS = (f"{PROGRAM}@.service", f"{PROGRAM}@.socket")
_SHIPPED = f"ExecStart={PROGRAM} run"
_WRITTEN = f"# Written by `{PROGRAM} systemd install`"
_MARK = f"{_WRITTEN}, which overwrites it; make changes with `systemctl --user edit`."


@click.group("systemd")
def systemd_verb() -> None:
    """User units for systemd: `systemd install`."""


@systemd_verb.command("install")
@options.instance
@click.option("--folder", metavar="DIR", help="Target folder. [default: systemd/user in ~/.config or $XDG_CONFIG_HOME]")
@click.option("--force", is_flag=True, help="Overwrite units that this command has not written.")
def install_verb(instance: str, folder: str | None, force: bool) -> None:
    """Install the units for systemd.

    They are for the current user, serve any instance, and start the daemon of this installation. The command prints
    their paths. Enable them with `systemctl --user`.
    """
    folder = os.path.abspath(folder or _folder())
    units = {os.path.join(folder, name): _text(name) for name in _UNITS}
    for path in units:
        if not force and not _is_ours(path):
            raise Failure(
                f"{path} was not written by this command; remove it, or overwrite it with --force", exit_codes.FAILED
            )
    os.makedirs(folder, exist_ok=True)
    for path, text in units.items():
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        click.echo(path)
    note(
        "Next: systemctl --user daemon-reload && "
        f"systemctl --user enable --now {PROGRAM}@{instance}.socket (the daemon starts on demand; "
        "with .service instead, it starts with your session)"
    )


def _folder() -> str:
    return os.path.join(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"), "systemd", "user")


def _is_ours(path: str) -> bool:
    """Whether a unit may be written there: there is none, or this command has written it."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline().startswith(_WRITTEN)
    except FileNotFoundError:
        return True


def _text(name: str) -> str:
    from importlib.resources import files

    from wdkmutex_shm.base.frozen import is_frozen

    shipped = (files("wdkmutex_daemon") / "units" / name).read_text(encoding="utf-8")
    if is_frozen():  # one file: the loader is the main process, and the daemon its child
        shipped = shipped.replace("NotifyAccess=main", "NotifyAccess=all")
    return f"{_MARK}\n{shipped.replace(_SHIPPED, f'ExecStart={_command()} run')}"


def _command() -> str:
    """The command of this installation, as ExecStart wants it."""
    import shutil

    from wdkmutex_shm.engines.local.autostart import command

    words = command()
    words[0] = os.path.abspath(shutil.which(words[0]) or words[0])
    # systemd.service(5), "Command lines": no variable is looked for in the first word.
    first, *rest = (_quoted(word) for word in words)
    return " ".join([first, *(word.replace("$", "$$") for word in rest)])


def _quoted(word: str) -> str:
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{word}"' if any(char in word for char in " \t'\"\\;") else word
