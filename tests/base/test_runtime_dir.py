"""The runtime folder and the paths in it: where they are, and when they are refused."""

from __future__ import annotations

import os
import stat

import pytest

from wdkmutex_shm.base import runtime_dir
from wdkmutex_shm.errors import InvalidName, RuntimeFolderRefused

ROOT = os.geteuid() == 0


def test_folder_is_made_for_us_alone(runtime_base: str) -> None:
    folder = runtime_dir.runtime_folder()
    assert folder == f"{runtime_base}/wdkmutex"
    found = os.lstat(folder)
    assert stat.S_IMODE(found.st_mode) == 0o700
    assert found.st_uid == os.geteuid()
    assert runtime_dir.runtime_folder() == folder


@pytest.mark.parametrize("mask", [0o000, 0o077, 0o777])
def test_umask_does_not_matter(mask: int, runtime_base: str) -> None:
    old = os.umask(mask)
    try:
        folder = runtime_dir.runtime_folder()
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.lstat(folder).st_mode) == 0o700


def test_not_made_unless_wanted(runtime_base: str) -> None:
    folder = runtime_dir.runtime_folder(create=False)
    assert not os.path.exists(folder)
    assert runtime_dir.socket_path("one", create=False) == f"{folder}/one.sock"
    assert not os.path.exists(folder)


@pytest.mark.parametrize("value", [None, "", "relative/path", "/does/not/exist", "/etc/passwd"])
def test_without_a_session_folder(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if value is None:
        monkeypatch.delenv("XDG_RUNTIME_DIR")
    else:
        monkeypatch.setenv("XDG_RUNTIME_DIR", value)
    assert runtime_dir.runtime_folder(create=False) == f"/tmp/wdkmutex-{os.geteuid()}"


@pytest.mark.skipif(not ROOT, reason="only root can give a folder away")
def test_session_folder_of_another_user_is_not_used(runtime_base: str) -> None:
    os.chown(runtime_base, 65534, 65534)
    try:
        assert runtime_dir.runtime_folder(create=False) == f"/tmp/wdkmutex-{os.geteuid()}"
    finally:
        os.chown(runtime_base, 0, 0)


def test_paths_of_an_instance(runtime_base: str) -> None:
    folder = f"{runtime_base}/wdkmutex"
    assert runtime_dir.socket_path("a-1_B") == f"{folder}/a-1_B.sock"
    assert runtime_dir.lock_path("a-1_B") == f"{folder}/a-1_B.lock"
    assert runtime_dir.start_lock_path("a-1_B") == f"{folder}/a-1_B.start.lock"
    assert runtime_dir.log_path("a-1_B") == f"{folder}/a-1_B.log"


PATHS = [runtime_dir.socket_path, runtime_dir.lock_path, runtime_dir.start_lock_path, runtime_dir.log_path]


@pytest.mark.parametrize("name", ["", "../x", "a/b", "-a", "a" * 33, "a.b", "ä"])
@pytest.mark.parametrize(
    "path", [runtime_dir.socket_path, runtime_dir.lock_path, runtime_dir.start_lock_path, runtime_dir.log_path]
)
def test_no_path_for_what_is_no_instance(path: object, name: str) -> None:
    with pytest.raises(InvalidName):
        path(name)  # type: ignore[operator]


def _refused(folder: str, *words: str) -> None:
    """The folder is refused whether it may be made or not, and the message says which and what to do."""
    for create in (True, False):
        with pytest.raises(RuntimeFolderRefused) as caught:
            runtime_dir.runtime_folder(create=create)
        assert caught.value.path == folder
        for word in (folder, *words):
            assert word in str(caught.value)


def test_a_link_is_refused(runtime_base: str) -> None:
    folder = f"{runtime_base}/wdkmutex"
    os.mkdir(f"{runtime_base}/elsewhere", 0o700)
    os.symlink(f"{runtime_base}/elsewhere", folder)
    _refused(folder, "not a directory", "rm ")


def test_a_file_is_refused(runtime_base: str) -> None:
    folder = f"{runtime_base}/wdkmutex"
    with open(folder, "w"):
        pass
    _refused(folder, "not a directory", "rm ")
    os.unlink(folder)


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o777, 0o1777, 0o750])
def test_a_folder_open_to_others_is_refused(mode: int, runtime_base: str) -> None:
    folder = f"{runtime_base}/wdkmutex"
    os.mkdir(folder)
    os.chmod(folder, mode)
    _refused(folder, f"chmod 700 {folder}")
    assert stat.S_IMODE(os.lstat(folder).st_mode) == mode, "refused, not repaired"


@pytest.mark.skipif(not ROOT, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(runtime_base: str) -> None:
    folder = f"{runtime_base}/wdkmutex"
    os.mkdir(folder, 0o700)
    os.chown(folder, 65534, 65534)
    _refused(folder, "uid 65534")


@pytest.mark.skipif(ROOT, reason="root can write everywhere")
def test_a_folder_that_cannot_be_made(runtime_base: str) -> None:
    os.chmod(runtime_base, 0o500)
    with pytest.raises(RuntimeFolderRefused, match="XDG_RUNTIME_DIR"):
        runtime_dir.runtime_folder()
    os.chmod(runtime_base, 0o700)


def test_longest_socket_path(runtime_base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = len(f"{runtime_base}//wdkmutex/i.sock")
    base = f"{runtime_base}/{'d' * (runtime_dir.SOCKET_PATH_MAX - fixed)}"
    os.mkdir(base, 0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", base)
    assert len(runtime_dir.socket_path("i")) == runtime_dir.SOCKET_PATH_MAX
    with pytest.raises(RuntimeFolderRefused, match="108 bytes") as caught:
        runtime_dir.socket_path("ii")
    assert "XDG_RUNTIME_DIR" in str(caught.value)
    assert caught.value.path is not None
    assert caught.value.path.endswith("/ii.sock")


def test_length_of_a_socket_path_is_counted_in_bytes(runtime_base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = f"{runtime_base}/{'ü' * 40}"
    os.mkdir(base, 0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", base)
    with pytest.raises(RuntimeFolderRefused, match="bytes long"):
        runtime_dir.socket_path("instance")
