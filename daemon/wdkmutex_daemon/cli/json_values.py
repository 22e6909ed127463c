"""Values as JSON and back: what ``get`` prints and ``set`` and ``register`` read.

A set or a deque is shown as an array, a path as a string. What else JSON has no form for is an object with one key that
begins with ``$``:

=====================  ===================================================================
``{"$bytes": "aGk="}``  bytes, in base64
``{"$float": "nan"}``   a float that is no JSON number: ``nan``, ``inf``, ``-inf``
``{"$time": "..."}``    a point in time, in ISO 8601 (msgpack's timestamp)
``{"$ext": [5, ".."]}`` another msgpack extension: its code and its bytes in base64
``{"$map": [[k, v]]}``  a dict whose keys are not all str, or whose only key begins with ``$``
=====================  ===================================================================

``from_json(to_json(v)) == v`` for everything else that msgpack decodes, but for what a time has below a microsecond.
"""

from __future__ import annotations

import base64
import json
import math
import os
from collections import deque
from typing import Any

__all__ = ["dumps", "dumps_plain", "from_json", "loads", "to_json"]


def to_json(value: Any) -> Any:
    """Return ``value`` with what JSON cannot say replaced by the forms above."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"$bytes": base64.b64encode(value).decode("ascii")}
    if isinstance(value, dict):
        return _map_to_json(value)
    if isinstance(value, (set, frozenset)):
        return [to_json(item) for item in sorted(value, key=lambda item: (type(item).__name__, item))]
    if isinstance(value, (list, tuple, deque)) and not hasattr(value, "_fields"):
        return [to_json(item) for item in value]
    return _other_to_json(value)


def _map_to_json(value: dict[Any, Any]) -> dict[str, Any]:
    plain = all(isinstance(key, str) for key in value)
    if plain and not (len(value) == 1 and next(iter(value)).startswith("$")):
        return {key: to_json(item) for key, item in value.items()}
    return {"$map": [[to_json(key), to_json(item)] for key, item in value.items()]}


def _other_to_json(value: Any) -> Any:
    import datetime

    import msgpack

    if isinstance(value, msgpack.Timestamp):
        try:
            value = value.to_datetime()
        except (OverflowError, ValueError):  # a year that datetime does not have
            value = msgpack.ExtType(-1, value.to_bytes())
    if isinstance(value, datetime.datetime):
        return {"$time": value.isoformat()}
    if isinstance(value, msgpack.ExtType):
        return {"$ext": [value.code, base64.b64encode(value.data).decode("ascii")]}
    if isinstance(value, os.PathLike):
        raw = os.fsencode(value)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return to_json(raw)
    raise TypeError(f"a {type(value).__name__} has no JSON form")


def from_json(value: Any) -> Any:
    """Return the value that a JSON form stands for.

    Raises:
        ValueError: an object looks like one of the forms above and is none.
    """
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((key, inner),) = value.items()
        if key.startswith("$"):
            return _special(key, inner)
    return {key: from_json(item) for key, item in value.items()}


def _special(key: str, inner: Any) -> Any:
    try:
        if key == "$bytes":
            return base64.b64decode(inner, validate=True)
        if key == "$float":
            return float(inner)
        if key == "$map":
            return {_hashable(from_json(name)): from_json(item) for name, item in inner}
        if key == "$time":
            import datetime

            import msgpack

            return msgpack.Timestamp.from_datetime(datetime.datetime.fromisoformat(inner))
        if key == "$ext":
            import msgpack

            code, data = inner
            return msgpack.ExtType(code, base64.b64decode(data, validate=True))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{json.dumps({key: inner})[:80]} is not a valid {key} form: {error}") from None
    known = "$bytes, $float, $time, $ext, $map"
    raise ValueError(f"unknown form {key!r}; known are {known} (write a dict with such a key as $map)")


def _hashable(key: Any) -> Any:
    # msgpack turns an array that is a key into a list; Python wants a tuple there.
    return tuple(_hashable(item) for item in key) if isinstance(key, list) else key


def dumps(value: Any) -> str:
    """Return ``value`` as one line of JSON."""
    return dumps_plain(to_json(value))


def dumps_plain(value: Any) -> str:
    """Return what :func:`to_json` returned as one line of JSON."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def loads(text: str) -> Any:
    """Return the value that one JSON text stands for.

    Raises:
        ValueError: it is not JSON, or not one of the forms above.
    """
    return from_json(json.loads(text, parse_constant=_no_constant))


def _no_constant(word: str) -> Any:
    raise ValueError(f'{word} is not JSON; write {{"$float": "{word.lower().replace("infinity", "inf")}"}}')
