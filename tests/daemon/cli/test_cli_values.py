"""Values on the command line: ``get``, ``set`` and ``register``, and what they refuse."""

from __future__ import annotations

import json

import pytest
from commands import Command
from wdkmutex_daemon.cli.app import run

from wdkmutex_shm import Grt

pytestmark = pytest.mark.slow  # each of them starts several processes


VALUES = [
    "0",
    "-9223372036854775808",
    "18446744073709551615",
    "1.5",
    "true",
    "null",
    '"a\\u0000é😀"',
    "[]",
    '[1, "a", null, [2.5]]',
    '{"a": {"b": []}}',
    '{"$bytes": "AP8="}',
    '{"$float": "-inf"}',
    '{"$map": [[1, "one"], [null, 2]]}',
    '{"$map": [["$bytes", 1]]}',
    '[{"$bytes": ""}]',
    '{"$time": "2026-01-02T03:04:05.000006+00:00"}',
]


def test_a_value_comes_back_as_it_was_set(served: Command, capsys: pytest.CaptureFixture[str]) -> None:
    def here(*args: str) -> str:
        """In this process: what is looked at are many values, not many processes."""
        assert run(["--instance", served.instance, *args]) == 0
        return capsys.readouterr().out

    served("register", "a", "null", "--type", "any")
    for text in VALUES:
        here("set", "a", text)
        assert json.loads(here("get", "a")) == json.loads(text)
    assert json.loads(served("get", "a")) == json.loads(VALUES[-1])
    assert served.json("show", "a")["value"] == json.loads(VALUES[-1])
    for text in VALUES:
        here("register", "b", text)
        assert json.loads(here("get", "b")) == json.loads(text)
    assert json.loads(served("get", "b")) == json.loads(VALUES[-1])


def test_a_value_from_stdin(served: Command) -> None:
    value = {"big": "x" * 300_000}
    served("register", "a", "-", stdin=json.dumps(value))
    assert json.loads(served("get", "a")) == value
    served("set", "a", "-", stdin="{}")
    assert served("get", "a") == "{}\n"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("hello", "'\"text\"'"),
        ("{", "not JSON"),
        ("NaN", '{"$float": "nan"}'),
        ("[" * 100_000, "not JSON"),
        ('{"$bytes": "?"}', "$bytes"),
        ('{"$what": 1}', "$map"),
    ],
)
def test_what_is_no_json(served: Command, text: str, hint: str) -> None:
    assert hint in served.error("register", "a", "-", code=2, stdin=text)
    served("register", "b", "1")
    assert hint in served.error("set", "b", "-", code=2, stdin=text)
    assert served("get", "b") == "1\n"


def test_a_set_is_shown(served: Command) -> None:
    Grt.init(served.instance)
    Grt.register_fast_mutex("names", {"b", "a"})
    assert served("get", "names") == '["a", "b"]\n'
    assert "set" in served.error("set", "names", "[]", code=7)
    Grt.detach()


def test_t_is_kept(served: Command) -> None:
    served("register", "int", "1")
    served("register", "float", "1", "--type", "float")
    for text in ('"x"', "1.5", "18446744073709551616", "null", "true"):
        assert "'int'" in served.error("set", "int", text, code=7)
    assert served("get", "int") == "1\n"
    served("set", "float", "2")
    assert served("get", "float") == "2.0\n"
    assert served.error("register", "a", "1", "--type", "str", code=7)
    assert served.error("register", "a", "18446744073709551616", code=7)


def test_set_waits_no_longer_than_told(served: Command) -> None:
    served("register", "a", "1")
    with served.holding("a") as holder:
        said = served.error("set", "a", "2", "--timeout", "0.05", code=6)
        assert str(holder.pid) in said
        assert served("get", "a") == "1\n"
    served("set", "a", "2", "--timeout", "5")
    assert served("get", "a") == "2\n"


def test_register_over_and_checked(served: Command) -> None:
    served("register", "a", "1", "--checked")
    assert "'a'" in served.error("register", "a", "2", "--checked", code=5)
    assert "'a'" in served.error("register", "a", "--kind", "section", "--checked", code=5)
    assert served("get", "a") == "1\n"
    served("register", "a", '"text"', "--kind", "k")
    assert served("get", "a") == '"text"\n'
    assert served.json("show", "a")["kind"] == "k"
    assert "section" in served.error("register", "s", "1", "--kind", "section", code=2)
    assert "JSON" in served.error("register", "b", code=2)
    served("unregister", "a")
    assert served.error("get", "a", code=4)
