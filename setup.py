"""Builds the compiled core. Everything else about the package is in pyproject.toml."""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

MODULES = [
    "_thread",
    "_segment",
    "_tenant",
    "_codec",
    "_payload",
    "_lock",
    "_handle",
    "_orphans",
    "_guard",
    "_mutex",
    "_section",
    "_attach",
    "_wire",
    "_boxed",
]

flags = ["-O3", "-D_GNU_SOURCE", "-fvisibility=hidden", "-Wall", "-Wextra"]
# What Cython generates is not ours to keep free of these.
flags += ["-Wno-unused-parameter", "-Wno-unused-function", "-Wno-missing-field-initializers", "-Wno-cast-function-type"]
if os.environ.get("WDKMUTEX_WERROR"):
    flags += ["-Werror"]

setup(
    ext_modules=cythonize(
        [
            Extension(
                f"wdkmutex_shm.{name}",
                [f"wdkmutex_shm/{name}.pyx"],
                depends=["wdkmutex_shm/slot.h", "wdkmutex_shm/scalar.h"],
                include_dirs=["wdkmutex_shm"],
                extra_compile_args=flags,
            )
            for name in MODULES
        ],
        compiler_directives={"language_level": "3", "binding": False, "embedsignature": True},
    ),
)
