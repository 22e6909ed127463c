from ._handle import Handle

MAGIC: int
LAYOUT: int
NOTE: int
NOTE_COMMIT: int
NOTE_PID: int
PENDING_AT: int
SLOT_BYTES: int

def forget_journal() -> None: ...
def left_by_the_dead(handle: Handle) -> bool: ...
