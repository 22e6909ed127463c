"""The packages of the proofs are layers: each imports only those before it, and the tools stand on all of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from imports import imports_of, modules_of

ROOT = Path(__file__).resolve().parents[2]
LAYERS = {
    "base": "",
    "operations": "",
    "scenes": "base operations",
    "forking": "base scenes",
    "storm": "base operations",
    "intruders": "base operations",
    "limits": "base",
    "commands": "base scenes forking storm intruders limits",
}
LONGEST = 400

pytestmark = pytest.mark.skipif(not (ROOT / "tools" / "proof").exists(), reason="not run from the source tree")


def test_each_package_imports_only_what_it_stands_on() -> None:
    graph = imports_of(modules_of({"proof": "tools/proof"}, str(ROOT)))
    edges = [(module.split("."), target.split(".")) for module, targets in graph.items() for target in targets]
    inner = [(one, other) for one, other in edges if len(one) > 2 and other[0] == "proof" and one[1] != other[1]]
    assert inner, "nothing was read"
    assert [(one, other) for one, other in inner if other[1] not in LAYERS[one[1]].split()] == []


def test_every_package_is_a_layer_and_every_module_is_short() -> None:
    folder = ROOT / "tools" / "proof"
    packages = {path.parent.name for path in folder.glob("*/__init__.py")}
    assert packages == set(LAYERS)
    long = [path.name for path in folder.rglob("*.py") if len(path.read_text().splitlines()) >= LONGEST]
    assert long == [], os.linesep.join(long)
