"""A server that only answers, with asyncio: the least that a call to a daemon written with it costs.

Imported only where it is served: once asyncio is imported, our locks ask whether an event loop runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["serve"]


class _Echo(asyncio.Protocol):
    def __init__(self, request: int, reply: int) -> None:
        self._request = request
        self._reply = bytes(reply)
        self._held = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._held += len(data)
        while self._held >= self._request:
            self._held -= self._request
            self._transport.write(self._reply)


def serve(path: str, request: int, reply: int, ready: Callable[[], None]) -> None:
    """Answer each message of ``request`` bytes with one of ``reply`` bytes, until killed.

    Args:
        path: of the Unix socket.
        request, reply: lengths in bytes.
        ready: called when it listens.
    """

    async def forever() -> None:
        server = await asyncio.get_running_loop().create_unix_server(lambda: _Echo(request, reply), path)
        ready()
        await server.serve_forever()

    asyncio.run(forever())
