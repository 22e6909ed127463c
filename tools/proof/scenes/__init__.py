"""What a victim is killed in: operations, each with what must hold for those who survive it."""

from __future__ import annotations

import abc

from ..base.harness import Proof
from ..base.stepping import Region, Stepper

__all__ = ["Scene"]


class Scene(abc.ABC):
    """One operation. A round of it is ``begin``, steps of the victim, ``look``, the victim's death, ``check``.

    Args:
        proof: who is told of broken promises.
        stepper: to wait for the victim with.

    Attributes:
        name: for people and the command line.
        region: shared memory that tells when the victim has changed something; from ``begin`` to ``check``.
    """

    name: str

    def __init__(self, proof: Proof, stepper: Stepper) -> None:
        self.proof = proof
        self.stepper = stepper
        self.region: Region | None = None

    @abc.abstractmethod
    def begin(self) -> int:
        """Set everything up and return the pid of a traced victim that is stopped right before the operation."""

    @abc.abstractmethod
    def look(self, pid: int) -> None:
        """Note what the victim, which is stopped and about to be killed, has reached."""

    @abc.abstractmethod
    def check(self, where: str) -> None:
        """The victim is dead: see to it that the survivors find what was promised.

        Args:
            where: it was killed, for the report.
        """

    def expect(self, holds: bool, promise: str, where: str, **facts: object) -> bool:
        """Report a broken promise unless it holds."""
        return self.proof.expect(holds, promise, operation=self.name, where=where, **facts)

    def close(self) -> None:
        """Give everything back."""
        self.forget_region()

    def forget_region(self) -> None:
        """Unmap what was looked at."""
        if self.region is not None:
            self.region.close()
            self.region = None
