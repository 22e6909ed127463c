from collections.abc import Callable, Mapping

from ..base.records import Holder, MutexInfo, Statistics, Waiter

def look(
    fd: int,
    count: int,
    segment: str,
    prefix: bytes,
    info: type[MutexInfo],
    statistics: type[Statistics],
    kinds: Mapping[int, str],
    waits: Mapping[tuple[int, int], tuple[Waiter, ...]],
    holder: Callable[[int, int, float, bool], Holder],
    found: list[MutexInfo],
    serials: list[int],
) -> None: ...
