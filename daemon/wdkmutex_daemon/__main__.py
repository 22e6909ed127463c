"""``python -m wdkmutex_daemon`` is ``wdkmutex-daemon``."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    main()
