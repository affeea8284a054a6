"""WebSocket through an instance's proxy path: a real client, a real server as the backend's program, and us in between."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import struct
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import WSMsgType

from llamactl_py.accounting.ledger import Outcome
from tests.support.house import House, eventually, house
from tests.support.narrow import nothing_is_held, outcomes

PROXY = "/api/v1/instances/a/proxy"
MIB = 1 << 20

BACKEND = """
import asyncio, os, sys
from aiohttp import web

async def opened(request):
    socket = web.WebSocketResponse(max_msg_size=0)
    await socket.prepare(request)
    return socket

async def echo(request):
    socket = await opened(request)
    async for message in socket:
        await (socket.send_str if message.type == web.WSMsgType.TEXT else socket.send_bytes)(message.data)
    with open(sys.argv[1] + "/closed", "a") as file:
        file.write(f"{socket.close_code}\\n")
    return socket

async def goodbye(request):
    socket = await opened(request)
    await socket.send_str("hello")
    await socket.close(code=4001, message=b"enough")
    return socket

async def flood(request):
    socket = await opened(request)
    while True:
        await socket.send_bytes(b"x" * 65536)

async def deaf(request):
    socket = await opened(request)
    request.transport.pause_reading()
    await asyncio.sleep(60)

async def die(request):
    socket = await opened(request)
    await socket.send_str("hello")
    await socket.receive()
    os._exit(1)

async def asked(request):
    return web.json_response({"headers": [[name, value] for name, value in request.headers.items()]})

async def refuse(request):
    raise web.HTTPBadRequest(text="no such channel")

async def fine(request):
    return web.Response()

app = web.Application()
for name, answer in dict(echo=echo, goodbye=goodbye, flood=flood, deaf=deaf, die=die, refuse=refuse, health=fine).items():
    app.router.add_get("/" + name, answer)
