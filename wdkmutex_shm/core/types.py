"""Which T a mutex protects: from ``type(v)`` or ``type=``, to the codec that checks, writes and reads it.

=========================================================  =====================================================
T                                                          written and read by
=========================================================  =====================================================
int (64 bits), float, bool, None, str, bytes               the core
list, dict, any (``type=None``)                            msgpack, strictly: what comes back equals what was set
set, frozenset, tuple, deque, defaultdict, Counter,        msgpack, as what :mod:`wdkmutex_shm.core.conversions` says
OrderedDict, bytearray, Path, pydantic models, and what
``register_type`` was told of
dataclass, attrs, msgspec.Struct, TypedDict, datetime,     msgspec, validated against T
UUID, Decimal, Enum, ``list[int]``, ``int | None``, ...
=========================================================  =====================================================
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from ..base.unset import UNSET, Unset
from ..errors import DowncastError
from ._core import HOLDS, SECTION, Codec, pack, set_helpers, unpack, unpack_frozen
from .conversions import Conversion, conversion_named, conversion_of, plain_scalar
from .refusal import explain

if typing.TYPE_CHECKING:
    from ..base.records import TypeTag

__all__ = ["ANY", "KNOWN", "SECTION", "UNSET", "Codec", "Unset", "codec_for", "codec_of_tag"]


_T_ANY, _T_LIST, _T_DICT, _T_TYPED = 0, 7, 8, 9
_SCALARS: dict[type, int] = {type(None): 1, bool: 2, int: 3, float: 4, str: 5, bytes: 6}
_NEVER = (memoryview, complex, object, type)
_UNIONS = (typing.Union, types.UnionType)

set_helpers(plain_scalar, explain)


def _plain(code: int, label: str, kind: Any, *, mutable: bool) -> Codec:
    return Codec(code, code, label.encode(), kind, pack=pack, unpack=unpack, mutable=mutable)


#: T is whatever msgpack holds.
ANY = _plain(_T_ANY, "any", None, mutable=True)

_PLAIN: dict[Any, Codec] = {
    kind: _plain(code, "None" if kind is type(None) else kind.__name__, kind, mutable=False)
    for kind, code in _SCALARS.items()
}
_PLAIN[list] = _plain(_T_LIST, "list", list, mutable=True)
_PLAIN[dict] = _plain(_T_DICT, "dict", dict, mutable=True)


#: The codecs that a slot's code alone tells.
KNOWN: dict[int, Codec] = {codec.code: codec for codec in (ANY, SECTION, *_PLAIN.values())}


def _full_name(kind: Any) -> str:
    """Return a name for T that is the same in every process, also in one that spawn started."""
    arguments = typing.get_args(kind)
    origin = typing.get_origin(kind)
    if origin in _UNIONS:
        # int | None and Optional[int] are one T, in whatever order its parts are named.
        return " | ".join(sorted(_full_name(argument) for argument in arguments))
    if arguments:
        joined = ", ".join(_full_name(argument) for argument in arguments)
        return f"{_full_name(origin)}[{joined}]"
    if not isinstance(kind, type):
        return repr(kind)
    module = "__main__" if kind.__module__ == "__mp_main__" else kind.__module__
    return f"{module}.{kind.__qualname__}"


def _label(kind: Any) -> bytes:
    text = kind.__qualname__ if isinstance(kind, type) and not typing.get_args(kind) else repr(kind)
    text = text.replace("typing.", "")
    raw = text.encode()
    return raw if len(raw) <= 24 else raw[:21].decode("utf-8", "ignore").encode() + b"..."


def _validator(kind: Any) -> Callable[[Any], Any]:
    if isinstance(kind, type) and not typing.get_args(kind) and not typing.is_typeddict(kind):

        def of_class(value: Any) -> None:
            if type(value) is not kind:  # a subclass would come back as its base class
                raise TypeError(f"T of this mutex is {kind.__qualname__}, not {type(value).__name__}")

        return of_class
    import msgspec

    def of_hint(value: Any) -> None:
        try:
            same = type(msgspec.convert(value, kind)) is type(value)
        except msgspec.ValidationError as error:
            raise TypeError(f"T of this mutex is {kind!r}: {error}") from None
        if not same:  # it can be converted, as a tuple to a list, and would come back so
            raise TypeError(f"T of this mutex is {kind!r}, not {type(value).__name__}")

    return of_hint


def _hashed(name: str) -> int:
    import hashlib

    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


@lru_cache(maxsize=1024)
def _converted(conversion: Conversion) -> Codec:
    kind = conversion.kind
    encode = conversion.encode
    return Codec(
        _T_TYPED,
        _hashed(conversion.name),
        _label(kind),
        kind,
        pack=lambda value: pack(encode(value)),
        unpack=unpack,
        validate=_validator(kind),
        revive=conversion.decode,
        mutable=True,
    )


@lru_cache(maxsize=1024)
def _typed(kind: Any) -> Codec:
    import msgspec

    try:
        encode = msgspec.msgpack.Encoder().encode
        decode = msgspec.msgpack.Decoder(kind).decode
    except (TypeError, msgspec.ValidationError) as error:
        raise TypeError(f"T cannot be {kind!r}: {error}") from None

    def pack_typed(value: Any) -> bytes:
        try:
            raw = encode(value)
            # A field of another type, or an item put into a list, is written without a word but cannot be read.
            decode(raw)
        except (TypeError, msgspec.ValidationError) as error:
            raise TypeError(f"this is no T of {kind!r}, or msgpack cannot hold it: {error}") from None
        return raw

    return Codec(
        _T_TYPED,
        _hashed(_full_name(kind)),
        _label(kind),
        kind,
        pack=pack_typed,
        unpack=decode,
        validate=_validator(kind),
        mutable=True,
    )


def codec_for(value: Any = UNSET, type: Any = UNSET) -> Codec:
    """Return the codec of T: of ``type`` if it is given (None: any), else of ``type(value)``.

    A ``value`` of None without a type makes T any: a mutex that can hold nothing but None would be of no use.

    Raises:
        TypeError: neither msgpack nor msgspec can hold such a T.
    """
    if value is not UNSET:
        value = plain_scalar(value)
    kind = type if type is not UNSET else value.__class__ if value is not None else None
    if kind is None or kind is typing.Any:
        return ANY
    try:
        plain = _PLAIN.get(kind)
    except TypeError:  # not hashable: Annotated with a list, say
        plain = None
    if plain is not None:
        return plain
    if kind in _NEVER:
        raise TypeError(f"T cannot be {kind.__name__}: {HOLDS}")
    conversion = conversion_of(kind)
    codec = _typed(kind) if conversion is None else _converted(conversion)
    if value is not UNSET:
        codec.accept(value)
    return codec


def codec_of_tag(tag: TypeTag, type: Any = UNSET, name: str | None = None) -> Codec:
    """Return the codec for a mutex whose slot says ``tag``, wanted as ``type`` (unset: as whatever it is).

    Raises:
        DowncastError: ``type`` is another T than the mutex protects.
    """
    code, hashed, label = tag
    if type is not UNSET:
        wanted = codec_for(type=type)
        if (wanted.code, wanted.type_hash) != (code, hashed):
            found = label.decode("utf-8", "replace")
            raise DowncastError(
                f"mutex {name!r} protects a T of {found}, not of {wanted.label.decode()}",
                name=name,
                found=found,
                wanted=wanted.label.decode(),
            )
        return wanted
    known = KNOWN.get(code)
    if known is not None:
        return known
    conversion = conversion_named(label.decode("utf-8", "replace")) if code == _T_TYPED else None
    if conversion is not None and hashed == _hashed(conversion.name):
        return _converted(conversion)
    if code == _T_TYPED:
        return Codec(_T_ANY, hashed, label, None, pack=pack, unpack=unpack_frozen, mutable=True, frozen=True)
    raise DowncastError(f"mutex {name!r} protects a T of code {code}, which this version does not support", name=name)
