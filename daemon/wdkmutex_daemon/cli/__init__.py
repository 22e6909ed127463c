"""The command line, ``wdkmutex-daemon``: one module for each group of verbs.

This module stays light on purpose: a process that multiprocessing spawns from the demo imports it again, and none of
them needs click.
"""

from __future__ import annotations

from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command line of this process and exit with its status (:mod:`wdkmutex_daemon.cli.exit_codes`)."""
    import sys

    from .app import run

    sys.exit(run(sys.argv[1:]))
