"""Calls of the Grt whose mutex, segment or daemon goes and comes in the midst of them."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import time
from typing import Any

import msgpack
import pytest
from processes import Worker
from support import DEADLINE, Fork, daemon_pid, gone, kill, wait_until

from wdkmutex_shm import Grt
from wdkmutex_shm.base import forks, runtime_dir
from wdkmutex_shm.base.lockfile import LockFile
from wdkmutex_shm.base.names import instance_prefix
from wdkmutex_shm.core.types import SECTION, codec_for
from wdkmutex_shm.engines.local import autostart, bulk_requests, requests
from wdkmutex_shm.engines.local.client import Client, Reply
from wdkmutex_shm.errors import (
    DaemonUnavailable,
    GrtIsNull,
    KeyNotFound,
    MutexDestroyed,
    PagedPoolAllocFailed,
    ProtocolError,
    RuntimeFolderRefused,
)
from wdkmutex_shm.grt import session
from wdkmutex_shm.memory import shm
from wdkmutex_shm.objects import handles
from wdkmutex_shm.protocol import messages
from wdkmutex_shm.wait import event_loops

ROOT = os.geteuid() == 0


class Overwriting(Client):
    """Whenever it is told where a mutex lives, another process overwrites that mutex before it gets there."""

    def submit(self, verb: str, params: dict[str, Any], **options: Any) -> Reply:
        reply = super().submit(verb, params, **options)
        if verb in ("get", "register") and reply.body is not None:
            super().submit("register", requests.Register("n", 1, "overwrite", (3, 3, b"int"), b"\x07", None).params())
        return reply


def test_a_name_that_is_overwritten_all_the_time(grt: str) -> None:
    """It is asked for again for as long as a call may take, and then that is said."""
    Grt.register_fast_mutex("n", 1)
    client = Overwriting(grt, timeout=0.3)
    begun = time.monotonic()
    with pytest.raises(MutexDestroyed):
        requests.get(client, "n", 1)
    with pytest.raises(MutexDestroyed):
        requests.create(client, "n", 1, "get_or_register", 5, int)
    assert time.monotonic() - begun >= 0.6
    with pytest.raises(MutexDestroyed):
        requests.create(client, "n", 1, "overwrite", 5, int)
    client.close()
    assert Grt.get_fast_mutex("n", int).peek() == 7


class Doubtful(Client):
    """Its daemon dies over each registration, and the next one knows nothing of it."""

    def submit(self, verb: str, params: dict[str, Any], **options: Any) -> Reply:
        if verb == "register":
            return Reply(None, DaemonUnavailable("it died before it replied"), True)
        return super().submit(verb, params, **options)


def test_a_daemon_that_dies_over_each_registration(grt: str) -> None:
    """A large T is offered to each of them; in the end that is said, and no segment of it is left."""
    client = Doubtful(grt)
    with pytest.raises(DaemonUnavailable, match="died before"):
        requests.create(client, "n", 1, "checked", "x" * 1000, str)
    assert shm.listing(instance_prefix(grt) + ".d") == []
    assert client.call("names")["names"] == []
    client.close()


def test_an_instance_that_goes_while_a_large_t_is_registered(grt: str) -> None:
    """Whether it was adopted is of no matter any more."""

    class Destroying(Client):
        def submit(self, verb: str, params: dict[str, Any], **options: Any) -> Reply:
            if verb != "register":
                return super().submit(verb, params, **options)
            pid = self.daemon["pid"]
            assert super().submit("destroy", {}).error is None
            wait_until(lambda: gone(pid))
            return Reply(None, DaemonUnavailable("it died before it replied"), True)

    client = Destroying(grt)
    with pytest.raises(GrtIsNull):
        requests.create(client, "n", 1, "checked", "x" * 1000, str)
    assert shm.listing(instance_prefix(grt)) == []
    client.close()


class Refusing(Client):
    """Gets an error from the daemon that no verb has an answer to."""

    def submit(self, verb: str, params: dict[str, Any], **options: Any) -> Reply:
        return Reply(None, PagedPoolAllocFailed("no room"), False)


def test_an_error_that_is_no_answer_is_raised(grt: str) -> None:
    client = Refusing(grt)
    for call in (
        lambda: requests.unregister(client, "n"),
        lambda: requests.unregister_slot(client, "n", 1),
        lambda: requests.destroy(client),
        lambda: requests.register(client, "n", 3, "checked", SECTION, requests.NIL, None),
    ):
        with pytest.raises(PagedPoolAllocFailed):
            call()
    client.close()


def test_unregistering_a_tenant_that_has_gone(grt: str) -> None:
    mutex = Grt.register_fast_mutex("n", 1)
    client = session.current()
    place = mutex.segment, mutex.slot_index
    assert not requests.unregister_slot(client, "n", mutex.generation + 2, *place)
    assert not requests.unregister_slot(client, "m", mutex.generation)
    assert requests.unregister_slot(client, "n", mutex.generation, *place)
    assert not requests.unregister_slot(client, "n", mutex.generation)


# --- consuming


@pytest.mark.parametrize("boxed", [False, True])
def test_a_mutex_that_is_unregistered_while_it_is_consumed(
    grt: str, monkeypatch: pytest.MonkeyPatch, boxed: bool
) -> None:
    """Only one can have T. The box that was made for it is closed again."""
    mutex = Grt.register_kmutex("n", 5)
    real = handles._end_tenancy

    def too_late(*args: Any) -> None:
        Grt.unregister("n")
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(handles, "_end_tenancy", too_late)
        with pytest.raises(MutexDestroyed):
            mutex.to_owned_box() if boxed else mutex.to_owned()
    with pytest.raises(MutexDestroyed):
        mutex.peek()


def test_a_lock_that_is_promised_to_a_dead_waiter_is_consumed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is free, but not to be had for a moment: that passes by itself."""
    from wdkmutex_shm import KMutex

    class Promised:
        """A mutex whose lock is refused at the first looks, and held by nobody."""

        def __init__(self, refusals: int) -> None:
            self.inner = KMutex(5)
            self.left = refusals

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def try_lock(self) -> Any:
            self.left -= 1
            return None if self.left >= 0 else self.inner.try_lock()

    assert handles.consume(Promised(3), None) == 5
    with pytest.raises(handles.MutexBusy) as caught:
        handles.consume(Promised(1000), None)
    assert caught.value.owner_pid is None


