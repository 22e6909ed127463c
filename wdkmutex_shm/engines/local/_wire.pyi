UNSENT: int
LOST: int
LATE_UNSENT: int
LATE_REPLY: int
TOO_LONG: int

def exchange(fd: int, request: bytes, deadline: int, cap: int) -> bytes | int: ...
