"""The matrix of forks and signals: every way to make a child, in every state, and Ctrl-C at every bytecode."""

from __future__ import annotations

from multiprocessing import forkserver

import click

from wdkmutex_shm import FastMutex, Grt
from wdkmutex_shm.base.names import user_prefix
from wdkmutex_shm.memory import shm

from ..base.compiling import CannotCompileError
from ..base.harness import Proof, descriptors, options, run
from ..forking.interrupts import CASES, Interrupter, at_random_times
from ..forking.matrix import cells, try_cell
from ..forking.multi import SEVERAL

_MATRIX_SHARE = 0.5


@click.command("forks")
@options(seconds=60)
def command(seed: int | None, seconds: float, json_file: str | None) -> None:
    """Make children in every way, thread and state of a mutex; then let Ctrl-C come at every bytecode of operations."""
    with run("forks", seed=seed, seconds=seconds, json_file=json_file) as proof:
        FastMutex(0).to_owned()  # so that this process has its own pool already
        _matrix(proof)
        Grt.init(proof.instance)
        try:
            _interrupts(proof)
        finally:
            Grt.destroy()
        own = f"{user_prefix()}{proof.instance}."
        left = shm.listing(own)
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
    cases = [*CASES, *SEVERAL]
    proof.random.shuffle(cases)
    for case in cases:
        for number in interrupter.at_every_bytecode(case):
            proof.progress(f"{case.name}: bytecode {number}")
            if proof.enough or proof.over:
                return
    while not (proof.enough or proof.over):
        at_random_times(proof, proof.random.choice(cases))
        proof.progress("at any time")
