"""to_owned and to_owned_box: T moves out, the mutex ends, and its memory is given back."""

from __future__ import annotations

import gc
import os
import pickle
from typing import Any

import msgpack  # type: ignore[import-untyped, unused-ignore]
import pytest
import support
from processes import Child, Line, held_by_child, in_child, in_thread, wait_for_waiter

from wdkmutex_shm import AlreadyOwned, Box, KMutex, MutexBusy, MutexDestroyed
from wdkmutex_shm.memory import shm
from wdkmutex_shm.pool import private


@pytest.fixture
def data() -> Any:
    """A function that lists the data segments made since."""
    prefix = private.the_pool().prefix + ".d"
    before = set(shm.listing(prefix))
    return lambda: sorted(set(shm.listing(prefix)) - before)


BIG = b"x" * 100_000


@pytest.mark.parametrize("value", [7, "text", BIG, [1, {"a": None}]], ids=lambda value: type(value).__name__)
def test_to_owned(cls: Any, value: Any, data: Any) -> None:
    mutex = cls(value)
    used = private.the_pool().stats().used
    assert mutex.to_owned() == value
    assert data() == []
    assert private.the_pool().stats().used == used - 1
    assert mutex.destroyed
    for use in (mutex.lock, mutex.try_lock, mutex.peek, mutex.to_owned, mutex.to_owned_box, mutex.statistics):
        with pytest.raises(MutexDestroyed):
            use()


def test_other_handles_end_too(cls: Any) -> None:
    mutex = cls(1)
    other = pickle.loads(pickle.dumps(mutex))
    assert other.to_owned() == 1
    with pytest.raises(MutexDestroyed):
        mutex.peek()


def test_to_owned_of_a_shared_mutex_frees(cls: Any, data: Any) -> None:
    mutex = cls(BIG)
    pickle.dumps(mutex)
    assert mutex.to_owned() == BIG
    assert data() == []


def test_to_owned_after_a_fork_frees(cls: Any, data: Any) -> None:
    mutex = cls(BIG)
    assert in_child(mutex.peek) == BIG
    assert mutex.to_owned() == BIG
    assert data() == []


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_to_owned_in_a_child_frees(cls: Any, data: Any, method: str) -> None:
    mutex = cls(BIG)
    assert in_child(_consume, mutex, method=method) == len(BIG)
    assert data() == []
    with pytest.raises(MutexDestroyed):
        mutex.lock()


def _consume(mutex: Any) -> int:
    return len(mutex.to_owned())


def test_to_owned_by_many_frees_their_slots(cls: Any) -> None:
    segments = len(private.the_pool().segments)
    for _ in range(300):
        mutex = cls(1)
        pickle.dumps(mutex)
        mutex.to_owned()
    assert len(private.the_pool().segments) <= segments + 1


def test_held_by_another(cls: Any) -> None:
    mutex = cls(1)
    for consume in (mutex.to_owned, mutex.to_owned_box):
        with held_by_child(mutex) as child:
            with pytest.raises(MutexBusy) as caught:
                consume()
            assert caught.value.owner_pid == child.pid
            child.say("release")
            child.hear()
        assert mutex.peek() == 1
    with mutex.lock():
        with pytest.raises(AlreadyOwned):
            mutex.to_owned()
        assert type(in_thread(_error_of, mutex.to_owned)) is MutexBusy
    assert mutex.to_owned() == 1


def _error_of(call: Any) -> BaseException | None:
    try:
        call()
    except Exception as error:
        return error
    return None


def test_waiters_are_told(cls: Any) -> None:
    mutex = cls(1)
    with held_by_child(mutex) as holder, Child(_lock, mutex) as child:
        wait_for_waiter(mutex)
        holder.kill()
        try:
            mutex.to_owned()
        except MutexBusy:
            assert child.hear() == "locked"
        else:
            assert child.hear() in ("MutexDestroyed", "locked")


