from typing import Any

from ._mutex import FastMutex, KMutex

def exchange_if(
    mutex: KMutex[int] | FastMutex[int],
    expected: int,
    number: int,
    operation: str = ...,
    waits: bool = ...,
    done: list[bool] | None = ...,
) -> int: ...
def commit_if(mutex: KMutex[Any] | FastMutex[Any], commit: int, value: Any, done: list[bool] | None = ...) -> bool: ...
