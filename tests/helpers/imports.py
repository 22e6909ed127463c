"""Who imports whom, read from the files: nothing is imported or built for it.

A module is everything of one stem (``.py``, ``.pyx``, ``.pxd``, ``.pyi``) and each ``.pxi``. What counts as an import:
at the top, inside functions, for type checkers alone; ``cimport`` and ``include``; and a string that names a module of
ours, as for ``import_module`` and ``sys.modules``.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter

__all__ = ["circle", "imports_of", "modules_of"]

ENDINGS = (".py", ".pyi", ".pyx", ".pxd", ".pxi")
Found = tuple[int, str, tuple[str, ...]]
"""Leading dots, dotted name, and the names that are taken from it (none for ``import x`` and for strings)."""

_NO_CODE = re.compile(r"'''.*?'''|\"\"\".*?\"\"\"|#[^\n]*", re.DOTALL)
_STATEMENT = re.compile(
    r"^[ \t]*(?:from[ \t]+(\.*)([\w.]*)[ \t]+c?import[ \t]+(\([^)]*\)|[^\n]+)"
    r"|c?import[ \t]+([\w., \t]+)"
    r"|include[ \t]+[\"']([^\"']+)[\"'])",
    re.MULTILINE,
)
_NAMES_MODULE = re.compile(r"(\.*)([a-z_]\w*(?:\.[a-z_]\w*)*)")


def modules_of(trees: dict[str, str], root: str) -> dict[str, list[str]]:
    """Module -> its files, of the packages whose folders are given."""
    found: dict[str, list[str]] = {}
    for package, folder in trees.items():
        for path, _, files in os.walk(os.path.join(root, folder)):
            inside = os.path.relpath(path, os.path.join(root, folder)).replace(os.sep, ".").strip(".")
            for file in sorted(files):
                stem, ending = os.path.splitext(file)
                if ending in ENDINGS and stem.replace("-", "_").isidentifier():
                    last = "" if stem == "__init__" else file if ending == ".pxi" else stem
                    found.setdefault(".".join(filter(None, (package, inside, last))), []).append(
                        os.path.join(path, file)
                    )
    return found


def _in_python(text: str) -> Iterator[Found]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", tuple(alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((0, alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            named = _NAMES_MODULE.fullmatch(node.value)
            if named and "." in node.value:
                yield len(named[1]), named[2], ()


def _in_cython(text: str) -> Iterator[Found]:
    text = _NO_CODE.sub("", text).replace("\\\n", " ")
    for dots, base, names, plain, part in _STATEMENT.findall(text):
        if part:
            yield 1, part, ()
        elif plain:
            yield from ((0, name.split()[0], ()) for name in plain.split(",") if name.strip())
        else:
            taken = (name.split() for name in names.strip("()").split(";")[0].split(","))
            yield len(dots), base, tuple(words[0] for words in taken if words)
    for quoted in re.findall(r"[\"']([\w.]+)[\"']", text):
        named = _NAMES_MODULE.fullmatch(quoted)
        if named and "." in quoted:
            yield len(named[1]), named[2], ()


def _targets(module: str, is_package: bool, found: Iterable[Found], known: Iterable[str]) -> Iterator[str]:
    for dots, base, names in found:
        parts = module.removesuffix(".pxi").split(".")
        if dots:
            parts = parts[: len(parts) - dots + is_package]
            base = ".".join(filter(None, (*parts, base)))
        for name in names or ("",):
            full = f"{base}.{name}" if name else base
            if full in known:
                yield full
            elif base in known:
                yield base


def imports_of(modules: dict[str, list[str]]) -> dict[str, set[str]]:
    """Module -> the modules of the same dict that it imports."""
    graph: dict[str, set[str]] = {}
    for module, files in modules.items():
        graph[module] = set()
        for path in files:
            with open(path, encoding="utf-8") as file:
                text = file.read()
            found = _in_python(text) if path.endswith((".py", ".pyi")) else _in_cython(text)
            is_package = os.path.basename(path).startswith("__init__.")
            graph[module].update(_targets(module, is_package, found, modules))
        graph[module].discard(module)
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of imports, each importing the next and the last the first; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []
