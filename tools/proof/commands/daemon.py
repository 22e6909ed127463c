"""The daemon under attack: clients that do everything wrong, while others go on and its memory stays bounded."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable

import click
import psutil

from wdkmutex_shm import Grt
from wdkmutex_shm.base import runtime_dir
from wdkmutex_shm.errors import WdkMutexError
from wdkmutex_shm.grt import session
from wdkmutex_shm.protocol.messages import FRAME_CAP, PROTOCOL, encode_request

from ..base import kernel
from ..base.children import Child, in_child
from ..base.harness import Proof, descriptors, mappings, tool
from ..base.instances import NOBODY, ROOT, daemon_of, instance, rss, segments
from ..intruders.peer import Peer, hostile_frame

#: A well-behaved client may wait so long for an answer: generous, for the daemon shares its processor with us.
DEADLINE = 30.0
#: What the daemon may grow by: buffers of at most a frame for each of the connections that are open at once.
MEMORY = 96 << 20
_IDLE = 1000
_FLOOD = 192 << 20


class Attacks:
    """The attacks, and the connections that they leave open."""

    def __init__(self, proof: Proof, name: str) -> None:
        self.proof = proof
        self.random = proof.random
        self.name = name
        self.open: list[Peer] = []
        self.halves = 0
        self.all: list[Callable[[], None]] = [
            self.random_bytes,
            self.frames,
            self.half_a_frame,
            self.huge_lengths,
            self.flood,
            self.slow_writer,
            self.slow_reader,
            self.idle,
            self.connect_and_die,
            self.pile,
        ]
        if ROOT:
            self.all.append(self.another_user)
        else:
            proof.skip("another uid: only root can act as another user")

    def choose(self, names: tuple[str, ...]) -> None:
        """Only the attacks of these names; all, if there are none."""
        chosen = [attack for attack in self.all if attack.__name__ in names]
        if len(chosen) < len(names):
            known = ", ".join(attack.__name__ for attack in self.all)
            raise click.UsageError(f"the attacks that there are: {known}")
        self.all = chosen or self.all

    def peer(self, *, hello: bool | None = None) -> Peer:
        """A connection, with or without a hello."""
        return Peer(self.name, hello=self.random.random() < 0.5 if hello is None else hello, seconds=DEADLINE)

    def keep(self, peer: Peer) -> None:
        """Leave it open; of those that are, some go."""
        self.open.append(peer)
        while len(self.open) > _IDLE:
            self.open.pop(self.random.randrange(len(self.open))).close()

    def random_bytes(self) -> None:
        for _ in range(20):
            with self.peer() as peer:
                peer.send(self.random.randbytes(self.random.randrange(1, 20000)))

    def frames(self) -> None:
        """Whole frames of which the daemon takes each for what it is: an error reply, or the end."""
        for _ in range(40):
            with self.peer(hello=True) as peer, contextlib.suppress(EOFError):
                for _ in range(10):
                    if not peer.send(hostile_frame(self.random)):
                        break
                    peer.reply()
                    self.proof.counts["hostile requests answered"] += 1

    def half_a_frame(self) -> None:
        for hello in (True, False):
            frame = hostile_frame(self.random)
            peer = self.peer(hello=hello)
            peer.send(frame[: self.random.randrange(1, len(frame) + 1)])
            self.keep(peer)
        if self.halves < 16:
            self.halves += 1
            peer = self.peer(hello=True)
            peer.send(FRAME_CAP.to_bytes(4, "big") + bytes(FRAME_CAP // 2))
            self.keep(peer)

    def huge_lengths(self) -> None:
        for length in (0, FRAME_CAP + 1, 1 << 31, (1 << 32) - 1):
            with self.peer() as peer:
                peer.send(length.to_bytes(4, "big") + b"x" * 100)
                peer.sock.settimeout(10.0)
                peer.wait_closed()

    def flood(self) -> None:
        """A frame that says it is of 2 GiB, and as much of it as the daemon takes."""
        chunk = bytes(1 << 20)
        peer = self.peer()
        peer.send((1 << 31).to_bytes(4, "big"))
        for _ in range(_FLOOD // len(chunk)):
            if not peer.send(chunk):
                break
        self.keep(peer)  # so that the daemon has it still when it is weighed

    def slow_writer(self) -> None:
        """One byte at a time; each request comes to its end at last."""
        request = encode_request("names", {})
        with self.peer(hello=True) as peer:
            for byte in request:
                peer.send(bytes([byte]))
                time.sleep(self.random.random() * 0.002)
            peer.reply()

    def slow_reader(self) -> None:
        """Requests, and not one reply read, until the daemon reads no more."""
        peer = self.peer(hello=True)
        peer.sock.settimeout(0.2)
        requests = encode_request("status", {}) * 500
        with contextlib.suppress(TimeoutError, ConnectionError):
            for _ in range(400):
                peer.sock.sendall(requests)
            self.proof.broken("a client that reads no replies is not read forever")
        peer.close()

    def idle(self) -> None:
        """A thousand connections, of which half say hello and nothing more, and half nothing at all."""
        while len(self.open) < _IDLE:
            self.keep(self.peer(hello=len(self.open) % 2 == 0))
        self.proof.longest("connections open at once", len(self.open))

    def connect_and_die(self) -> None:
        """Processes that connect, send anything, and are killed."""

        def storm() -> None:
            peers = []
            for number in range(40):
                peers.append(Peer(self.name, hello=number % 2 == 0))
                peers[-1].sock.send(hostile_frame(self.random)[: self.random.randrange(1, 50)])
            os.kill(os.getpid(), signal.SIGKILL)

        for _ in range(3):
            outcome = in_child(storm, DEADLINE)
            self.proof.expect(outcome.signal == signal.SIGKILL, "a storm of connections is served", told=outcome.told())

    def pile(self) -> None:
        """Thousands of requests in one piece."""
        with self.peer(hello=True) as peer:
            peer.send(encode_request("get", {"name": "good"}) * 3000)
            for _ in range(3000):
                peer.reply()

    def another_user(self) -> None:
        """A process of another user that gets hold of the socket, although nobody else can open its folder."""
        path = runtime_dir.socket_path(self.name)
        way_in = os.open(path, os.O_PATH)
        os.chmod(path, 0o666)

        def knock() -> list[str]:
            kernel.stay_visible()
            told = []
            for _ in range(20):
                with Peer(self.name, hello=False, path=f"/proc/self/fd/{way_in}") as peer:
                    peer.send(encode_request("hello", {"protocol": PROTOCOL, "session": 1}))
                    peer.send(encode_request("names", {}))
                    try:
                        told.append(str(peer.reply()))
                    except EOFError:
                        told.append("closed")
            return told

        try:
            outcome = in_child(knock, DEADLINE, new_user=NOBODY)
        finally:
            os.chmod(path, 0o600)
            os.close(way_in)
        refused = outcome.well and all(text == "closed" or f"not uid {NOBODY}" in text for text in outcome.value)
        self.proof.expect(refused, "another user is refused", told=outcome.value or outcome.told())


def _good_client(name: str, until: float) -> dict[str, float]:
    """A client as it should be, which must not notice anything. Returns how many calls it made and the longest."""
    calls, longest = 0, 0.0
    session.leave()
    Grt.init(name, autostart=False, timeout=DEADLINE)
    mine = f"mine {os.getpid()}"
    held = None
    while time.monotonic() < until:
        begun = time.monotonic()
        assert "good" in Grt.names()
        before = Grt.get_fast_mutex("good", int).fetch_add(1)
        assert Grt.get_fast_mutex("good", int).peek() > before
        mutex = Grt.register_kmutex_checked(mine, {"calls": calls, "bytes": b"x" * 2000})
        assert Grt.get_kmutex(mine, dict).peek()["calls"] == calls
        Grt.unregister(mine)
        assert mutex.destroyed
        del mutex
        now = descriptors(), mappings()
        held = held or now
        assert now == held, f"descriptors and mappings are given back: {held}, now {now}"
        longest = max(longest, time.monotonic() - begun)
        calls += 7
    return {"calls": calls, "longest": round(longest, 3)}


def _settled(daemon: psutil.Process, opened: int) -> bool:
    """Whether the daemon has released all that the attackers had open."""
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until:
        if session.current().call("status")["clients"] <= 1 and daemon.num_fds() <= opened:
            return True
        time.sleep(0.05)
    return False


def _attack(proof: Proof, attacks: Attacks, daemon: psutil.Process) -> None:
    """Every attack once, in any order, then any of them until the time is up."""
    base = rss(daemon.pid)
    order = attacks.random.sample(attacks.all, len(attacks.all))
    while proof.ok and (order or not proof.over):
        attack = order.pop() if order else attacks.random.choice(attacks.all)
        proof.progress(f"{attack.__name__.replace('_', ' ')}: {len(attacks.open)} connections open")
        try:
            attack()
        except (OSError, WdkMutexError, EOFError) as error:
            # Being cut off is what an attacker is there for; being kept waiting is not.
            if not isinstance(error, (ConnectionError, EOFError)) or isinstance(error, WdkMutexError):
                proof.broken("whoever connects gets an answer or an end", attack=attack.__name__, error=error)
        proof.counts["attacks"] += 1
        proof.counts[f"attack: {attack.__name__}"] += 1
        if not proof.expect(daemon.is_running() and daemon.status() != psutil.STATUS_ZOMBIE, "the daemon never exits"):
            return
        grown = rss(daemon.pid) - base
        proof.longest("most bytes grown", grown)
        proof.expect(grown <= MEMORY, "the daemon's memory is bounded", grown=grown, attack=attack.__name__)


@tool(
    "daemon",
    click.option("--attack", multiple=True, help="Only these: flood, idle, frames, ... (as the summary names them)."),
    seconds=60,
)
def command(proof: Proof, attack: tuple[str, ...]) -> None:
    """Attack a running daemon: garbage, half frames, slow and silent clients, a thousand of them, another user."""
    assert proof.seconds is not None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with instance(proof.instance) as name, contextlib.ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2 * _IDLE)), hard))
        Grt.register_fast_mutex("good", 0)
        daemon = psutil.Process(daemon_of(name))
        attacks, opened = Attacks(proof, name), daemon.num_fds()
        for warm_up in (attacks.frames, attacks.pile):
            warm_up()  # what it needs to work at all is not growth
        attacks.choose(attack)
        until = time.monotonic() + max(proof.seconds, 1.0)
        good = [stack.enter_context(Child(lambda: _good_client(name, until))) for _ in range(2)]
        _attack(proof, attacks, daemon)
        for child in good:
            outcome = child.outcome(max(0.0, until - time.monotonic()) + DEADLINE)
            if proof.expect(outcome.well, "well-behaved clients notice nothing", told=outcome.told()):
                proof.counts["calls of good clients"] += outcome.value["calls"]
                proof.longest("longest, ms", int(1000 * outcome.value["longest"]))
        for peer in attacks.open:
            peer.close()
        if proof.ok:
            proof.expect(_settled(daemon, opened), "every connection's descriptor is given back")
            proof.expect(daemon_of(name) == daemon.pid, "the daemon is the one that it was")
            proof.expect(Grt.get_fast_mutex("good", int).peek() > 0, "T is there")
            with open(runtime_dir.log_path(name), errors="replace") as log:
                text = log.read()
            proof.expect("Traceback" not in text, "no request meets an unexpected error", log=text[-2000:])
            Grt.destroy()
            proof.expect(segments(name) == [], "nothing is left of a destroyed instance", left=segments(name))
