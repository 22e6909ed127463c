"""``list``, as a real process: order, choice, narrow terminals, many names, and without the daemon."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from typing import Any

import pytest
from commands import Command
from processes import Child, Line, held_by_child, wait_for_waiter
from support import DEADLINE, kill_daemon
from wdkmutex_daemon.cli.tables import width_of

from wdkmutex_shm import FastMutex, Grt, KMutex

pytestmark = pytest.mark.slow  # each of them starts several processes


def names(table: str) -> list[str]:
    return [line.split()[0] for line in table.splitlines()[1:]]


def on_terminal(cli: Command, *args: str, columns: int, lines: int = 24, until: bytes | None = None) -> str:
    """What the command prints on a terminal of that size; interrupted once ``until`` was printed."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))
    env = {key: value for key, value in cli.environment(TERM="xterm").items() if key not in ("COLUMNS", "LINES")}
    with subprocess.Popen(cli.words(*args), stdout=theirs, stderr=subprocess.PIPE, env=env) as process:
        os.close(theirs)
        said = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            said += piece
            if until is not None and until in said:
                process.send_signal(signal.SIGINT)
                until = None
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    os.close(ours)
    return said.decode().replace("\r\n", "\n")


def test_json_of_list_and_show_are_alike(grt: str, cli: Command) -> None:
    mutex = Grt.register_kmutex("n", {"a": 1})
    with held_by_child(mutex):
        (row,) = cli.json("list")
        shown = cli.json("show", "n")
        (line,) = cli("list", "--jsonl").splitlines()
    again = json.loads(line)
    for found in (row, shown, again):
        assert found.pop("held_for") >= 0
    assert row == again
    assert row == {key: shown[key] for key in row}
    assert list(row) == [key for key in shown if key not in ("nonce", "has_value", "value")]


def test_pattern_limit_and_columns(grt: str, cli: Command) -> None:
    Grt.register_many(FastMutex, {"orders:1": 0, "orders:2": 0, "users:1": 0, "a[b": 0})
    assert names(cli("list", "orders:*")) == ["orders:1", "orders:2"]
    assert names(cli("list", "*:1")) == ["orders:1", "users:1"]
    assert names(cli("list", "users")) == ["users:1"]
    assert names(cli("list", "--limit", "2")) == ["a[b", "orders:1"]
    assert [row["name"] for row in json.loads(cli("list", "--json", "orders", "--limit", "1"))] == ["orders:1"]
    assert cli("list", "users", "--columns", "name,commits,T").splitlines() == [
        "name     commits  T",
        "users:1        0  int",
    ]
    assert cli("list", "nosuch") == ""
    assert "no column 'x'" in cli.error("list", "--columns", "name,x", code=2)
    assert "--jsonl" in cli.error("list", "--json", "--watch", code=2)


def test_sort(grt: str, cli: Command) -> None:
    mutexes = Grt.register_many(FastMutex, dict.fromkeys("abcd", 0))
    with held_by_child(mutexes["c"]), held_by_child(mutexes["b"]), Child(_wait, mutexes["b"]) as waiter:
        waiter.hear()
        wait_for_waiter(mutexes["b"])
        cli("list")  # since when both are held is known from then on
        assert names(cli("list", "--sort", "waiting"))[0] == "b"
        assert names(cli("list", "--sort", "held"))[2:] == ["a", "d"]
        waiter.kill()
    with held_by_child(mutexes["d"]) as holder, Child(_wait, mutexes["d"]) as waiter:
        waiter.hear()
        wait_for_waiter(mutexes["d"])
        holder.say("release")
        waiter.end()
    assert mutexes["d"].statistics().contended == 1
    assert names(cli("list", "--sort", "contended")) == ["d", "a", "b", "c"]
    assert names(cli("list")) == ["a", "b", "c", "d"]


def _wait(line: Line, mutex: Any) -> None:
    line.say()
    with mutex.lock():
        pass


