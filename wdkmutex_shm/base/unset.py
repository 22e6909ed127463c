"""What stands for "nothing was passed", where None means something. By itself, for whoever imports only this."""

from __future__ import annotations

__all__ = ["UNSET", "Unset"]


class Unset:
    """The type of :data:`UNSET`: nothing was passed, not even None."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET = Unset()
