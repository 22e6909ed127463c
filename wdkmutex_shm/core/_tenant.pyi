from typing import NamedTuple

from ._segment import Segment

class Snapshot(NamedTuple):
    name: str
    kind: int
    type_code: int
    type_hash: int
    label: str
    value_bytes: int
    data_ids: tuple[int, int]
    state: str
    owner: int
    held_for: float | None
    acquisitions: int
    contended: int
    abandoned: int
    timeouts: int
    commits: int
    abandoned_pid: int

def occupy(
    segment: Segment,
    index: int,
    name: bytes,
    kind: int,
    code: int,
    type_hash: int,
    label: bytes,
    payload: bytes,
    data_id: int,
    data_length: int,
    serial: int,
) -> int: ...
def occupy_from(
    free: list[tuple[Segment, int]],
    name: bytes,
    kind: int,
    code: int,
    type_hash: int,
    label: bytes,
    payload: bytes,
    data_id: int,
    data_length: int,
    serial: int,
) -> tuple[Segment, int, int] | None: ...
def occupy_many(
    free: list[tuple[Segment, int]],
    names: list[bytes],
    kind: int,
    tags: list[tuple[int, int, bytes]],
    which: list[int],
    payloads: list[bytes],
    serial: int,
) -> list[int]: ...
def locate(segments: list[Segment], places: list[int | None]) -> tuple[bytes, set[int], list[int]]: ...
def vacate(segment: Segment, index: int, generation: int) -> bool: ...
def reclaim(segment: Segment, index: int) -> bool: ...
def empty(segment: Segment, index: int) -> None: ...
def tenants(segment: Segment) -> list[tuple[int, int, int, bytes]]: ...
def vacate_all(segment: Segment) -> tuple[int, list[int]]: ...
def serial_of(segment: Segment, index: int) -> int: ...
def top_serial(segment: Segment) -> int: ...
def vacant(segment: Segment) -> tuple[list[int], list[int]]: ...
def references(segment: Segment) -> set[int]: ...
def leave_to_the_next(segment: Segment) -> list[tuple[int, int]]: ...
def settle(segment: Segment, index: int, decided: bool) -> None: ...
def stamp(segment: Segment) -> int: ...
def deaths(segment: Segment) -> int: ...
def deaths_of(segment: Segment) -> list[tuple[tuple[int, int], int]]: ...
def free_dead(segment: Segment) -> int: ...
def generation_of(segment: Segment, index: int) -> int: ...
def snapshot(segment: Segment, index: int, generation: int) -> Snapshot | None: ...