_HOLDER = """
import sys, threading
from wdkmutex_shm import Grt
def work():
    with open("/proc/thread-self/comm", "w") as file:
        file.write("collector")
    with Grt.get_fast_mutex("n").lock():
        print("held", flush=True)
        sys.stdin.read()
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def test_the_holder_is_told_by_what_it_runs(grt: str, cli: Command, tmp_path: Any) -> None:
    Grt.register_fast_mutex("n", 0)
    script = tmp_path / "nightly.py"
    script.write_text(_HOLDER)
    words = [sys.executable, str(script), "--all"]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=cli.environment(), text=True
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            assert re.search(rf" held +{holder.pid}  nightly.py --all \[collector\] ", cli("list"))
            assert cli("list", "--columns", "name,thread").splitlines()[1].split() == ["n", "collector"]
            assert cli.json("list")[0]["owner_command"] == " ".join(words)
        finally:
            holder.kill()
    assert re.search(rf" abandoned +{holder.pid}  \(died\) ", cli("list"))


def test_the_daemon_is_not_needed_and_that_it_is_missing_is_told(grt: str, cli: Command) -> None:
    Grt.register_many(FastMutex, {"a": 0, "b": 0})
    with cli.running("list") as process:
        before = process.communicate(timeout=DEADLINE)
    assert before[1] == ""
    kill_daemon(grt)
    with cli.running("list") as process:
        out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    assert out == before[0]
    assert err.count("\n") == 1
    assert f"wdkmutex-daemon start --instance {grt}" in err


def test_forty_columns_are_readable(grt: str, cli: Command) -> None:
    mutexes = Grt.register_many(KMutex, {"orders:eu-west-1:customer:4711": 0, "鎖" * 20: 0, "short": 0})
    with held_by_child(mutexes["short"]) as holder:
        for columns in (40, 60, 80, 200):
            said = on_terminal(cli, "list", columns=columns).splitlines()
            assert len(said) == 4
            assert max(map(width_of, said)) <= columns
            assert said[0].split()[0] == "name"
            assert "command" in said[0]
            assert "waiting" in said[0]
            assert said[1].startswith("orders:e" if columns > 40 else "ord")
            assert (str(holder.pid) in said[2]) is (columns > 40)
            assert re.search(r" s\b", said[2])
    assert "鎖" * 20 in said[3]


def test_watch_on_a_terminal_has_as_many_lines_as_it_has_room_for(grt: str, cli: Command) -> None:
    Grt.register_many(FastMutex, {f"n{number:03}": 0 for number in range(100)})
    said = on_terminal(cli, "list", "--watch", "--interval", "0.05", columns=80, lines=10, until=b"n006")
    first = said.partition("\x1b[J")[0]
    assert first.startswith("\x1b[2J\x1b[H")
    assert first.count("\n") == 9
    assert "100 mutexes" in first


@pytest.mark.parametrize("form", [[], ["--jsonl"]])
def test_watch_in_a_pipe_ends_with_its_reader_or_with_an_interrupt(grt: str, cli: Command, form: list[str]) -> None:
    mutex = Grt.register_fast_mutex("n", 0)
    with cli.running("list", "--watch", "--interval", "0.05", *form) as process:
        assert process.stdout is not None
        seen = []
        while len(seen) < 3:
            line = process.stdout.readline()
            if '"n"' in line or line.startswith("n "):
                seen.append(line)
                mutex.fetch_add(1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130
    assert err == ""
    assert len(set(seen)) > 1


def test_ten_thousand_names(grt: str, cli: Command) -> None:
    Grt.register_many(FastMutex, {f"n{number:05}": 0 for number in range(10_000)})
    begun = time.monotonic()
    said = cli("list").splitlines()
    assert len(said) == 10_001
    assert time.monotonic() - begun < 5  # it takes a third of a second; a table library took seven
    assert len({len(line) for line in said[1:]}) == 1
    assert len(cli.json("list")) == 10_000
    assert cli("list", "--jsonl").count("\n") == 10_000


@pytest.mark.parametrize("form", ["", "--jsonl", "--watch", "--json"])
def test_head_ends_it_at_once(grt: str, cli: Command, form: str) -> None:
    Grt.register_many(FastMutex, {f"n{number:05}": 0 for number in range(5000)})
    command = " ".join(cli.words("list", form))
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -c 20 >/dev/null; echo ${{PIPESTATUS[0]}}"],
        env=cli.environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    assert done.stdout == f"{128 + signal.SIGPIPE}\n"
    assert done.stderr == ""


def test_an_empty_instance(served: Command) -> None:
    with served.running("list") as process:
        out, err = process.communicate(timeout=DEADLINE)
    assert out == ""
    assert "has no mutex" in err
    assert served.json("list") == []
    assert served("list", "--jsonl") == ""
