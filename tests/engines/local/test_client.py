"""A client whose daemon answers late, wrongly, or not at all: what a call ends with, and that the next one is whole."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest
from pretender import Answer, Pretender
from processes import Worker
from support import DEADLINE, wait_until

from wdkmutex_shm import Grt
from wdkmutex_shm.base import runtime_dir
from wdkmutex_shm.base.names import instance_prefix
from wdkmutex_shm.engines.local import client as clients
from wdkmutex_shm.engines.local.client import Client, connect
from wdkmutex_shm.errors import DaemonUnavailable, GrtIsNull, KeyNotFound, ProtocolError, RuntimeFolderRefused
from wdkmutex_shm.pool.pool import Pool
from wdkmutex_shm.protocol.messages import encode_error, encode_reply


@pytest.fixture
def pretend(instance: str) -> Iterator[Callable[[Answer], Pretender]]:
    with contextlib.ExitStack() as stack:
        yield lambda answer: stack.enter_context(Pretender(instance, answer))


def test_lists_that_do_not_stay(pretend: Any, instance: str) -> None:
    """The daemon begins a list and has given it up when its next page is wanted, each time."""

    def answer(verb: str, params: dict[str, Any]) -> bytes:
        if params.get("start"):
            return encode_error(ProtocolError("this list of names is no longer kept; begin again"))
        return encode_reply({"names": ["a"], "snapshot": 1, "next": 1})

    daemon = pretend(answer)
    with (
        connect(instance) as client,
        pytest.raises(DaemonUnavailable, match="lists change before they are read") as caught,
    ):
        client.collect("names", "names")
    assert caught.value.instance == instance
    assert 4 <= daemon.asked.count("names") <= 64, "it is tried again, and not for ever"


def test_a_list_that_is_read_at_the_second_try(pretend: Any, instance: str) -> None:
    pages = [
        encode_reply({"names": ["a"], "snapshot": 1, "next": 1}),
        encode_error(ProtocolError("this list of names is no longer kept; begin again")),
        encode_reply({"names": ["a"], "snapshot": 2, "next": 1}),
        encode_reply({"names": ["b"], "snapshot": 2, "next": None}),
    ]
    pretend(lambda verb, params: pages.pop(0))
    with connect(instance) as client:
        assert client.collect("names", "names") == ["a", "b"]


@pytest.mark.parametrize("resend", [True, False])
def test_a_connection_that_breaks_again_and_again(pretend: Any, instance: str, resend: bool) -> None:
    """It is the same daemon each time, so asking again does no harm; it has seen the request."""
    daemon = pretend(lambda verb, params: None)
    with connect(instance) as client:
        reply = client.submit("destroy", {}, resend=resend)
    assert isinstance(reply.error, DaemonUnavailable)
    assert "breaks repeatedly" in str(reply.error)
    assert reply.doubtful
    assert daemon.asked.count("destroy") > 1


def test_another_daemon_is_not_asked_what_must_not_be_done_twice(pretend: Any, instance: str) -> None:
    def answer(verb: str, params: dict[str, Any]) -> None:
        daemon.epoch += 1  # the next connection is to another life of it

    daemon = pretend(answer)
    with connect(instance) as client:
        reply = client.submit("destroy", {}, resend=False)
        assert isinstance(reply.error, DaemonUnavailable)
        assert "died before it replied" in str(reply.error)
        assert reply.doubtful
        assert daemon.asked.count("destroy") == 1


def test_a_reply_after_another_life_is_doubtful(pretend: Any, instance: str) -> None:
    def answer(verb: str, params: dict[str, Any]) -> bytes | None:
        daemon.epoch += 1
        return None if daemon.epoch == 2 else encode_error(KeyNotFound("gone"))

    daemon = pretend(answer)
    with connect(instance) as client:
        reply = client.submit("unregister", {"name": "n"})
    assert isinstance(reply.error, KeyNotFound)
    assert reply.doubtful, "it may have been the first life's doing"


def test_two_replies_to_one_request(pretend: Any, instance: str) -> None:
    """What comes second would be taken for the answer to the next request: the connection is given up."""
    said = [encode_reply({"which": 1}) + encode_reply({"which": 2}), encode_reply({"which": 3})]
    pretend(lambda verb, params: said.pop(0))
    with connect(instance) as client:
        with pytest.raises(ProtocolError, match="followed by another"):
            client.call("status")
        assert client.call("status") == {"which": 3}


@pytest.mark.parametrize("reply", [[True, {}, 1], [1, {}], [True, []], "no"])
def test_a_reply_that_is_none(pretend: Any, instance: str, reply: Any) -> None:
    body = msgpack.packb(reply)
    said = [len(body).to_bytes(4, "big") + body, encode_reply({"well": True})]
    pretend(lambda verb, params: said.pop(0))
    with connect(instance) as client:
        with pytest.raises(ProtocolError):
            client.call("status")
        assert client.call("status") == {"well": True}


def test_a_request_that_cannot_be_sent(pretend: Any, instance: str) -> None:
    daemon = pretend(lambda verb, params: encode_reply({}))
    with connect(instance) as client:
        for wrong in ("x" * (2 << 20), {1, 2}, 1 << 70):
            with pytest.raises(ProtocolError):
                client.call("info", name=wrong)
        assert client.call("status") == {}
    assert "info" not in daemon.asked


def test_hello_is_refused(pretend: Any, instance: str) -> None:
    daemon = pretend(lambda verb, params: encode_error(ProtocolError("speaks another version")))
    daemon.epoch = 0  # to hello it answers that as well
    with pytest.raises(ProtocolError, match="another version"):
        connect(instance)


def test_who_says_nothing_to_hello_is_just_ending(pretend: Any, instance: str) -> None:
    """Without segments there is no Grt, with some its daemon does not answer; the time is not waited for."""
    daemon = pretend(lambda verb, params: None)
    daemon.epoch = 0
    with pytest.raises(GrtIsNull):
        connect(instance)
    pool = Pool.open(instance_prefix(instance))
    try:
        with pytest.raises(DaemonUnavailable, match="none of its sockets answers"):
            connect(instance)
        with pytest.raises(DaemonUnavailable, match="in time"):
            Client(instance, timeout=-1.0).open()
    finally:
        pool.destroy()


def test_it_waits_a_little_for_a_daemon_that_is_started_anew(pretend: Any, instance: str) -> None:
    pool = Pool.open(instance_prefix(instance))
    client = Client(instance, patience=DEADLINE)
    with Pretender(instance, lambda verb, params: encode_reply({"life": 1})):
        assert client.call("status") == {"life": 1}
    with Worker(lambda line: line.say(client.call("status"))) as worker:
        assert worker.silent(0.05)
        daemon = pretend(lambda verb, params: encode_reply({"life": 2}))
        assert worker.hear() == {"life": 2}
    assert daemon.asked[-1] == "status"
    client.close()
    pool.destroy()


def test_a_call_that_does_not_end_holds_up_others_for_their_own_time_only(pretend: Any, instance: str) -> None:
    go_on = threading.Event()

    def answer(verb: str, params: dict[str, Any]) -> bytes:
        assert verb != "status" or go_on.wait(DEADLINE)
        return encode_reply({"verb": verb})

    daemon = pretend(answer)
    with connect(instance) as client:
        with Worker(lambda line: line.say(client.call("status"))) as worker:
            wait_until(lambda: "status" in daemon.asked)
            reply = client.submit("sweep", {}, timeout=0.1)
            assert isinstance(reply.error, DaemonUnavailable)
            assert "another thread's call" in str(reply.error)
            assert not reply.doubtful, "it was never sent"
            go_on.set()
            assert worker.hear() == {"verb": "status"}
        assert client.call("sweep") == {"verb": "sweep"}
    assert daemon.asked == ["hello", "status", "sweep"]


def test_a_reply_that_comes_too_late_is_nobodys(pretend: Any, instance: str) -> None:
    go_on = threading.Event()

    def answer(verb: str, params: dict[str, Any]) -> bytes:
        if verb == "status":
            go_on.wait(DEADLINE)
        return encode_reply({"verb": verb})

    pretend(answer)
    with connect(instance) as client:
        reply = client.submit("status", {}, timeout=0.1)
        assert isinstance(reply.error, DaemonUnavailable)
        assert "in time" in str(reply.error)
        assert reply.doubtful
        go_on.set()
        assert client.call("sweep") == {"verb": "sweep"}


def test_a_path_that_leads_nowhere(instance: str) -> None:
    """What the kernel says of a path is told, whatever it is."""
    path = runtime_dir.socket_path(instance)
    os.symlink(path, path)
    try:
        with pytest.raises(DaemonUnavailable, match="symbolic links") as caught:
            connect(instance)
    finally:
        os.unlink(path)
    assert caught.value.path == path


def test_what_a_signal_handler_raises_while_it_connects(
    pretend: Any, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(lambda verb, params: encode_reply({}))

    class Interrupted(clients.Socket):
        def connect(self, address: Any) -> None:
            super().connect(address)
            raise KeyboardInterrupt

    client = Client(instance)
    with monkeypatch.context() as patch:
        patch.setattr(clients, "Socket", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            client.open()
    assert client._socket is None
    assert client.call("status") == {}
    client.close()


def test_an_unsafe_folder_hides_no_daemon(grt: str, runtime_base: str) -> None:
    """Where our folder is refused, the daemon is found by what it wrote into its pool; without one, that is said."""
    Grt.register_fast_mutex("n", 5)
    folder = f"{runtime_base}/wdkmutex"
    os.chmod(folder, 0o755)
    try:
        with connect(grt) as client:
            assert client.call("names")["names"] == ["n"]
        with pytest.raises(RuntimeFolderRefused, match="chmod 700"):
            connect(grt + "x")
    finally:
        os.chmod(folder, 0o700)
