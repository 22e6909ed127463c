"""What machine, system and versions the figures are of."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
from collections.abc import Iterable
from typing import Any

from benchmark.peers import PEERS

__all__ = ["machine"]


def _field(path: str, key: str) -> str | None:
    """The first value of a key in a file of "key : value" lines."""
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _versions(packages: Iterable[str]) -> dict[str, str]:
    return {package: version for package in packages if (version := _version(package)) is not None}


def machine() -> dict[str, Any]:
    """The report's head: machine, kernel, CPython, libc, versions, time, and how busy the machine is."""
    packages = {peer.package for peer in PEERS if peer.package} | {"msgpack", "msgspec"}
    standard = {peer.name: peer.version() for peer in PEERS if not peer.package and peer.version()}
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": _field("/proc/meminfo", "MemTotal"),
        "kernel": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "python": f"{platform.python_implementation()} {platform.python_version()} ({platform.python_compiler()})",
        "libc": " ".join(platform.libc_ver()),
        "load": [round(load, 2) for load in os.getloadavg()],
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "wdkmutex_shm": _version("wdkmutex-shm") or "not installed: run from its sources",
        "versions": dict(sorted((_versions(packages) | standard).items())),
    }
