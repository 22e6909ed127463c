"""Why msgpack cannot hold a value: which object in it, where, and what to do."""

from __future__ import annotations

from typing import Any

from .conversions import plain_scalar

__all__ = ["explain"]

_PLAIN = (type(None), bool, float, str, bytes, bytearray, memoryview)
_DEEPEST = 64


def _find(value: Any, where: str, depth: int = 0) -> tuple[Any, str] | None:
    """The first object below ``value`` that msgpack refuses, and the expression that leads there."""
    value = plain_scalar(value)
    kind = type(value)
    if kind in _PLAIN or depth > _DEEPEST:
        return None
    if kind is int:
        return None if -(1 << 63) <= value < 1 << 64 else (value, where)
    if kind is list:
        parts = ((item, f"{where}[{at}]") for at, item in enumerate(value))
        return next((found for part in parts if (found := _find(*part, depth + 1))), None)
    if kind is dict:
        for key, item in value.items():
            found = _find(key, f"the key {key!r:.60} of {where}", depth + 1)
            found = found or _find(item, f"{where}[{key!r:.60}]", depth + 1)
            if found:
                return found
        return None
    return value, where


def _advice(value: Any) -> str:
    kind = type(value)
    if kind is tuple:
        return "it would come back as a list: use a list, or declare the type of T, such as type=list[tuple[int, str]]"
    if kind in (set, frozenset):
        return "a set can be T, but inside another T only with an explicit type, such as type=dict[str, set[int]]"
    if kind.__module__ == "numpy" and kind.__name__ == "ndarray":
        return "use its tolist() or tobytes()"
    if isinstance(value, (list, dict, str, int, float, bytes)):
        return f"it would come back as its base class: convert it first, or make the mutex with type={kind.__name__}"
    return "convert it first, make the mutex with type=T, or register it with register_type()"


def explain(value: Any, error: Exception) -> Exception:
    """Return the error to raise where msgpack refused ``value`` with ``error``: a TypeError or an OverflowError."""
    found = _find(value, "T")
    if found is None:
        return type(error)(f"{error}: msgpack cannot hold this T")
    what, where = found
    if type(what) is int:
        return OverflowError(
            f"{where} is an int beyond 64 bits (it has {what.bit_length()}): msgpack holds -2**63 to 2**64 - 1; "
            "keep it as str or bytes"
        )
    kind = type(what)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return TypeError(f"{where} is of type {name}, which msgpack cannot hold: {_advice(what)}")
