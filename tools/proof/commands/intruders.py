"""Who may enter: folders, sockets and segments that others made, umasks, changes of user, pids that are used again."""

from __future__ import annotations

from collections.abc import Callable

import click

from wdkmutex_shm import Grt
from wdkmutex_shm.pool import sweep

from ..base.harness import Proof, tool
from ..base.instances import ROOT, instance
from ..intruders import entries, identities

#: What is tried, and whether it takes root to play another user.
SCENES: dict[str, tuple[Callable[[Proof, str], None], bool]] = {
    "folder": (entries.folder, False),
    "no session": (entries.no_session, True),
    "socket": (entries.socket_squatted, False),
    "names": (entries.names_squatted, True),
    "umask": (entries.umasks, False),
    "change of user": (identities.changed_user, True),
    "forged start": (identities.forged_start, False),
    "pid reuse": (identities.pid_reuse, False),
}


@tool(
    "intruders",
    click.option("--scene", type=click.Choice(list(SCENES)), multiple=True, help="Only these."),
    seconds=20,
)
def command(proof: Proof, scene: tuple[str, ...]) -> None:
    """Try to get in: forged folders, sockets and segments, another user, umasks, changed users, reused pids."""
    with instance(proof.instance + "-0"):
        Grt.register_fast_mutex("n", 0)  # all is imported that a child of another user could not read
    first = True
    while first or not proof.over:
        for number, what in enumerate(scene or SCENES):
            play, root = SCENES[what]
            proof.progress(what)
            if root and not ROOT:
                proof.skip(f"{what}: only root can act as another user")
                continue
            play(proof, f"{proof.instance}-{number}")
            proof.counts["scenes"] += 1
        first = False
        if not proof.ok:
            break
    sweep.dead_private_pools()
