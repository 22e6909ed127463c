"""The manual, as Sphinx builds it: ``./tools/docs``."""

import os
import sys
from pathlib import Path

# The compiled classes have their docstrings at run time and their types in stubs; stub_signatures puts them together.
os.environ["SPHINX_AUTODOC_IGNORE_NATIVE_MODULE_TYPE_STUBS"] = "1"
sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import wdkmutex_shm

project = "wdkmutex_shm"
author = "the wdkmutex_shm maintainers"
project_copyright = "the wdkmutex_shm maintainers; MIT licence"
release = version = wdkmutex_shm.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "stub_signatures"]
exclude_patterns = ["_build", "_ext"]
html_theme = "furo"
html_title = f"wdkmutex_shm {release}"
html_show_sourcelink = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# No network: what other projects document is named, not linked. Our own names must all be found.
nitpick_ignore_regex = [
    ("py:.*", r"(?!wdkmutex_shm|[A-Z]\w*$).*"),  # the standard library, msgspec, ...
    ("py:.*", r"(wdkmutex_shm\..*\.)?[A-Z]"),  # type variables
    ("py:.*", "Any|Callable|Coroutine|Generator|Iterable|Iterator|Literal|Mapping|TracebackType"),
    ("py:.*", "Mutex"),  # the base of KMutex and FastMutex, which is no public name
    # What the contexts of mp make has the documentation of multiprocessing.
    ("py:.*", "Barrier|BoundedSemaphore|Condition|Event|JoinableQueue|Queue|Semaphore|SimpleQueue"),
    ("py:.*", r"wdkmutex_shm\.mp\.(context|processes)\.\w+"),
]
