"""The daemon changes its names, and is killed; another one takes its place.

Victims are real daemons, forked from this process so that they are ready soon. Who asks them is a process of its own:
it is stopped while the survivors look at what a restarted daemon made of the remains, and then may ask again.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import select
import signal
from collections.abc import Callable
from typing import Any, NamedTuple

from wdkmutex_daemon.serve import handlers
from wdkmutex_daemon.serve.lifecycle import serve

from wdkmutex_shm import FastMutex
from wdkmutex_shm.base.layout import HEADER_BYTES, SLOT_BYTES
from wdkmutex_shm.base.names import KIND_FAST, instance_prefix, pool_segment
from wdkmutex_shm.engines.local import requests
from wdkmutex_shm.engines.local.client import Client, connect
from wdkmutex_shm.errors import DaemonUnavailable, GrtIsEmpty, KeyNotFound
from wdkmutex_shm.memory import shm
from wdkmutex_shm.protocol.messages import READY

from ..base.children import fork
from ..base.harness import Proof
from ..base.stepping import Region, Stepper, end, mark, traced_child
from .scene import PATIENCE, Scene, Seen

_DEADLINE = 20.0
_WATCHED_SLOTS = 8
_NAME, _BYSTANDER = "victim", "bystander"


class Change(NamedTuple):
    """A change of the names.

    Attributes:
        name: of the operation.
        old: the mutex's T before, None if there is none. new: its T after, None if there is none.
        ask: asks for it, given a client and ``new``.
        ends: whether it ends the whole instance.
    """

    name: str
    old: Any
    new: Any
    ask: Callable[[Client, Any], object]
    ends: bool = False


def _register(client: Client, value: Any) -> None:
    requests.create(client, _NAME, KIND_FAST, "overwrite", value, type(value))


def _unregister(client: Client, value: Any) -> None:
    requests.unregister(client, _NAME)


def _destroy(client: Client, value: Any) -> None:
    requests.destroy(client)


CHANGES = (
    Change("register", None, 5, _register),
    Change("register-large", None, b"n" * 300, _register),
    Change("overwrite", b"old", b"new", _register),
    Change("overwrite-large", b"o" * 300, b"n" * 300, _register),
    Change("unregister", 7, None, _unregister),
    Change("unregister-large", b"o" * 300, None, _unregister),
    Change("destroy", b"o" * 300, None, _destroy, ends=True),
)


class Stage:
    """An instance, the daemon that serves it at present, and the process that asks.

    Args:
        proof: whose runtime folder and instance are used.
        stepper: waits for daemons.
    """

    def __init__(self, proof: Proof, stepper: Stepper) -> None:
        self.instance = proof.instance
        self.prefix = instance_prefix(self.instance)
        self._stepper = stepper
        self._armed = mmap.mmap(-1, 1)
        self.daemon = 0
        self.start_daemon()
        self._line, theirs = multiprocessing.Pipe()
        self._asker = fork(lambda: _answer_orders(theirs, self.instance))
        theirs.close()

    # --- the daemon

    def start_daemon(self) -> None:
        """Let a new daemon serve; it is traced, but runs."""
        receiving, sending = os.pipe()
        self.daemon = traced_child(lambda: self._serve(sending))
        os.close(sending)
        try:
            assert self._stepper.begin(self.daemon)
            self._stepper.let_go(self.daemon)
            assert select.select([receiving], [], [], _DEADLINE)[0], "the daemon does not get ready"
            said = os.read(receiving, 1 << 16)
            assert said == READY, said
        finally:
            os.close(receiving)

    def _serve(self, ready: int) -> None:
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 2)
        for verb in ("register", "unregister", "destroy"):
            handlers.HANDLERS[verb] = self._marked(handlers.HANDLERS[verb])
        serve(self.instance, ready_fd=ready)
        os._exit(0)

    def _marked(self, handler: Any) -> Any:
        def handle(*args: Any) -> Any:
            if not self._armed[0]:
                return handler(*args)
            self._armed[0] = 0
            mark()
            try:
                return handler(*args)
            finally:
                mark()

        return handle

    def end_daemon(self) -> None:
        """Kill it."""
        if self.daemon:
            end(self.daemon)
            self.daemon = 0

    # --- who asks

    def ask(self, change: Change) -> int:
        """Let the asker ask, and wait until the daemon is about to do it. Returns the daemon's pid."""
        self._armed[0] = 1
        self._line.send(change.name)
        assert self._stepper.begin(self.daemon), "the daemon ended"
        return self.daemon

    def hold_asker(self) -> None:
        """Stop the asker, so that it does not ask the next daemon yet."""
        os.kill(self._asker, signal.SIGSTOP)
        os.waitid(os.P_PID, self._asker, os.WSTOPPED)

    def answer(self) -> BaseException | None:
        """Let the asker go on; what its question ended with, None if well."""
        os.kill(self._asker, signal.SIGCONT)
        assert self._line.poll(_DEADLINE), "the asker's question does not end"
        found: BaseException | None = self._line.recv()
        return found

    def close(self) -> None:
        """End everything and remove the instance."""
        self.end_daemon()
        end(self._asker)
        self._line.close()
        self._armed.close()
        for name in shm.listing(self.prefix + "."):
            shm.unlink(name)


