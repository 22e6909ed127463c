"""The few lines of C that tools need, which lie beside this module, compiled when they are needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig


class CannotCompileError(Exception):
    """There is no C compiler, or it does not compile; the text says why."""


def compiled(name: str, folder: str) -> str:
    """Compile ``name``.c into a shared library in ``folder``, and return its path.

    Raises:
        CannotCompileError: it cannot be compiled.
    """
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.c")
    target = os.path.join(folder, f"{name}.so")
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()
    if shutil.which(compiler[0]) is None:
        raise CannotCompileError(f"there is no C compiler ({compiler[0]}) for {name}.c")
    include = f"-I{sysconfig.get_path('include')}"
    words = [*compiler, "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", include, "-o", target, source]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotCompileError(f"{name}.c does not compile: {done.stderr}")
    return target
