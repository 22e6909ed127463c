"""A pool whose users are all dead is taken over from another pid namespace.

``/dev/shm`` may outlive its processes' pid namespace: a container of a pod is killed, and the next one finds the pool.
The pids in it mean nothing there, so a lock's holder could not be proved dead, nor alive. But everyone who uses a pool
has its segments locked (:mod:`wdkmutex_shm.memory.in_use`). Who gets all of them exclusively knows that whatever the
pool tells of is dead: locks are left as the kernel leaves those of the dead, what several mutexes were publishing
together is settled, and the segments become this namespace's, the first of them last. Names and values stay. Each step
can be done twice; so when this is killed half-way, the next one does it again.
"""

from __future__ import annotations

import time

from ..base import identity
from ..base._os import Descriptor
from ..base.names import pool_segment
from ..core import _core
from ..core._core import Segment
from ..errors import LayoutMismatch, OtherPidNamespace, SegmentRefused
from ..memory import in_use, journal_files, shm

__all__ = ["elsewhere", "take_over"]

_PATIENCE = 1.0
_PAUSE = 0.01


def elsewhere(prefix: str) -> OtherPidNamespace | None:
    """Return the error for a pool that processes of another pid namespace use, None for one that is ours."""
    name = pool_segment(prefix, 0)
    try:
        Segment.attach(name, prefix)
    except OtherPidNamespace as error:
        instance = prefix.rpartition(".")[2]
        return OtherPidNamespace(
            f"instance {instance!r} is in use by processes of another container: its pool has {error.field} "
            f"{error.found!r}, ours is {error.expected!r}, and a mutex works among the processes of one pid namespace "
            "only. Let the containers share one (docs/how-to/containers.md), end the other one, or give this one an "
            "instance of its own (WDKMUTEX_INSTANCE)",
            name=name,
            field=error.field,
            found=error.found,
            expected=error.expected,
        )
    except (FileNotFoundError, LayoutMismatch, SegmentRefused):
        pass
    return None


def take_over(prefix: str) -> bool:
    """Take the pool at ``prefix`` over, if it is of another pid namespace or boot. For who has the claim on it.

    Returns:
        Whether there was anything to take over.

    Raises:
        OtherPidNamespace: somebody alive uses it.
        PagedPoolAllocFailed: no descriptor, or no memory to map it.
    """
    names = [name for name in shm.listing(prefix + ".p") if name[len(prefix) + 2 :].isdigit()]
    if not any(_is_of_others(name, prefix) for name in names):
        return False
    segments = []
    deadline = time.monotonic() + _PATIENCE
    for name in names:
        try:
            fd = _alone_with(name, deadline)
            if fd is None:
                raise elsewhere(prefix) or _in_use(name)
            segments.append(Segment.of_the_dead(name, prefix, fd))
        except OtherPidNamespace:
            raise
        except (FileNotFoundError, LayoutMismatch, SegmentRefused):
            continue  # unfinished, or no pool's: whoever opens the pool deals with that
    user = journal_files.user_of(prefix)
    for segment in segments:
        for index, note in _core.leave_to_the_next(segment):
            _core.settle_slot_note(segment, index, journal_files.decided(note, user, segment.namespace))
    for segment in sorted(segments, key=lambda segment: -segment.number):
        _make_ours(segment)
    return True


def _make_ours(segment: Segment) -> None:
    segment.take_over()


def _is_of_others(name: str, prefix: str) -> bool:
    try:
        Segment.attach(name, prefix)
    except OtherPidNamespace:
        return True
    except (FileNotFoundError, LayoutMismatch, SegmentRefused):
        pass
    return False


def _alone_with(name: str, deadline: float) -> Descriptor | None:
    """Open a segment that nobody uses. None if somebody does, also after a moment: some only look at it."""
    fd = shm.open_segment(name)
    try:
        while not in_use.alone(fd):
            if time.monotonic() >= deadline:
                fd.close()
                return None
            time.sleep(_PAUSE)
    except BaseException:
        fd.close()
        raise
    return fd


def _in_use(name: str) -> OtherPidNamespace:
    return OtherPidNamespace(
        f"shared memory segment {name} is in use by a process of another container; end that process first",
        name=name,
        field="pid namespace",
        expected=identity.pid_namespace(),
    )
