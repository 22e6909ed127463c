"""A daemon's index of names where a mutex ends behind its back, and where an earlier daemon was killed half-way."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from wdkmutex_daemon.serve import handlers, pool_lock
from wdkmutex_daemon.serve.listings import Reading
from wdkmutex_daemon.serve.pool_lock import PoolLock, ServedAlreadyError
from wdkmutex_daemon.serve.registry import Registry
from wdkmutex_daemon.serve.service import Service

from wdkmutex_shm.base.names import KIND_FAST, instance_prefix, pool_segment
from wdkmutex_shm.base.records import SlotRef
from wdkmutex_shm.core import _core
from wdkmutex_shm.errors import GrtIsEmpty, KeyNotFound
from wdkmutex_shm.memory import shm
from wdkmutex_shm.pool.pool import Pool
from wdkmutex_shm.protocol.bulk import RegisterMany

INT = (3, 3, b"int")


@pytest.fixture
def pool(instance: str) -> Iterator[Pool]:
    made = Pool.open(instance_prefix(instance))
    yield made
    made.destroy()


@pytest.fixture
def registry(pool: Pool, instance: str) -> Registry:
    return Registry(pool, instance)


def _register(registry: Registry, name: bytes, mode: str = "overwrite") -> SlotRef:
    return registry.register(name, KIND_FAST, mode, INT, b"\x01", None)[0]


def _end(pool: Pool, ref: SlotRef) -> None:
    """End a tenancy as its own holder does: nobody tells the daemon."""
    assert _core.vacate(pool.segment_of(ref), ref.slot, ref.generation)


@pytest.mark.parametrize("reused", [True, False])
def test_of_two_tenants_of_one_name_the_later_one_counts(pool: Pool, instance: str, reused: bool) -> None:
    """A daemon was killed between making a mutex and freeing the one that it replaced; whichever slot is the lower."""
    other = pool.allocate(b"other", KIND_FAST, INT, b"\x01")
    old = pool.allocate(b"n", KIND_FAST, INT, b"\x01")
    if reused:
        pool.free(other)
    new = pool.allocate(b"n", KIND_FAST, INT, b"\x02")
    assert (new.slot < old.slot) == reused
    registry = Registry(pool, instance)
    assert registry.find(b"n") == new
    assert pool.info(old) is None
    assert pool.stats().used == len(registry) == (1 if reused else 2)


def test_a_name_whose_mutex_ended_is_forgotten(registry: Registry) -> None:
    pool, version = registry.pool, registry.version
    ended = _register(registry, b"n")
    _register(registry, b"stays")
    _end(pool, ended)
    with pytest.raises(KeyNotFound):
        registry.find(b"n")
    assert registry.names() == [b"stays"]
    assert registry.version > version
    assert pool.stats().used == 1, "its slot is free again"
    _end(pool, registry.find(b"stays"))
    with pytest.raises(GrtIsEmpty):
        registry.find(b"stays")


def test_many_names_of_which_some_have_ended(registry: Registry) -> None:
    pool = registry.pool
    refs = {name: _register(registry, name) for name in (b"a", b"b", b"c")}
    _end(pool, refs[b"b"])
    words, numbers = registry.find_many([b"a", b"b", b"c", b"never"])
    assert numbers == {0}
    assert len(words) == 4 * 16
    assert words[16:24] == bytes(8), "a generation of 0"
    assert sorted(registry.names()) == [b"a", b"c"]


def test_an_ended_mutex_does_not_take_its_name(registry: Registry) -> None:
    _end(registry.pool, _register(registry, b"n"))
    assert registry.find(b"n" if _register(registry, b"n", "checked") else b"")
    _end(registry.pool, registry.find(b"n"))
    request = RegisterMany(["n"], KIND_FAST, "checked", [INT], [0], [b"\x01"])
    registry.register_many(request, [b"n"])
    assert registry.names() == [b"n"]
    assert registry.pool.stats().used == 1


@pytest.mark.parametrize("many", [False, True])
def test_what_is_replaced_ends_just_before_it_is_freed(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    """Its holder ends it between the daemon's look and its own freeing: the slot is counted free once."""
    pool = registry.pool
    old = _register(registry, b"n")
    make = "allocate_many" if many else "allocate"
    real = getattr(pool, make)

    def made_meanwhile(*args: Any) -> Any:
        _end(pool, old)
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(pool, make, made_meanwhile)
        if many:
            registry.register_many(RegisterMany(["n"], KIND_FAST, "overwrite", [INT], [0], [b"\x01"]), [b"n"])
        else:
            _register(registry, b"n")
    assert registry.find(b"n") != old
    assert pool.stats().used == 1
    assert pool.stats().quarantined == 0


class _Ending(Registry):
    """Each mutex that is found ends before anything else is done with it."""

    def find(self, name: bytes) -> SlotRef:
        ref = super().find(name)
        if name != b"stays":
            _end(self.pool, ref)
        return ref


def test_a_mutex_that_ends_while_it_is_looked_at(pool: Pool, instance: str) -> None:
    registry = _Ending(pool, instance)
    service = Service(instance, "", registry, dict, lambda gone: None)
    _register(registry, b"n")
    _register(registry, b"stays")
    connection: Any = SimpleNamespace(reading=Reading(service.snapshots))
    rows = handlers.list_(service, connection, {})["mutexes"]
    assert [row["name"] for row in rows] == ["stays"]
    _register(registry, b"n")
    with pytest.raises(KeyNotFound, match="during the query") as caught:
        handlers.info(service, connection, {"name": "n"})
    assert caught.value.name == "n"
    assert caught.value.instance == instance


def test_a_name_that_went_since_its_list_was_begun(registry: Registry, instance: str) -> None:
    service = Service(instance, "", registry, dict, lambda gone: None)
    _register(registry, b"n")
    reading = Reading(service.snapshots)
    _, number, _ = reading.page(0, 0, 0)
    registry.unregister(b"n", {})
    connection: Any = SimpleNamespace(reading=reading)
    assert handlers.list_(service, connection, {"snapshot": number})["mutexes"] == []


def test_a_pool_that_was_made_anew_while_it_was_claimed(instance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another daemon destroys the instance and begins it again: what was opened here is no pool any more."""
    prefix = instance_prefix(instance)
    real = Pool.open
    others = []

    def overtaken(prefix: str) -> Pool:
        pool = real(prefix)
        shm.unlink(pool_segment(prefix, 0))
        others.append(real(prefix))
        return pool

    with monkeypatch.context() as patch:
        patch.setattr(pool_lock.Pool, "open", overtaken)
        with pytest.raises(ServedAlreadyError):
            PoolLock(prefix).__enter__()
    with PoolLock(prefix) as pool:
        assert pool.segments[0].nonce == others[0].segments[0].nonce
        pool.destroy()
