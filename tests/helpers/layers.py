"""The layers of the project, declared: what each package may import beside itself. From the ground up.

``tests/test_architecture.py`` compares this table with what the files import (:mod:`imports`). A layer names only
layers above it in the table, so the packages cannot form a circle; within a package, files must not form one either.
"""

from __future__ import annotations

__all__ = ["KNOWN", "MAY_IMPORT", "TREES", "layer_of"]

TREES = {
    "wdkmutex_shm": "wdkmutex_shm",
    "wdkmutex_daemon": "daemon/wdkmutex_daemon",
    "proof": "tools/proof",
    "benchmark": "tools/benchmark",
}
"""Where the files of each top-level package are, in the project's folder."""

MAY_IMPORT = {
    "wdkmutex_shm.errors": "",
    "wdkmutex_shm.base": "errors",
    "wdkmutex_shm.protocol": "errors base",
    "wdkmutex_shm.memory": "errors base",
    "wdkmutex_shm.core": "errors base memory",
    "wdkmutex_shm.pool": "errors base memory core",
    "wdkmutex_shm.observe": "errors base memory core pool",
    "wdkmutex_shm.wait": "errors base core observe",
    "wdkmutex_shm.objects": "errors base protocol core pool wait",
    "wdkmutex_shm.engines": "errors",
    "wdkmutex_shm.engines.local": "errors base protocol memory core pool objects engines",
    "wdkmutex_shm.grt": "errors base core observe objects engines engines.local",
    "wdkmutex_shm": "errors base core pool observe wait objects engines grt",
    "wdkmutex_shm.mp": "errors base memory core wdkmutex_shm",
    "wdkmutex_daemon.serve": "errors base protocol memory core pool observe engines.local wdkmutex_shm",
    "wdkmutex_daemon.inspect": "errors base memory core pool observe engines.local wdkmutex_shm",
    "wdkmutex_daemon.demo": "errors base engines.local wdkmutex_shm",
    "wdkmutex_daemon.cli": (
        "errors base core pool observe objects engines.local wdkmutex_shm "
        "wdkmutex_daemon.serve wdkmutex_daemon.inspect wdkmutex_daemon.demo"
    ),
    "wdkmutex_daemon": "wdkmutex_daemon.cli",
    "wdkmutex_daemon.pyinstaller": "wdkmutex_daemon wdkmutex_daemon.cli",
}
"""Layer -> the layers that it may import; names without a dot are short for those of ``wdkmutex_shm``."""

KNOWN: dict[tuple[str, str], str] = {
    ("wdkmutex_shm.core._core", "wdkmutex_shm.core.box"): "circle",
    ("wdkmutex_shm.core._core", "wdkmutex_shm.wait.changes"): "upward",
    ("wdkmutex_shm.core._core", "wdkmutex_shm.wait.value_async"): "upward",
    ("wdkmutex_shm.core.box", "wdkmutex_shm.pool.private"): "upward",
}
"""(importer, imported) -> what it breaks (``upward``, ``circle``). These are to go: the list only becomes shorter."""


def full(name: str) -> str:
    """The full name of a layer of the table."""
    return name if name.startswith("wdkmutex_") else f"wdkmutex_shm.{name}"


def layer_of(module: str) -> str:
    """The layer that a module belongs to: the longest name of the table that it is below of."""
    while module not in MAY_IMPORT:
        module = module.rpartition(".")[0]
    return module
