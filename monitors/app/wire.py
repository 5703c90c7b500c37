"""HTTP as the monitor takes it from anybody who reaches its address, before any token: bounded in all it can cost."""

from __future__ import annotations

import asyncio
from typing import Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

#: The head of a request has to be there after so long, seconds.
HEAD_SECONDS: Final = 10.0
#: Connections at once, websockets among them. Linux gives a process 1,024 files unless told otherwise, and those
#: to the brokers have to be among them.
MOST_CONNECTIONS: Final = 600


class BoundedHttp(H11Protocol):
    """h11 takes at most 64 KiB as the head of a request, where uvicorn's default, httptools, takes all that comes."""

    _overdue: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin, if there is room for another one."""
        if len(self.connections) >= MOST_CONNECTIONS:
            self.transport = transport
            transport.close()
            return
        super().connection_made(transport)
        self._overdue = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def data_received(self, data: bytes) -> None:
        """Take what has come; the head of a request that has begun must end in time."""
        super().data_received(data)
        is_waiting = self in self.connections and self.conn.their_state is h11.IDLE
        if not is_waiting:
            self._rest()
        elif self._overdue is None:
            self._overdue = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side has gone."""
        self._rest()
        super().connection_lost(exc)

    def _rest(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None

    def _give_up(self) -> None:
        self._overdue = None
        self.transport.close()
