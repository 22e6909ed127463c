"""What a process runs, told from its command line: the script and not the interpreter's path."""

from __future__ import annotations

import re
from functools import lru_cache

__all__ = ["program_of"]

_PYTHON = re.compile(r"(python|pypy)[0-9.]*t?(-dbg)?")
_SHELL = re.compile(r"(ba|da|z|k|mk|a)?sh")
_TAKE_ONE = {"-W", "-X", "--check-hash-based-pycs"}
_CHILD = re.compile(r"from multiprocessing\.(spawn|forkserver|resource_tracker) import")


def _base(path: str) -> str:
    return path.rpartition("/")[2] or path


def _after_options(words: list[str]) -> list[str]:
    """The words from the one on that says what Python runs: a script, -c or -m; [] for none."""
    at = 0
    while at < len(words) and words[at].startswith("-") and words[at] not in {"-", "-c", "-m"}:
        at += 2 if words[at] in _TAKE_ONE else 1
    return words[at:]


@lru_cache(maxsize=1024)
def program_of(command: str) -> str:
    """Return what a command line runs, ``worker.py -v`` for ``/usr/bin/python3 -u /srv/worker.py -v``.

    Args:
        command: words with a space between, as :class:`wdkmutex_shm.Holder` has them. A title that the process gave
            itself remains as it is.
    """
    first, *words = command.split(" ")
    name = _base(first)
    if _PYTHON.fullmatch(name):
        words = _after_options(words)
        if not words:
            return name
        if words[0] == "-c":
            child = _CHILD.match(" ".join(words[1:]))
            return f"multiprocessing {child[1]}" if child else " ".join([name, *words])
        if words[0] == "-m":
            return " ".join(words[1:]) or name
        return " ".join([_base(words[0]), *words[1:]])
    if _SHELL.fullmatch(name) and words and not words[0].startswith("-"):
        return " ".join([_base(words[0]), *words[1:]])
    return " ".join([name, *words])
