"""Tuples that are written twice, for type checkers and for a quick import: both say the same."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator

import pytest

import wdkmutex_shm

FOLDER = os.path.dirname(wdkmutex_shm.__file__)
MODULES = ("base/identity.py", "errors.py", "memory/data_segments.py")


def _twice(path: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Name of each such tuple, its fields as type checkers see them, and those that it has."""
    with open(os.path.join(FOLDER, path)) as file:
        tree = ast.parse(file.read())
    for node in tree.body:
        if not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            continue
        typed = {one.name: one for one in node.body if isinstance(one, ast.ClassDef)}
        for one in node.orelse:
            if isinstance(one, ast.Assign) and isinstance(one.value, ast.Call):
                name, fields = (ast.literal_eval(word) for word in one.value.args)
                annotated = [line for line in typed[name].body if isinstance(line, ast.AnnAssign)]
                yield name, [line.target.id for line in annotated if isinstance(line.target, ast.Name)], fields.split()


@pytest.mark.parametrize("path", MODULES)
def test_both_have_the_same_fields(path: str) -> None:
    found = list(_twice(path))

    assert found, "the module has one"
    for name, typed, fields in found:
        assert typed == fields, name
