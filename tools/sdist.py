"""Builds the source package of a tree and compares it, file by file, with what the tree tracks.

    python tools/sdist.py TREE FOLDER

Without git, as in an unpacked source package, what counts is all files but those that something generates.
"""

from __future__ import annotations

import contextlib
import fnmatch
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile

__all__ = ["build", "differences", "tracked"]

#: What a build adds to what the tree has.
ADDED = ("PKG-INFO", "setup.cfg", "*.egg-info/*")


def tracked(tree: str) -> list[str]:
    """The files of a tree, as paths from there, without those that are generated."""
    if os.path.exists(os.path.join(tree, ".git")):
        done = subprocess.run(["git", "-C", tree, "ls-files", "-z"], stdout=subprocess.PIPE, check=True)
        names = os.fsdecode(done.stdout).split("\0")
        return sorted(name for name in names if os.path.isfile(os.path.join(tree, name)))
    with open(os.path.join(tree, ".gitignore"), encoding="utf-8") as file:
        ignored = [line for line in file.read().splitlines() if line and not line.startswith("#")]
    found = []
    for folder, folders, files in os.walk(tree):
        below = os.path.relpath(folder, tree)
        folders[:] = [
            name
            for name in folders
            if not _ignored(f"{name}/", os.path.normpath(os.path.join(below, name)) + "/", ignored)
        ]
        for name in files:
            path = os.path.normpath(os.path.join(below, name))
            if not _ignored(name, path, ignored) and not _added(path):
                found.append(path)
    return sorted(found)


def _ignored(name: str, path: str, patterns: list[str]) -> bool:
    """As git does, for the patterns that .gitignore has: the last one that fits decides."""
    result = False
    for pattern in patterns:
        excepted = pattern.startswith("!")
        pattern = pattern.lstrip("!")
        if fnmatch.fnmatchcase(path if "/" in pattern[:-1] else name, pattern):
            result = not excepted
    return result


def _added(path: str) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in ADDED)


def build(tree: str, folder: str) -> str:
    """Build the source package from a copy of the tracked files; return its path."""
    from setuptools import build_meta

    with tempfile.TemporaryDirectory() as copy:
        for name in tracked(tree):
            os.makedirs(os.path.dirname(os.path.join(copy, name)), exist_ok=True)
            shutil.copy2(os.path.join(tree, name), os.path.join(copy, name))
        os.makedirs(folder, exist_ok=True)
        folder, before = os.path.abspath(folder), os.getcwd()
        os.chdir(copy)
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # it tells of each file
                return os.path.join(folder, build_meta.build_sdist(folder))
        finally:
            os.chdir(before)


def differences(tree: str, package: str) -> list[str]:
    """What a source package has less, more, or otherwise than the tree: a line for each file."""
    names, seen, lines = set(tracked(tree)), set(), []
    with tarfile.open(package) as tar:
        for member in tar:
            name = member.name.partition("/")[2]
            if member.isdir() or _added(name):
                continue
            seen.add(name)
            if name not in names:
                lines.append(f"should not be there: {name}")
                continue
            path = os.path.join(tree, name)
            data = tar.extractfile(member)
            with open(path, "rb") as file:
                if data is None or data.read() != file.read():
                    lines.append(f"other bytes: {name}")
            if member.mode & 0o100 != os.stat(path).st_mode & 0o100:
                lines.append(f"other mode: {name}")
    lines += [f"missing: {name}" for name in names - seen]
    return sorted(lines)


if __name__ == "__main__":
    tree, folder = sys.argv[1:]
    package = build(tree, folder)
    found = differences(tree, package)
    for line in found:
        print(f"{os.path.basename(package)}: {line}", file=sys.stderr)
    print(package)
    sys.exit(bool(found))
