from array import array
from typing import Any

from ._codec import Codec
from ._segment import Segment

def attach(
    cls: Any, kind: int, wanted: Codec | None, known: dict[int, Codec], segment: Segment, index: int, generation: int
) -> Any: ...
def attach_many(
    cls: Any,
    kind: int,
    codecs: list[Codec] | None,
    known: dict[int, Codec],
    segments: dict[int, Segment],
    words: array[int],
) -> tuple[list[Any], list[int]]: ...
def house(
    pool: Any, handle: Any, kind: int, codec: Codec, payload: bytes, ident: int, length: int, serial: int
) -> bool: ...
