"""The books of a pool: which task was sent, which worker works on which, and what is lost with a worker.

Each task gets a number. A worker takes a task from the common channel, writes its number into a mutex of its own (its
*claim*), unpickles it, works, and sends the result with the number. When a worker has died, a note of that is put into
the channel of results, behind the results that it had sent. When the note is read, its claim tells the truth:

* the claimed task is still without a result: it was in the worker's hands, and has failed with WorkerDied;
* else the worker was idle, or had taken a task without claiming it yet (a few microseconds). That task has not begun.
  It is found and sent again, see :meth:`Supervisor._look_for_lost`.
"""

from __future__ import annotations

import contextlib
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from multiprocessing import process
from multiprocessing.reduction import ForkingPickler
from typing import Any

from .. import KMutex
from ..errors import PoolBroken, WorkerDied
from .channel import End, LostMessage, NotTaken
from .processes import has_ended, is_code_lost
from .queues import SimpleQueue
from .shared_state import must_not_block
from .starts import Initializer, NoWorker, Starts, Trouble, how_ended

__all__ = ["Supervisor", "Results", "Tasks"]

_IDLE = 0
_STARTED = -2  # the claim of a worker that has asked for its first task, see `starts.py`
_UNKNOWN = -1  # the claim of a worker that ends, and may have taken a task
_NOTHING = (None, None, None)  # a result of no job: the pool passes it over
_GIVEN_UP = "given up"  # in the channel of results: no worker is left, and no other is started
_MARK = "mark"  # in the channel of results: all that was sent before has been read
_HEAD = struct.Struct("=q")  # before each pickled task or result: its number, _IDLE for the end of tasks
_TROUBLES = 8  # how many tracebacks of initializers are kept
_LOOK = 1.0  # seconds between two looks whether somebody died whose death nobody was told of
_NO_DESCRIPTOR = 0.05  # seconds after which a large message that cannot be taken now is tried again
_SETTLED = 0.5  # seconds after which a task that a living worker took must be claimed


def _reraise(error: Exception) -> None:
    raise error


def _take(reader: End) -> bytes | None:
    """Take a message; None if there was none for as long as the reader waits. There is nobody to raise NotTaken to."""
    while True:
        try:
            return reader.take(True)
        except NotTaken:
            time.sleep(_NO_DESCRIPTOR)


