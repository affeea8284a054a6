"""A door that opens before everything behind it is there: the front's requests are answered at once, others wait for aiohttp."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import sys
import warnings
from asyncio import selector_events
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from llamactl_py.accounting.ledger import Outcome
from llamactl_py.api import inference
from llamactl_py.proxy import front
from llamactl_py.proxy.desk import UNFURNISHED
from llamactl_py.proxy.door import BEGUN_A_TURN, MOST_KNOWN
from llamactl_py.proxy.upstream import Upstream
from tests.support.house import House, eventually, house
from tests.support.narrow import narrow, nothing_is_held, outcomes, puppets


async def unfurnish(h: House, door: object) -> object:
    """Take aiohttp away again."""
    await h.daemon.furnished
    taken, door.aiohttp = door.aiohttp, None  # type: ignore[attr-defined]
    return taken


@pytest.fixture
def doors(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every door that is made."""
    from llamactl_py import daemon

    made: list[object] = []

    class Noted(daemon.Door):
        def __init__(self, *parts: object) -> None:
            super().__init__(*parts)  # type: ignore[arg-type]
            made.append(self)

    monkeypatch.setattr(daemon, "Door", Noted)
    return made


async def test_who_needs_aiohttp_waits_for_it_and_others_do_not(tmp_path: Path, doors: list[object]) -> None:
    async with house(tmp_path) as h:
        await h.create("a")
        (door,) = doors
        aiohttp = await unfurnish(h, door)
        waiting = asyncio.ensure_future(h.raw(h.head("GET", "/api/v1/instances")))
        await eventually(lambda: any(front._work is UNFURNISHED for front in door.fronts))  # type: ignore[attr-defined]
        async with asyncio.timeout(5):
            assert (await h.raw(h.head("GET", "/v1/models"))).startswith(b"HTTP/1.1 200 ")
            assert (await h.chat("a"))[0] == 200
        assert not waiting.done()
        door.furnish(aiohttp)  # type: ignore[attr-defined]
        async with asyncio.timeout(5):
            answer = await waiting
        assert json.loads(answer.partition(b"\r\n\r\n")[2])[0]["name"] == "a"


async def test_a_client_that_leaves_while_it_waits_is_forgotten(tmp_path: Path, doors: list[object]) -> None:
    async with house(tmp_path) as h:
        (door,) = doors
        aiohttp = await unfurnish(h, door)
        async with h.connection() as (_, writer):
            writer.write(h.head("GET", "/health"))
            await eventually(lambda: any(front._work is UNFURNISHED for front in door.fronts))  # type: ignore[attr-defined]
        await eventually(lambda: not door.fronts)  # type: ignore[attr-defined]
        door.furnish(aiohttp)  # type: ignore[attr-defined]
        assert (await h.ask("GET", "/health"))[0] == 200


async def test_models_are_the_same_on_both_ways_in(tmp_path: Path) -> None:
    told = []
    for fast_path in (True, False):
        async with house(tmp_path, server={"fast_path": fast_path}) as h:
            if fast_path:
                await h.create("a", aliases=["b"])
            answer = await h.raw(h.head("GET", "/v1/models"))
            told.append(json.loads(answer.partition(b"\r\n\r\n")[2]))
            assert (b"Server: " in answer) is not fast_path  # that is how aiohttp's answers are told
    assert told[0] == told[1]
    assert [model["id"] for model in told[0]["data"]] == ["a", "b"]


async def test_what_starts_a_daemon_imports_no_framework_and_nothing_that_is_needed_later() -> None:
    """A third of the time until the first answer would be aiohttp's."""
    frameworks = ("aiohttp", "rich", "prometheus_client", "llamactl_py.app", "llamactl_py.api.route")
    later = ("yaml", "shutil", "random", "dataclasses", "ctypes", "zipfile", "llamactl_py.backends.shells")
    heavy = frameworks + later
    program = f"import sys, llamactl_py.daemon; print([m for m in {heavy} if m in sys.modules])"
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    out, _ = await child.communicate()
    assert (child.returncode, out) == (0, b"[]\n")


async def test_many_new_clients_are_begun_a_few_at_a_time(
    tmp_path: Path, doors: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tmp_path) as h:
        await h.create("a")
        (door,) = doors
        begun: Counter[int] = Counter()  # by the turn of the loop
        loop, meaning = asyncio.get_running_loop(), door.meaning

        async def count_turns() -> None:
            nonlocal turn
            while True:
                turn += 1
                await asyncio.sleep(0)

        def counted(text: bytes) -> object:
            begun[turn] += 1
            return meaning(text)

        turn = 0
        counting = asyncio.create_task(count_turns())
        monkeypatch.setattr(door, "meaning", counted)
        port = int(h.url.rpartition(":")[2])
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
        for client in clients:
            client.sendall(h.head("GET", "/v1/models"))
        for client in clients:
            client.setblocking(False)
            assert (await asyncio.wait_for(loop.sock_recv(client, 1 << 16), 10)).startswith(b"HTTP/1.1 200 ")
            client.close()
        counting.cancel()
        assert begun.total() == 100
        assert max(begun.values()) <= BEGUN_A_TURN


