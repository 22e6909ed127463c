"""All scenes by name: which are killed at every instruction, and which are interrupted at every bytecode."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from wdkmutex_shm import FastMutex, KMutex

from ..base.harness import Proof
from .daemon import CHANGES, DaemonScene
from .mptypes import LockScene, QueueScene, SemaphoreScene, SimpleQueueScene
from .mutexes import CASES, MutexScene
from .others import MakingScene, RegisteringScene, SectionScene
from .pools import CreationScene, SweepScene
from .scene import Scene
from .waiting import WaitingScene

_Maker = Callable[[Proof], Scene]

_OF_ONE_PROCESS: dict[str, _Maker] = {
    **{case.name: partial(MutexScene, case=case) for case in CASES},
    SectionScene.name: SectionScene,
}
_SCENES: dict[str, _Maker] = {
    **_OF_ONE_PROCESS,
    "commit-waited-for": partial(WaitingScene, name="commit-waited-for", kind=FastMutex, held=False),
    "k-commit-waited-for": partial(WaitingScene, name="k-commit-waited-for", kind=KMutex, held=False),
    "release-waited-for": partial(WaitingScene, name="release-waited-for", kind=FastMutex, held=True),
    "k-release-waited-for": partial(WaitingScene, name="k-release-waited-for", kind=KMutex, held=True),
    **{scene.name: scene for scene in (LockScene, SemaphoreScene, QueueScene, SimpleQueueScene)},
    **{scene.name: scene for scene in (CreationScene, SweepScene)},
    **{change.name: partial(DaemonScene, change=change) for change in CHANGES},
}
_INTERRUPTED: dict[str, _Maker] = {
    # Ctrl-C is asyncio's own affair: it would leave a loop half made or half closed.
    **{name: maker for name, maker in _OF_ONE_PROCESS.items() if "task" not in name},
    MakingScene.name: MakingScene,
    "register a small T": partial(RegisteringScene, name="register a small T", value=1),
    "register a large T": partial(RegisteringScene, name="register a large T", value=b"n" * 300),
}

KILLED = list(_SCENES)
"""Names of those that are killed at every instruction."""
INTERRUPTED = list(_INTERRUPTED)
"""Names of those that are interrupted at every bytecode."""


def make(proof: Proof, name: str) -> Scene:
    """A scene of that name."""
    return {**_INTERRUPTED, **_SCENES}[name](proof)
