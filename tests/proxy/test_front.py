"""What a client may do at the door, and for how long. Real sockets on both ends, and the event loop of the daemon."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from llamactl_py.accounting.ledger import Outcome
from llamactl_py.proxy import front
from tests.support.house import House, eventually
from tests.support.narrow import narrow, nothing_is_held, outcomes, posted, puppets

MIB = 1 << 20


@pytest.fixture
async def h(tmp_path: Path) -> AsyncIterator[House]:
    async with puppets(tmp_path) as made:
        yield made


async def answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """(head, body) of the next counted answer."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return head, await reader.readexactly(int(length[1]) if length else 0)


async def all_of(reader: asyncio.StreamReader) -> bytes:
    received = b""
    try:
        while part := await asyncio.wait_for(reader.read(1 << 16), 10):
            received += part
    except ConnectionError:
        pass
    return received


def fronts() -> int:
    """Connections that the front has not handed over."""
    return sum(isinstance(found, front.Front) and found.transport is not None for found in gc.get_objects())


# ---- which way


async def test_a_narrow_request_is_answered_by_the_front_and_others_by_aiohttp(h: House) -> None:
    async with h.connection() as (reader, writer):
        writer.write(narrow(h))
        assert (await answer(reader))[0].startswith(b"HTTP/1.1 200 ")
        assert fronts() == 1
        writer.write(narrow(h, head=("Origin: " + h.url,)))
        assert (await answer(reader))[0].startswith(b"HTTP/1.1 200 ")
        assert fronts() == 0
        writer.write(narrow(h))
        assert (await answer(reader))[0].startswith(b"HTTP/1.1 200 ")


async def test_the_front_can_be_turned_off(tmp_path: Path) -> None:
    async with puppets(tmp_path, server={"fast_path": False}) as h, h.connection() as (reader, writer):
        for _ in range(2):
            writer.write(narrow(h))
            assert (await answer(reader))[0].startswith(b"HTTP/1.1 200 ")
            assert fronts() == 0


async def test_both_ways_answer_alike_and_the_ledger_tells_no_difference(tmp_path: Path) -> None:
    seen = []
    for fast in (True, False):
        folder = tmp_path / str(fast)
        folder.mkdir()
        async with puppets(folder, server={"fast_path": fast}) as h, h.connection() as (reader, writer):
            key = h.daemon.management_key
            for data in (
                narrow(h, ["head", "Content-Length: 2", "X-Y: z", "Connection: keep-alive"], ["say", "{}"]),
                narrow(h, ["head", "HTTP/1.1 404 Not There", "Content-Length: 0"]),
                narrow(h, ["head", "HTTP/1.1 204 No Content"]),
                narrow(h, ["head", "Content-Length: 5"], ["say", "hello"], model="nobody"),
                narrow(h, model="").replace(b'"model": ""', b'"model": 17'),
                narrow(h).replace(key.encode(), b"llamactl-" + b"0" * (len(key) - 9)),
                narrow(h).replace(b"Host: 127.0.0.1", b"Host: evil.test"),
                narrow(h, head=("Origin: http://evil.test",)),
                posted(h, b"[]"),
                posted(h, b""),
            ):
                writer.write(data)
                head, body = await answer(reader)
                lines = sorted(line for line in head.lower().split(b"\r\n") if not line.startswith((b"date:", b"server:")))
                seen.append((lines, body.replace(h.url.encode(), b"URL")))
            await eventually(lambda: nothing_is_held(h))
            seen.append((outcomes(h), [entry.status for entry in h.daemon.services.ledger.entries()]))
    half = len(seen) // 2
    for one, other in zip(seen[:half], seen[half:], strict=True):
        content_types = (b"content-type: application/json; charset=utf-8", b"content-type: application/json")
        assert str(one).replace(str(content_types[0]), str(content_types[1])) == str(other).replace(
            str(content_types[0]), str(content_types[1])
        )


# ---- limits of time


@pytest.mark.parametrize(
    "beginning", [b"POST /v1/x HTTP/1.1\r\nHost: x\r\n", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"\r\n\r\nPO"]
)
async def test_a_head_that_does_not_come_is_not_waited_for(tmp_path: Path, fast_path: bool, beginning: bytes) -> None:
    async with (
        puppets(tmp_path, server={"header_timeout": "1s", "fast_path": fast_path}) as h,
        h.connection() as (reader, writer),
    ):
        began = time.monotonic()
        while not reader.at_eof() and time.monotonic() - began < 8:
            writer.write(beginning[:1])
            beginning = beginning[1:]
            try:
                await asyncio.wait_for(reader.read(1000), 0.2)
            except TimeoutError:
                continue
            except ConnectionError:
                break
        assert 0.9 < time.monotonic() - began < 6


