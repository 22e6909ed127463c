"""The recipes of docs/how-to/web-workers.md, under load: reloads, upgrades, kills, and every request counted once."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers import Load, Server, load, recipe
from support import DEADLINE, daemon_pid, kill, wait_until

from wdkmutex_shm import Grt

PAGE = "docs/how-to/web-workers.md"
BIND = ["--bind", "127.0.0.1:{port}", "--no-control-socket"]

WSGI = """
import json
import os
from urllib.parse import parse_qs

from quota import allowed, quota


def application(environ, start_response):
    query = parse_qs(environ["QUERY_STRING"])
    if "die" in query:
        guard = quota().lock()
        guard.value["everybody"] = -1
        os.kill(os.getpid(), 9)
    if "hold" in query:
        lock.acquire()
        os.kill(os.getpid(), 9)
    if "lock" in query:
        answer = lock.acquire(timeout=20)
        lock.release()
    else:
        (client,) = query["client"]
        answer = allowed("everybody", 10**9) and allowed(client, 1)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"allowed": answer, "pid": os.getpid(), "master": os.getppid()}).encode()]
"""

ASGI = """
import json
import os
from urllib.parse import parse_qs

from quota import quota
from quota_async import allowed


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] == "lifespan.startup":
            quota()
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    query = parse_qs(scope["query_string"].decode())
    if "die" in query:
        async with quota().lock_async() as guard:
            guard.value["everybody"] = -1
            os.kill(os.getpid(), 9)
    (client,) = query["client"]
    answer = await allowed("everybody", 10**9) and await allowed(client, 1)
    body = json.dumps({"allowed": answer, "pid": os.getpid(), "master": os.getppid()}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""


@contextmanager
def server(folder: Path, instance: str, application: str, *words: str) -> Iterator[Server]:
    for name in ("quota.py", "quota_async.py", "gunicorn.conf.py"):
        (folder / name).write_text(recipe(PAGE, name))
    (folder / "app.py").write_text(application)
    started = Server(folder, list(words), {**os.environ, "WDKMUTEX_INSTANCE": instance})
    try:
        yield started
    finally:
        started.close()


def counts(instance: str) -> dict[str, int]:
    """T, when all is over."""
    Grt.init(instance)
    found: dict[str, int] = Grt.get_fast_mutex("quota", dict).peek()
    return found


def kill_a_holder(web: Server, clients: Load) -> None:
    assert web.ask(die="1") is None, "a worker was killed while it held the lock"
    clients.more()


def kill_the_daemon(instance: str, clients: Load) -> None:
    kill(daemon_pid(instance))
    clients.more()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [["sync"], ["gthread", "--threads", "2"]], ids=lambda words: words[0])
def test_gunicorn_is_upgraded_reloaded_and_killed(workers: list[str], tmp_path: Path, instance: str) -> None:
    pytest.importorskip("gunicorn")
    words = ["-m", "gunicorn", "app:application", *BIND, "--workers", "2"] + ["--worker-class", *workers]
    with server(tmp_path, instance, WSGI, *words) as web, load(web) as clients:
        clients.more()
        old = web.process.pid
        web.process.send_signal(signal.SIGUSR2)
        masters = wait_until(lambda: [pid for pid in web.workers() if web.workers(pid)], "a second master has workers")
        new = web.also(masters[0])
        clients.served_by(web.workers(new))
        kill_the_daemon(instance, clients)
        os.kill(old, signal.SIGTERM)
        web.process.wait(DEADLINE)
        clients.more()
        before = web.workers(new)
        os.kill(new, signal.SIGHUP)
        wait_until(lambda: web.workers(new) and not web.workers(new) & before, "the workers are others")
        clients.more()
        assert not clients.lost, "upgrade and reload lose no request"

        kill_a_holder(web, clients)
        web.kill_master(new)
        web.start()
        clients.more()
        clients.end()
        clients.check(counts(instance))


