"""T of types that msgpack has no form for: what is written instead, and how they are made again from that.

Python's own containers and paths are here, pydantic's models where pydantic is installed, and what
:func:`register_type` is told of. Everything else that is neither plain nor here goes through msgspec.
"""

from __future__ import annotations

import os
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from ..errors import MutexDamaged
from ._core import pack

__all__ = ["Conversion", "conversion_named", "conversion_of", "plain_scalar", "register_type"]

C = TypeVar("C")


class Conversion(NamedTuple):
    """How a T is written and made again."""

    #: The same in every process, and on every Python.
    name: str
    kind: type
    #: From a T to what msgpack holds.
    encode: Callable[[Any], Any]
    #: Back; it is given what msgpack gives.
    decode: Callable[[Any], Any]


def plain_scalar(value: Any) -> Any:
    """Return the bool, int, float, str or bytes that a scalar of numpy equals; ``value`` itself if it is none."""
    if any(base.__module__ == "numpy" and base.__name__ == "generic" for base in type(value).__mro__):
        item = value.item()
        if type(item) in (bool, int, float, str, bytes):
            return item
    return value


def _expect(plain: Any, kind: type, what: str) -> None:
    if type(plain) is not kind:
        raise MutexDamaged(
            f"the bytes in shared memory are not those of a {what}: they were written by another program, or are "
            "damaged; "
            "register the mutex again, or set it with replace()"
        )


def _of_list(kind: type, encode: Callable[[Any], Any] = list) -> Conversion:
    def decode(plain: Any) -> Any:
        _expect(plain, list, kind.__name__)
        return kind(plain)

    return Conversion(f"builtins.{kind.__name__}", kind, encode, decode)


def _sorted(items: Any) -> list[Any]:
    # In one order, whatever the history of the set: reading T must not look like a change of it.
    return sorted(items, key=pack)


def _of_dict(kind: type) -> Conversion:
    def decode(plain: Any) -> Any:
        _expect(plain, dict, kind.__name__)
        return kind(plain)

    return Conversion(f"collections.{kind.__name__}", kind, dict, decode)


def _decode_deque(plain: Any) -> deque[Any]:
    _expect(plain, list, "deque")
    maxlen, *items = plain or [None]
    return deque(items, maxlen)


_FACTORIES: dict[Any, Any] = {
    None: None,
    **{kind.__name__: kind for kind in (bool, bytes, dict, float, int, list, str)},
}


def _encode_defaultdict(value: defaultdict[Any, Any]) -> list[Any]:
    factory = value.default_factory
    for name, known in _FACTORIES.items():
        if factory is known:
            return [name, dict(value)]
    raise TypeError(
        f"a defaultdict can be T if its factory is one of {', '.join(map(str, _FACTORIES))}, not {factory!r}: "
        "functions are not kept in shared memory; use a dict and setdefault()"
    )


def _decode_defaultdict(plain: Any) -> defaultdict[Any, Any]:
    _expect(plain, list, "defaultdict")
    try:
        name, items = plain
        return defaultdict(_FACTORIES[name], items)
    except (KeyError, TypeError, ValueError):
        _expect(None, list, "defaultdict")
        raise  # for type checkers; _expect has raised


def _path() -> Conversion:
    from pathlib import Path  # here, because it takes long to import and few need it

    def decode(plain: Any) -> Path:
        _expect(plain, bytes, "path")
        return Path(os.fsdecode(plain))

    return Conversion("pathlib.Path", type(Path()), os.fsencode, decode)


def _decode_bytearray(plain: Any) -> bytearray:
    _expect(plain, bytes, "bytearray")
    return bytearray(plain)


_BUILT_IN = [
    _of_list(set, _sorted),
    _of_list(frozenset, _sorted),
    _of_list(tuple),
    Conversion("collections.deque", deque, lambda value: [value.maxlen, *value], _decode_deque),
    Conversion("collections.defaultdict", defaultdict, _encode_defaultdict, _decode_defaultdict),
    _of_dict(Counter),
    _of_dict(OrderedDict),
    Conversion("builtins.bytearray", bytearray, bytes, _decode_bytearray),
]
_conversions: dict[Any, Conversion] = {one.kind: one for one in _BUILT_IN}


def _pydantic(kind: type) -> Conversion | None:
    pydantic = sys.modules.get("pydantic")
    if pydantic is None or not issubclass(kind, pydantic.BaseModel):
        return None
    return Conversion(
        _class_name(kind),
        kind,
        lambda model: model.model_dump(mode="json"),
        kind.model_validate,  # type: ignore[attr-defined]
    )


def _class_name(kind: type) -> str:
    module = "__main__" if kind.__module__ == "__mp_main__" else kind.__module__
    return f"{module}.{kind.__qualname__}"


def conversion_of(kind: Any) -> Conversion | None:
    """Return how a T of ``kind`` is written, None if it is written as it is or through msgspec."""
    try:
        found = _conversions.get(kind)
    except TypeError:  # not hashable
        return None
    if found is None and isinstance(kind, type):
        if kind.__module__.startswith("pathlib") and kind.__name__ in ("Path", "PosixPath"):
            return _path()
        found = _pydantic(kind)
    return found


def conversion_named(label: str) -> Conversion | None:
    """Return the one of Python's own types whose label in a slot is ``label``."""
    return _path() if label == "PosixPath" else next((one for one in _BUILT_IN if one.kind.__name__ == label), None)


def register_type(cls: type[C], encode: Callable[[C], Any], decode: Callable[[Any], C]) -> None:
    """Allow instances of a class as T. Call it in each process that uses such a mutex, before the first use.

    At any IRQL. A mutex that already has such a T keeps the functions registered before.

    Args:
        cls: the class; instances of its subclasses are not accepted.
        encode: returns the msgpack form of an instance (None, bool, int, float, str, bytes, or list and dict of
            these). It must be the same for equal instances; otherwise reading T looks like a change.
        decode: returns the instance. An error it raises is raised by reading T.

    Raises:
        TypeError: ``cls`` is not a class, or can be T without registration.
    """
    if not isinstance(cls, type) or cls.__module__ == "builtins":
        raise TypeError(f"register_type() takes a class of your own, not {cls!r}")
    _conversions[cls] = Conversion(_class_name(cls), cls, encode, decode)
