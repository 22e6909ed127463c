"""What help(), an editor and inspect.signature() show of compiled classes."""

from __future__ import annotations

import inspect

import pytest

from wdkmutex_shm import CriticalSection, FastMutex, Guard, KMutex, lock_all


@pytest.mark.parametrize(
    ("what", "parameters"),
    [
        (KMutex, ["value", "type"]),
        (FastMutex, ["value", "type"]),
        (CriticalSection, []),
        (KMutex.lock, ["self", "timeout"]),
        (FastMutex.fetch_add, ["self", "n", "timeout"]),
        (FastMutex.replace, ["self", "value", "timeout"]),
        (KMutex.lock_when, ["self", "predicate", "timeout"]),
        (Guard.wait_for, ["self", "predicate", "timeout"]),
        (CriticalSection.acquire, ["self", "blocking", "timeout"]),
        (lock_all, ["mutexes", "timeout"]),
    ],
    ids=lambda what: getattr(what, "__qualname__", ""),
)
def test_signature(what: object, parameters: list[str]) -> None:
    assert list(inspect.signature(what).parameters) == parameters  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [KMutex, FastMutex, CriticalSection])
def test_every_public_method_has_a_signature_and_a_docstring(kind: type) -> None:
    for name, method in inspect.getmembers(kind, callable):
        if not name.startswith("_"):
            assert inspect.signature(method)
            documentation = inspect.getdoc(method)
            assert documentation
            assert not documentation.startswith(f"{name}("), "the signature is no part of the text"
