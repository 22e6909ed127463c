"""Runs a command under valgrind's memcheck and says which of its findings concern our compiled modules.

    python memcheck.py COMMAND [ARGUMENT...]

The interpreter has findings of its own, above all when it is not built for valgrind. What counts is a finding with a
frame of ours in any of its stacks: where it happened, where the block was allocated or freed, where a value that is not
initialised came from; and, at the end of a process, memory that nobody points to and that was allocated by us. One
thing is the interpreter's although it may happen below us: int("0") looks at a digit that it has not set, and what is
looked up by it is "not initialised" ever after. Such findings say that they came from PyLong_FromString.

Exit status: the command's; 1 if it is 0 and something was found; 77 if there is no valgrind.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

SKIPPED = 77
_OPTIONS = (
    "--tool=memcheck",
    "--fair-sched=yes",
    "--track-origins=yes",
    "--leak-check=full",
    "--show-leak-kinds=definite",
    "--num-callers=25",
    "--keep-debuginfo=yes",
)
_OURS = re.compile(r"\(in \S*/wdkmutex_shm/(?:\w+/)*_\w+\.\S*so\)")
_MARK = re.compile(r"^==\d+== ?", re.MULTILINE)
_MOST = 20


def _is_ours(text: str) -> bool:
    """Whether a frame of ours is in one of its stacks, above what imported a module, if anything there did."""
    counts = False
    for line in text.splitlines():
        if " at 0x" in line:
            counts = True
        if counts and _OURS.search(line):
            return True
        if "PyImport_ImportModuleLevelObject" in line:
            counts = False  # what another module does as it is imported is not done by the one that imports it
    return False


def findings(log: str) -> Iterator[str]:
    """The findings in a log of memcheck that concern our modules."""
    for text in _MARK.sub("", log).split("\n\n"):
        what, _, origin = text.partition("Uninitialised value was created by")
        if " at 0x" in what and _is_ours(text) and "PyLong_FromString" not in origin:
            yield text.strip()


def main(words: list[str]) -> int:
    """Run the command and print what was found. Returns the exit status."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        print("memcheck: skipped: there is no valgrind (apt install valgrind)", file=sys.stderr)
        return SKIPPED
    with tempfile.TemporaryDirectory() as folder:
        # An allocator of the interpreter's own would hide from valgrind where one object ends and the next begins.
        environment = {**os.environ, "PYTHONMALLOC": "malloc"}
        log_file = f"--log-file={folder}/%p"
        done = subprocess.run([valgrind, *_OPTIONS, log_file, *words], env=environment, check=False)
        found: dict[str, int] = {}
        ended = 0
        logs = os.listdir(folder)
        for name in logs:
            with open(os.path.join(folder, name), errors="replace") as file:
                log = file.read()
            ended += "ERROR SUMMARY" in log
            for text in findings(log):
                key = re.sub(r"0x[0-9A-F]+|\d[\d,]* ", "", text)
                found[key] = found.get(key, 0) + 1
    for text, times in list(found.items())[:_MOST]:
        print(f"\nmemcheck: {times} times:\n{text}", file=sys.stderr)
    print(
        f"memcheck: {len(logs)} processes, {ended} of which came to their end; {len(found)} findings", file=sys.stderr
    )
    if ended == 0 and done.returncode == 0:
        print("memcheck: no process was watched to its end", file=sys.stderr)
        return 1
    return done.returncode or int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
