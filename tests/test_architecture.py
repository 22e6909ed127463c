"""The layers hold: no import runs upward, and neither packages nor files form a circle."""

from __future__ import annotations

import functools
import os
import re
from collections import defaultdict
from pathlib import Path

import pytest
from imports import circle, imports_of, modules_of
from layers import KNOWN, MAY_IMPORT, TREES, full, layer_of

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LAYERED = {name: folder for name, folder in TREES.items() if name.startswith("wdkmutex_")}


@functools.cache
def graph() -> dict[str, set[str]]:
    return imports_of(modules_of(TREES, ROOT))


def allowed() -> dict[str, set[str]]:
    return {
        module: {target for target in targets if (module, target) not in KNOWN} for module, targets in graph().items()
    }


def may_import() -> dict[str, set[str]]:
    return {
        layer: {full(name) if name != "wdkmutex_shm" else name for name in names.split()}
        for layer, names in MAY_IMPORT.items()
    }


def test_a_layer_names_only_layers_above_it() -> None:
    above: set[str] = set()
    for layer, names in may_import().items():
        assert names <= above, f"{layer} may import what is not above it: {sorted(names - above)}"
        above.add(layer)


def test_each_package_is_a_layer() -> None:
    packages = {name for name in modules_of(LAYERED, ROOT) if f"{name}." in " ".join(graph())}

    assert packages - set(MAY_IMPORT) == set()


def test_no_import_runs_upward() -> None:
    table = may_import()
    upward = {
        (module, target)
        for module, targets in allowed().items()
        if module.startswith("wdkmutex_")
        for target in targets
        if layer_of(module) != layer_of(target) and layer_of(target) not in table[layer_of(module)]
    }

    assert sorted(upward) == []


def test_no_packages_form_a_circle() -> None:
    packages: dict[str, set[str]] = defaultdict(set)
    for module, targets in allowed().items():
        if module.startswith("wdkmutex_"):
            packages[layer_of(module)].update({layer_of(target) for target in targets} - {layer_of(module)})

    assert circle(packages) == []


@pytest.mark.parametrize("package", TREES)
def test_no_files_form_a_circle(package: str) -> None:
    assert circle({module: targets for module, targets in allowed().items() if module.split(".")[0] == package}) == []


def test_what_is_known_to_break_the_rules_is_still_there() -> None:
    gone = [edge for edge in KNOWN if edge[1] not in graph().get(edge[0], ())]

    assert gone == [], "take these out of layers.KNOWN"


def test_every_way_of_importing_is_seen(tmp_path: Path) -> None:
    files = {
        "__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .a import x\n",
        "a.py": "def f():\n    import p.b\n",
        "b.py": "import sys\nsys.modules.get('p.c')\n__import__('importlib').import_module('.d', __package__)\n",
        "c.pyx": "'''from . import a'''\nfrom .d cimport (\n    one,\n    two,\n)\ninclude \"part.pxi\"\n",
        "c.pyi": "from p import b\n",
        "c.pxd": "cimport p.e\n",
        "part.pxi": "def f():\n    from . import e as other  # from . import a\n",
        "d.py": "from .sub import deep\n",
        "e.py": "x = 'p.nothing of ours'\n",
        "sub/__init__.py": "",
        "sub/deep.py": "from .. import e\nfrom ..a import f\n",
    }
    for name, text in files.items():
        path = tmp_path / "p" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    assert imports_of(modules_of({"p": "p"}, str(tmp_path))) == {
        "p": {"p.a"},
        "p.a": {"p.b"},
        "p.b": {"p.c", "p.d"},
        "p.c": {"p.d", "p.part.pxi", "p.b", "p.e"},
        "p.part.pxi": {"p.e"},
        "p.d": {"p.sub.deep"},
        "p.e": set(),
        "p.sub": set(),
        "p.sub.deep": {"p.e", "p.a"},
    }


def test_each_file_that_a_source_names_is_there() -> None:
    sources = [
        os.path.join(above, name)
        for folder in TREES.values()
        for above, _, names in os.walk(os.path.join(ROOT, folder))
        for name in names
        if name.endswith((".py", ".pyi", ".pyx", ".pxi", ".h"))
    ]
    there = {os.path.basename(path) for path in sources}
    named = {
        (os.path.relpath(path, ROOT), name)
        for path in sources
        for name in re.findall(r"`(?:[\w./]+/)?(\w+\.(?:py|pyx|pxi|pxd|h))`", Path(path).read_text())
    }

    assert len(named) > 20, "the pattern finds them"
    assert {(path, name) for path, name in named if name not in there} == set()


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) in (["b", "c", "b"], ["c", "b", "c"])
    assert circle({"a": {"b", "c"}, "b": {"c"}}) == []