async def test_heads_that_come_byte_by_byte_wait_once_each_and_are_looked_at_once(
    tmp_path: Path, doors: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = 0

    class Counting:
        def search(self, data: bytes, at: int) -> None:
            nonlocal looked_at
            looked_at += len(data) - at

    monkeypatch.setattr(front, "NO_HEAD", Counting())
    async with house(tmp_path) as h:
        (door,) = doors
        port = int(h.url.rpartition(":")[2])
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(10 * BEGUN_A_TURN)]
        beginning = b"GET /v1/models HTTP/1.1\r\nX: " + b"x" * 1000
        pieces = [beginning, *[b"x"] * 20]
        longest = 0
        for piece in pieces:
            for client in clients:
                client.sendall(piece)
            for _ in range(4):
                await asyncio.sleep(0)
                longest = max(longest, len(door._waiting))
        await eventually(lambda: not door._waiting and len(door.fronts) == len(clients))
        sent = sum(map(len, pieces))
        await eventually(lambda: all(len(found._ahead) == sent for found in door.fronts))
        assert 0 < longest <= len(clients)
        assert looked_at < len(clients) * (sent + 4 * len(pieces))
        for client in clients:
            client.close()


async def test_what_a_head_means_is_known_for_a_second_and_of_so_many(tmp_path: Path, doors: list[Any]) -> None:
    async with house(tmp_path) as h:
        (door,) = doors

        async def ask(path: str, *headers: str) -> bytes:
            return await h.raw(h.head("GET", path, *headers, "Connection: close"))

        assert (await ask("/v1/models")).startswith(b"HTTP/1.1 200 ")
        assert len(door._known) == 1
        assert (await ask("/v1/models")).startswith(b"HTTP/1.1 200 ")
        assert len(door._known) == 1
        for number in range(MOST_KNOWN + 10):
            door.meaning(f"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-A: {number}\r\n".encode())
        assert len(door._known) <= MOST_KNOWN
        assert door.meaning(b"GET /v1/models HTTP/1.1\r\nHost: elsewhere.example\r\n") is None
        await eventually(lambda: not door._known)


class Gone:
    """A transport whose client is gone."""

    def get_extra_info(self, _name: str) -> None:
        return None

    def __getattr__(self, _name: str) -> Callable[..., bool]:
        return lambda *_: False


@pytest.mark.parametrize("case", ["connects", "starts", "large", "broken"])
async def test_who_leaves_in_the_very_turn_in_which_it_asked_leaves_nothing(
    tmp_path: Path, doors: list[object], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """Whatever the task would have done that was never begun."""
    async with puppets(tmp_path) as h:
        (door,) = doors
        if case == "starts":
            await h.ask("POST", "/api/v1/instances/a/stop")
        if case == "large":
            monkeypatch.setattr(inference, "LARGE_BODY", 1)
        front: Any = door()  # type: ignore[operator]
        front.connection_made(Gone())
        front.data_received(narrow(h, ["left"]))
        if case == "broken":
            await eventually(lambda: isinstance(front._work, inference.Passage))
            front._work.fail("was broken")
            front._work.tell()
        assert isinstance(front._work, inference.Errand)
        front.connection_lost(None)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            await eventually(lambda: nothing_is_held(h))
            gc.collect()
        assert None not in outcomes(h)


class TestWhatGoesWrongForOneClient:
    """It costs this client its connection, and nobody else. On asyncio's own loop, which tells of more than uvloop."""

    async def test_it_has_left_while_it_was_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fails(_transport: object) -> None:
            raise OSError(107, "Transport endpoint is not connected")

        async with house(tmp_path, server={"body_timeout": "100ms"}) as h:
            await h.create("a")
            async with asyncio.timeout(10), h.connection() as (reader, writer):
                monkeypatch.setattr(selector_events._SelectorSocketTransport, "write_eof", fails)  # type: ignore[attr-defined]
                writer.write(narrow(h).replace(b"Content-Length: ", b"Content-Length: 9"))
                assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
                await reader.read()
            assert (await h.chat("a"))[0] == 200
            assert "could not be looked after" not in caplog.text

    async def test_our_defect_while_it_is_looked_after(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with house(tmp_path) as h:
            await h.create("a")
            async with asyncio.timeout(10), h.connection() as (reader, _):
                await asyncio.sleep(0.05)
                with monkeypatch.context() as broken:
                    broken.setattr(front.Front, "look_around", a_defect)
                    assert await read_to_its_end(reader) == b""
            assert (await h.chat("a"))[0] == 200
            assert "a client's connection could not be looked after" in caplog.text

    async def test_our_defect_while_its_answer_is_looked_after(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with puppets(tmp_path) as h:
            async with asyncio.timeout(10), h.connection() as (reader, writer):
                writer.write(narrow(h, ["head", "Transfer-Encoding: chunked"], ["chunk", "hello"], ["left"]))
                await reader.readuntil(b"hello")
                with monkeypatch.context() as broken:
                    broken.setattr(Upstream, "look_around", a_defect)
                    assert not (await read_to_its_end(reader)).endswith(b"0\r\n\r\n")
            await eventually(lambda: nothing_is_held(h))
            assert outcomes(h)[-1] is Outcome.CUT
            assert (await h.raw(narrow(h, keep=False))).startswith(b"HTTP/1.1 200 ")
            assert "could not be looked after" in caplog.text


def a_defect(*_: object) -> None:
    raise RuntimeError("a defect of ours")


async def read_to_its_end(reader: asyncio.StreamReader) -> bytes:
    received = b""
    with suppress(ConnectionError):
        while part := await reader.read(1 << 16):
            received += part
    return received
