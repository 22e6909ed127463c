"""Signatures of compiled classes, with the types that their stubs (.pyi) give."""

from __future__ import annotations

import ast
import functools
import importlib
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

Functions = dict[str, list[ast.FunctionDef]]


def _functions(body: list[ast.stmt]) -> Functions:
    found: Functions = {}
    for node in body:
        if isinstance(node, ast.FunctionDef):
            found.setdefault(node.name, []).append(node)
    return found


@functools.cache
def _stub(module: str) -> tuple[Functions, dict[str, Functions]]:
    """The functions of a module's stub, and those of each class in it; nothing if the module is not compiled."""
    file = getattr(importlib.import_module(module), "__file__", None) or ""
    path = Path(file).parent / f"{module.rpartition('.')[2]}.pyi"
    if file.endswith(".py") or not path.exists():
        return {}, {}
    body = ast.parse(path.read_text()).body
    return _functions(body), {node.name: _functions(node.body) for node in body if isinstance(node, ast.ClassDef)}


def _text(function: ast.FunctionDef, *, bound: bool) -> tuple[str, str | None]:
    arguments = function.args
    if bound and arguments.args:
        arguments.args = arguments.args[1:]
    returns = None if function.returns is None else ast.unparse(function.returns)
    return f"({ast.unparse(arguments)})", returns


def _lookup(kind: str, obj: Any) -> list[ast.FunctionDef]:
    if kind == "class":
        return _stub(obj.__module__)[1].get(obj.__name__, {}).get("__init__", [])
    owner = getattr(obj, "__objclass__", None)
    if owner is not None:
        return _stub(owner.__module__)[1].get(owner.__name__, {}).get(obj.__name__, [])
    return _stub(getattr(obj, "__module__", None) or __name__)[0].get(getattr(obj, "__name__", ""), [])


def process_signature(
    _app: Sphinx, kind: str, _name: str, obj: Any, _options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    if kind not in {"class", "method", "function"}:
        return signature, returns
    found = _lookup(kind, obj)
    if not found:
        return signature, returns
    # Overloads say the same with other types; the last one is the most general.
    text, result = _text(ast.parse(ast.unparse(found[-1])).body[0], bound=kind != "function")  # type: ignore[arg-type]
    return text, None if kind == "class" else result


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-signature", process_signature)
    return {"parallel_read_safe": True}
