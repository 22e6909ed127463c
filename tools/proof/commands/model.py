"""A slot's life, and sleeping on its lock, explored by Spin in every interleaving and with deaths at every step.

The models are ``slot.pml`` and ``park.pml``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import click

from ..base.harness import Proof, tool

_FOLDER = Path(__file__).resolve().parent.parent
MODEL, PARKING = _FOLDER / "slot.pml", _FOLDER / "park.pml"

#: Faults that the models can be given, and what they reverse.
FAULTS = {
    "publish-first": "the commit word is stored before the bytes",
    "no-consistent": "a dead owner's mutex is not marked consistent",
    "no-generation": "a handle is used without a look at the generation",
    "no-quarantine": "a vacated slot is cleaned and let again while its lock is held",
    "no-pending": "a data segment is made before it is noted down",
    "keep-id": "a data segment is removed before its id leaves the buffer",
    "no-bit": "who slept and has the lock does not say that others may sleep",
    "no-repair": "a waiter that was woken without success leaves behind a lock word that does not tell of the others",
    "no-clear": "the end of a tenancy wakes those who sleep, and not those who are about to",
    "no-look": "a sleeper never looks for itself, whoever is killed",
}


class World(NamedTuple):
    """How many of everything there are: each world is explored completely."""

    clients: int
    operations: int
    deaths: int
    tenants: int
    segments: int
    peeks: int


class Sleepers(NamedTuple):
    """The same for the model of sleeping: how many lock, how often, die, give up; whether the tenancy ends."""

    lockers: int
    operations: int
    deaths: int
    leaves: int
    ends: int


def macros_of(world: World | Sleepers) -> list[str]:
    """The sizes of a world as options of the C preprocessor that Spin runs the model through."""
    return [f"-D{field.upper()}={value}" for field, value in world._asdict().items()]


def describe(world: World | Sleepers) -> str:
    """The sizes of a world in words."""
    return ", ".join(f"{value} {field}" for field, value in world._asdict().items())


#: Without deaths, so that nobody ever looks for itself; with one, where that is needed.
SLEEPERS: list[World | Sleepers] = [Sleepers(3, 1, 0, 1, 0), Sleepers(3, 1, 1, 0, 0), Sleepers(2, 1, 1, 1, 1)]
SMALL: list[World | Sleepers] = [World(2, 2, 1, 1, 4, 0), World(2, 1, 1, 2, 3, 1), *SLEEPERS]
LARGE = [
    *SMALL,
    Sleepers(3, 1, 0, 1, 1),
    Sleepers(3, 1, 1, 1, 0),
    Sleepers(3, 1, 1, 0, 1),
    Sleepers(3, 2, 0, 1, 0),
    Sleepers(2, 2, 2, 1, 1),
    World(2, 1, 1, 2, 4, 1),
    World(2, 1, 2, 2, 4, 1),
    World(2, 2, 1, 2, 4, 0),
    World(2, 2, 1, 1, 4, 1),
    World(3, 1, 1, 1, 4, 0),
]

#: Enough for each fault to be found in one of them.
FAULTY: list[World | Sleepers] = [World(2, 1, 1, 2, 3, 0), World(2, 2, 1, 1, 3, 0)]
#: For the faults of the second model, where each of them is found.
FAULTY_SLEEPERS = {
    "no-bit": Sleepers(3, 1, 0, 0, 0),
    "no-repair": Sleepers(3, 2, 0, 1, 0),
    "no-clear": Sleepers(3, 1, 0, 0, 1),
    "no-look": Sleepers(3, 1, 1, 0, 0),
}
#: Fewer states than the compiler's optimizations take time for.
QUICK = [*FAULTY, SMALL[0], *SLEEPERS, *FAULTY_SLEEPERS.values()]

_STATES = re.compile(r"^\s*([0-9.e+]+) states, stored", re.MULTILINE)
_ERROR = re.compile(r"^pan:\d+: (.*)$", re.MULTILINE)


def need(command: str, remedy: str) -> str:
    """The path of a command; says how to get it where it is missing."""
    found = shutil.which(command)
    if found is None:
        raise click.ClickException(f"{command} is not installed: {remedy}")
    return found


def explore(proof: Proof, world: World | Sleepers, faults: list[str], folder: str, megabytes: int) -> None:
    """Have Spin look at every state of one world."""
    spin, compiler = need("spin", "apt install spin"), need(os.environ.get("CC", "cc"), "apt install gcc libc6-dev")
    model = MODEL if isinstance(world, World) else PARKING
    macros = [*macros_of(world), *(f"-D{fault.upper().replace('-', '_')}" for fault in faults)]
    made = subprocess.run([spin, "-a", *macros, str(model)], cwd=folder, capture_output=True, text=True)
    if made.returncode != 0 or "Error" in made.stdout:
        raise click.ClickException(f"spin cannot read the model: {made.stdout}{made.stderr}")
    flags = ["-O0" if world in QUICK else "-O1", "-w", "-DSAFETY", "-DCOLLAPSE", f"-DMEMLIM={megabytes}"]
    subprocess.run([compiler, *flags, "-o", "pan", "pan.c"], cwd=folder, check=True)
    found = subprocess.run(["./pan", "-m1000000", "-n"], cwd=folder, capture_output=True, text=True)
    states = _STATES.search(found.stdout)
    proof.counts["states"] += int(float(states[1])) if states else 0
    proof.counts["worlds"] += 1
    error = _ERROR.search(found.stdout)
    if error is not None and "out of memory" not in error[1]:
        proof.broken(f"in a world of {describe(world)}: {error[1]}", trail=_trail(spin, model, macros, folder))
    elif error is not None or "Search not completed" in found.stdout or states is None:
        raise click.ClickException(f"a world of {describe(world)} does not fit into {megabytes} MB: give --megabytes")


def _trail(spin: str, model: Path, macros: list[str], folder: str) -> list[str]:
    """The last steps that led to an error."""
    trail = os.path.join(folder, f"{model.name}.trail")
    told = subprocess.run([spin, *macros, "-k", trail, "-t", "-p", str(model)], capture_output=True, text=True)
    steps = re.findall(r"proc +\d+ \((\w+):1\) \S*/(\w+.pml:\d+) .*?\t(\[.*\])", told.stdout)
    return [" ".join(step) for step in steps[-40:]]


@tool(
    "model",
    click.option("--large", is_flag=True, help="Explore larger worlds too: minutes, and gigabytes of memory."),
    click.option("--fault", "faults", type=click.Choice(sorted(FAULTS)), multiple=True, help="Inject a fault to find."),
    click.option("--megabytes", type=int, default=4096, show_default=True, help="Memory that Spin may take."),
)
def command(proof: Proof, large: bool, faults: tuple[str, ...], megabytes: int) -> None:
    """Explore models of a slot's life, and of sleeping on its lock, exhaustively with Spin.

    Clients lock, commit, grow T, consume the mutex and die between any two steps; a reader peeks; the allocator frees
    the slot, lets the next tenant in, and dies. In every state: T is whole and what was last published, the lock can
    be acquired, no tenant reads another's T, no data segment is left behind or gone too early. A second model is about
    sleeping on the lock: whoever dies, gives up or ends the tenancy at whatever step, nobody sleeps forever.
    """
    worlds = LARGE if large else SMALL
    if faults:
        worlds = [world for fault, world in FAULTY_SLEEPERS.items() if fault in faults] or FAULTY
    for done, world in enumerate(worlds):
        proof.progress(f"a world of {describe(world)}", done, len(worlds))
        if not proof.ok:
            break
        with tempfile.TemporaryDirectory(prefix="wdkm-model-") as folder:
            explore(proof, world, list(faults), folder, megabytes)
