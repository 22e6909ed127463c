"""A client whose replies are lost on the way."""

from __future__ import annotations

from support import kill

from wdkmutex_shm.engines.local.client import Client, _LostError


class Lost(Client):
    """A client that loses the reply to its next ``lose`` requests; if it is ``killing``, the daemon dies over each."""

    lose = 0
    killing = False

    def _exchange(self, request: bytes, deadline: float) -> bytes:
        reply = super()._exchange(request, deadline)
        if self.lose and b"hello" not in request:
            self.lose -= 1
            if self.killing:
                kill(int(self.daemon["pid"]))
            raise _LostError(sent=True)
        return reply
