"""Lists of all names, for clients that read them in pages.

A page must neither repeat nor miss a name, whatever is registered meanwhile; so a list is kept while it is read. It is
one list for all who ask while the names are the same, it goes with its last reader, and all that are kept are bounded
together: however many clients begin to read and stop, the daemon keeps a few lists.
"""

from __future__ import annotations

import weakref

from wdkmutex_shm.errors import ProtocolError

from .registry import Registry

__all__ = ["KEPT", "LISTS", "Reading", "Snapshot", "Snapshots"]

KEPT = 1 << 20
"""How many names may be in the lists that are kept, 8 bytes for each; more only if :data:`LISTS` need it."""

LISTS = 8
"""How many lists as long as the newest may always be kept."""

_READINGS = 4


class Snapshot:
    """The names as they were. Whoever reads it has a reference to it.

    Attributes:
        version: the registry's, when it was made.
        names: None when newer ones needed its room.
    """

    __slots__ = ("__weakref__", "names", "version")

    def __init__(self, version: int, names: list[bytes]) -> None:
        self.version = version
        self.names: list[bytes] | None = names


class Snapshots:
    """The lists of one daemon.

    Args:
        registry: its names.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._made: list[weakref.ref[Snapshot]] = []

    def _kept(self) -> list[tuple[Snapshot, int]]:
        """Those that are still read, the oldest first, with their lengths."""
        alive = [snapshot for made in self._made if (snapshot := made()) is not None]
        return [(snapshot, len(snapshot.names)) for snapshot in alive if snapshot.names is not None]

    def take(self) -> Snapshot:
        """The names as they are now. The oldest lists are emptied if there is no room for another one."""
        kept = self._kept()
        if kept and kept[-1][0].version == self._registry.version:
            return kept[-1][0]
        names = self._registry.names()
        snapshot = Snapshot(self._registry.version, names)
        room = max(KEPT, LISTS * len(names)) - len(names)
        total = sum(length for _, length in kept)
        while total > room:
            oldest, length = kept.pop(0)
            oldest.names = None
            total -= length
        self._made = [weakref.ref(old) for old, _ in kept]
        self._made.append(weakref.ref(snapshot))
        return snapshot


class Reading:
    """What one connection reads: at most four lists at a time; beginning another one gives up the oldest.

    Args:
        snapshots: the daemon's.
    """

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots
        self._lists: dict[int, Snapshot] = {}
        self._last = 0

    def page(self, number: int, start: int, size: int) -> tuple[list[bytes], int, int | None]:
        """One page.

        Args:
            number: of the list, 0 for a new one.
            start: how many names to skip.
            size: most names to return.

        Returns:
            The names, the number of the list, and where its next page starts: None at the end, where the list is
            given up.

        Raises:
            ProtocolError: the list is not kept any more.
        """
        if number == 0:
            self._last = number = self._last + 1
            self._lists[number] = self._snapshots.take()
            if len(self._lists) > _READINGS:
                del self._lists[next(iter(self._lists))]
        snapshot = self._lists.get(number)
        if snapshot is None or snapshot.names is None or start < 0:
            raise ProtocolError("this list of names is no longer kept; begin again")
        names, end = snapshot.names, start + size
        if end < len(names):
            return names[start:end], number, end
        del self._lists[number]
        return names[start:end], number, None

    def end(self) -> None:
        """Give up all lists."""
        self._lists.clear()
