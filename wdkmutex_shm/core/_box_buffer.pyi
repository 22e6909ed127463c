from typing import Any, final

from typing_extensions import Buffer

from ._codec import Codec
from ._segment import Segment

@final
class BoxedBytes(Buffer):
    exports: int
    def __init__(self, segment: Segment, index: int, home: object) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def decode(self, codec: Codec) -> Any: ...
    def forget(self) -> None: ...
