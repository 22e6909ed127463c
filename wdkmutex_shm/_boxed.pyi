from typing import final

from typing_extensions import Buffer

from ._segment import Segment

@final
class BoxedBytes(Buffer):
    exports: int
    def __init__(self, segment: Segment, index: int) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def forget(self) -> None: ...
