"""Errors on their way from the daemon to the client."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wdkmutex_shm import errors
from wdkmutex_shm.errors import DaemonError, KeyExists, PagedPoolAllocFailed, WdkMutexError
from wdkmutex_shm.protocol import messages
from wdkmutex_shm.protocol.messages import Frames

CLASSES = [getattr(errors, name) for name in errors.__all__]
facts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.just({1, 2}),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def _through(error: BaseException) -> WdkMutexError:
    frames = Frames()
    frames.feed(messages.encode_error(error))
    frame = frames.next()
    assert frame is not None
    body, back = messages.decode_reply(frame)
    assert body is None
    assert back is not None
    return back


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_comes_back_as_itself(kind: type[WdkMutexError]) -> None:
    back = _through(kind("what and how", name="n"))
    assert type(back) is kind
    assert str(back) == "what and how"
    assert back.name == "n"


def test_facts_come_back() -> None:
    back = _through(PagedPoolAllocFailed("full", name="seg", requested=4096, errno=28, owner_pid=7))
    assert isinstance(back, PagedPoolAllocFailed)
    assert (back.name, back.requested, back.errno, back.owner_pid) == ("seg", 4096, 28, 7)


@given(text=st.text(alphabet=st.characters(), max_size=50), fact=facts)
def test_any_message_and_fact_can_be_sent(text: str, fact: Any) -> None:
    back = _through(KeyExists(text + "\udc80", name=fact))
    assert type(back) is KeyExists


def test_huge_facts_are_cut() -> None:
    frame = messages.encode_error(KeyExists("m" * 10**7, name="n" * 10**7, instance=["x" * 10**7]))
    assert len(frame) < 20_000


def test_other_exceptions_become_daemon_errors() -> None:
    back = _through(ZeroDivisionError("by zero"))
    assert type(back) is DaemonError
    assert str(back) == "ZeroDivisionError: by zero"


@pytest.mark.parametrize("name", ["NewerError", "ValueError", "Any", "_rebuild", "annotations", 7, None, ["x"]])
def test_unknown_classes_become_daemon_errors(name: Any) -> None:
    back = messages.error_from({"error": name, "message": "text", "facts": {"name": "n"}})
    assert type(back) is DaemonError
    assert "text" in str(back)


def test_only_declared_facts_become_attributes() -> None:
    facts = {"name": "n", "args": 1, "with_traceback": 2, "__class__": 3, "facts": 4, "path": "elsewhere"}
    back = messages.error_from({"error": "KeyExists", "message": "m", "facts": facts})
    assert back.facts == {"name": "n"}
    assert back.args == ("m",)


@pytest.mark.parametrize("body", [{}, {"error": "KeyExists"}, {"error": "KeyExists", "message": 5, "facts": [1]}])
def test_error_replies_with_parts_missing(body: dict[str, Any]) -> None:
    assert isinstance(messages.error_from(body), WdkMutexError)
