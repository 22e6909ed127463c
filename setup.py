"""Builds the compiled core. Everything else about the package is in pyproject.toml."""

import os

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

BASE = ["_alive", "_descriptors", "_robust", "_faults"]
CORE = ["_thread", "_segment", "_tenant", "_codec", "_payload", "_journal", "_wait_board", "_lock", "_peek", "_handle"]
CORE += ["_foreign_drops", "_bound_with", "_guard", "_transaction", "_affinity", "_tasks", "_async_request", "_mutex"]
CORE += ["_section", "_section_guard", "_multi_commit", "_multi", "_watch", "_any_sleeper", "_exchange", "_attach"]
CORE += ["_box_buffer", "_limit"]
MODULES = [*(f"base.{name}" for name in BASE), *(f"core.{name}" for name in CORE)]
MODULES += ["engines.local._wire", "engines.local._call_lock", "mp._descriptor_passing"]
MODULES += ["observe._pass"]

# Not on the path of a lock or a commit: compiled in a third of the time, and no slower where it matters.
COLD = {"_segment", "_tenant", "_foreign_drops", "_box_buffer", "_watch", "_bound_with", "_wait_board", "_journal"}
COLD |= {*BASE, "_any_sleeper", "_call_lock", "_descriptor_passing"}

HEADERS = [f"core/{name}.h" for name in ("slot", "msgpack_int", "wait_board", "dead", "park", "park_any", "peek")]
HEADERS += ["base/faults.h", "base/alive.h"]

DIRECTIVES = {
    "language_level": "3",
    "binding": False,
    # In the form that CPython reads: inspect.signature() of a compiled method works.
    "embedsignature": True,
    "embedsignature.format": "clinic",
}

flags = ["-g0", "-D_GNU_SOURCE", "-fvisibility=hidden", "-Wall", "-Wextra"]
# What Cython generates is not ours to keep free of these.
flags += ["-Wno-unused-parameter", "-Wno-unused-function", "-Wno-missing-field-initializers", "-Wno-cast-function-type"]
# Faults on purpose, see faults.h.
macros = [("WDKMUTEX_PLANTS", "1")] if os.environ.get("WDKMUTEX_PLANTS") else []
# For builds that are tested and never measured.
quick = bool(macros or os.environ.get("WDKMUTEX_SANITIZE") or os.environ.get("WDKMUTEX_QUICK_BUILD"))
if os.environ.get("WDKMUTEX_WERROR"):
    flags += ["-Werror"]
link = []
# Such as "address,undefined"; the interpreter is then run with the sanitizer's library preloaded, see tools/sanitize.
if os.environ.get("WDKMUTEX_SANITIZE"):
    link = [f"-fsanitize={os.environ['WDKMUTEX_SANITIZE']}"]
    flags += [*link, "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g"]


class Compile(build_ext):
    """Cython runs when something is compiled: neither a source package nor the metadata needs the C that it makes."""

    def build_extensions(self) -> None:
        from Cython.Build import cythonize

        made = {one.name: one for one in cythonize(self.extensions, compiler_directives=DIRECTIVES)}
        for extension in self.extensions:
            extension.sources, extension.depends = made[extension.name].sources, made[extension.name].depends
        super().build_extensions()


setup(
    cmdclass={"build_ext": Compile},
    ext_modules=[
        Extension(
            f"wdkmutex_shm.{name}",
            [f"wdkmutex_shm/{name.replace('.', '/')}.pyx"],
            depends=[f"wdkmutex_shm/{header}" for header in HEADERS],
            include_dirs=["wdkmutex_shm/core", "wdkmutex_shm/base"],
            define_macros=macros,
            extra_compile_args=["-O1" if quick or name.rpartition(".")[2] in COLD else "-O3", *flags],
            extra_link_args=link,
        )
        for name in MODULES
    ],
)
