"""Builds the compiled core. Everything else about the package is in pyproject.toml."""

import os

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

MODULES = [
    "_alive",
    "_planted",
    "_thread",
    "_segment",
    "_tenant",
    "_codec",
    "_payload",
    "_journal",
    "_board",
    "_lock",
    "_peek",
    "_handle",
    "_orphans",
    "_bound",
    "_guard",
    "_transaction",
    "_affinity",
    "_tasks",
    "_request",
    "_mutex",
    "_section",
    "_holds",
    "_together",
    "_several",
    "_watch",
    "_any",
    "_swap",
    "_attach",
    "_own",
    "_robust",
    "_apart",
    "_wire",
    "_turns",
    "_boxed",
    "_limit",
]

# Not on the path of a lock or a commit: compiled in a third of the time, and no slower where it matters.
COLD = {"_planted", "_segment", "_tenant", "_orphans", "_turns", "_boxed", "_watch", "_bound", "_board", "_journal"}
COLD |= {"_any", "_alive", "_apart", "_own", "_robust"}

HEADERS = ("slot", "scalar", "planted", "board", "alive", "dead", "park", "park_any")

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
# Faults on purpose, see planted.h.
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
            [f"wdkmutex_shm/{name}.pyx"],
            depends=[f"wdkmutex_shm/{header}.h" for header in HEADERS],
            include_dirs=["wdkmutex_shm"],
            define_macros=macros,
            extra_compile_args=["-O1" if quick or name in COLD else "-O3", *flags],
            extra_link_args=link,
        )
        for name in MODULES
    ],
)
