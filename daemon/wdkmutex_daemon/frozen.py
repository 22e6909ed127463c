"""Where a frozen program is its own daemon; as light as can be, for it is imported before the program's own code."""

from __future__ import annotations

import sys

__all__ = ["MARK", "divert", "diverts"]

#: The first argument of a frozen program that is to be ``wdkmutex-daemon``; the others follow.
MARK = "--wdkmutex-daemon"

#: Whether :func:`divert` was called: this program, started with the mark, runs the daemon and not itself.
diverts = False


def divert() -> None:
    """Be ``wdkmutex-daemon`` and exit, in a process that was started with the mark; else note that it would be."""
    global diverts
    diverts = True
    if sys.argv[1:2] == [MARK]:
        from .cli.app import run

        sys.exit(run(sys.argv[2:]))
