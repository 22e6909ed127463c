from collections.abc import Sequence
from typing import Any, NamedTuple, final

from ._handle import Handle

WAIT_LOCK: int
WAIT_ANY: int
WAIT_VALUE: int
WAIT_TASK: int
WAIT_BACK: int
RECORDS: int
START: tuple[int, int]
HEADER: int
TALES: int
TALE: int

class Record(NamedTuple):
    number: int
    sequence: int
    pid: int
    tid: int
    start: int
    since: int
    kind: int
    segment: str
    nonce: int
    slot: int
    generation: int

class Hold(NamedTuple):
    state: str
    pid: int
    tid: int
    acquisitions: int
    held_for: float | None
    kind: int
    name: str

@final
class Wait:
    def __init__(self, kind: int) -> None: ...
    @property
    def waited(self) -> float: ...
    def show(self, mutexes: Sequence[Any]) -> None: ...
    def ticket(self) -> int: ...
    def end(self) -> None: ...

def enter(handle: Handle, kind: int, since: int) -> int: ...
def leave(ticket: int) -> None: ...
def taking_back(is_so: bool) -> None: ...
def started(pid: int) -> int: ...
def tell(words: bytes) -> None: ...
def record_of(ticket: int) -> Record | None: ...
def record_by(pid: int, tid: int) -> Record | None: ...
def waits_of(pid: int, tid: int) -> list[Record] | None: ...
def records(nonce: int = 0, slot: int = 0, generation: int = 0) -> list[Record]: ...
def processes(nonce: int, slot: int, generation: int) -> dict[tuple[int, int], int]: ...
def hold_of(segment: str, nonce: int, slot: int, generation: int) -> Hold | None: ...
def path() -> str: ...
def let_go() -> bool: ...