app.router.add_route("*", "/{path:.*}", asked)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[sys.argv.index("--port") + 1]), print=None, access_log=None)
"""


@pytest.fixture
async def h(tmp_path: Path) -> AsyncIterator[House]:
    program = tmp_path / "backend.py"
    program.write_text(BACKEND)
    async with house(tmp_path) as made:
        command = [sys.executable, str(program), str(tmp_path)]
        await made.create("a", command_override=command, restart_delay="0ms", stop_timeout=1)
        await made.ask("POST", "/api/v1/instances/a/start")
        await made.until("a", "ready", timeout=20)
        yield made


def channel(h: House, path: str) -> aiohttp.client._WSRequestContextManager:
    return h.session.ws_connect(h.url + PROXY + path, max_msg_size=0)


def asking(h: House, target: str, *headers: str, method: str = "GET") -> bytes:
    """The head of a request for a WebSocket."""
    key = ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    return h.head(method, target, *(headers or ("Connection: Upgrade", "Upgrade: websocket")), *key)


def reset(ws: aiohttp.ClientWebSocketResponse) -> None:
    """End the connection as the kernel does for who dies with something unread."""
    transport = ws._writer.transport
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def in_use(h: House, count: int) -> None:
    async with asyncio.timeout(10):
        while (await h.get("a"))["in_flight"] != count:
            await asyncio.sleep(0.01)


async def test_messages_of_every_kind_and_size_come_back_as_they_went(h: House) -> None:
    async with channel(h, "/echo") as ws:
        for text in ("", "hello", "é 東京 😀", "x" * 126, "y" * 65_536):
            await ws.send_str(text)
            assert (await ws.receive()).data == text
        for data in (b"", b"\0\xff", os.urandom(MIB), os.urandom(5 * MIB)):
            await ws.send_bytes(data)
            assert (await ws.receive()).data == data
        for number in range(300):
            await ws.send_str(str(number))
        assert [(await ws.receive()).data for _ in range(300)] == [str(number) for number in range(300)]
        await ws.ping(b"still there?")


async def test_a_close_by_the_client_reaches_the_backend(h: House) -> None:
    async with channel(h, "/echo") as ws:
        await ws.close(code=4002)
    await eventually(lambda: (h.folder / "closed").exists() and (h.folder / "closed").read_text() == "4002\n")
    await eventually(lambda: nothing_is_held(h))
    assert outcomes(h)[-1] in (Outcome.ANSWERED, Outcome.LEFT)  # whoever of the two closes its connection first


async def test_a_close_by_the_backend_reaches_the_client(h: House) -> None:
    async with channel(h, "/goodbye") as ws:
        assert (await ws.receive()).data == "hello"
        last = await ws.receive()
        assert (last.type, last.data, last.extra) == (WSMsgType.CLOSE, 4001, "enough")
    await eventually(lambda: nothing_is_held(h))


async def test_the_death_of_the_backend_ends_it(h: House) -> None:
    async with channel(h, "/die") as ws:
        assert (await ws.receive()).data == "hello"
        await ws.send_str("now")
        last = await asyncio.wait_for(ws.receive(), 5)
        assert last.type in (WSMsgType.CLOSED, WSMsgType.ERROR)
    await eventually(lambda: nothing_is_held(h))


async def test_a_client_that_vanishes_ends_it(h: House) -> None:
    async with channel(h, "/echo") as ws:
        await ws.send_str("hello")
        await ws.receive()
        await in_use(h, 1)
        reset(ws)
        await eventually(lambda: nothing_is_held(h))
    assert outcomes(h)[-1] is Outcome.LEFT


async def test_a_refusal_is_an_ordinary_answer(h: House) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
        await channel(h, "/refuse")
    assert refusal.value.status == 400
    answer = await h.raw(asking(h, f"{PROXY}/refuse") + b"not for anybody")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.endswith(b"\r\n\r\nno such channel")
    assert outcomes(h)[-1] is Outcome.ANSWERED


@pytest.mark.parametrize(
    "headers",
    [
        ("Connection: Upgrade", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
        ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
        ("Connection: Upgrade", "Upgrade: tcp"),
        ("Connection: Upgrade", "Upgrade: websocket, h2c"),
        ("Connection: close", "Upgrade: websocket"),
        ("Connection: Upgrade", "Upgrade: TLS/1.0"),
    ],
)
async def test_no_other_upgrade_is_asked_for(h: House, headers: tuple[str, ...]) -> None:
    async with h.connection() as (reader, writer):
        writer.write(asking(h, f"{PROXY}/anything", *headers))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert head.startswith(b"HTTP/1.1 200 ")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        seen = {name.lower() for name, _ in json.loads(await reader.readexactly(length))["headers"]}
    assert not seen & {"upgrade", "connection", "http2-settings"} or "http2-settings" in seen
    assert "upgrade" not in seen


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_only_a_get_may_ask(h: House, method: str) -> None:
    answer = await h.raw(asking(h, f"{PROXY}/anything", "Connection: close, Upgrade", "Upgrade: websocket", method=method))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"Upgrade"' not in answer


async def test_an_upgrade_at_the_one_door_is_not_tunnelled(h: House) -> None:
    body = b'{"model":"a"}'
    headers = ("Connection: Upgrade", "Upgrade: websocket", "Content-Type: application/json", f"Content-Length: {len(body)}")
    async with h.connection() as (reader, writer):
        writer.write(asking(h, "/v1/chat/completions", *headers, method="POST") + body)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"upgrade" not in head.lower()
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        assert b'"Upgrade"' not in await reader.readexactly(length)


async def test_a_client_that_reads_nothing_is_sent_no_more(h: House) -> None:
    async with h.connection() as (reader, writer):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        gc.collect()
        before = resident()
        writer.write(asking(h, f"{PROXY}/flood"))
        await in_use(h, 1)
        await asyncio.sleep(1)
        assert resident() - before < 10 * MIB
        writer.transport.abort()
    await eventually(lambda: nothing_is_held(h))


async def test_a_backend_that_reads_nothing_is_sent_no_more_and_a_client_that_leaves_then_is_missed(h: House) -> None:
    async with channel(h, "/deaf") as ws:
        gc.collect()
        before = resident()
        try:
            async with asyncio.timeout(1):
                while True:
                    await ws.send_bytes(b"x" * 65_536)
        except TimeoutError:
            pass
        assert resident() - before < 10 * MIB
        assert not nothing_is_held(h)
        reset(ws)
        await eventually(lambda: nothing_is_held(h))


async def test_an_instance_does_not_idle_out_while_a_channel_is_open(h: House) -> None:
    fields = {**h.stub_options("a"), "command_override": [sys.executable, str(h.folder / "backend.py"), str(h.folder)]}
    await h.ask("POST", "/api/v1/instances/a/stop")
    await h.ask("PUT", "/api/v1/instances/a", json={**fields, "idle_timeout": "500ms", "environment": {}})
    await h.ask("POST", "/api/v1/instances/a/start")
    await h.until("a", "ready", timeout=20)
    async with channel(h, "/echo") as ws:
        await asyncio.sleep(1.2)
        await ws.send_str("still there?")
        assert (await ws.receive()).data == "still there?"
        assert (await h.get("a"))["state"] == "ready"
    await h.until("a", "stopped")


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
