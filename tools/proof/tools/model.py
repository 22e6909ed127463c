"""A slot's life, explored by Spin in every interleaving and with deaths at every step; the model is ``slot.pml``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import click

from ..harness import Proof, options, run

MODEL = Path(__file__).resolve().parent.parent / "slot.pml"

#: Faults that the model can be given, and what they reverse.
FAULTS = {
    "publish-first": "the commit word is stored before the bytes",
    "no-consistent": "a dead owner's mutex is not marked consistent",
    "no-generation": "a handle is used without a look at the generation",
    "no-quarantine": "a vacated slot is cleaned and let again while its lock is held",
    "no-pending": "a data segment is made before it is noted down",
    "keep-id": "a data segment is removed before its id leaves the buffer",
}


class World(NamedTuple):
    """How many of everything there are: each world is explored completely."""

    clients: int
    operations: int
    deaths: int
    tenants: int
    segments: int
    peeks: int

    @property
    def macros(self) -> list[str]:
        """As options of the C preprocessor that Spin runs the model through."""
        return [f"-D{field.upper()}={value}" for field, value in self._asdict().items()]

    def __str__(self) -> str:
        return ", ".join(f"{value} {field}" for field, value in self._asdict().items())


SMALL = [World(2, 2, 1, 1, 4, 0), World(2, 1, 1, 2, 3, 1)]
LARGE = [
    *SMALL,
    World(2, 1, 1, 2, 4, 1),
    World(2, 1, 2, 2, 4, 1),
    World(2, 2, 1, 2, 4, 0),
    World(2, 2, 1, 1, 4, 1),
    World(3, 1, 1, 1, 4, 0),
]

#: Enough for each fault to be found in one of them.
PLANTED = [World(2, 1, 1, 2, 3, 0), World(2, 2, 1, 1, 3, 0)]
#: Fewer states than the compiler's optimizations take time for.
QUICK = [*PLANTED, SMALL[0]]

_STATES = re.compile(r"^\s*([0-9.e+]+) states, stored", re.MULTILINE)
_ERROR = re.compile(r"^pan:\d+: (.*)$", re.MULTILINE)


def need(command: str, remedy: str) -> str:
    """The path of a command; says how to get it where it is missing."""
    found = shutil.which(command)
    if found is None:
        raise click.ClickException(f"{command} is not installed: {remedy}")
    return found


def explore(proof: Proof, world: World, faults: list[str], folder: str, megabytes: int) -> None:
    """Have Spin look at every state of one world."""
    spin, compiler = need("spin", "apt install spin"), need(os.environ.get("CC", "cc"), "apt install gcc libc6-dev")
    macros = [*world.macros, *(f"-D{fault.upper().replace('-', '_')}" for fault in faults)]
    made = subprocess.run([spin, "-a", *macros, str(MODEL)], cwd=folder, capture_output=True, text=True)
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
        proof.broken(f"in a world of {world}: {error[1]}", trail=_trail(spin, macros, folder))
    elif error is not None or "Search not completed" in found.stdout or states is None:
        raise click.ClickException(f"a world of {world} does not fit into {megabytes} MB: give --megabytes")


def _trail(spin: str, macros: list[str], folder: str) -> list[str]:
    """The last steps that led to an error."""
    trail = os.path.join(folder, f"{MODEL.name}.trail")
    told = subprocess.run([spin, *macros, "-k", trail, "-t", "-p", str(MODEL)], capture_output=True, text=True)
    steps = re.findall(r"proc +\d+ \((Client|Reader|Allocator):1\) \S*/(slot.pml:\d+) .*?\t(\[.*\])", told.stdout)
    return [" ".join(step) for step in steps[-40:]]


@click.command("model")
@click.option("--large", is_flag=True, help="Explore larger worlds too: minutes, and gigabytes of memory.")
@click.option("--plant", type=click.Choice(sorted(FAULTS)), multiple=True, help="Give the model a fault to find.")
@click.option("--megabytes", type=int, default=4096, show_default=True, help="Memory that Spin may take.")
@options()
def command(large: bool, plant: tuple[str, ...], megabytes: int, seed: int | None, json_file: str | None) -> None:
    """Explore a model of a slot's life exhaustively with Spin.

    Clients lock, commit, grow T, consume the mutex and die between any two steps; a reader peeks; the allocator frees
    the slot, lets the next tenant in, and dies. In every state: T is whole and what was last published, the lock is
    to be had, no tenant reads another's T, no data segment is left behind or gone too early.
    """
    with run("model", seed=seed, json_file=json_file) as proof:
        worlds = LARGE if large else PLANTED if plant else SMALL
        for done, world in enumerate(worlds):
            proof.progress(f"a world of {world}", done, len(worlds))
            if not proof.ok:
                break
            with tempfile.TemporaryDirectory(prefix="wdkm-model-") as folder:
                explore(proof, world, list(plant), folder, megabytes)