def _answer_orders(line: Any, instance: str) -> None:
    """The asker's life: asks the daemon what it is told to, and says how that ended."""
    changes = {change.name: change for change in CHANGES}
    client = Client(instance, timeout=10.0, patience=PATIENCE)
    while True:
        change = changes[line.recv()]
        try:
            change.ask(client, change.new)
        except Exception as error:
            line.send(error)
        else:
            line.send(None)


class DaemonScene(Scene):
    """One change, made by the daemon of a stage of its own."""

    def __init__(self, proof: Proof, change: Change) -> None:
        super().__init__(proof)
        self.name = change.name
        self._stage: Stage | None = None
        self._change = change
        self._bystander: Any = None
        self._mutex: Any = None
        self._region: Region | None = None

    @property
    def region(self) -> Region | None:
        return self._region

    def do(self, mark: Callable[[], object]) -> None:
        """The daemon does it when it is asked to."""

    def begin(self, stepper: Stepper) -> int:
        """The names are as before the change."""
        self.forget()
        change = self._change
        stage = self._stage = self._stage or Stage(self.proof, stepper)
        if not stage.daemon:
            stage.start_daemon()
        with connect(stage.instance) as client:
            if _BYSTANDER not in client.collect("names", "names"):
                requests.create(client, _BYSTANDER, KIND_FAST, "overwrite", b"b" * 300, bytes)
            self._bystander = requests.get(client, _BYSTANDER, KIND_FAST)
            _forget(client)
            if change.old is not None:
                self._mutex = requests.create(client, _NAME, KIND_FAST, "overwrite", change.old, type(change.old))
        self._region = Region(pool_segment(stage.prefix, 0), 0, HEADER_BYTES + _WATCHED_SLOTS * SLOT_BYTES)
        return stage.ask(change)

    def look(self, where: str, pid: int) -> Seen:
        """Nobody asks before it was looked at what the next daemon finds."""
        assert self._stage is not None
        self._stage.hold_asker()
        return Seen(where, False, pid)

    def check(self, seen: Seen) -> None:
        """The mutexes work without a daemon; the next daemon finds the name with its old T or its new T."""
        stage, change = self._stage, self._change
        assert stage is not None
        stage.daemon = 0
        if not change.ends:
            self._lock(self._bystander)
        stage.start_daemon()
        with connect(stage.instance) as client:
            names = set(client.collect("names", "names"))
            found = _value(client) if _NAME in names else None
            allowed = (change.old, change.new)
            self.expect(found in allowed, "a name has its old or its new T", found=found, names=sorted(names))
            if change.ends:
                whole = names in (set(), {_BYSTANDER, _NAME})
                self.expect(whole, "an instance is destroyed wholly or not at all", names=names)
            else:
                self.expect(_BYSTANDER in names, "other names stay", names=names)
                self._lock(self._bystander)
            if change.old is not None and change.old != change.new:
                gone = self._mutex.destroyed == (found != change.old)
                self.expect(gone, "a handle is dead exactly when its mutex is", found=found)
            self._after(client, stage)

    def _after(self, client: Client, stage: Stage) -> None:
        """Whoever asked has got an answer."""
        change, error = self._change, stage.answer()
        if change.ends:
            self.expect(error is None, "destroy succeeds in the end", error=error)
            stage.end_daemon()
            left = shm.listing(stage.prefix + ".")
            self.expect(not left, "nothing of a destroyed instance is left", left=left)
            return
        found = _value(client)
        if error is None:
            self.expect(found == change.new, "who was told that it is done finds it done", found=found)
        else:
            # The daemon died before it replied: whoever asked is told that it cannot be known.
            self.proof.counts["unknown outcomes"] += 1
            known = isinstance(error, (DaemonUnavailable, KeyNotFound))
            self.expect(known, "a lost reply is told as such", error=error)
        _forget(client)
        status = client.call("status")
        facts = {field: status[field] for field in ("names", "used", "quarantined")}
        self.expect(facts == {"names": 1, "used": 1, "quarantined": 0}, "no slot is lost", found=facts)
        data = len(shm.listing(stage.prefix + ".d"))
        self.expect(data == 1, "no data segment is lost or left", found=data)
        _register(client, 1)
        self.expect(_value(client) == 1, "the next daemon registers")

    def forget(self) -> None:
        """Unmap what was looked at."""
        if self._region is not None:
            self._region.close()
            self._region = None

    def close(self) -> None:
        """End the daemon and the asker, and remove the instance."""
        super().close()
        if self._stage is not None:
            self._stage.close()

    def _lock(self, mutex: FastMutex[bytes]) -> None:
        try:
            with mutex.lock(timeout=PATIENCE) as guard:
                self.expect(guard.value == b"b" * 300, "locking needs no daemon", found=guard.value)
        except Exception as error:
            self.expect(False, "locking needs no daemon", error=error)


def _value(client: Client) -> Any:
    try:
        return requests.get(client, _NAME, KIND_FAST).peek()
    except (KeyNotFound, GrtIsEmpty):
        return None


def _forget(client: Client) -> None:
    if _value(client) is not None:
        requests.unregister(client, _NAME)