async def test_a_body_that_comes_too_slowly_is_told_so_while_it_still_comes(tmp_path: Path) -> None:
    async with puppets(tmp_path, server={"body_timeout": "500ms"}) as h, h.connection() as (reader, writer):
        writer.write(posted(h, b"x" * 100_000)[:-99_000])
        received = b""
        while b"server.body_timeout" not in received:
            writer.write(b" ")
            try:
                received += await asyncio.wait_for(reader.read(1000), 0.05)
            except TimeoutError:
                continue
            assert not reader.at_eof() or b"server.body_timeout" in received
        assert received.startswith(b"HTTP/1.1 400 ")
        assert b"Connection: close" in received
        assert fronts() == 1
        await eventually(lambda: fronts() == 0)


async def test_an_idle_connection_is_closed(tmp_path: Path) -> None:
    async with puppets(tmp_path, server={"keepalive_timeout": "1s"}) as h:
        async with h.connection() as (unused, _), h.connection() as (used, writer):
            writer.write(narrow(h))
            await answer(used)
            began = time.monotonic()
            assert [await all_of(unused), await all_of(used)] == [b"", b""]
            assert time.monotonic() - began > 0.5
        await eventually(lambda: fronts() == 0)


# ---- limits of size


async def test_a_head_without_an_end_is_431(h: House, fast_path: bool) -> None:
    answered = await h.raw(b"POST /v1/x HTTP/1.1\r\n" + b"X-Y: z\r\n" * 12_000)
    assert answered.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("size", [(1 << 14) - 1, 1 << 14, (1 << 14) + 1, 3 << 14])
