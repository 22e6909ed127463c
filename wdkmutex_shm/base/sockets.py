"""A socket whose descriptor may be closed behind its back, and given to another file."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from ._os import File, above

__all__ = ["Socket"]


class Socket(socket.socket):
    """A socket that is used and closed only while its descriptor is of this socket; never one of the standard three."""

    _file: File | None = None  # until it has been looked at

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.fileno() <= 2:
            super().__init__(fileno=above(self.detach()))
        self._file = File(self.fileno())

    def is_here(self) -> bool:
        """Whether its descriptor is still of this socket."""
        return self._file is not None and self._file.is_here()

    def close(self) -> None:
        """Close it. Where its descriptor is closed, or another file's by now, it is only forgotten."""
        if self._file is not None and self.fileno() >= 0 and not self._file.is_here():
            self.detach()
        super().close()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # a signal handler raised as it was made
            self.close()
