"""What becomes of a request whose reply is lost, and of data segments that nobody registers."""

from __future__ import annotations

import os
from typing import Any

import pytest
from lost_replies import Lost
from support import Fork

from wdkmutex_shm import Grt
from wdkmutex_shm.base.names import KIND_FAST, instance_prefix
from wdkmutex_shm.engines.local.client import Client, Reply, connect
from wdkmutex_shm.errors import (
    DaemonUnavailable,
    GrtIsEmpty,
    GrtIsNull,
    KeyExists,
    ProtocolError,
    WdkMutexError,
)
from wdkmutex_shm.grt import session
from wdkmutex_shm.memory import data_segments, shm


@pytest.mark.parametrize("value", [1, "x" * 1000], ids=["small", "large"])
@pytest.mark.parametrize("make", [Grt.register_fast_mutex_checked, Grt.register_fast_mutex])
def test_a_lost_reply_is_given_again(make: Any, value: Any, lossy: Lost) -> None:
    lossy.lose = 1
    mutex = make("n", value)
    assert lossy.lose == 0
    assert mutex.peek() == value
    assert (mutex.slot_index, mutex.generation) == (0, 1), "it was registered once"
    with pytest.raises(KeyExists):
        Grt.register_fast_mutex_checked("n", value)


def test_a_lost_reply_to_unregister(lossy: Lost) -> None:
    Grt.register_fast_mutex("n", 1)
    lossy.lose = 1
    Grt.unregister("n")
    with pytest.raises(GrtIsEmpty):
        Grt.unregister("n")


def test_a_lost_reply_to_destroy(lossy: Lost) -> None:
    lossy.lose = 1
    Grt.destroy()
    with pytest.raises(GrtIsNull):
        connect(lossy.instance)


def test_a_large_t_is_adopted_once_although_the_daemon_died(lossy: Lost) -> None:
    lossy.lose, lossy.killing = 1, True
    mutex = Grt.register_fast_mutex_checked("n", "x" * 1000)
    assert mutex.peek() == "x" * 1000
    assert len(shm.listing(instance_prefix(lossy.instance) + ".d")) == 1
    with pytest.raises(KeyExists):
        Grt.register_fast_mutex_checked("n", "y" * 1000)


@pytest.mark.parametrize("make", [Grt.register_fast_mutex, Grt.get_or_register_fast_mutex])
def test_a_small_t_is_registered_although_the_daemon_died(make: Any, lossy: Lost) -> None:
    lossy.lose, lossy.killing = 1, True
    assert make("n", 5).peek() == 5
    assert Grt.names() == ["n"]


def test_what_cannot_be_known_is_said(lossy: Lost) -> None:
    lossy.lose, lossy.killing = 1, True
    with pytest.raises(DaemonUnavailable, match="it is unknown whether"):
        Grt.register_fast_mutex_checked("n", 5)
    assert Grt.names() == ["n"]


def test_unregister_although_the_daemon_died(lossy: Lost) -> None:
    Grt.register_fast_mutex("n", 1)
    lossy.lose, lossy.killing = 1, True
    Grt.unregister("n")
    assert Grt.names() == []


def test_a_refused_large_t_is_removed(grt: str) -> None:
    Grt.register_fast_mutex("n", 1)
    with pytest.raises(KeyExists):
        Grt.register_fast_mutex_checked("n", "x" * 1000)
    Grt.get_or_register_kmutex("k", "y" * 1000)
    Grt.get_or_register_kmutex("k", "z" * 1000)
    assert len(shm.listing(instance_prefix(grt) + ".d")) == 1


def test_a_large_t_that_lost_the_race_is_removed(grt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its looking and its registering another process registers the name."""
    client = session.current()
    real = client.submit

    def submit(verb: str, params: dict[str, Any], **options: Any) -> Reply:
        if verb == "register" and params["data"]:
            monkeypatch.undo()
            with Fork(lambda: Grt.register_fast_mutex("n", "first" * 100) and None) as child:
                child.result()
        return real(verb, params, **options)

    monkeypatch.setattr(client, "submit", submit)
    mutex = Grt.get_or_register_fast_mutex("n", "second" * 100)
    assert mutex.peek() == "first" * 100
    assert len(shm.listing(instance_prefix(grt) + ".d")) == 1


# --- data segments that are not what they are said to be


def _staged(client: Client, name: str, ident: int, length: int) -> WdkMutexError | None:
    params = {"name": name, "kind": KIND_FAST, "mode": "overwrite", "tag": [5, 5, b"str"], "payload": b""}
    return client.submit("register", {**params, "data": [ident, length]}).error


def test_only_good_data_segments_are_adopted(grt: str) -> None:
    client = session.current()
    prefix = instance_prefix(grt)
    assert isinstance(_staged(client, "n", 12345, 100), ProtocolError), "there is none"
    ident = data_segments.create(prefix, b"\xda\x00\x64" + b"x" * 100)
    assert isinstance(_staged(client, "n", ident, 103), ProtocolError), "it was not made for a registration"
    data_segments.unlink(prefix, ident)
    ident = data_segments.create(prefix, b"\xda\x00\x64" + b"x" * 100, staged=True)
    assert isinstance(_staged(client, "n", ident, 1 << 30), ProtocolError), "it is not that large"
    assert Grt.names() == []
    assert _staged(client, "n", ident, 103) is None
    assert Grt.get_fast_mutex("n", str).peek() == "x" * 100
    assert isinstance(_staged(client, "m", ident, 103), ProtocolError), "it belongs to n"
    assert client.call("discard", data=ident) == {"adopted": True}
    other = data_segments.create(prefix, b"\xa1y")
    assert client.call("discard", data=other) == {"adopted": False}
    assert client.call("discard", data=other) == {"adopted": False}
    assert Grt.names() == ["n"]
    assert len(shm.listing(prefix + ".d")) == 1


def test_what_a_dead_client_staged_is_swept(grt: str) -> None:
    prefix = instance_prefix(grt)
    with Fork(lambda: data_segments.create(prefix, b"x" * 1000)) as child:
        child.result()
    swept = session.current().call("sweep")
    assert shm.listing(prefix + ".d") == []
    assert len(swept["data"]) <= 1, "by this sweep, or by the daemon's own just before it"
    alive = data_segments.create(prefix, b"x" * 1000)
    session.current().call("sweep")
    assert len(shm.listing(prefix + ".d")) == 1, "its maker lives and may yet register it"
    data_segments.unlink(prefix, alive)


def test_a_signal_in_the_midst_of_a_call_mixes_up_no_replies(grt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between a request and its reply, and again while that is cleaned up: the next call is whole."""
    from wdkmutex_shm.engines.local import client as clients

    Grt.register_fast_mutex("a", 1)
    Grt.register_fast_mutex("b", 2)
    sent = []

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def send_and_be_interrupted(fd: int, request: bytes, *_: object) -> None:
        sent.append(os.write(fd, request))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(clients, "exchange", send_and_be_interrupted)
        patch.setattr(Client, "_drop", interrupt)
        with pytest.raises(KeyboardInterrupt):
            Grt.get_fast_mutex("a", int)
    assert sent
    assert Grt.get_fast_mutex("b", int).peek() == 2
