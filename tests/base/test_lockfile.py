"""A lock on a file that its last owner removes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support import Fork, wait_until

from wdkmutex_shm.base.lockfile import LockFile


def test_one_has_it(tmp_path: Path) -> None:
    first, second = LockFile(str(tmp_path / "lock")), LockFile(str(tmp_path / "lock"))
    assert first.try_acquire()
    assert not second.try_acquire()
    assert not second.acquire(0.05)
    first.release()
    assert (tmp_path / "lock").exists()
    assert second.acquire(5.0)
    second.release(remove=True)
    assert not (tmp_path / "lock").exists()
    second.release(remove=True)  # it has nothing to release


def test_who_waits_gets_it_from_a_killed_owner(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")

    def own() -> None:
        assert LockFile(path).try_acquire()
        (tmp_path / "owned").touch()
        wait_until(lambda: False, "the end by a signal")

    with Fork(own) as child:
        wait_until((tmp_path / "owned").exists)
        lock = LockFile(path)
        assert not lock.try_acquire()
        child.kill()
        assert lock.acquire(10.0)
        lock.release(remove=True)


def test_a_file_that_is_removed_while_it_is_locked_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner removes the file between our opening and our locking it: what we locked then is nobody's."""
    path = str(tmp_path / "lock")
    owner = LockFile(path)
    assert owner.try_acquire()
    open_file, opened = os.open, []

    def open_late(*args: object) -> int:
        opened.append(open_file(*args))  # type: ignore[arg-type]
        if len(opened) == 1:
            owner.release(remove=True)
        return opened[-1]

    monkeypatch.setattr(os, "open", open_late)
    lock, other = LockFile(path), LockFile(path)
    assert lock.try_acquire()
    assert len(opened) == 2
    assert not other.try_acquire()
    os.unlink(path)
    lock.release(remove=True)  # the file is not ours any more
    assert other.try_acquire()
    other.release(remove=True)


def test_another_users_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        LockFile(str(tmp_path / "lock")).try_acquire()
    assert not (tmp_path / "elsewhere").exists()
