"""Streams through compiled code are what they are without: same bytes, same end, nothing to anybody else. Real sockets."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import socket
import struct
import sys
import sysconfig
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from llamactl_py.accounting.ledger import Outcome
from llamactl_py.proxy import pump
from llamactl_py.proxy.exchange import FLOWS_AFTER
from llamactl_py.proxy.http1 import LONGEST_KNOWN, size_lines
from tests.support.house import House, eventually
from tests.support.narrow import narrow, nothing_is_held, outcomes, puppets

CHUNKED = ["head", "Transfer-Encoding: chunked"]
EVENT = "data: hello\n\n"
CHUNK = b"d\r\ndata: hello\n\n\r\n"
PAUSE = ["wait", 0.02]
FLOWING = [["chunk", EVENT], PAUSE] * (FLOWS_AFTER + 2)


def test_it_is_compiled_wherever_that_can_be_and_from_the_source_that_is_here() -> None:
    can_be = sys.platform == "linux" and (Path(sysconfig.get_path("include")) / "Python.h").is_file()
    if not can_be:
        assert not pump.IS_COMPILED
        pytest.skip("there is nothing to compile it with")
    assert pump.IS_COMPILED, "compile it with: python hatch_build.py"
    source = Path(pump.__file__).with_name("_pump.c").read_bytes()
    assert hashlib.sha256(source).hexdigest() == pump._pump.SOURCE, "it is older than its source: python hatch_build.py"


async def test_a_library_that_is_older_than_its_source_is_not_used_and_that_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = Path(pump.__file__).with_name("_pump.c").read_bytes()
    assert not pump.is_stale(hashlib.sha256(source).hexdigest())
    assert pump.is_stale(hashlib.sha256(source + b" ").hexdigest())
    monkeypatch.setattr(pump, "IS_STALE", True)
    monkeypatch.setattr(pump, "IS_COMPILED", False)
    pump.Pump(is_wanted=False)
    assert not caplog.records
    pump.Pump().close()
    assert "older than its source" in caplog.text


compiled = pytest.mark.skipif(not pump.IS_COMPILED, reason="not compiled here")


# ---- by itself


class Lane:
    """A compiled pump with one lane, and the far ends of its two sockets."""

    def __init__(self, most: int = 1000) -> None:
        self.pump = pump._pump.Pump(LONGEST_KNOWN, most)
        self.backend, self.source = socket.socketpair()
        self.sink, self.client = socket.socketpair()
        self.passed: list[bytes] = []
        for end in (self.backend, self.source, self.sink, self.client):
            end.setblocking(False)
        self.pump.join(self.source.fileno(), self.sink.fileno(), "owner", self.passed)

    def turn(self, data: bytes) -> list[tuple[object, bytes | None, int]]:
        self.backend.sendall(data)
        return self.pump.turn()

    def close(self) -> None:
        self.pump.leave(self.source.fileno())
        for end in (self.backend, self.source, self.sink, self.client):
            end.close()


@pytest.fixture
def lane() -> Iterator[Lane]:
    made = Lane()
    yield made
    made.close()


def received(end: socket.socket) -> bytes:
    try:
        return end.recv(1 << 20)
    except BlockingIOError:
        return b""


def takes_in_python(data: bytes) -> bool:
    return len(data) <= LONGEST_KNOWN and data.startswith(size_lines()[len(data)]) and data.endswith(b"\r\n")


def pieces() -> Iterator[bytes]:
    """Chunks of every length that is known, and what is nearly one."""
    for size in range(1, LONGEST_KNOWN + 10):
        yield b"%x\r\n%b\r\n" % (size, b"x" * size)
    for size in (1, 9, 10, 15, 16, 255, 256):
        payload = b"x" * size
        yield b"%X\r\n%b\r\n" % (size, payload)
        yield b"0%x\r\n%b\r\n" % (size, payload)
        yield b"%x;a=b\r\n%b\r\n" % (size, payload)
        yield b"%x \r\n%b\r\n" % (size, payload)
        yield b" %x\r\n%b\r\n" % (size, payload)
        yield b"%x\n%b\r\n" % (size, payload)
        yield b"%x\r\n%b\n\n" % (size, payload)
        yield b"%x\r\n%b\r\n" % (size + 1, payload)
        yield b"%x\r\n%b\r\n" % (size - 1, payload)
        yield b"%x\r\n%b\r\n" % (size, payload) * 2
        yield b"%x\r\n%b" % (size, payload)
        yield b"-%x\r\n%b\r\n" % (size, payload)
    yield from (
        b"0\r\n\r\n",
        b"\r\n",
        b"\r\n\r\n\r\n",
        b"1\r\n\r\n",
        b"fffff\r\n",
        b"g\r\nxx\r\n",
        b"1",
        b"1\r\n",
        b"5\r\nx\r\nx\r\n\r\n",
    )
    made_up = random.Random(7)
    for _ in range(3000):
        yield bytes(made_up.choices(b"0123456789abcdefABCDEF\r\n;x", k=made_up.randint(1, 24)))


@compiled
def test_it_takes_for_a_chunk_exactly_what_python_does(lane: Lane) -> None:
    taken = 0
    for data in pieces():
        left = lane.turn(data)
        if takes_in_python(data):
            assert (left, received(lane.client), lane.passed.pop()) == ([], data, data)
            taken += 1
        else:
            assert (left, received(lane.client), lane.passed) == ([("owner", data, -1)], b"", [])
    assert taken > 2000


@compiled
def test_a_client_that_takes_a_part_or_nothing_leaves_the_rest_to_python(lane: Lane) -> None:
    lane.sink.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    chunk = b"3e8\r\n" + b"x" * 1000 + b"\r\n"
    written = 0
    while not (left := lane.turn(chunk)):
        written += 1
    assert left == [("owner", chunk, left[0][2])]
    assert 0 <= left[0][2] < len(chunk)
    assert received(lane.client) == chunk * written + chunk[: left[0][2]]
    assert lane.passed == [chunk] * (written + 1)


@compiled
def test_python_looks_again_after_so_many_chunks() -> None:
    lane = Lane(most=3)
    assert [lane.turn(CHUNK) for _ in range(4)] == [[], [], [], [("owner", CHUNK, -1)]]
    lane.passed.clear()
    assert lane.turn(CHUNK) == []
    lane.close()


@compiled
def test_the_end_and_the_failure_of_a_source_are_told(lane: Lane) -> None:
    lane.backend.close()
    assert lane.pump.turn() == [("owner", b"", -1)]
    with socket.create_server(("127.0.0.1", 0)) as server:
        source = socket.create_connection(server.getsockname())
        backend, _ = server.accept()
        lane.pump.join(source.fileno(), lane.sink.fileno(), "other", [])
        backend.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        backend.close()
        assert ("other", None, 104) in lane.pump.turn()  # ECONNRESET
        lane.pump.leave(source.fileno())
        source.close()


@compiled
def test_the_number_of_a_client_that_is_closed_means_nobody_else(lane: Lane) -> None:
    stranger, far_end = socket.socketpair()
    number = lane.sink.fileno()
    lane.sink.close()
    taken = os.dup2(stranger.fileno(), number)
    try:
        assert lane.turn(CHUNK) == []
        far_end.setblocking(False)
        assert received(far_end) == b""
        assert received(lane.client) == CHUNK
    finally:
        os.close(taken)
        stranger.close()
        far_end.close()


@compiled
def test_who_has_left_is_not_read_any_more_and_holds_nothing(lane: Lane) -> None:
    files = len(os.listdir("/proc/self/fd"))
    lane.pump.leave(2**32 + lane.source.fileno())
    assert lane.turn(CHUNK) == []
    assert received(lane.client) == CHUNK
    lane.pump.leave(lane.source.fileno())
    lane.pump.leave(lane.source.fileno())
    lane.pump.leave(123_456)
    lane.pump.leave(-1)
    assert lane.turn(CHUNK) == []
    assert len(os.listdir("/proc/self/fd")) == files - 1  # the duplicate
    assert received(lane.source) == CHUNK


@compiled
def test_what_is_no_source_is_refused(lane: Lane) -> None:
    source, sink = lane.source.fileno(), lane.sink.fileno()
    files = len(os.listdir("/proc/self/fd"))
    for words in ((source, sink, "twice", []), (-1, sink, "", []), (lane.backend.fileno(), sink, "", ())):
        with pytest.raises(ValueError, match="source"):
            lane.pump.join(*words)  # type: ignore[arg-type]
    for words in ((987_654, sink, "", []), (lane.backend.fileno(), 987_654, "", [])):
        with pytest.raises(OSError, match="Bad file descriptor"):
            lane.pump.join(*words)  # type: ignore[arg-type]
    assert len(os.listdir("/proc/self/fd")) == files


# ---- in the house


@pytest.fixture(params=[pytest.param(True, marks=compiled), False], ids=["compiled", "python"])
async def h(tmp_path: Path, fast_path: bool, request: pytest.FixtureRequest) -> AsyncIterator[House]:
    async with puppets(tmp_path, server={"fast_path": fast_path, "compiled_path": request.param}) as made:
        made.joins = request.param  # type: ignore[attr-defined]
        yield made


async def flows(h: House, count: int = 1) -> None:
    """So many streams go through compiled code, where they should."""
    if h.joins:  # type: ignore[attr-defined]
        await eventually(lambda: len(h.daemon.services.pool.pump) == count)
    else:
        assert len(h.daemon.services.pool.pump) == 0


async def begin(h: House, writer: asyncio.StreamWriter, reader: asyncio.StreamReader, *steps: list[Any]) -> None:
    """A stream that flows, and then does these *steps*."""
    writer.write(narrow(h, CHUNKED, *FLOWING, *steps))
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    assert head.startswith(b"HTTP/1.1 200 ")
    assert await reader.readexactly(len(CHUNK) * (FLOWS_AFTER + 2)) == CHUNK * (FLOWS_AFTER + 2)


async def ended(h: House, *expected: Outcome) -> None:
    await eventually(lambda: nothing_is_held(h))
    assert len(h.daemon.services.pool.pump) == 0
    assert outcomes(h) == list(expected)


async def test_a_stream_is_counted_and_its_connection_used_again(h: House) -> None:
    usage = 'data: {"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}\n\n'
    typed = ["head", "Transfer-Encoding: chunked", "Content-Type: text/event-stream"]
    async with h.connection() as (reader, writer):
        for _ in range(2):
            writer.write(narrow(h, typed, *FLOWING, ["wait", 0.1], *FLOWING, ["chunk", usage], ["end"]))
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            assert b"text/event-stream" in head
            await flows(h)
            body = await reader.readuntil(b"0\r\n\r\n")
            assert body == CHUNK * 2 * (FLOWS_AFTER + 2) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(usage), usage.encode())
    await ended(h, Outcome.ANSWERED, Outcome.ANSWERED)
    for entry in h.daemon.services.ledger.entries():
        assert entry.bytes_out == len(body)
        assert entry.usage
        assert (entry.usage.prompt_tokens, entry.usage.completion_tokens) == (3, 4)


async def test_chunks_that_come_in_other_pieces_are_passed_on_as_they_are(h: House) -> None:
    odd = [["say", "d\r\nda"], PAUSE, ["say", "ta: hello\n\n"], PAUSE, ["say", "\r\n"], PAUSE]
    two = [["burst", CHUNK.decode(), 2], PAUSE]
    async with h.connection() as (reader, writer):
        await begin(h, writer, reader, *odd, *two, *FLOWING, ["wait", 0.1], ["end"])
        await flows(h)
        assert await reader.readuntil(b"0\r\n\r\n") == CHUNK * (1 + 2 + FLOWS_AFTER + 2) + b"0\r\n\r\n"
    await ended(h, Outcome.ANSWERED)


@pytest.mark.parametrize("end", ["close", "reset", "die"])
async def test_a_stream_that_breaks_off_does_not_look_whole(h: House, end: str) -> None:
    async with h.connection() as (reader, writer):
        await begin(h, writer, reader, ["wait", 0.1], [end])
        await flows(h)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 10)
    await ended(h, Outcome.CUT)


async def test_what_is_no_chunk_breaks_a_stream_off(h: House) -> None:
    async with h.connection() as (reader, writer):
        await begin(h, writer, reader, ["wait", 0.1], ["say", "nonsense\r\n"], ["wait", 5])
        await flows(h)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 10)
    await ended(h, Outcome.CUT)


@pytest.mark.parametrize("way", ["close", "reset"])
async def test_a_client_that_leaves_ends_its_stream_upstream(h: House, way: str) -> None:
    async with h.connection() as (reader, writer):
        await begin(h, writer, reader, *[["chunk", EVENT], PAUSE] * 500, ["end"])
        await flows(h)
        if way == "reset":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        await ended(h, Outcome.LEFT)


async def test_a_reader_that_pauses_gets_all_of_it_and_fills_no_memory(h: House) -> None:
    large = "x" * 1500
    chunk = b"5dc\r\n%b\r\n" % large.encode()
    count = 20_000
    async with h.connection() as (reader, writer):
        await begin(h, writer, reader, ["wait", 0.1], ["chunk", large, count], ["end"])
        await flows(h)
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(1.5)
        exchange = next(iter(h.daemon.services.pool.busy)).exchange
        assert exchange is not None
        assert exchange.is_full
        assert exchange.client_transport.get_write_buffer_size() < 1 << 20
        reader._transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(count // 100):
            assert await asyncio.wait_for(reader.readexactly(len(chunk) * 100), 10) == chunk * 100
        assert await reader.readexactly(5) == b"0\r\n\r\n"
    await ended(h, Outcome.ANSWERED)


async def test_a_backend_that_falls_silent_in_a_stream_is_given_up(tmp_path: Path, fast_path: bool) -> None:
    async with (
        puppets(tmp_path, server={"fast_path": fast_path, "response_timeout": "1s"}) as h,
        h.connection() as (reader, writer),
    ):
        await begin(h, writer, reader, *[["chunk", EVENT], ["wait", 0.1]] * 15, ["wait", 30])  # longer than it may be silent
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await asyncio.wait_for(reader.readexactly(len(CHUNK) * 16), 10)
        await ended(h, Outcome.CUT)


async def test_many_streams_flow_and_none_gets_a_byte_of_another(h: House) -> None:
    events = 40

    async def one(number: int) -> None:
        texts = [f"data: {number}-{at}\n\n" for at in range(events)]
        steps = [step for text in texts for step in (["chunk", text], ["wait", 0.02])]
        async with h.connection() as (reader, writer):
            writer.write(narrow(h, CHUNKED, *steps, ["end"]))
            body = (await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 60)).partition(b"\r\n\r\n")[2]
            assert body == b"".join(b"%x\r\n%b\r\n" % (len(text), text.encode()) for text in texts) + b"0\r\n\r\n"

    async with asyncio.TaskGroup() as tasks:
        for number in range(60):
            tasks.create_task(one(number))
        await flows(h, 60)
    await ended(h, *[Outcome.ANSWERED] * 60)


async def test_what_waits_for_a_client_goes_before_what_comes_next(h: House) -> None:
    """Several chunks at once are not for compiled code. What the client did not take of them is written when it reads, and what
    came meanwhile behind that, also where both are seen in one turn of the loop."""
    several, count = 300, 10
    async with h.connection() as (reader, writer):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        bursts = [["burst", CHUNK.decode(), several], ["wait", 0.05]] * count
        await begin(h, writer, reader, ["wait", 0.3], *bursts, ["wait", 1], ["chunk", "last"], ["wait", 0.5], ["end"])
        await flows(h)
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        exchange = next(iter(h.daemon.services.pool.busy)).exchange
        assert exchange is not None
        client = exchange.client_transport
        client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        await eventually(client.get_write_buffer_size)
        await asyncio.sleep(0.8)
        assert not exchange.is_full
        time.sleep(0.8)  # the last chunk is there, and then the client reads
        far_end = writer.get_extra_info("socket").fileno()
        taken = os.read(far_end, 1 << 20)
        time.sleep(0.05)
        reader._transport.resume_reading()  # type: ignore[attr-defined]
        taken += await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 10)
        assert taken == CHUNK * several * count + b"4\r\nlast\r\n0\r\n\r\n"
    await ended(h, Outcome.ANSWERED)
