"""The daemon under clients that do everything wrong: it replies with an error or closes, and serves the others."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import select
import signal
import socket
from typing import Any

import msgpack
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peer import Peer
from support import DEADLINE, Fork, daemon_pid, wait_until

from wdkmutex_shm import Grt
from wdkmutex_shm.base import runtime_dir
from wdkmutex_shm.engines.local.client import connect
from wdkmutex_shm.errors import ProtocolError, WdkMutexError
from wdkmutex_shm.grt import session
from wdkmutex_shm.protocol.messages import FRAME_CAP, PROTOCOL, VERBS, encode_request

BATCH_OF_TWO = {
    "names": ["x", "y"], "kind": 1, "mode": "checked", "tags": [[3, 3, b"int"]], "which": [0, 0],
    "payloads": [b"\x01", b"\x02"],
}  # fmt: skip


# --- frames


@pytest.mark.parametrize("length", [0, FRAME_CAP + 1, 2**31, 2**32 - 1])
def test_lengths_that_no_frame_has(length: int, serves: str) -> None:
    for hello in (True, False):
        with Peer(serves, hello=hello) as peer:
            peer.send(length.to_bytes(4, "big") + b"x" * 100)
            body, error = peer.reply()
            assert body is None
            assert isinstance(error, ProtocolError)
            assert peer.closed()


@pytest.mark.parametrize(
    "frame",
    [b"\xc1", b"\x00", b"garbage", b"\x91" * 2000, b"\x92\xa3get\x81\x01\x01", b"\x92\x01\x80", b"\x93\xa3get\x80\x80"],
)
def test_frames_that_are_no_message(frame: bytes, serves: str) -> None:
    with Peer(serves) as peer:
        peer.send(len(frame).to_bytes(4, "big") + frame)
        _, error = peer.reply()
        assert isinstance(error, ProtocolError)
        assert peer.closed()


def test_random_bytes(serves: str) -> None:
    source = random.Random(20)
    for _ in range(60):
        with (
            Peer(serves, hello=source.random() < 0.5) as peer,
            contextlib.suppress(BrokenPipeError, ConnectionResetError),
        ):
            peer.send(source.randbytes(source.randrange(1, 5000)))
    assert Grt.names() == ["n"]


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=120) | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.integers(0, 300), inner, max_size=4)
    ),
    max_leaves=12,
)
harmless = sorted(set(VERBS) - {"destroy", "stop", "hello"})
requests = st.tuples(
    st.sampled_from(harmless) | st.text(max_size=9).filter(lambda verb: verb not in ("destroy", "stop")),
    st.dictionaries(st.sampled_from(sorted({f for v in VERBS.values() for f in (*v.required, *v.optional)})), values),
).filter(lambda request: request[1].get("name") != "n")


def test_any_request(serves: str) -> None:
    """Whatever the fields: a reply to each, and the connection goes on. What is no request ends it with a reply."""

    @settings(max_examples=60, deadline=None, database=None)
    @given(sent=st.lists(requests.map(list) | values, min_size=1, max_size=5))
    def ask(sent: list[Any]) -> None:
        with Peer(serves) as peer:
            try:
                for message in sent:
                    body = msgpack.packb(message)
                    peer.send(len(body).to_bytes(4, "big") + body)
                    reply = peer.reply()
                    assert (reply[0] is None) != (reply[1] is None)
            except (EOFError, BrokenPipeError, ConnectionResetError):
                assert isinstance(reply[1], ProtocolError), "it closes after a reply that says why"

    ask()
    for name in set(Grt.names()) - {"n"}:
        Grt.unregister(name)


@pytest.mark.parametrize("sent", [1, 3, 4, 5, 20])
def test_half_a_frame_and_gone(sent: int, serves: str) -> None:
    frame = encode_request("register", {"name": "never", "kind": 1, "mode": "checked", "tag": [3, 3, b"int"]})
    for hello in (True, False):
        with Peer(serves, hello=hello) as peer:
            peer.send(frame[:sent])
    assert Grt.names() == ["n"]


def test_half_a_frame_and_nothing_more(serves: str) -> None:
    """It waits, others are served, and the rest may still come."""
    frame = encode_request("names", {})
    with Peer(serves) as peer:
        peer.send(frame[:5])
        assert Grt.names() == ["n"]
        peer.send(frame[5:])
        body, _ = peer.reply()
        assert body is not None
        assert body["names"] == ["n"]


def test_connect_and_die(serves: str) -> None:
    def die() -> None:
        Peer(serves, hello=False).send(b"\0\0")
        Peer(serves).send(encode_request("status", {}))
        os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(10):
        with Fork(die) as child:
            child.end()
    wait_until(lambda: session.current().call("status")["clients"] == 1)


def test_a_reply_that_nobody_waits_for(serves: str) -> None:
    for _ in range(50):
        with Peer(serves) as peer:
            peer.send(encode_request("status", {}) * 20)


# --- messages


def test_hello_comes_first(serves: str) -> None:
    with Peer(serves, hello=False) as peer:
        _, error = peer.ask("names")
        assert isinstance(error, ProtocolError)
        assert "hello" in str(error)
        assert peer.closed()


def test_another_version_is_told_what_to_do(serves: str) -> None:
    with Peer(serves, hello=False) as peer:
        _, error = peer.ask("hello", protocol=PROTOCOL + 1, session=1)
        assert isinstance(error, ProtocolError)
        assert f"restart --instance {serves}" in str(error)
        assert peer.closed()


def test_no_hello_at_all(serves: str) -> None:
    """After its time is over the connection is ended; those that say hello are not kept waiting."""
    with Peer(serves, hello=False) as silent, Peer(serves, hello=False) as half:
        half.send(encode_request("hello", {"protocol": PROTOCOL, "session": 1})[:-1])
        assert Grt.names() == ["n"]
        assert silent.closed()
        assert half.closed()


@pytest.mark.parametrize(
    ("verb", "params"),
    [
        ("dance", {}),
        ("get", {}),
        ("get", {"name": 5}),
        ("get", {"name": "n", "more": 1}),
        ("names", {"start": -1, "snapshot": 1}),
        ("names", {"snapshot": 77}),
        ("names", {"snapshot": -1, "start": 2**64 - 1}),
        ("discard", {"data": 0}),
        ("discard", {"data": -1}),
        ("register", {"name": "x", "kind": 9, "mode": "checked", "tag": [3, 3, b""], "payload": b"", "data": None}),
        ("register", {"name": "x", "kind": 1, "mode": "checked", "tag": [3, 3], "payload": b"", "data": None}),
        ("register", {"name": "x", "kind": 1, "mode": "checked", "tag": [3, 3, b""], "payload": b"", "data": [1, 2]}),
        ("get_many", {"names": []}),
        ("get_many", {"names": ["n", "n"]}),
        ("get_many", {"names": ["n", 5]}),
        ("get_many", {"names": ["n", ""]}),
        ("get_many", {"names": [str(number) for number in range(1025)]}),
        ("register_many", {**BATCH_OF_TWO, "names": ["x"]}),
        ("register_many", {**BATCH_OF_TWO, "names": ["x", "x"]}),
        ("register_many", {**BATCH_OF_TWO, "names": ["x", "y" * 105]}),
        ("register_many", {**BATCH_OF_TWO, "names": ["x", "n"]}),
        ("register_many", {**BATCH_OF_TWO, "which": [0, 1]}),
        ("register_many", {**BATCH_OF_TWO, "payloads": [b"\x01", b"x" * 73]}),
        ("unregister", {"name": "n", "generation": 2**64 - 1}),
        ("unregister", {"name": "n", "slot": -1}),
    ],
)
def test_requests_that_are_refused(verb: str, params: dict[str, Any], serves: str) -> None:
    """An error reply, and the connection goes on."""
    with Peer(serves) as peer:
        body, error = peer.ask(verb, **params)
        assert body is None
        assert isinstance(error, WdkMutexError)
        body, error = peer.ask("names")
        assert error is None


@pytest.mark.parametrize("size", [73, 1000, 500_000])
def test_a_payload_that_belongs_into_a_data_segment(size: int, serves: str) -> None:
    with Peer(serves) as peer:
        params = {"name": "x", "kind": 1, "mode": "checked", "tag": [6, 6, b"bytes"], "data": None}
        _, error = peer.ask("register", **params, payload=b"x" * size)
        assert isinstance(error, ProtocolError)


@pytest.mark.parametrize("name", ["", "x" * 105, "a\0b", "x" * 100_000])
def test_names_that_no_mutex_has(name: str, serves: str) -> None:
    with Peer(serves) as peer:
        for verb in ("get", "info", "unregister"):
            _, error = peer.ask(verb, name=name)
            assert isinstance(error, WdkMutexError)


def test_the_same_number_gets_the_same_reply(serves: str) -> None:
    with Peer(serves) as peer:
        first = peer.ask("unregister", name="absent", request=7)
        again = peer.ask("unregister", name="n", request=7)
        assert type(first[1]) is type(again[1])
        assert str(first[1]) == str(again[1])


# --- clients that are slow, or too many


def test_a_slow_reader_is_not_read(serves: str) -> None:
    """Thousands of requests and not one reply read: the daemon stops reading them, and its memory stays as it was."""
    daemon = psutil.Process(daemon_pid(serves))
    before = daemon.memory_info().rss
    request = encode_request("status", {})
    with Peer(serves) as peer:
        peer.sock.setblocking(False)
        sent = 0
        for _ in range(200):
            if not select.select([], [peer.sock], [], 0.2)[1]:
                break
            with contextlib.suppress(BlockingIOError):
                sent += peer.sock.send(request * 500)
            assert Grt.get_fast_mutex("n", int).peek() == 5, "the others are served"
        else:
            pytest.fail("it reads on and on")
        assert daemon.memory_info().rss - before < 16 << 20
        # The client begins to read: it gets all that it has asked for.
        peer.sock.setblocking(True)
        peer.sock.settimeout(DEADLINE)
        for _ in range(sent // len(request)):
            body, error = peer.reply()
            assert error is None
            assert body is not None


def test_many_requests_at_once_take_turns(serves: str) -> None:
    """One client's pile of requests does not keep another waiting until it is worked off."""
    names = [f"absent{number}" for number in range(1023)]
    for request, count in (
        (encode_request("get", {"name": "n"}), 2000),
        (encode_request("get_many", {"names": ["n", *names]}), 100),
    ):
        with Peer(serves) as peer, Fork(lambda peer=peer, pile=request * count: peer.send(pile)) as sender:
            assert Grt.names() == ["n"]
            for _ in range(count):
                _, error = peer.reply()
                assert error is None
            sender.result()


def test_many_connections(serves: str) -> None:
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(serves)) for _ in range(300)]
        for peer in peers:
            peer.send(encode_request("names", {}))
        for peer in peers:
            body, _ = peer.reply()
            assert body is not None
            assert body["names"] == ["n"]
    wait_until(lambda: session.current().call("status")["clients"] == 1)


def test_no_descriptor_is_left(serves: str) -> None:
    """The daemon has no descriptor for one more client: those it has are served, and the others as soon as it has."""
    pid = daemon_pid(serves)
    old = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        used = len(os.listdir(f"/proc/{pid}/fd"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 3, old[1]))
        for _ in range(6):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            sock.settimeout(DEADLINE)
            sock.connect(runtime_dir.socket_path(serves))
        assert Grt.names() == ["n"]
        resource.prlimit(pid, resource.RLIMIT_NOFILE, old)
    with connect(serves, timeout=DEADLINE) as client:
        assert client.call("names")["names"] == ["n"]
