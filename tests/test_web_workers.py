"""The recipes of docs/how-to/web-workers.md, with real servers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

import pytest
from support import DEADLINE, wait_until

PAGE = (Path(__file__).parent.parent / "docs" / "how-to" / "web-workers.md").read_text()
PYTHON = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def environment(instance: str) -> dict[str, str]:
    return {**os.environ, "WDKMUTEX_INSTANCE": instance}


APPLICATION = """
import json
import os
from urllib.parse import parse_qs


def application(environ, start_response):
    query = parse_qs(environ["QUERY_STRING"])
    if "die" in query:
        guard = Grt.get_fast_mutex("quota", dict).lock()
        guard.value["alice"] = 1000
        os.kill(os.getpid(), 9)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"allowed": allowed("alice", 3), "pid": os.getpid()}).encode()]
"""


@contextmanager
def gunicorn(folder: Path, environment: dict[str, str]) -> Iterator[str]:
    settings, application = (code for code in PYTHON if "def on_starting" in code or "def allowed" in code)
    socket_file = folder / "port"
    (folder / "gunicorn.conf.py").write_text(
        settings
        + "\nbind = '127.0.0.1:0'\nworkers = 2\ncontrol_socket_disable = True\n\n\n"
        + "def when_ready(server):\n"
        + f"    open({str(socket_file)!r}, 'w').write(str(server.LISTENERS[0].getsockname()[1]))\n"
    )
    (folder / "app.py").write_text(application + APPLICATION)
    server = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "app:application"],
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: server.poll() is not None or (socket_file.exists() and socket_file.read_text()))
        assert server.poll() is None, server.stderr.read() if server.stderr else ""
        yield f"http://127.0.0.1:{socket_file.read_text()}/"
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=DEADLINE)


def ask(url: str) -> dict[str, object] | None:
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE) as reply:
            answer: dict[str, object] = json.load(reply)
            return answer
    except (URLError, ConnectionError):
        return None


def test_gunicorn_example(tmp_path: Path, environment: dict[str, str]) -> None:
    pytest.importorskip("gunicorn")
    with gunicorn(tmp_path, environment) as url:
        assert ask(url + "?die=1") is None, "the worker was killed while it held the mutex"
        answers = [wait_until(lambda: ask(url)) for _ in range(5)]
    assert [answer["allowed"] for answer in answers] == [True, True, True, False, False]
