"""``python -m proof``: one command a tool, the modules of ``proof.commands``, imported when they are asked for."""

from __future__ import annotations

import importlib
import pkgutil

import click

from . import commands


class Tools(click.Group):
    """Each module has a ``command``."""

    def list_commands(self, context: click.Context) -> list[str]:
        """The names of the tools."""
        return sorted(module.name for module in pkgutil.iter_modules(commands.__path__))

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The tool of that name."""
        if name not in self.list_commands(context):
            return None
        command: click.Command = importlib.import_module(f"{commands.__name__}.{name}").command
        return command


@click.command(cls=Tools, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def main() -> None:
    """Try to break what wdkmutex_shm promises.

    Each tool prints a seed, a progress line and one JSON summary, and exits with 1 when a promise was broken.
    """


if __name__ == "__main__":
    main()
