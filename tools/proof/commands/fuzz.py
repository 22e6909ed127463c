"""A coverage-guided fuzzer on what reads bytes of strangers: frames, requests, replies, and T in shared memory."""

from __future__ import annotations

import random
import time

import click

from wdkmutex_shm.core import types
from wdkmutex_shm.protocol import messages

from ..base.harness import Proof, tool
from ..intruders.coverage import Edges
from ..intruders.peer import hostile_frame
from ..intruders.targets import TARGETS, Target

#: Longest input. What is longer finds nothing new in decoders whose cases are heads and lengths.
_LONGEST = 4096
#: One input may take so long: generous, and far below what a loop that grows with a claimed length takes.
_SLOWEST = 5.0
_EDGES = [0, 1, 4, 31, 32, 64, 127, 128, 255]


class Fuzzer:
    """One target, its corpus, and what is known of the ways through it."""

    def __init__(self, proof: Proof, name: str, target: Target) -> None:
        self.proof = proof
        self.name = name
        self.target = target
        self.random = proof.random
        self.edges = Edges(messages, types)
        self.outcomes: set[str] = set()
        self.corpus: list[bytes] = []
        for seed in target.seeds:
            self.take(seed)
            self.corpus.append(seed)

    def take(self, data: bytes) -> None:
        """Run one input; keep it if it did something new."""
        begun = time.perf_counter()
        try:
            with self.edges.watch() as edges:
                outcome = self.target.run(data)
        except Exception as error:  # whatever it is, no bytes may lead to it
            data = self.shrunk(data, type(error))
            self.proof.broken(f"{self.name}: any bytes end in a value or in an error of ours", error=error, data=data)
            return
        took = time.perf_counter() - begun
        self.proof.expect(took < _SLOWEST, "any bytes are read in bounded time", target=self.name, took=took, data=data)
        self.proof.counts[f"{self.name}: inputs"] += 1
        new = outcome not in self.outcomes
        self.outcomes.add(outcome)
        if self.edges.take(edges) or new:
            self.corpus.append(data)

    def shrunk(self, data: bytes, kind: type[Exception]) -> bytes:
        """A shorter input that fails in the same way: whatever can be left out is left out."""
        size = len(data) // 2
        while size:
            at = 0
            while at < len(data):
                shorter = data[:at] + data[at + size :]
                try:
                    self.target.run(shorter)
                    at += size
                except Exception as error:
                    data, at = (shorter, at) if type(error) is kind else (data, at + size)
            size //= 2
        return data

    def step(self) -> None:
        """One new input, made from one or two that are known."""
        if self.random.random() < 0.05:
            data = hostile_frame(self.random)
            data = data if self.name == "stream" else data[4:]
        else:
            data = mutated(self.random, self.random.choice(self.corpus), self.random.choice(self.corpus))
        self.take(data[:_LONGEST])


def mutated(source: random.Random, data: bytes, other: bytes) -> bytes:
    """``data`` with some of the usual changes: bits, bytes, numbers, pieces left out, doubled, or of another input."""
    raw = bytearray(data)
    for _ in range(source.choice([1, 1, 2, 4, 8])):
        at = source.randrange(len(raw) + 1)
        length = source.choice([1, 1, 2, 4, 9, 30])
        kind = source.randrange(7)
        if kind == 0 and at < len(raw):
            raw[at] ^= 1 << source.randrange(8)
        elif kind == 1 and at < len(raw):
            raw[at] = source.choice(_EDGES) if source.random() < 0.5 else source.randrange(256)
        elif kind == 2:
            del raw[at : at + length]
        elif kind == 3:
            raw[at:at] = source.randbytes(length)
        elif kind == 4:
            raw[at:at] = raw[at : at + length] * source.choice([1, 2, 50])
        elif kind == 5 and other:
            start = source.randrange(len(other))
            raw[at : at + length] = other[start : start + length]
        elif kind == 6:
            raw[at : at + 4] = source.choice([0, 1, 64, 1 << 16, 1 << 20, (1 << 20) + 1, 1 << 31]).to_bytes(4, "big")
    return bytes(raw)


@tool(
    "fuzz",
    click.option("--target", type=click.Choice(sorted(TARGETS)), multiple=True, help="Only these."),
    seconds=60,
)
def command(proof: Proof, target: tuple[str, ...]) -> None:
    """Fuzz the decoders of frames, requests, replies and T, guided by the ways that inputs take through them."""
    fuzzers = [Fuzzer(proof, name, TARGETS[name]) for name in target or TARGETS]
    while not proof.over:
        for fuzzer in fuzzers:
            for _ in range(50):
                fuzzer.step()
        proof.progress("  ".join(f"{one.name} {len(one.corpus)}" for one in fuzzers))
    for fuzzer in fuzzers:
        proof.counts[f"{fuzzer.name}: ways kept"] = len(fuzzer.corpus)
        proof.counts[f"{fuzzer.name}: pairs of lines"] = len(fuzzer.edges.found)
        proof.counts[f"{fuzzer.name}: outcomes"] = len(fuzzer.outcomes)
