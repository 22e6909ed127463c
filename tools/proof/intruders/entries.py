"""Ways in that an intruder would try: the runtime folder, the socket, the names of segments.

Each function plays one of them and reports to the proof. Those that need another user are for root.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from wdkmutex_shm import Grt
from wdkmutex_shm.base import runtime_dir
from wdkmutex_shm.base.names import instance_prefix, pool_segment
from wdkmutex_shm.engines.local import autostart
from wdkmutex_shm.engines.local.client import connect
from wdkmutex_shm.errors import RuntimeFolderRefused, SegmentRefused, WdkMutexError
from wdkmutex_shm.grt import session
from wdkmutex_shm.memory import shm
from wdkmutex_shm.pool.pool import Pool

from ..base.children import Child, in_child
from ..base.harness import Proof
from ..base.instances import NOBODY, ROOT, daemon_of, end_daemon, ending_of, instance, remove_instance, segments


def _expect_refused(proof: Proof, what: str, path: str, kind: type[WdkMutexError], *works: Callable[[], Any]) -> None:
    """Each must end with that error, which names the path."""
    for work in works:
        told = ending_of(work)
        session.leave()
        refused = told[0] == kind.__name__ and path in told[1]
        proof.expect(refused, f"{what} is refused, and named", path=path, told=told)
        proof.counts["refused"] += 1


def _ways_in(name: str) -> tuple[Callable[[], Any], ...]:
    """Everything by which a process comes into an instance."""
    return partial(Grt.init, name, timeout=5), partial(connect, name), partial(autostart.start, name, 5)


def _state(path: str) -> tuple[Any, ...]:
    found = os.lstat(path)
    inside = sorted(os.listdir(path)) if stat.S_ISDIR(found.st_mode) else []
    return found.st_mode, found.st_uid, found.st_ino, inside


# --- the runtime folder


def _harms(proof: Proof, base: str) -> Iterator[tuple[str, Callable[[str], None]]]:
    """What may stand where the runtime folder should be, and how it gets there."""

    def mode(bits: int) -> Callable[[str], None]:
        def make(path: str) -> None:
            os.mkdir(path)
            os.chmod(path, bits)

        return make

    def given(bits: int) -> Callable[[str], None]:
        def make(path: str) -> None:
            mode(bits)(path)
            os.chown(path, NOBODY, NOBODY)

        return make

    def link(owner: int) -> Callable[[str], None]:
        def make(path: str) -> None:
            target = os.path.join(base, "elsewhere")
            os.makedirs(target, 0o700, exist_ok=True)
            os.chown(target, owner, -1)
            os.symlink(target, path)

        return make

    yield "a link", link(os.geteuid())
    yield "a file", lambda path: os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o700))
    yield "a fifo", lambda path: os.mkfifo(path, 0o700)
    for bits in (0o701, 0o710, 0o720, 0o702, 0o777, 0o1777, 0o700 | proof.random.randrange(1, 0o100)):
        yield f"a folder of mode {bits:o}", mode(bits)
    if ROOT:
        yield "a folder of another user", given(0o700)
        yield "an open folder of another user", given(0o1777)
        yield "a link to a folder of another user", link(NOBODY)


def folder(proof: Proof, name: str) -> None:
    """The runtime folder was made by another user, is a link, a file, or open to others: refused, and left alone."""
    saved = os.environ["XDG_RUNTIME_DIR"]
    for what, harm in _harms(proof, saved):
        base = tempfile.mkdtemp(prefix="wdkm-proof-", dir="/tmp")
        path = os.path.join(base, "wdkmutex")
        os.environ["XDG_RUNTIME_DIR"] = base
        try:
            harm(path)
            before = _state(path)
            _expect_refused(proof, f"{what} for a runtime folder", path, RuntimeFolderRefused, *_ways_in(name))
            proof.expect(_state(path) == before, "what is refused is left as it was", what=what)
            proof.expect(segments(name) == [], "nothing is made where the folder is refused", what=what)
        finally:
            remove_instance(name)
            os.environ["XDG_RUNTIME_DIR"] = saved
            shutil.rmtree(base, ignore_errors=True)
            shutil.rmtree(os.path.join(saved, "elsewhere"), ignore_errors=True)


def no_session(proof: Proof, name: str) -> None:
    """Without a session's folder: another user has made the one below /tmp, or XDG_RUNTIME_DIR is another user's."""
    uid = proof.random.randrange(1 << 28, 1 << 29)
    path = f"/tmp/wdkmutex-{uid}"
    others = tempfile.mkdtemp(prefix="wdkm-proof-", dir="/tmp")
    os.mkdir(path, 0o700)
    try:
        os.chown(path, NOBODY, NOBODY)
        os.chmod(path, 0o1777)
        for value in (None, others, "relative", "/nonexistent"):

            def enter(value: str | None = value) -> tuple[str, str]:
                os.environ.pop("XDG_RUNTIME_DIR", None)
                if value is not None:
                    os.environ["XDG_RUNTIME_DIR"] = value
                return ending_of(partial(Grt.init, name, timeout=5))

            outcome = in_child(enter, new_user=uid)
            told = outcome.value if outcome.well else outcome.told()
            refused = outcome.well and told[0] == "RuntimeFolderRefused" and path in told[1]
            proof.expect(refused, "a folder below /tmp that another user made is refused", told=told)
            proof.counts["refused"] += 1
        proof.expect(os.listdir(path) == [], "nothing is put into another user's folder")
        proof.expect(os.listdir(others) == [], "another user's XDG_RUNTIME_DIR is not used")
    finally:
        shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(others, ignore_errors=True)


# --- the socket


@contextlib.contextmanager
def _squatter(path: str) -> Iterator[tuple[Child, int]]:
    """A process of another user that listens at a path, and a descriptor.

    It ends when that is written to, and its result is what it was told.
    """
    ready, go = os.pipe()

    def squat() -> bytes:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(path)
        os.chmod(path, 0o777)
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        sock.listen(16)
        os.write(go, b"r")
        heard = b""
        while select.select([sock.fileno(), stop], [], [])[0] == [sock.fileno()]:
            connection, _ = sock.accept()
            connection.settimeout(3.0)
            heard += connection.recv(1000)
        return heard

    stop, leave = os.pipe()
    with Child(squat) as child:
        os.read(ready, 1)
        try:
            yield child, leave
        finally:
            for fd in (ready, go, stop):
                os.close(fd)


def socket_squatted(proof: Proof, name: str) -> None:
    """Something else is where the socket should be. It is not removed, and nobody else is told a word."""
    path = runtime_dir.socket_path(name)
    makers: list[tuple[str, Callable[[], object]]] = [
        ("a file", lambda: os.close(os.open(path, os.O_CREAT | os.O_WRONLY))),
        ("a folder", lambda: os.mkdir(path)),
        ("a link", lambda: os.symlink("/etc/passwd", path)),
    ]
    for what, make in makers:
        make()
        try:
            _expect_refused(proof, f"{what} for a socket", path, RuntimeFolderRefused, _ways_in(name)[0])
            proof.expect(os.path.lexists(path), "what is not ours is not removed", what=what)
            proof.expect(segments(name) == [], "nothing is made where the socket is refused", what=what)
        finally:
            os.rmdir(path) if os.path.isdir(path) else os.unlink(path)
            remove_instance(name)
    if not ROOT:
        return
    with _squatter(path) as squatter:
        _expect_refused(proof, "another user's socket", path, RuntimeFolderRefused, *_ways_in(name))
        _nothing_said(proof, *squatter)
    os.unlink(path)
    # The path that the pool itself names: of a session that is over, say, whose folder another user has now.
    other = os.path.join(os.environ["XDG_RUNTIME_DIR"], "old.sock")
    try:
        Pool.open(instance_prefix(name)).set_server(1, other)
        with _squatter(other) as squatter:
            _expect_refused(proof, "another user's socket", other, RuntimeFolderRefused, lambda: connect(name))
            _nothing_said(proof, *squatter)
    finally:
        os.unlink(other)
        remove_instance(name)


def _nothing_said(proof: Proof, child: Child, leave: int) -> None:
    os.write(leave, b"x")
    os.close(leave)
    outcome = child.outcome(20.0)
    proof.expect(outcome.value == b"", "whoever squats a socket is told nothing", told=outcome.value or outcome.told())


# --- the names of segments


def _squat(name: str, raw: bytes) -> None:
    """Another user makes a segment of that name, open to all."""

    def make() -> None:
        os.umask(0)
        fd = os.open(shm.FOLDER + name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        os.write(fd, raw)
        os.close(fd)

    outcome = in_child(make, new_user=NOBODY)
    assert outcome.well, outcome.told()


def _filled() -> tuple[str, str] | None:
    """Register more names than the first segment of a pool has slots; returns the error that this met."""
    try:
        for number in range(1100):
            Grt.register_fast_mutex_checked(f"n{number}", number)
    except WdkMutexError as error:
        return type(error).__name__, str(error)
    return None


def names_squatted(proof: Proof, name: str) -> None:
    """Another user has made segments of our names: forgeries are not read, and the rest works on."""
    prefix = instance_prefix(name)
    with instance(name):
        Grt.register_fast_mutex("n", 666)
        with open(shm.FOLDER + pool_segment(prefix, 0), "rb") as file:
            forgery = file.read()
    first, second, far = (pool_segment(prefix, number) for number in (0, 1, 9))
    try:
        _squat(first, forgery)
        ways_in = partial(Grt.init, name), partial(connect, name), partial(Pool.open, prefix)
        _expect_refused(proof, "another user's pool", first, SegmentRefused, *ways_in)
        proof.expect(os.stat(shm.FOLDER + first).st_uid == NOBODY, "another user's segment is left alone")
    finally:
        shm.unlink(first)
        remove_instance(name)
    with instance(name):
        _squat(second, forgery)
        _squat(far, b"x")
        try:
            told = _filled()
            named = told is None or (told[0] == "SegmentRefused" and second in told[1])
            proof.expect(named, "a pool that cannot grow for a squatted name says so", told=told)
            proof.expect(Grt.get_fast_mutex("n0", int).fetch_add(1) == 0, "what was there before works on")
            # Whoever squats a name must not keep a daemon from starting that has all that it needs.
            shm.unlink(second)
            end_daemon(daemon_of(name), name)
            how, words = ending_of(partial(autostart.start, name, 10))
            session.leave()
            promise = "a name squatted beyond the pool keeps no daemon from starting"
            if proof.expect(how == "well", promise, told=(how, words)):
                client = session.client_of(name)
                proof.expect("n0" in client.collect("names", "names"), "a restarted daemon knows its names")
        finally:
            for segment in (second, far):
                with contextlib.suppress(OSError):
                    shm.unlink(segment)
    _data_squatted(proof, name)


def _data_squatted(proof: Proof, name: str) -> None:
    """The data segment of T is gone, and another user has made one of its name."""
    with instance(name):
        Grt.register_kmutex("large", b"x" * 5000)
        (segment,) = shm.listing(instance_prefix(name) + ".d")
        with open(shm.FOLDER + segment, "rb") as file:
            forgery = file.read().replace(b"xxxx", b"evil")
        shm.unlink(segment)
        _squat(segment, forgery)
        try:
            for read in (lambda: Grt.get_kmutex("large").peek(), lambda: Grt.get_kmutex("large").lock(timeout=5).value):
                outcome = in_child(partial(ending_of, read))
                told = outcome.value if outcome.well else outcome.told()
                refused = outcome.well and told[0] == "SegmentRefused" and segment in told[1]
                proof.expect(refused, "another user's data segment is refused, and named", told=told)
                proof.counts["refused"] += 1
            Grt.register_kmutex("large", b"new." * 2000)
            proof.expect(Grt.get_kmutex("large").peek() == b"new." * 2000, "it can be registered again")
        finally:
            with contextlib.suppress(OSError):
                shm.unlink(segment)


# --- umask


def umasks(proof: Proof, name: str) -> None:
    """Whatever the umask, nothing of ours can be opened by others."""
    for mask in (0o000, 0o022, 0o077, proof.random.randrange(0o100)):
        base = tempfile.mkdtemp(prefix="wdkm-proof-", dir="/tmp")

        def make(mask: int = mask, base: str = base) -> dict[str, str]:
            os.umask(mask)
            os.environ["XDG_RUNTIME_DIR"] = base
            Grt.init(name)
            mutex = Grt.register_kmutex("n", b"x" * 5000)
            mutex.replace(b"y" * 90_000)
            found = [shm.FOLDER + segment for segment in segments(name)] + [os.path.join(base, "wdkmutex")]
            found += [os.path.join(base, "wdkmutex", file) for file in os.listdir(os.path.join(base, "wdkmutex"))]
            modes = {path: f"{stat.S_IMODE(os.lstat(path).st_mode):o}" for path in found}
            Grt.destroy()
            return modes

        try:
            outcome = in_child(make)
            if not proof.expect(outcome.well, "a daemon starts under any umask", mask=oct(mask), told=outcome.told()):
                continue
            proof.expect(len(outcome.value) >= 6, "segments, folder, socket, lock and log were looked at")
            for path, mode in outcome.value.items():
                expected = ("700",) if path.endswith("/wdkmutex") else ("600",)
                private = mode in expected
                proof.expect(private, "nothing of ours is open to others", path=path, mode=mode, mask=oct(mask))
                proof.counts["modes looked at"] += 1
        finally:
            remove_instance(name)
            shutil.rmtree(base, ignore_errors=True)
