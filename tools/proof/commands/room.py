"""No room: a full /dev/shm, and no descriptors, locked memory or address space."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import click

from wdkmutex_shm.pool import sweep

from ..base.children import in_child
from ..base.harness import Proof, tool
from ..limits import full_shm, resources

_ALL = [*resources.SCENES, *full_shm.SCENES]


def _limit(proof: Proof, scene: str) -> None:
    """Play a scene of :mod:`proof.limits.resources` in a new process."""
    environment = {**os.environ, "WDKMUTEX_MLOCK": "1"} if scene == "locked_memory" else None
    words = [sys.executable, "-m", resources.__name__, scene, f"{proof.instance}-l"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)
    try:
        outcome = json.loads(done.stdout)
    except ValueError:
        outcome = {"value": None, "told": (done.stderr or done.stdout)[-500:]}
    if isinstance(outcome["value"], str):
        proof.skip(outcome["value"])
        return
    proof.expect(outcome["told"] is None, f"no room: {scene.replace('_', ' ')}", told=outcome["told"])
    proof.counts[scene] += outcome["value"] or 0


def _room(proof: Proof, scene: str) -> None:
    """Play a scene of :mod:`proof.limits.full_shm`."""
    seed = proof.random.getrandbits(32)
    outcome = full_shm.in_small_room(full_shm.SCENES[scene], seed, f"{proof.instance}-r", 60.0)
    proof.expect(outcome.well, f"no room in /dev/shm: {scene}", told=outcome.told(), seed=seed)
    proof.counts[scene] += outcome.value or 0


@tool(
    "room",
    click.option("--scene", type=click.Choice(_ALL), multiple=True, help="Only these."),
    seconds=60,
)
def command(proof: Proof, scene: tuple[str, ...]) -> None:
    """Take the room away: /dev/shm of a megabyte, EMFILE, ENFILE, RLIMIT_MEMLOCK, RLIMIT_AS; then give it back."""
    names = scene or _ALL
    scenes = [(_limit, one) for one in names if one in resources.SCENES]
    entered = in_child(full_shm.enter)
    if entered.well:
        scenes += [(_room, one) for one in names if one in full_shm.SCENES]
    else:
        proof.skip(f"a full /dev/shm: a private mount namespace is not permitted here ({entered.error})")
    order = proof.random.sample(scenes, len(scenes))
    while order or (scenes and not proof.over):
        play, one = order.pop() if order else proof.random.choice(scenes)
        proof.progress(one.replace("_", " "))
        play(proof, one)
        proof.counts["scenes"] += 1
    sweep.dead_private_pools()
