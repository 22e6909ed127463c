"""The command line, as real processes: verbs, exit codes, what is printed where, and errors of one line."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys

import pytest
from commands import Command
from support import DEADLINE, kill, kill_daemon, segments, wait_until
from wdkmutex_daemon.cli import exit_codes

from wdkmutex_shm import errors
from wdkmutex_shm.memory import shm

pytestmark = pytest.mark.slow  # each of them starts several processes

VERBS = [
    "run",
    "start",
    "stop",
    "restart",
    "status",
    "list",
    "show",
    "get",
    "waits",
    "set",
    "register",
    "unregister",
    "destroy",
    "lock",
    "sweep",
    "doctor",
    "demo",
    "systemd",
    "completion",
]


# --- the command as a whole


def test_help_names_all_verbs_and_codes(cli: Command) -> None:
    said = cli("--help")
    for verb in VERBS:
        assert f"\n  {verb} " in said
    assert "Exit codes: 0 ok" in " ".join(said.split())
    assert cli(code=2).splitlines() == said.splitlines()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str) -> None:
    assert Command()(verb, "--help").startswith(f"Usage: wdkmutex-daemon {verb} ")


def test_version(cli: Command) -> None:
    assert cli("--version").startswith("wdkmutex-daemon, version ")


@pytest.mark.parametrize(
    "args",
    [("nosuch",), ("list", "--nosuch"), ("get",), ("get", "a", "b"), ("lock", "a"), ("lock", "a", "--"), ("set", "a")],
)
def test_usage_errors_are_one_line(cli: Command, args: tuple[str, ...]) -> None:
    assert "--help" in cli.error(*args, code=2)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("lock", "--timeout", "abc", "n", "--", "true"), "'abc' is not a number of seconds, such as 5 or 0.5."),
        (("lock", "--timeout", "nan", "n", "--", "true"), "nan is not a number of seconds"),
        (("set", "--timeout", "-1", "n", "1"), "-1 seconds are too few; the least is 0."),
        (("list", "--interval", "0"), "0 seconds are too few; the least is 0.05."),
        (("lock", "-E", "300", "n", "--", "true"), "300 is not between 0 and 255."),
        (("list", "--limit", "-1"), "-1 is too small; the least is 0."),
        (("list", "--limit", "1.5"), "'1.5' is not a whole number."),
    ],
)
def test_what_is_wrong_with_a_number_is_said_in_words(cli: Command, args: tuple[str, ...], said: str) -> None:
    assert said in cli.error(*args, code=2)


def test_codes_are_of_errors_that_exist() -> None:
    assert all(issubclass(getattr(errors, name), errors.WdkMutexError) for name in exit_codes._CODES)
    assert exit_codes.code_of(errors.GrtIsEmpty("")) == 4
    assert exit_codes.code_of(errors.ProtocolError("")) == exit_codes.FAILED
    assert exit_codes.code_of(ValueError()) == exit_codes.FAILED


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("list",), 3),
        (("show", "a"), 3),
        (("get", "a"), 3),
        (("set", "a", "1"), 3),
        (("register", "a", "1"), 3),
        (("unregister", "a"), 3),
        (("destroy", "--yes"), 3),
        (("lock", "a", "--", "true"), 125),
    ],
)
def test_without_a_grt_each_error_names_the_way_out(cli: Command, args: tuple[str, ...], code: int) -> None:
    assert f"wdkmutex-daemon start --instance {cli.instance}" in cli.error(*args, code=code)


def test_an_instance_is_named_before_or_after_the_verb_or_by_the_environment(served: Command) -> None:
    served("register", "here", "1")
    other = Command()
    assert other("--instance", served.instance, "get", "here") == "1\n"
    assert other("get", "--instance", served.instance, "here") == "1\n"
    assert other("--instance", "x", "get", "--instance", served.instance, "here") == "1\n"
    assert "'not/allowed'" in other.error("list", "--instance", "not/allowed", code=2)


def test_a_reader_that_has_enough_is_no_error(served: Command) -> None:
    served("register", "a", "1")
    reading, writing = os.pipe()
    os.close(reading)
    with served.running("list", stdout=writing) as process:
        os.close(writing)
        _, said = process.communicate(timeout=DEADLINE)
    assert process.returncode == 128 + signal.SIGPIPE
    assert said == ""


def test_a_full_disk_is_one_line(served: Command) -> None:
    served("register", "a", "1")
    with open("/dev/full", "w", encoding="ascii") as full, served.running("get", "a", stdout=full) as process:
        _, said = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert said == "wdkmutex-daemon: error: No space left on device\n"


# --- the daemon


def test_start_status_stop(cli: Command) -> None:
    assert "not running" in cli("status", code=3)
    assert json.loads(cli("status", "--json", code=3))["running"] is False
    cli("start")
    cli("start")
    status = cli.json("status")
    assert status["running"] is True
    assert status["instance"] == cli.instance
    assert cli.instance in cli("status")
    cli("stop")
    assert json.loads(cli("status", "--json", code=3))["segments_left"] is True
    cli("stop")


def test_names_and_values_outlive_stop_restart_and_kill(served: Command) -> None:
    served("register", "a", "[1, 2]")
    first = served.json("status")["pid"]
    served("restart")
    second = served.json("status")["pid"]
    assert second != first
    assert served("get", "a") == "[1, 2]\n"
    served("stop")
    assert "wdkmutex-daemon start" in served.error("get", "a", code=3)
    served("start")
    assert served("get", "a") == "[1, 2]\n"
    kill_daemon(served.instance)
    assert "wdkmutex-daemon start" in served.error("get", "a", code=3)
    served("restart")
    assert served("get", "a") == "[1, 2]\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_serves_until_told_to_end(cli: Command, number: int) -> None:
    with cli.running("run") as process:
        wait_until(lambda: cli.json("status")["running"] if segments(cli.instance) else False)
        assert cli.json("status")["pid"] == process.pid
        assert "already served" in cli.error("run", code=1)
        process.send_signal(number)
        process.communicate(timeout=DEADLINE)
    assert process.returncode == 0


def test_destroy_without_a_daemon_frees_what_it_left(served: Command) -> None:
    served("register", "a", "1")
    kill_daemon(served.instance)
    served("destroy", "--yes")
    assert segments(served.instance) == []
    assert "not running" in served("status", code=3)


def test_destroy_asks(served: Command) -> None:
    assert "--yes" in served.error("destroy", code=2)
    for answer, code in (("n", 1), ("y", 0)):
        ours, theirs = pty.openpty()
        with served.running("destroy", stdin=theirs) as process:
            os.close(theirs)
            os.write(ours, f"{answer}\n".encode())
            _, said = process.communicate(timeout=DEADLINE)
            os.close(ours)
        assert process.returncode == code, said
        assert "its 0 mutexes" in said
    assert segments(served.instance) == []


# --- looking


def test_list_shows_who_holds_what(served: Command) -> None:
    assert served("list") == ""
    served("register", "counter", "41")
    served("register", "table", '{"a": [1, 2]}', "--kind", "k")
    served("register", "section", "--kind", "section")
    with served.holding("table") as holder:
        rows = {row["name"]: row for row in served.json("list")}
        lines = served("list").splitlines()
        said = served("show", "table")
    assert list(rows) == ["counter", "section", "table"]
    assert rows["counter"]["kind"] == "fast"
    assert rows["counter"]["label"] == "int"
    assert rows["counter"]["state"] == "free"
    assert rows["counter"]["owner_pid"] is None
    assert rows["section"]["kind"] == "section"
    table = rows["table"]
    assert (table["kind"], table["label"], table["state"]) == ("k", "dict", "held")
    assert table["owner_pid"] == holder.pid
    assert "lock -v table" in table["owner_command"]
    assert table["held_for"] >= 0
    assert lines[0].split()[:5] == ["name", "kind", "T", "bytes", "state"]
    assert [line.split()[0] for line in lines[1:]] == ["counter", "section", "table"]
    assert str(holder.pid) in lines[3]
    assert f"process {holder.pid}" in said
    assert '{"a": [1, 2]}' in said


def test_list_tells_an_abandoned_mutex(served: Command) -> None:
    served("register", "a", "1")
    with served.holding("a") as holder:
        kill(holder.pid)
        assert [row["state"] for row in served.json("list")] == ["abandoned"]
        said = served.running("lock", "-v", "a", "--", "true")
        with said as process:
            _, text = process.communicate(timeout=DEADLINE)
        assert str(holder.pid) in text
        assert "died" in text
    row = served.json("list")[0]
    assert (row["state"], row["abandoned"]) == ("free", 1)


def test_list_prints_no_control_characters(served: Command) -> None:
    served("register", "evil\x1b[2J\n", "1")
    assert "\\x1b[2J\\n" in served("list")
    assert "\x1b" not in served("list") + served("show", "evil\x1b[2J\n")
    assert served.json("list")[0]["name"] == "evil\x1b[2J\n"


def test_show_a_section(served: Command) -> None:
    served("register", "s", "--kind", "section")
    assert "protects no T" in served("show", "s")
    assert served.json("show", "s")["has_value"] is False
    assert "critical section" in served.error("get", "s", code=7)
    assert "critical section" in served.error("set", "s", "1", code=7)


@pytest.mark.parametrize("verb", ["show", "get", "unregister"])
def test_unknown_names(served: Command, verb: str) -> None:
    assert served.error(verb, "a", code=4)
    served("register", "b", "1")
    assert "'a'" in served.error(verb, "a", code=4)


@pytest.mark.parametrize("name", ["", "x" * 105, "é" * 53])
def test_names_that_no_mutex_can_have(served: Command, name: str) -> None:
    for args in (("get", name), ("register", name, "1"), ("unregister", name), ("set", name, "1")):
        assert "104" in served.error(*args, code=2)


# --- the rest


def test_sweep(cli: Command) -> None:
    assert cli.json("sweep")["daemon"] is False
    cli("start")
    dies = "import os, wdkmutex_shm as w; m = w.KMutex(0); print(m.segment, flush=True); os.kill(os.getpid(), 9)"
    pool = subprocess.run([sys.executable, "-c", dies], capture_output=True, text=True).stdout.strip()
    # Others may have died meanwhile, here or in another test run.
    said = cli.json("sweep")
    assert {**said, "pools": []} == {"daemon": True, "pools": [], "data": [], "quarantined": 0}
    assert not os.path.exists(shm.FOLDER + pool)
    assert pool.removesuffix(".p0") not in cli("sweep")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell: str) -> None:
    assert "_WDKMUTEX_DAEMON_COMPLETE" in Command()("completion", shell)


def test_completion_knows_verbs_and_names(served: Command) -> None:
    served("register", "apple", "1")
    served("register", "pear", "1")

    def complete(line: str) -> list[str]:
        words = line.split(" ")
        more = {"_WDKMUTEX_DAEMON_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
        return [word.partition(",")[2] for word in served(env=more).split()]

    assert complete("wdkmutex-daemon sta") == ["start", "status"]
    assert complete("wdkmutex-daemon get a") == ["apple"]
    assert complete("wdkmutex-daemon get ") == ["apple", "pear"]
    served("stop")
    assert complete("wdkmutex-daemon get a") == []
