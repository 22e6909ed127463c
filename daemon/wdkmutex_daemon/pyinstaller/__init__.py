"""What PyInstaller needs to know, found by it through the entry point ``pyinstaller40``: no option is needed.

The core is compiled, so its imports are not to be seen. The runtime hook lets the program be its own daemon.
"""

from __future__ import annotations

import os

__all__ = ["get_hook_dirs"]


def get_hook_dirs() -> list[str]:
    """The folder of the hooks."""
    return [os.path.dirname(__file__)]
