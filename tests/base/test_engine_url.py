"""The URL of an instance beyond this machine: taken apart, brought into one form, refused by name of what is wrong."""

from __future__ import annotations

import pickle

import pytest
from commands import Command

from wdkmutex_shm import EngineUnavailable, Grt, InvalidName
from wdkmutex_shm.base import engine_url
from wdkmutex_shm.base.names import instance_of


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("etcd://h", "etcd://h:2379/wdkmutex?ttl=5"),
        ("etcd://H2,h1:99/", None),
        ("etcd://H2,h1:99/web", "etcd://h1:99,h2:2379/web?ttl=5"),
        ("etcd://h1:99,h2/web?ttl=30", "etcd://h1:99,h2:2379/web?ttl=30"),
        ("etcd://[::1]:2379", "etcd://[::1]:2379/wdkmutex?ttl=5"),
        ("postgresql://h/db", "postgresql://h:5432/db?namespace=wdkmutex&ttl=5"),
        ("postgresql://me@h/db?ttl=7&namespace=a", "postgresql://me@h:5432/db?namespace=a&ttl=7"),
        ("memory://Name", "memory://Name?ttl=5"),
        ("memory://n?ttl=600", "memory://n?ttl=600"),
    ],
)
def test_canonical(url: str, canonical: str | None) -> None:
    if canonical is None:
        with pytest.raises(InvalidName):
            engine_url.parse(url)
        return
    parsed = engine_url.parse(url)
    assert str(parsed) == canonical
    assert engine_url.parse(canonical) == parsed


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://h", "no engine has the scheme 'redis'; there are etcd, postgresql, memory"),
        ("ETCD://h", "scheme 'ETCD'"),
        ("://h", "scheme ''"),
        ("etcd://", "'' is not a host"),
        ("etcd://h1,,h2", "'' is not a host"),
        ("etcd://h:0", "'h:0' is not a host"),
        ("etcd://h:65536", "'h:65536' is not a host"),
        ("etcd://h:x", "'h:x' is not a host"),
        ("etcd://h h", "'h h' is not a host"),
        ("etcd://h/a/b", "the path 'a/b'"),
        ("etcd://h/%2e", "the path"),
        ("etcd://h/ns?tll=5", "no option 'tll'; there are ttl"),
        ("etcd://h?namespace=a", "no option 'namespace'"),
        ("etcd://h?ttl=5&ttl=6", "'ttl' is given twice"),
        ("etcd://h?ttl=", "ttl=''"),
        ("etcd://h?ttl=0", "from 1 to 600"),
        ("etcd://h?ttl=601", "from 1 to 600"),
        ("etcd://h?ttl=2.5", "whole seconds"),
        ("etcd://h?ttl=٣", "whole seconds"),
        ("etcd://h#x", "fragment"),
        ("etcd://me@h", "the user 'me' is not allowed here"),
        ("postgresql://h", "names no database"),
        ("postgresql://@h/db", "the user ''"),
        ("postgresql://h/db?namespace=a/b", "the namespace 'a/b'"),
        ("memory://a,b", "one name is allowed"),
        ("memory://a:1", "'a:1' is not a host"),
        ("memory://a/b", "the path 'b'"),
    ],
)
def test_what_is_wrong_is_named(url: str, says: str) -> None:
    with pytest.raises(InvalidName) as caught:
        instance_of(url)
    assert says in str(caught.value)
    assert caught.value.name == url


@pytest.mark.parametrize(
    "url", ["postgresql://me:secret@h/db", "etcd://me:secret@h", "redis://:secret@h", "a://b:secret@c@d"]
)
def test_a_password_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InvalidName) as caught:
        instance_of(url)
    assert "secret" not in str(caught.value) + repr(caught.value.facts)


@pytest.mark.parametrize("url", ["etcd://h/ns", "postgresql://h/db", "memory://n"])
def test_an_engine_that_is_not_here(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scheme = url.partition(":")[0]
    with pytest.raises(EngineUnavailable, match=f"needs the engine '{scheme}'") as caught:
        Grt.init(url)
    assert caught.value.engine == scheme
    assert caught.value.instance == str(engine_url.parse(url))
    assert Grt.instance() is None
    monkeypatch.setenv("WDKMUTEX_INSTANCE", url)
    for call in (Grt.init, Grt.names, lambda: Grt.get_kmutex("n")):
        with pytest.raises(ConnectionError, match=f"needs the engine '{scheme}'"):
            call()
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), again.engine, str(again)) == (EngineUnavailable, scheme, str(caught.value))


def test_the_command_line() -> None:
    cli = Command()
    assert "needs the engine 'etcd'" in cli.error("list", "--instance", "etcd://h/ns", code=11)
    assert "needs the engine 'etcd'" in cli.error("--instance", "etcd://h/ns", "status", code=11)
    assert "no option 'tll'" in cli.error("start", "--instance", "etcd://h?tll=5", code=2)
    cli.instance = "redis://h"
    assert "no engine has the scheme 'redis'" in cli.error("list", code=2)
