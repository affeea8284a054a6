"""Ends that no event tells: of backends behind stalled readers, of logs that go on, of answers that end by closing.

`backend` makes instance `a` a program given as text; it serves raw sockets, in threads, and answers GET with 200.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.house import House, house, is_alive

FRAME = """
import socket, sys, threading, time
def post(connection, number):
{post}
def serve(connection):
    number = 0
    while True:
        data = b""
        while b"\\r\\n\\r\\n" not in data:
            part = connection.recv(65536)
            if not part:
                return
            data += part
        if data.startswith(b"GET"):
            connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\n{{}}")
            continue
        number += 1
        try:
            post(connection, number)
        except OSError:
            return
listener = socket.create_server(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), backlog=100)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""
UNFRAMED = """
    connection.sendall(b"HTTP/1.0 200 OK\\r\\nContent-Type: text/event-stream\\r\\n\\r\\n")
    for n in range({events}):
        connection.sendall(b"data: %d\\n\\n" % n)
        time.sleep(0.02)
    connection.close()
"""
ENDLESS = """
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n")
    while True:
        connection.sendall(b"10000\\r\\n" + b"x" * 65536 + b"\\r\\n")
"""
TWICE = """
    answer = b"HTTP/1.1 200 OK\\r\\nContent-Length: 4\\r\\n\\r\\n"
    connection.sendall(answer + b"mine")
    time.sleep(0.005)
    connection.sendall(answer + b"EVIL")
"""
SLOWLY_NOTHING = """
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok") if number == 1 else time.sleep(0.6)
    print("asked", number, flush=True)
    if number == 2:
        connection.shutdown(socket.SHUT_RDWR)
"""

Backend = Callable[..., Awaitable[None]]


both = pytest.mark.parametrize("h", [True, False], ids=["front", "aiohttp"], indirect=True)


@pytest.fixture
async def h(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[House]:
    async with house(tmp_path, server={"fast_path": getattr(request, "param", True)}) as made:
        yield made


@pytest.fixture
def backend(h: House) -> Backend:
    async def make(post: str, **options: Any) -> None:
        program = h.folder / "backend.py"
        program.write_text(FRAME.format(post=post))
        fields = {
            "command_override": [sys.executable, "-S", "-E", str(program)],
            "restart_delay": "0ms",
            "stop_timeout": 1,
            **options,
        }
        await h.create("a", **fields)
        await h.ask("POST", "/api/v1/instances/a/start")
        await h.until("a", "ready")

    return make


def request(h: House, version: str = "HTTP/1.1") -> bytes:
    body = b'{"model":"a"}'
    return (
        h.head("POST", "/v1/x", "Content-Type: application/json", f"Content-Length: {len(body)}").replace(
            b"HTTP/1.1", version.encode(), 1
        )
        + body
    )


async def idle(h: House, name: str = "a") -> None:
    async with asyncio.timeout(5):
        while (await h.get(name))["in_flight"]:
            await asyncio.sleep(0.05)


@both
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
async def test_an_answer_that_ends_by_closing_is_cut_when_the_close_is_a_death(h: House, backend: Backend, version: str) -> None:
    await backend(UNFRAMED.format(events=1000))
    pid = (await h.get("a"))["pid"]
    async with h.connection() as (reader, writer):
        writer.write(request(h, version))
        received = await reader.readuntil(b"data: 3\n\n")
        os.kill(pid, signal.SIGKILL)
        was_reset = False
        try:
            async with asyncio.timeout(5):
                received += await reader.read()
        except ConnectionResetError:
            was_reset = True
    assert not received.endswith(b"0\r\n\r\n")
    assert was_reset or version == "HTTP/1.1"


@both
async def test_an_answer_that_ends_by_closing_is_whole_when_the_backend_lives_on(h: House, backend: Backend) -> None:
    await backend(UNFRAMED.format(events=5))
    async with h.session.post(h.url + "/v1/x", json={"model": "a"}) as answer:
        assert (await answer.read()).endswith(b"data: 4\n\n")


@both
async def test_a_reader_that_stalls_does_not_hold_an_instance_whose_backend_died(h: House, backend: Backend) -> None:
    await backend(ENDLESS)
    pid = (await h.get("a"))["pid"]
    with socket.create_connection(("127.0.0.1", int(h.url.rpartition(":")[2]))) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(request(h))
        await asyncio.sleep(0.3)  # until nothing flows any more
        os.kill(pid, signal.SIGKILL)
        await idle(h)


@both
async def test_bytes_that_nobody_asked_for_reach_nobody_else(h: House, backend: Backend) -> None:
    """The first time they may cross a request that is on its way; after that no connection is used twice."""
    await backend(TWICE)
    answers = []
    for _ in range(30):
        async with h.session.post(h.url + "/v1/x", json={"model": "a"}) as answer:
            answers.append(await answer.read())
        await asyncio.sleep(0.01)
    assert answers == [b"mine"] * 30


@both
async def test_a_request_that_was_worked_on_is_not_sent_again(h: House, backend: Backend) -> None:
    await backend(SLOWLY_NOTHING)
    assert (await h.ask("POST", "/v1/x", json={"model": "a"}))[0] == 200
    assert (await h.ask("POST", "/v1/x", json={"model": "a"}))[0] == 502
    _, log = await h.ask("GET", "/api/v1/instances/a/logs")
    assert [line for line in log.splitlines() if line.startswith("asked")] == ["asked 1", "asked 2"]


async def test_a_process_with_its_own_session_and_a_clean_environment_is_ended_too(h: House) -> None:
    note = h.folder / "pid"
    escape = f"setsid env -i /bin/sh -c 'echo $$ > {note}; exec sleep 120' & exec \"$@\""
    options = h.stub_options("a")
    words = ["/bin/sh", "-c", escape, "sh", *options["command_override"]]
    status, _ = await h.ask("POST", "/api/v1/instances/a", json={**options, "command_override": words})
    assert status == 201
    assert (await h.chat("a"))[0] == 200
    pid = int(note.read_text())
    assert is_alive(pid)
    await h.ask("POST", "/api/v1/instances/a/stop")
    assert not is_alive(pid)


async def test_a_log_that_cannot_be_read_does_not_hide_a_death(h: House) -> None:
    await h.create("a")
    assert (await h.chat("a"))[0] == 200
    first = await h.get("a")
    logs = h.folder / "data" / "logs"
    for file in logs.iterdir():
        file.unlink()
    logs.rmdir()
    logs.write_text("no directory")
    os.kill(first["pid"], signal.SIGKILL)
    failed = await h.until("a", "failed")
    assert "log" in failed["reason"]


async def test_following_a_log_ends_with_its_instance(h: House) -> None:
    await h.create("a")
    async with h.session.get(h.url + "/api/v1/instances/a/logs?follow=1") as answer:
        await h.ask("DELETE", "/api/v1/instances/a")
        await asyncio.wait_for(answer.read(), 5)


async def test_followers_do_not_hold_up_the_end_of_the_daemon(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        await h.create("a")
        answer = await h.session.get(h.url + "/api/v1/instances/a/logs?follow=1")
        begun = time.monotonic()
    assert time.monotonic() - begun < 4
    answer.close()
