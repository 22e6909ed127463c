"""The numbers of shared memory that Python needs, as ``core/slot.h`` has them; the core checks that they agree."""

from __future__ import annotations

__all__ = [
    "DATA_HEADER_BYTES",
    "HEADER_BYTES",
    "JOURNAL_MAGIC",
    "LAYOUT",
    "NOTE",
    "NOTE_COMMIT",
    "NOTE_PID",
    "PENDING_AT",
    "SLOT_BYTES",
]

#: The version of everything below; raised by each change of it.
LAYOUT = 5
#: Where the slots of a segment begin, and how long one is.
HEADER_BYTES = 4096
SLOT_BYTES = 448
#: Where T begins in a data segment.
DATA_HEADER_BYTES = 64
#: What a journal begins with.
JOURNAL_MAGIC = 0x314C4E4A4D4B57
#: Where a slot's note is. A note that leads to a journal has this bit, and from these bits on the low bit of the commit
#: word that is to come, and the pid of the process that wrote it; its start time is below.
PENDING_AT = 280
NOTE = 1 << 63
NOTE_COMMIT = 62
NOTE_PID = 40