async def test_a_long_head_is_read_by_one_or_the_other(h: House, size: int) -> None:
    head, _, body = narrow(h, ["head", "Content-Length: 2"], ["say", "ok"], keep=False).partition(b"\r\n\r\n")
    padding = b"".join(b"\r\nX-%d: %b" % (n, b"y" * 4000) for n in range((size - len(head)) // 4010))
    padding += b"\r\nX-Last: " + b"y" * (size - len(head) - len(padding) - 10 - 2)
    data = head + padding + b"\r\n\r\n" + body
    assert data.index(b"\r\n\r\n") + 2 == size
    assert (await h.raw(data)).endswith(b"\r\n\r\nok")


async def test_a_body_over_the_limit_is_413_before_it_is_sent(tmp_path: Path, fast_path: bool) -> None:
    async with puppets(tmp_path, server={"max_body_size": 2000, "fast_path": fast_path}) as h:
        async with h.connection() as (reader, writer):
            writer.write(posted(h, b"x" * 2001).partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
            assert (await answer(reader))[0].startswith(b"HTTP/1.1 413 ")
        body = b'{"model":"a","x":"%b"}' % (b"y" * 1980)
        assert len(body) == 2000
        async with h.connection() as (reader, writer):
            writer.write(posted(h, body))
            assert (await answer(reader))[0].startswith(b"HTTP/1.1 200 ")


async def test_a_body_that_is_only_promised_takes_no_memory(tmp_path: Path) -> None:
    async with puppets(tmp_path, server={"max_buffered_bodies": 10_000 * MIB}) as h:
        head = h.head("POST", "/v1/x", "Content-Type: application/json", f"Content-Length: {100 * MIB}")
        gc.collect()
        before = resident()
        with ExitStack() as stack:
            for _ in range(20):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", int(h.url.rpartition(":")[2]))))
                client.sendall(head + b"{")
            await eventually(lambda: fronts() == 20)
            await asyncio.sleep(0.2)
            assert resident() - before < 50 * MIB


@pytest.mark.parametrize("size", [100, 65_000, 300_000, 10_000_000])
async def test_a_body_passes_exactly_whatever_its_pieces(h: House, size: int) -> None:
    body = b'{"x":"%b","model":"a"}' % hashlib.shake_256(b"%d" % size).hexdigest(size // 2).encode()
    expected = {"length": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    data = posted(h, body)
    async with h.connection() as (reader, writer):
        for step in {1 if size == 100 else 977 if size < 1_000_000 else 65_536, len(data)}:
            for at in range(0, len(data), step):
                writer.write(data[at : at + step])
                await writer.drain()
                await asyncio.sleep(0)
            assert json.loads((await answer(reader))[1]) == expected
    assert outcomes(h) == [Outcome.ANSWERED] * 2


# ---- one request behind the other


async def test_three_hundred_requests_sent_at_once_are_answered_in_order(h: House, fast_path: bool) -> None:
    async with h.connection() as (reader, writer):
        for number in range(300):
            head = ("Origin: " + h.url,) if number == 290 else ()  # one that the front hands over, with all that are behind it
            writer.write(narrow(h, ["head", "Content-Length: 3"], ["say", f"{number:03}"], head=head))
        assert [int((await answer(reader))[1]) for _ in range(300)] == list(range(300))


async def test_narrow_and_other_requests_may_follow_each_other(h: House) -> None:
    hello = (["head", "Content-Length: 5"], ["say", "hello"])
    health = h.head("GET", "/health", "Connection: keep-alive")
    chunked = (
        h.head("POST", "/v1/x", "Transfer-Encoding: chunked", "Connection: keep-alive")
        + b"d\r\n"
        + b'{"model":"a"}'
        + b"\r\n0\r\n\r\n"
    )
    requests = [narrow(h, *hello), b"\r\n", narrow(h, *hello), health, narrow(h, *hello), chunked, narrow(h, *hello)]
    for size in (1, 7, 100_000):
        data = b"".join(requests)
        async with h.connection() as (reader, writer):
            for at in range(0, len(data), size):
                writer.write(data[at : at + size])
                if size < 10:
                    await asyncio.sleep(0)
            bodies = [(await answer(reader))[1] for _ in range(6)]
        assert [body[:5] for body in bodies] == [b"hello", b"hello", b'{"sta', b"hello", b'{"len', b"hello"]


async def test_a_client_that_only_asks_is_not_given_answers_without_end(tmp_path: Path, fast_path: bool) -> None:
    """Thousands of requests with answers of 40 kB each, sent by one that reads none: 1 MiB may wait for it."""
    async with puppets(tmp_path, server={"fast_path": fast_path}) as h:
        async with h.connection() as (reader, writer):
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            data = narrow(h, ["head", "Content-Length: 40000"], ["burst", "x" * 100, 400]) * 100
            gc.collect()
            before = resident()
            with suppress(TimeoutError):
                async with asyncio.timeout(2):
                    while True:
                        writer.write(data)
                        await writer.drain()
            assert len(outcomes(h)) < 150  # most of them are in the kernel's buffers
            assert resident() - before < 30 * MIB
            writer.transport.abort()
        await eventually(lambda: nothing_is_held(h))


async def test_requests_that_are_sent_far_ahead_wait_outside(tmp_path: Path) -> None:
    """By a client that reads its answers, and has thousands of requests on their way before it has the first."""
    async with puppets(tmp_path) as h, h.connection() as (reader, writer):
        writer.write(narrow(h, ["wait", 0.002], ["head", "Content-Length: 2"], ["say", "ok"]) * 6000)
        (taken,) = [found for found in gc.get_objects() if isinstance(found, front.Front) and found.transport is not None]
        most = 0
        for _ in range(200):
            assert (await answer(reader))[1] == b"ok"
            most = max(most, len(taken._ahead))
        assert MIB // 16 < most <= front.HIGH_WATER + MIB // 4, "no more than a read behind it"
        writer.transport.abort()
        await eventually(lambda: nothing_is_held(h))


async def test_a_client_that_reads_nothing_of_a_stream_is_sent_no_more_of_it(tmp_path: Path, fast_path: bool) -> None:
    async with puppets(tmp_path, server={"fast_path": fast_path}) as h:
        port = int(h.url.rpartition(":")[2])
        with ExitStack() as stack:
            clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(20)]
            gc.collect()
            before = resident()
            for client in clients:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.sendall(narrow(h, ["head", "Content-Length: 100000000"], ["say", "x" * 10_000, 10_000]))
            await eventually(lambda: len(outcomes(h)) == 20)
            await asyncio.sleep(1)
            assert resident() - before < 20 * MIB
            async with h.connection() as (reader, writer):  # others are answered meanwhile
                writer.write(narrow(h))
                assert (await answer(reader))[0].startswith(b"HTTP/1.1 200 ")
        await eventually(lambda: nothing_is_held(h))
        assert outcomes(h) == [Outcome.LEFT] * 20 + [Outcome.ANSWERED]


async def test_what_a_slow_reader_is_sent_is_all_that_there_was(h: House) -> None:
    async with h.connection() as (reader, writer):
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(narrow(h, ["head", "Transfer-Encoding: chunked"], ["chunk", "0123456789" * 5000, 200], ["end"]))
        writer.write(narrow(h, ["head", "Content-Length: 3"], ["say", "end"]))
        await asyncio.sleep(0.5)
        reader._transport.resume_reading()  # type: ignore[attr-defined]
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(200):
            assert await reader.readexactly(6 + 50_000 + 2) == b"c350\r\n" + b"0123456789" * 5000 + b"\r\n"
        assert await reader.readexactly(5) == b"0\r\n\r\n"
        assert (await answer(reader))[1] == b"end"


# ---- who may


async def test_a_key_that_is_removed_is_refused_on_the_connection_that_used_it(h: House, fast_path: bool) -> None:
    _, made = await h.ask("POST", "/api/v1/auth/keys", json={"name": "mine"})
    header = f"Authorization: Bearer {made['key']}"
    async with h.connection() as (reader, writer):
        for expected in (b"200", b"200", b"401"):
            if expected == b"401":
                await h.ask("DELETE", f"/api/v1/auth/keys/{made['id']}")
            writer.write(narrow(h, head=(header,)))
            assert (await answer(reader))[0].split()[1] == expected


async def test_a_key_that_expires_is_refused_on_the_connection_that_used_it(tmp_path: Path, fast_path: bool) -> None:
    async with puppets(tmp_path, server={"fast_path": fast_path}) as h:
        expires = int(time.time()) + 2
        _, made = await h.ask("POST", "/api/v1/auth/keys", json={"name": "mine", "expires_at": expires})
        async with h.connection() as (reader, writer):
            statuses = []
            while time.time() < expires + 0.5:
                writer.write(narrow(h, head=(f"Authorization: Bearer {made['key']}",)))
                statuses.append((await answer(reader))[0].split()[1])
                await asyncio.sleep(0.3)
        assert statuses[0] == b"200"
        assert statuses[-1] == b"401"


async def test_no_key_is_needed_where_none_is_asked_for(tmp_path: Path, fast_path: bool) -> None:
    settings: dict[str, Any] = {"auth": {"require_inference_auth": False}, "server": {"fast_path": fast_path}}
    async with puppets(tmp_path, **settings) as h, h.connection() as (reader, writer):
        for header in ("X-API-Key:", "X-API-Key: wrong", "Authorization: Bearer wrong"):
            writer.write(re.sub(rb"Authorization: Bearer llamactl[^\r]*\r\n", b"", narrow(h, head=(header,))))
            assert (await answer(reader))[0].startswith(b"HTTP/1.1 200 ")


# ---- many


async def streams(h: House, count: int, events: int) -> None:
    """So many streams at once, each compared with what its backend was told to send."""
    steps: list[list[Any]] = [["head", "Transfer-Encoding: chunked"]]

    async def one(number: int) -> None:
        async with h.connection() as (reader, writer):
            text = f"data: {number}\n\n"
            said = [["chunk", text], ["wait", 0.05]] * events
            writer.write(narrow(h, *steps, *said, ["end"]))
            received = await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 120)
            assert received.partition(b"\r\n\r\n")[2] == b"%x\r\n%b\r\n" % (len(text), text.encode()) * events + b"0\r\n\r\n"
            done.append(number)

    done: list[int] = []
    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            tasks.create_task(one(number))
    assert len(done) == count
    await eventually(lambda: nothing_is_held(h))
    assert set(outcomes(h)) == {Outcome.ANSWERED}


async def test_two_hundred_streams_at_once_are_what_their_backend_sent(h: House) -> None:
    await streams(h, 200, 10)


@pytest.mark.soak
async def test_two_thousand_streams_at_once_are_what_their_backend_sent(h: House) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (min(20_000, (hard := resource.getrlimit(resource.RLIMIT_NOFILE)[1])), hard))
    await streams(h, 2000, 20)


# ---- the end


async def test_at_the_end_idle_connections_are_closed_and_busy_ones_are_answered_first(tmp_path: Path, fast_path: bool) -> None:
    async with puppets(tmp_path, server={"fast_path": fast_path}) as h:
        idle, busy, begun = [await asyncio.open_connection("127.0.0.1", int(h.url.rpartition(":")[2])) for _ in range(3)]
        idle[1].write(narrow(h))
        await answer(idle[0])
        busy[1].write(narrow(h, ["wait", 0.7], ["head", "Content-Length: 4"], ["say", "done"]))
        begun[1].write(narrow(h, ["head", "Content-Length: 4"], ["say", "do"], ["wait", 0.7], ["say", "ne"]))
        await begun[0].readuntil(b"\r\n\r\ndo")
    assert await all_of(idle[0]) == b""
    last = await all_of(busy[0])
    assert last.endswith(b"\r\n\r\ndone")
    assert b"Connection: close" in last or not fast_path
    assert await all_of(begun[0]) == b"ne"
    for _, writer in (idle, busy, begun):
        writer.close()
        await writer.wait_closed()


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