@pytest.mark.slow
def test_gunicorn_that_loads_the_application_before_it_forks(tmp_path: Path, instance: str) -> None:
    pytest.importorskip("gunicorn")
    words = ["-m", "gunicorn", "app:application", *BIND, "--workers", "2", "--preload"]
    with server(tmp_path, instance, WSGI + "\n\nquota()\n", *words) as web, load(web) as clients:
        clients.more()
        kill_the_daemon(instance, clients)
        kill_a_holder(web, clients)
        web.kill_master()
        web.start()
        clients.more()
        clients.end()
        clients.check(counts(instance))


@pytest.mark.slow
def test_the_instance_is_destroyed_beneath_gunicorn(tmp_path: Path, instance: str) -> None:
    pytest.importorskip("gunicorn")
    words = ["-m", "gunicorn", "app:application", *BIND, "--workers", "2"]
    with server(tmp_path, instance, WSGI, *words) as web, load(web) as clients:
        clients.more()
        Grt.init(instance)
        Grt.destroy()
        clients.more()
        clients.end()
        assert not clients.lost, "every request is served, by the mutex that is there then"
        found = counts(instance)
        assert {name for name in found if name != "everybody"} < set(clients.served)


@pytest.mark.slow
def test_uvicorn_is_reloaded_and_killed(tmp_path: Path, instance: str) -> None:
    pytest.importorskip("uvicorn")
    words = ["-m", "uvicorn", "app:application", "--fd", "{fd}", "--workers", "2"]
    with server(tmp_path, instance, ASGI, *words) as web, load(web) as clients:
        clients.more()
        kill_the_daemon(instance, clients)
        kill_a_holder(web, clients)
        before = set(clients.served.values())
        web.process.send_signal(signal.SIGHUP)
        wait_until(lambda: set(clients.served.values()) - before, "other workers answer")
        clients.more()
        orphans = web.workers()
        kill(web.process.pid)
        web.process.wait()
        clients.more()
        for pid in orphans:  # uvicorn's workers do not notice that their master is gone, and serve on
            kill(pid)
        web.start()
        clients.more()
        clients.end()
        clients.check(counts(instance))


def uwsgi(*words: str) -> list[str]:
    """The command of a uWSGI with a master and two workers."""
    pytest.importorskip("pyuwsgi")
    script = shutil.which("pyuwsgi", path=os.path.dirname(sys.executable))
    assert script is not None
    where = ["--http-socket", "127.0.0.1:{port}", "--wsgi-file", "app.py", "--master", "--processes", "2"]
    return [script, *where, "--no-orphans", "--die-on-term", "--disable-logging", *words]


EARLY = """
from wdkmutex_shm import mp

quota()
lock = mp.get_context("fork").Lock()
with lock:
    pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("early", ["", EARLY], ids=["", "opened before the fork"])
def test_uwsgi_which_forks_without_telling_python(early: str, tmp_path: Path, instance: str) -> None:
    with server(tmp_path, instance, WSGI + early, *uwsgi()) as web, load(web) as clients:
        clients.more()
        kill_the_daemon(instance, clients)
        kill_a_holder(web, clients)
        if early:
            assert web.ask(hold="1") is None, "a worker was killed while it held a lock of mp"
            answer = web.ask(lock="1")
            assert answer is not None
            assert answer["allowed"], "whose holder, its master, is taken for alive"
        web.kill_master()
        web.start()
        clients.more()
        clients.end()
        clients.check(counts(instance))


@pytest.mark.slow
def test_uwsgi_whose_workers_are_replaced_one_by_one(tmp_path: Path, instance: str) -> None:
    words = uwsgi("--lazy-apps", "--enable-threads", "--threads", "2", "--touch-chain-reload", "reload")
    (tmp_path / "reload").touch()
    with server(tmp_path, instance, WSGI, *words) as web, load(web) as clients:
        clients.more()
        before = web.workers()
        os.utime(tmp_path / "reload", (2**31, 2**31))  # later than whatever the clock says
        wait_until(lambda: web.workers() and not web.workers() & before, "the workers are others")
        clients.more()
        assert not clients.lost, "a reload loses no request"
        kill_a_holder(web, clients)
        clients.end()
        clients.check(counts(instance))
