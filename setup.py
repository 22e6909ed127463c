"""Builds the compiled core. Everything else about the package is in pyproject.toml."""

import os
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# Each is made of the parts (.pxi) that its .pyx includes.
MODULES = ["base._os", "core._core", "engines.local._wire", "mp._descriptor_passing", "observe._pass"]
# Not on the path of a lock or a commit: compiled in a third of the time, and no slower where it matters.
COLD = {"base._os", "mp._descriptor_passing"}


def parts(module: str) -> list[str]:
    """What is compiled again when one of these changes."""
    folder = f"wdkmutex_shm/{module.rpartition('.')[0].replace('.', '/')}"
    return sorted({*glob(f"{folder}/*.pxi"), *glob("wdkmutex_shm/core/*.h"), *glob("wdkmutex_shm/base/*.h")})


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
            depends=parts(name),
            include_dirs=["wdkmutex_shm/core", "wdkmutex_shm/base"],
            define_macros=macros,
            extra_compile_args=["-O1" if quick or name in COLD else "-O3", *flags],
            extra_link_args=link,
        )
        for name in MODULES
    ],
)