class Tasks:
    """The channel of tasks, as a worker sees it."""

    def __init__(self, queue: SimpleQueue, claim: KMutex[int]) -> None:
        self._queue = queue
        self._claim = claim
        self._writer = queue._writer
        self.number = _IDLE
        self._asked = False

    def get(self) -> Any:
        """Take a task and claim it; None is the end. One that cannot be received or unpickled fails with that error."""
        must_not_block("get")
        if not self._asked:
            self._asked = True
            self._claim.replace(_STARTED)
        lost: LostMessage | None = None
        try:
            try:
                message = _take(self._queue._reader)
            except LostMessage as error:
                message, lost = error.head, error
            assert message is not None
            (number,) = _HEAD.unpack_from(message)
            if number == _IDLE:
                return None
            self._claim.replace(number)
        except EOFError:
            raise
        except BaseException:
            self._claim.replace(_UNKNOWN)  # a signal handler ends the worker, with whatever exit code
            raise
        self.number = number
        try:
            if lost is not None:
                raise lost
            return ForkingPickler.loads(memoryview(message)[_HEAD.size :])
        except Exception as error:
            return None, None, _reraise, (error,), {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Tasks, (self._queue, self._claim)


class Results:
    """The channel of results, as a worker sees it."""

    def __init__(self, queue: SimpleQueue, tasks: Tasks) -> None:
        self._queue = queue
        self._tasks = tasks
        self._reader = queue._reader

    def put(self, result: Any) -> None:
        """Send the result of the task that was taken last."""
        self._queue._writer.send_whole(_HEAD.pack(self._tasks.number), ForkingPickler.dumps(result))

    def tell(self, note: object) -> None:
        """Send a note to the supervisor."""
        self._queue._writer.send_whole(_HEAD.pack(_IDLE), ForkingPickler.dumps(note))

    def __reduce__(self) -> tuple[Any, ...]:
        return Results, (self._queue, self._tasks)


class _Death:
    """The note of a worker's death."""

    def __init__(self, worker: process.BaseProcess, claimed: int) -> None:
        self.pid, self.exitcode, self.claimed = worker.pid or 0, worker.exitcode or 0, claimed
        self.code_lost = is_code_lost(worker)

    def error(self) -> WorkerDied:
        how = how_ended(self.exitcode, self.code_lost)
        return WorkerDied(
            f"worker process {self.pid} {how} while it worked on this task; the pool continues. The task may have had "
            "effects: submit it again only if it may run twice",
            pid=self.pid,
            exitcode=self.exitcode,
        )


class Supervisor:
    """What the parent knows of its workers and tasks. It does not know the pool, which may go before its threads do.

    The thread that replaces workers calls ``start``, the one that sends tasks ``send``, and the one that reads results
    ``receive``. What they share are dicts whose operations are atomic.
    """

    def __init__(self, tasks: SimpleQueue, results: SimpleQueue) -> None:
        self._tasks = tasks
        self._results = results
        results._reader.give_up_after(_LOOK)
        self._sending = threading.Lock()  # tasks are sent in the order of their numbers
        self._starting = threading.Lock()  # each death is noted once; who calls _repopulate_pool() is a second thread
        self._number = _IDLE  # the last one given
        self._written = _IDLE  # the last one that was sent
        self._newest = _IDLE  # the last one that is known to have been taken
        self._sent: dict[int, bytes] = {}  # number of each task without a result: it, pickled
        self._keys: dict[int, tuple[int, int]] = {}  # its job and its place there, as the pool names it
        self._workers: dict[process.BaseProcess, KMutex[int]] = {}
        self._free: list[KMutex[int]] = []  # claims of the dead, for the next workers
        self._again: deque[int] = deque()  # numbers of tasks that are to be sent again
        self._doubt = _IDLE  # tasks up to this number may have been lost with a worker
        self._suspects: dict[int, float] = {}  # tasks that nobody seems to have: since when
        self._marked: set[int] = set()  # those of them for which a mark is under way in the channel of results
        self._next_look = 0.0
        self._starts = Starts()
        self._troubles: dict[int, str] = {}  # what the initializers of the last workers raised
        self._broken: PoolBroken | None = None
        self.wake: Callable[[], object] = int  # wakes the thread that replaces workers

    def start(self, ctx: Any, *args: Any, **kwargs: Any) -> process.BaseProcess | NoWorker:
        """Make the process of a new worker, with the arguments that multiprocessing.Pool gives; note who has died."""
        with self._starting:
            self._note_deaths()
            if self._starts.given_up(len(self._workers)):
                if not self._workers:
                    self._results._writer.send_whole(_HEAD.pack(_IDLE), ForkingPickler.dumps(_GIVEN_UP))
                return NoWorker(lambda: not self._starts.given_up(len(self._workers)))
            claim = self._free.pop() if self._free else KMutex(_IDLE)
        _, _, initializer, *rest = kwargs.pop("args")
        tasks = Tasks(self._tasks, claim)
        results = Results(self._results, tasks)
        if initializer is not None:
            initializer = Initializer(initializer, results.tell)
        worker: process.BaseProcess = ctx.Process(*args, args=(tasks, results, initializer, *rest), **kwargs)
        self._workers[worker] = claim
        return worker

    def _note_deaths(self) -> None:
        """Put a note into the channel of results for each worker that has ended. Called by one thread at a time."""
        dead = [worker for worker in self._workers if worker._popen is not None and worker.exitcode is not None]  # type: ignore[attr-defined]
        for worker, claim in self._workers.items():
            if claim.peek() != _IDLE:
                self._starts.started(worker)
        for worker in dead:
            claim = self._workers[worker]
            # In this order: until the note is under way, the task counts as claimed.
            death = _Death(worker, claim.peek())
            self._starts.ended(worker, death.exitcode, death.code_lost)
            self._results._writer.send_whole(_HEAD.pack(_IDLE), ForkingPickler.dumps(death))
            del self._workers[worker]
            claim.replace(_IDLE)
            self._free.append(claim)

    def send(self, task: Any) -> None:
        """Send a task to whichever worker takes it; None ends one worker."""
        with self._sending:
            self._send_again(wait=True)
            if task is None:
                self._tasks._writer.send_whole(_HEAD.pack(_IDLE), b"", wait=self._broken is None)
                return
            if (broken := self._broken) is not None:
                raise broken
            self._send(task[:2], bytes(ForkingPickler.dumps(task)), wait=True)
            if (broken := self._broken) is not None and self._forget(self._number) is not None:
                raise broken

    def _send(self, key: tuple[int, int], task: bytes, wait: bool) -> bool:
        """Send a pickled task. Returns False if there is no room for it now."""
        self._number = number = self._number + 1
        self._keys[number] = key
        self._sent[number] = task
        done = False
        try:
            done = self._tasks._writer.send_whole(_HEAD.pack(number), task, wait)
        finally:
            if not done:
                self._forget(number)
        self._written = number
        return done

    def _send_again(self, wait: bool) -> None:
        while self._again and self._broken is None:
            number = self._again[0]
            task, key = self._sent.get(number), self._forget(number)
            if task is not None and key is not None:
                done = False
                with contextlib.suppress(OSError):  # no descriptor or memory for a large one: later
                    done = self._send(key, task, wait)
                if not done:
                    self._sent[number], self._keys[number] = task, key
                    return
            self._again.popleft()

    def _forget(self, number: int) -> tuple[int, int] | None:
        self._sent.pop(number, None)
        return self._keys.pop(number, None)

    def receive(self) -> Any:
        """Return the next result as multiprocessing.Pool has it: (job, place, (succeeded, value)); None is the end.

        It takes one message, as whoever looked before whether there is one expects.
        """
        reader: End = self._results._reader
        if (broken := self._broken) is not None:
            with contextlib.suppress(KeyError):  # none is left
                failed = self._keys.pop(self._sent.popitem()[0])
                return (*failed, (False, broken))
        while (self._doubt or self._again) and self._broken is None:
            now = time.monotonic()
            if now >= self._next_look:
                self._next_look = now + _SETTLED / 2
                self._look_for_lost(now)
            if reader.poll(_SETTLED / 2):
                break
            self._look_for_dead()
        number, result = self._take_result(reader)
        if number is None:
            return None
        if number != _IDLE:
            self._newest = max(self._newest, number)
            # A result that is known already is of a task that was sent again although it had been taken.
            key = self._forget(number)
            return (*key, result[2]) if key is not None else _NOTHING
        if result == _MARK:
            self._again.extend(sorted({number for number in self._marked if number in self._sent} - self._claimed()))
            self._marked, self._next_look = set(), 0.0
            return _NOTHING
        if isinstance(result, Trouble):
            self._troubles = {**dict(list(self._troubles.items())[-_TROUBLES:]), result.pid: result.text}
            return _NOTHING
        if result == _GIVEN_UP:
            self._break()
            return _NOTHING
        key = self._forget(result.claimed)
        if key is not None:
            return (*key, (False, result.error()))
        if result.claimed != _IDLE and (result.exitcode != 0 or result.claimed == _UNKNOWN):
            self._doubt = self._number
        return _NOTHING

    def _break(self) -> None:
        """All tasks fail from now on: those that were sent, by receive(); the next ones, by send()."""
        self._broken = self._starts.error(self._troubles)
        try:
            while True:  # who waits for room goes on
                with contextlib.suppress(LostMessage):
                    if self._tasks._reader.take(False) is None:
                        return
        except (OSError, EOFError):
            return

    def _look_for_dead(self) -> None:
        """See to it that deaths are noted: a process that inherited a worker's descriptors keeps its sentinel quiet."""
        if any(map(has_ended, list(self._workers))):
            self.wake()

    def _take_result(self, reader: End) -> tuple[int | None, Any]:
        """Take a message from the channel of results. A result that cannot be received or unpickled is that error."""
        try:
            while (message := _take(reader)) is None:
                self._look_for_dead()
        except LostMessage as error:
            return _HEAD.unpack(error.head)[0], (None, None, (False, error))
        if len(message) < _HEAD.size:
            return None, None  # the end, which the pool puts
        (number,) = _HEAD.unpack_from(message)
        try:
            return number, ForkingPickler.loads(memoryview(message)[_HEAD.size :])
        except Exception as error:
            return number, (None, None, (False, error))

    def _look_for_lost(self, now: float) -> None:
        """Send again what a dead worker had taken without a claim.

        Tasks are taken in the order of their numbers: all up to one that was claimed or done have been taken, and all
        that were sent when the channel is empty. Such a task that nobody claims is suspect. If nobody has claimed it
        after _SETTLED either, no living worker is about to; then it is done, or it is lost. If it is done, its result
        lies in the channel of results before the mark that is put there now. So when the mark is read, it is lost.
        """
        if self._again and self._sending.acquire(False):  # else the thread that sends will see to it
            try:
                self._send_again(wait=False)
            finally:
                self._sending.release()
        if self._marked:
            return
        written = self._written
        empty = self._tasks._reader.size() == 0
        claimed = self._claimed()
        self._newest = max(self._newest, written if empty else _IDLE, *claimed)
        nobodys = {number for number in list(self._sent) if number <= self._newest} - claimed - set(self._again)
        self._suspects = {number: self._suspects.get(number, now) for number in nobodys}
        lost = {number for number, since in self._suspects.items() if now - since >= _SETTLED}
        if lost and self._results._writer.send_whole(_HEAD.pack(_IDLE), ForkingPickler.dumps(_MARK), wait=False):
            self._marked = lost
        if not nobodys and (self._newest >= self._doubt or not self._sent):
            self._doubt = _IDLE

    def _claimed(self) -> set[int]:
        """The numbers of the tasks that the workers have claimed last."""
        return {claim.peek() for claim in list(self._workers.values())}
