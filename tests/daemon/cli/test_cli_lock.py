"""``wdkmutex-daemon lock``: a command run while holding a mutex, its status, its signals, and the lock's end."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys

import pytest
from commands import Command
from support import DEADLINE, wait_until

pytestmark = pytest.mark.slow  # each of them starts several processes


@pytest.mark.parametrize("kind", ["fast", "k", "section"])
def test_lock_holds_while_the_command_runs(served: Command, kind: str) -> None:
    value = [] if kind == "section" else ["0"]
    served("register", "a", *value, "--kind", kind)
    inner = served.words("lock", "--timeout", "0", "a", "--", "true")
    # 124 is what the inner one ends with; the outer one passes it on.
    assert "holds it" in served.error("lock", "a", "--", *inner, code=124)
    served("lock", "--timeout", "0", "a", "--", "true")
    assert served.json("show", "a")["state"] == "free"


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (("true",), 0),
        (("sh", "-c", "exit 3"), 3),
        (("sh", "-c", "kill -TERM $$"), 143),
        (("sh", "-c", "kill -KILL $$"), 137),
    ],
)
def test_lock_passes_the_status_on(served: Command, command: tuple[str, ...], status: int) -> None:
    served("register", "a", "0")
    assert served("lock", "a", "--", *command, code=status) == ""
    assert served.json("show", "a")["state"] == "free"
    assert served.json("show", "a")["commits"] == 0


@pytest.mark.parametrize("kind", ["k", "section"])
def test_the_command_finds_the_fence(served: Command, kind: str) -> None:
    served("register", "a", *([] if kind == "section" else ["0"]), "--kind", kind)
    fences = [int(served("lock", "a", "--", "sh", "-c", "echo $WDKMUTEX_FENCE")) for _ in range(2)]
    assert 0 < fences[0] < fences[1]


def test_lock_has_codes_of_its_own(served: Command) -> None:
    served("register", "a", "0")
    assert "no such command" in served.error("lock", "a", "--", "no-such-command-at-all", code=127)
    assert "cannot be run" in served.error("lock", "a", "--", "/dev/null", code=126)
    assert "'b'" in served.error("lock", "b", "--", "true", code=125)
    with served.holding("a") as holder:
        said = served.error("lock", "--timeout", "0", "a", "--", "true", code=124)
        assert str(holder.pid) in said
        served.error("lock", "--timeout", "0.05", "-E", "9", "a", "--", "true", code=9)
    served("lock", "a", "--", "true")


def test_lock_leaves_the_arguments_of_the_command_alone(served: Command) -> None:
    served("register", "a", "0")
    words = ("-c", "import sys; print(sys.argv[1:])", "--", "--json", "-E", "--instance", "x y")
    assert served("lock", "a", "--", sys.executable, *words) == f"{list(words[2:])}\n"
    assert served("lock", "a", sys.executable, *words) == f"{list(words[2:])}\n"


def test_lock_runs_the_command_with_the_signals_of_a_shell(served: Command) -> None:
    served("register", "a", "0")
    said = served("lock", "a", "--", "grep", "-E", "SigBlk|SigIgn", "/proc/self/status")
    # Signals 32 and 33 are the C library's own.
    assert [int(line.split()[1], 16) & 0x7FFFFFFF for line in said.splitlines()] == [0, 0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1])
def test_lock_passes_signals_on_and_releases_after_the_command(served: Command, number: signal.Signals) -> None:
    served("register", "a", "0")
    # The command, signalled, takes its time to end; as long as it does, the lock is held.
    script = (
        f"import signal, sys; signal.signal({int(number)}, lambda *a: (print('got', flush=True), sys.stdin.read(),"
        "sys.exit(7))); print('ready', flush=True); signal.pause()"
    )
    with served.running("lock", "a", "--", sys.executable, "-c", script) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "got\n"
        served.error("lock", "--timeout", "0", "a", "--", "true", code=124)
        process.stdin.close()
        assert process.wait(DEADLINE) == 7
    served("lock", "--timeout", "0", "a", "--", "true")


def test_ctrl_c_reaches_the_command_once(served: Command) -> None:
    served("register", "a", "0")
    script = (
        "import signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT]); print('ready', flush=True);"
        "signal.sigwait([signal.SIGINT]);"
        "sys.exit(5 if signal.sigtimedwait([signal.SIGINT], 0.3) is None else 6)"
    )
    ours, theirs = pty.openpty()
    words = served.words("lock", "a", "--", sys.executable, "-c", script)
    # A session of its own whose terminal is the pty: Ctrl-C goes to the whole foreground group.
    setup = (
        "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        f"os.execvp({words[0]!r}, {words!r})"
    )
    with subprocess.Popen(
        [sys.executable, "-c", setup], stdin=theirs, stdout=theirs, env=served.environment()
    ) as process:
        os.close(theirs)
        assert os.read(ours, 100).startswith(b"ready")
        os.write(ours, b"\x03")
        assert process.wait(DEADLINE) == 5
    os.close(ours)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait_for_the_lock(served: Command, number: signal.Signals) -> None:
    served("register", "a", "0")
    with served.holding("a"):
        with served.running("lock", "a", "--", "true") as process:
            wait_until(lambda: _waits_for_lock(process.pid), "the wait for the lock")
            process.send_signal(number)
            _, said = process.communicate(timeout=DEADLINE)
        assert process.returncode == 128 + number
        assert said == ""
    served("lock", "--timeout", "0", "a", "--", "true")


def _waits_for_lock(pid: int) -> bool:
    """Whether a process sleeps on a futex, as one does that waits for a lock."""
    with open(f"/proc/{pid}/syscall", encoding="ascii") as file:
        return file.read().split()[0] == str(_FUTEX)


_FUTEX = {"x86_64": 202, "aarch64": 98}.get(os.uname().machine, 202)


def test_a_mutex_that_goes_while_the_command_runs(served: Command) -> None:
    served("register", "a", "0")
    with served.running("lock", "-v", "a", "--", "sh", "-c", "read x; exit 4") as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("Locked")
        served("unregister", "a")
        _, said = process.communicate("\n", timeout=DEADLINE)
    assert process.returncode == 4
    assert said.count("\n") <= 1


@pytest.mark.parametrize(
    "words",
    [
        ("a", "--timeout", "5", "--", "echo", "--timeout", "x"),
        ("--timeout=5", "a", "-v", "--", "echo", "--timeout", "x"),
        ("a", "-E", "3", "echo", "--timeout", "x"),
    ],
)
def test_options_before_and_after_the_name(served: Command, words: tuple[str, ...]) -> None:
    served("register", "a", "0")
    assert served("lock", *words).split() == ["--timeout", "x"]


def test_an_unknown_option_is_not_taken_for_the_command(served: Command) -> None:
    served("register", "a", "0")
    served.error("lock", "a", "--tiemout", "5", "--", "true", code=2)


def test_a_double_dash_of_the_command_is_the_commands(served: Command) -> None:
    served("register", "a", "0")
    assert served("lock", "a", "echo", "x", "--", "y").split() == ["x", "--", "y"]


def test_a_mutex_that_goes_while_the_command_runs_is_told(served: Command) -> None:
    served("register", "a", "0")
    words = served.words("lock", "a", "--", *served.words("register", "a", "1"))
    done = subprocess.run(
        words, env=served.environment(), capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert done.returncode == 0
    assert "was destroyed or overwritten while the command ran" in done.stderr
