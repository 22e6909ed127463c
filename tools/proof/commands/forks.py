"""The matrix of forks and signals: every way to make a child, in every state, and Ctrl-C at every bytecode."""

from __future__ import annotations

import contextlib
from multiprocessing import forkserver

from wdkmutex_shm import FastMutex, Grt
from wdkmutex_shm.base.names import user_prefix
from wdkmutex_shm.memory import shm

from ..base.compiling import CannotCompileError
from ..base.harness import Proof, descriptors, tool
from ..forking.interrupter import Interrupter, at_random_times
from ..forking.matrix import cells, try_cell
from ..scenes.catalogue import INTERRUPTED, make

_MATRIX_SHARE = 0.5
_AT_A_TIME = 50  # interrupts of one operation at any time


@tool("forks", seconds=60)
def command(proof: Proof) -> None:
    """Make children in every way, thread and state of a mutex; then let Ctrl-C come at every bytecode of operations."""
    FastMutex(0).to_owned()  # so that this process has its own pool already
    _matrix(proof)
    Grt.init(proof.instance)
    try:
        _interrupts(proof)
    finally:
        Grt.destroy()
    left = shm.listing(f"{user_prefix()}{proof.instance}.")
    proof.expect(not left, "nothing is left of the instance", left=left)


def _matrix(proof: Proof) -> None:
    assert proof.seconds is not None
    forkserver.ensure_running()  # it stays for as long as this process
    opened = descriptors()
    found = cells(proof.random)
    for number, cell in enumerate(found):
        try_cell(proof, cell)
        proof.progress(f"{number} of {len(found)} cells")
        if proof.enough or proof.elapsed > proof.seconds * _MATRIX_SHARE:
            break
    proof.counts["cells there are"] = len(found)
    now = descriptors()
    proof.expect(now == opened, "no descriptor is left by making children", before=opened, after=now)


def _interrupts(proof: Proof) -> None:
    try:
        interrupter = Interrupter(proof)
    except CannotCompileError as error:
        proof.skip(str(error))
        return
    for name in proof.random.sample(INTERRUPTED, len(INTERRUPTED)):
        with contextlib.closing(make(proof, name)) as scene:
            for number in interrupter.at_every_bytecode(scene):
                proof.progress(f"{name}: bytecode {number}")
                if proof.over:
                    return
    while not proof.over:
        with contextlib.closing(make(proof, proof.random.choice(INTERRUPTED))) as scene:
            for _ in range(_AT_A_TIME):
                at_random_times(proof, scene)
        proof.progress("at any time")
