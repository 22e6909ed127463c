"""Web servers with several workers, as users start them, and clients that keep books on what they were answered."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from support import DEADLINE, gone, kill, wait_until

ROOT = Path(__file__).parents[2]
MOST = 6000
"""Requests that a test makes at most."""


def recipe(page: str, name: str) -> str:
    """The code block of a page of the project whose first line is ``# <name>``."""
    (code,) = re.findall(rf"^```python\n(# {re.escape(name)}\n.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.M)
    return str(code)


class Server:
    """A server and its workers.

    Args:
        folder: where its application is; it is started there.
        words: its command after ``python``. ``{port}`` stands for a port that only who sets SO_REUSEADDR can
            bind; ``{fd}`` for the descriptor of a socket that listens and outlives the server.
        environment: of the processes.
    """

    def __init__(self, folder: Path, words: list[str], environment: dict[str, str]) -> None:
        self.folder = folder
        self._words = words
        self._environment = environment
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        if any("{fd}" in word for word in words):
            self._socket.listen(64)
        self.address = self._socket.getsockname()
        self._started: list[int] = []
        self.start()

    def start(self) -> None:
        """Start it, once more after it was ended."""
        fd = self._socket.fileno()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *(word.format(fd=fd, port=self.address[1]) for word in self._words)],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(fd,),
            )
        self._started.append(self.process.pid)

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def ask(self, **query: str) -> dict[str, Any] | None:
        """What the application answers; None if it does not, as when its worker is killed."""
        connection = http.client.HTTPConnection(*self.address, timeout=DEADLINE)
        try:
            connection.request("GET", "/?" + "&".join(f"{key}={value}" for key, value in query.items()))
            reply = connection.getresponse()
            body = reply.read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        assert reply.status == 200, f"{reply.status} {body!r}\n{self.log.read_text()[-4000:]}"
        answer: dict[str, Any] = json.loads(body)
        return answer

    def listens(self) -> bool:
        """Whether it takes connections."""
        try:
            socket.create_connection(self.address, timeout=DEADLINE).close()
        except OSError:
            return False
        return True

    def workers(self, master: int | None = None) -> set[int]:
        """The pids of the workers, by default of the process that was started last."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return {child.pid for child in psutil.Process(master or self.process.pid).children()}
        return set()

    def kill_master(self, pid: int | None = None) -> None:
        """SIGKILL it, and wait until its workers, which find that out by themselves, have ended."""
        master = pid or self.process.pid
        workers = self.workers(master)
        kill(master)
        self.process.wait()
        wait_until(lambda: all(gone(pid) for pid in workers), "the workers end after their master")

    def also(self, pid: int) -> int:
        """Another master that is to be ended at last."""
        self._started.append(pid)
        return pid

    def close(self) -> None:
        """End all that was started, by SIGTERM; whatever does not end so is killed."""
        self._socket.close()
        family: list[psutil.Process] = []
        for pid in self._started:
            with contextlib.suppress(psutil.NoSuchProcess):
                master = psutil.Process(pid)
                family += [master, *master.children(recursive=True)]
                master.terminate()
        for process in psutil.wait_procs(family, timeout=10)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()


class Load:
    """Clients that ask all the while, each request in a name of its own.

    Attributes:
        served: the names that were answered, and by which worker. lost: those that were not.
    """

    def __init__(self, server: Server, clients: int = 2) -> None:
        wait_until(server.listens, "the server listens")
        self._server = server
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self.served: dict[str, int] = {}
        self.lost: set[str] = set()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self, client: int) -> None:
        try:
            for number in range(MOST // len(self._threads)):
                if self._stop.is_set():
                    return
                name = f"{client}-{number}"
                answer = self._server.ask(client=name)
                if answer is None:
                    self.lost.add(name)
                    time.sleep(0.05)
                else:
                    assert answer["allowed"] is True
                    self.served[name] = answer["pid"]
                time.sleep(0.004)
        except BaseException as error:
            self._errors.append(error)

    def more(self, count: int = 20) -> None:
        """Wait until so many more were served."""
        target = len(self.served) + count
        # Workers that find no daemon may wait for one twice, ten seconds each, before they answer at all.
        done = f"{count} more requests are served"
        wait_until(lambda: self._errors or len(self.served) >= target, done, seconds=2 * DEADLINE)
        if self._errors:
            raise self._errors[0]

    def served_by(self, pids: set[int]) -> None:
        """Wait until one of these workers has answered."""
        wait_until(lambda: self._errors or pids & set(self.served.values()), f"an answer of {pids}")

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()
        if self._errors:
            raise self._errors[0]

    def check(self, counts: dict[str, int]) -> None:
        """Compare T with what was answered: whoever was served counts once; whoever was not, once or not at all."""
        everybody = counts.pop("everybody")
        assert counts == dict.fromkeys((*self.served, *(name for name in self.lost if name in counts)), 1)
        assert everybody - len(self.lost) <= len(self.served) <= everybody
        if not self.lost:
            assert everybody == len(self.served)


@contextlib.contextmanager
def load(server: Server) -> Iterator[Load]:
    clients = Load(server)
    try:
        yield clients
        clients.end()
    finally:
        clients._stop.set()
        for thread in clients._threads:
            thread.join(DEADLINE)
