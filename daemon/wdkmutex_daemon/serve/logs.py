"""The daemon's log: lines on its error output, so many and no more.

No client can fill the disk (or the memory that the runtime folder often lies in) by what it does wrong.
"""

from __future__ import annotations

import logging
import time

__all__ = ["set_up_log"]

_BURST = 100
_PER_SECOND = 1.0


class _Limit(logging.Filter):
    """Lets a burst of lines through and then so many a second; says how many it left out."""

    def __init__(self) -> None:
        super().__init__()
        self._left = float(_BURST)
        self._at = time.monotonic()
        self._dropped = 0

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        self._left = min(_BURST, self._left + (now - self._at) * _PER_SECOND)
        self._at = now
        if self._left < 1:
            self._dropped += 1
            return False
        self._left -= 1
        if self._dropped:
            record.msg, record.args = f"({self._dropped} lines omitted) {record.getMessage()}", None
            self._dropped = 0
        return True


def set_up_log(level: int = logging.INFO) -> None:
    """Write the log of this process to its error output."""
    handler = logging.StreamHandler()
    handler.addFilter(_Limit())
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