# --- sessions, and who starts a daemon


def test_two_threads_attach_by_their_first_call(grt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They get one client: the second waits, and finds what the first has made."""
    Grt.detach()
    monkeypatch.setenv("WDKMUTEX_INSTANCE", grt)
    with session._lock:
        with Worker(lambda line: line.say(session.current() is session.current())) as other:
            assert other.silent(0.1)
            mine = session.current()
            session._lock.release()
            try:
                assert other.hear() is True
            finally:
                session._lock.acquire()
        assert session.current() is mine


def test_only_who_is_attached_through_a_client_leaves_by_it(grt: str) -> None:
    client = Client(grt)
    session.leave(client)
    assert Grt.instance() == grt
    session.leave(session.current())
    assert Grt.instance() is None
    session.leave(client)
    client.close()


def test_there_is_one_client_for_each_instance(grt: str) -> None:
    assert session.client_of(grt) is session.current()
    other = session.client_of(grt + "x")
    assert session.client_of(grt + "x") is other
    with pytest.raises(TypeError, match="is a str, not int"):
        session.client_of(5)  # type: ignore[arg-type]


def test_a_lock_file_that_its_holder_removes_just_then(runtime_base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was locked is no file any more: another is made, and locked."""
    import portalocker

    path = f"{runtime_base}/a.lock"
    real, removed = portalocker.lock, []

    def overtaken(fd: int, flags: Any) -> None:
        real(fd, flags)
        if not removed:
            removed.append(os.fstat(fd).st_ino)
            os.rename(path, path + "x")  # it keeps its number: another must not get that

    with monkeypatch.context() as patch:
        patch.setattr(portalocker, "lock", overtaken)
        lock, other = LockFile(path), LockFile(path)
        assert lock.try_acquire()
    assert os.stat(path).st_ino not in removed
    assert not other.try_acquire()
    lock.release(remove=True)
    os.unlink(path + "x")


def test_a_reply_about_many_names_that_lacks_their_number(grt: str) -> None:
    class Silent(Client):
        def submit(self, verb: str, params: dict[str, Any], **options: Any) -> Reply:
            reply = super().submit(verb, params, **options)
            if verb == "get_many" and reply.body is not None:
                del reply.body["known"]
            return reply

    Grt.register_fast_mutex("n", 1)
    client = Silent(grt)
    with pytest.raises(ProtocolError, match="how many names"):
        bulk_requests._find(client, ["n"])
    client.close()


def test_a_daemon_that_comes_between_the_look_and_the_lock(instance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else had started one just then: no second one is started."""
    real = autostart._try

    def overtaken(lock: Any, instance: str) -> bool:
        words = [sys.executable, "-m", "wdkmutex_daemon", "run", "--instance", instance, "--detach"]
        subprocess.run(words, check=True, timeout=DEADLINE)
        wait_until(lambda: os.path.exists(runtime_dir.socket_path(instance)))
        return real(lock, instance)

    with monkeypatch.context() as patch:
        patch.setattr(autostart, "_try", overtaken)
        assert autostart.start(instance) is False
    assert not os.path.exists(runtime_dir.start_lock_path(instance))
    Grt.init(instance, autostart=False)
    assert Grt.names() == []


def test_a_child_of_a_fork_that_python_does_not_know_of(grt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It notices that the connection is another process's, and makes its own."""
    client = session.current()
    shared, number = client._socket, client._session
    assert shared is not None
    monkeypatch.setattr(forks, "_settled", -1)  # as after a fork(2) by C
    assert client.call("names")["names"] == []
    assert client._session != number
    assert client._socket is not shared
    assert shared.fileno() == -1, "our copy of it is closed"


# --- what others send


def test_fields_that_are_not_named_by_strings() -> None:
    with pytest.raises(ProtocolError, match="named by strings"):
        messages.decode_request(msgpack.packb(["get", {b"name": "n"}]))


def test_shapes_of_good_requests_are_kept_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """However a client orders its fields, it cannot fill the daemon's memory with that."""
    monkeypatch.setattr(messages, "_good_shapes", set())
    request = requests.Register("n", 1, "checked", (3, 3, b"int"), b"\1", None).params()
    request["tag"] = list(request["tag"])
    for fields in itertools.islice(itertools.permutations(request), 400):
        messages.check_request("register", {field: request[field] for field in fields})
    assert len(messages._good_shapes) == messages._MOST_SHAPES


@pytest.mark.skipif(not os.path.isdir("/sys"), reason="a folder in which nobody can make one")
def test_a_runtime_folder_in_which_nothing_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/proc/self")
    with pytest.raises(RuntimeFolderRefused) as caught:
        runtime_dir.runtime_folder()
    assert caught.value.path == "/proc/self/wdkmutex"
    assert runtime_dir.runtime_folder(create=False) == caught.value.path
    if ROOT:
        monkeypatch.setenv("XDG_RUNTIME_DIR", "/sys")
        with pytest.raises(RuntimeFolderRefused, match="cannot be used") as caught:
            runtime_dir.runtime_folder()
        assert isinstance(caught.value.__cause__, OSError)


def test_a_daemon_that_is_killed_and_has_segments_is_waited_for_within_the_time(grt: str) -> None:
    pid = daemon_pid(grt)
    client = session.current()
    kill(pid)
    reply = client.submit("names", {}, timeout=0.0)
    assert isinstance(reply.error, DaemonUnavailable)
    Grt.detach()
    Grt.init(grt)
    Grt.register_fast_mutex("m", 1)
    with pytest.raises(KeyNotFound):
        requests.get(session.current(), "n", 1)


# --- tasks


def test_a_task_that_was_woken_before_it_waits() -> None:
    async def wait() -> bool:
        waiter = event_loops.waiter(None)
        assert waiter.wake()
        await waiter.wait(None)
        assert waiter.wake()
        return waiter.asked

    assert asyncio.run(wait())


def test_no_task_to_wait_in(tmp_path: Any) -> None:
    code = """
import asyncio, sys
from wdkmutex_shm import KMutex
for framework in ((), ("asyncio",)):
    coroutine = KMutex(0).lock_async()
    try:
        coroutine.__await__().send(None)
    except RuntimeError as error:
        assert "none runs in this thread" in str(error)
    else:
        raise AssertionError
assert "trio" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_nothing_runs_when_the_main_module_is_imported() -> None:
    """As in the processes that multiprocessing spawns from the demo."""
    import importlib

    module = importlib.import_module("wdkmutex_daemon.__main__")
    assert module.__name__ == "wdkmutex_daemon.__main__"


def test_a_type_of_its_own_is_told_by_its_name() -> None:
    with Fork(lambda: codec_for(type=dict[str, int]).tag) as child:
        assert child.result() == codec_for(type=dict[str, int]).tag
