"""What a connection may cost before anybody has shown a token."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from monitors.app import wire
from monitors.app.wire import BoundedHttp

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

INSIDE = PlainTextResponse("inside")

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Streams]]


def serve(client: Callable[[Connect], Awaitable[None]], app: ASGIApp = INSIDE) -> None:
    """Let a client talk to a server that answers "inside"."""

    async def go() -> None:
        config = uvicorn.Config(
            app, interface="asgi3", port=0, http=BoundedHttp, log_config=None, lifespan="off"
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        opened: list[asyncio.StreamWriter] = []

        async def connect() -> Streams:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            opened.append(writer)
            return reader, writer

        try:
            await asyncio.wait_for(client(connect), 20)
        finally:
            for writer in opened:
                writer.close()
            await asyncio.gather(*(writer.wait_closed() for writer in opened), return_exceptions=True)
            server.should_exit = True
            await serving

    asyncio.run(go())


async def answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    return head.partition(b"\r\n")[0] + b" " + await reader.readexactly(6)


def test_a_request_is_answered_and_the_next_one_on_the_same_connection() -> None:
    async def client(connect: Connect) -> None:
        reader, writer = await connect()
        for _ in range(2):
            writer.write(REQUEST)
            assert await answer(reader) == b"HTTP/1.1 200 OK inside"

    serve(client)


@pytest.mark.parametrize("before", [b"", b"GET / HT", REQUEST + b"GET / HT"])
def test_a_head_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch, before: bytes) -> None:
    monkeypatch.setattr(wire, "HEAD_SECONDS", 0.2)

    async def client(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(before)
        await reader.read()  # until the other side has closed

    serve(client)


def test_an_answer_that_takes_its_time_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "HEAD_SECONDS", 1.0)  # far longer than the head itself may take

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(1.5)
        await INSIDE(scope, receive, send)

    async def client(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(REQUEST)
        assert await answer(reader) == b"HTTP/1.1 200 OK inside"

    serve(client, slow)


def test_a_head_without_end_is_refused() -> None:
    async def client(connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 200_000)
        assert (await reader.read(12)) == b"HTTP/1.1 400"

    serve(client)


def test_more_connections_than_there_is_room_for_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MOST_CONNECTIONS", 3)

    async def client(connect: Connect) -> None:
        idle = [await connect() for _ in range(3)]
        await asyncio.sleep(0.1)
        reader, writer = await connect()
        assert await reader.read() == b""
        for _, open_one in idle:
            open_one.close()
        await asyncio.sleep(0.1)
        reader, writer = await connect()
        writer.write(REQUEST)
        assert await answer(reader) == b"HTTP/1.1 200 OK inside"

    serve(client)