def _lock(line: Line, mutex: Any) -> None:
    try:
        mutex.lock(20).drop_safe()
    except MutexDestroyed as error:
        line.say(type(error).__name__)
    else:
        line.say("locked")


def test_owner_died_and_to_owned(cls: Any) -> None:
    mutex = cls(5)
    with held_by_child(mutex) as child:
        child.kill()
    assert mutex.to_owned() == 5


@pytest.mark.parametrize("value", [7, [1, "a"], BIG], ids=lambda value: type(value).__name__)
def test_box(cls: Any, value: Any, data: Any) -> None:
    mutex = cls(value)
    box = mutex.to_owned_box()
    assert mutex.destroyed
    assert box.value == value
    assert type(box.value) is type(value)
    with box.buffer as view:
        assert view.readonly
        assert bytes(view) == msgpack.packb(value)
        with pytest.raises(TypeError):
            view[0] = 0
    assert len(data()) == (1 if value is BIG else 0)
    box.close()
    assert box.closed
    assert data() == []
    box.close()
    with pytest.raises(MutexDestroyed):
        box.value
    with pytest.raises(MutexDestroyed):
        box.buffer
    assert "closed" in repr(box)


def test_box_is_freed_by_with_and_by_collection(cls: Any, data: Any) -> None:
    used = private.the_pool().stats().used
    with cls(BIG).to_owned_box() as box:
        assert box.value == BIG
        assert private.the_pool().stats().used == used + 1
    assert data() == []
    box = cls(BIG).to_owned_box()
    knot: Any = [box]
    knot.append(knot)
    del box, knot
    gc.collect()
    assert data() == []
    assert private.the_pool().stats().used == used


def test_box_with_a_view_in_use(cls: Any) -> None:
    box = cls(BIG).to_owned_box()
    view = box.buffer
    with pytest.raises(BufferError):
        box.close()
    assert not box.closed
    view.release()
    box.close()


def test_view_outlives_its_box(cls: Any) -> None:
    for value in ([1, 2, 3], BIG):
        view = cls(value).to_owned_box().buffer
        gc.collect()
        others = [cls(0) for _ in range(100)]
        assert msgpack.unpackb(view) == value
        del others
        view.release()


def test_box_of_a_dataclass() -> None:
    from test_types import Point

    box = KMutex(Point(1, ["a"])).to_owned_box()
    assert box.value == Point(1, ["a"])
    assert "Point" in repr(box)


def test_box_belongs_to_its_process(cls: Any) -> None:
    box = cls([1]).to_owned_box()
    with pytest.raises(TypeError):
        pickle.dumps(box)
    with pytest.raises(TypeError):
        Box()
    in_child(box.close)
    assert box.value == [1]


@pytest.mark.slow
def test_a_forked_child_keeps_the_bytes_that_it_looks_at(cls: Any, data: Any) -> None:
    large = b"x" * (3 << 20)  # from 2 MiB on the memory of what is freed is taken from under those who have it mapped
    box = cls(large).to_owned_box()
    view = box.buffer
    told, tell = os.pipe()
    with support.Fork(lambda: os.read(told, 1) and bytes(view).endswith(large)) as child:
        view.release()
        box.close()
        assert data() == []
        os.write(tell, b".")
        assert child.result()
    os.close(told)
    os.close(tell)


@pytest.mark.slow
def test_a_box_that_was_looked_at_gives_its_memory_back(cls: Any, data: Any) -> None:
    box = cls(b"x" * (3 << 20)).to_owned_box()
    box.buffer.release()
    assert box.value
    (name,) = data()
    with open(shm.FOLDER + name, "rb") as segment:
        box.close()
        assert os.fstat(segment.fileno()).st_blocks * 512 <= 1 << 16


def test_no_room_for_the_box(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mutex = cls(BIG)

    def refuse(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(private, "house", refuse)
    with pytest.raises(MemoryError):
        mutex.to_owned_box()
    assert mutex.peek() == BIG
    assert mutex.owner is None
