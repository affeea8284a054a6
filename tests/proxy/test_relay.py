"""Requests and answers on their way through the daemon, over real processes: what passes, when, and what it means to leave.

The stub writes each request down when it is over: `(await h.recorded("a"))[-1]` has the headers and the digest of the body as
they reached it, and when and how its client was lost. Its clock is ours: CLOCK_MONOTONIC is one for the whole machine.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os
import re
import signal
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llamactl_py.instances import readiness
from tests.support.house import FIRST_PORT, STUB, House, eventually, house, is_alive

CHAT = "/v1/chat/completions"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


both = pytest.mark.parametrize("h", [True, False], ids=["front", "aiohttp"], indirect=True)
"""The test runs on both ways in; others go through the front where their requests are of the narrow form."""


@pytest.fixture
async def h(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[House]:
    async with house(tmp_path, server={"fast_path": getattr(request, "param", True)}) as running:
        yield running


def wish(model: str = "a", **fields: Any) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}).encode()


def post(h: House, body: bytes, *headers: str, path: str = CHAT) -> bytes:
    return h.head("POST", path, "Content-Type: application/json", f"Content-Length: {len(body)}", *headers) + body


async def ready(h: House, name: str, stub: str = "", **options: Any) -> dict[str, Any]:
    await h.create(name, stub, **options)
    await h.ask("POST", f"/api/v1/instances/{name}/start")
    return await h.until(name, "ready")


async def in_flight(h: House, name: str, count: int = 1) -> None:
    async with asyncio.timeout(10):
        while (await h.get(name))["in_flight"] != count:
            await asyncio.sleep(0.005)


async def events(reader: asyncio.StreamReader, count: int) -> list[bytes]:
    """The next *count* SSE events of a chunked answer, without the framing of the chunks."""
    return [await reader.readuntil(b"\n\n") for _ in range(count)]


def words(found: list[bytes]) -> list[str]:
    data = [json.loads(event.partition(b"data: ")[2]) for event in found]
    return [line["choices"][0]["delta"].get("content") for line in data]


# ---- bytes


EXACT = {
    "big-integer": b'{"model":"a","seed":9007199254740993,"n":-0,"max_tokens":1}',
    "floats": b'{"temperature":1.0,"top_p":1e-7,"x":0.1000000000000000055511151231257827,"y":1E+2,"model":"a"}',
    "key-order": b'{"z":1,"a":2,"model":"a","m":3,"A":4}',
    "white-space": b' \n\t{ "model"\r\n :\t"a" , "messages" : [ ] } \n',
    "escapes": b'{"model":"a","x":"\\u00e9\\/\\u0000\\ud83d\\ude00\\"\\\\"}',
    "unicode": '{"model":"a","x":"é 東京 😀 \u2028 \u202e"}'.encode(),
    "duplicates-elsewhere": b'{"x":1,"x":2,"model":"a","y":{"model":1,"model":2}}',
    "nested-models": b'{"tools":[{"model":"b"}],"x":{"model":"c"},"y":"\\"model\\":\\"d\\"","model":"a"}',
    "model-as-text": b'{"x":"model","y":["model"],"model":"a","z":"\\"model\\": \\"b\\""}',
    "escaped-model": b'{"model":"\\u0061"}',
    "empty-things": b'{"model":"a","":"","x":{},"y":[],"z":null}',
    "last-surrogate": b'{"model":"a","x":"\\uDBFF\\uDFFF"}',
    "long-number": b'{"model":"a","x":' + b"1" * 4000 + b"}",
}


@pytest.mark.parametrize("case", EXACT)
async def test_a_body_reaches_the_backend_byte_for_byte(h: House, case: str) -> None:
    body = EXACT[case]
    await ready(h, "a")
    assert (await h.raw(post(h, body))).startswith(b"HTTP/1.1 200 ")
    (seen,) = await h.recorded("a")
    assert seen["body"].encode("utf-8", "surrogateescape") == body
    assert [value for name, value in seen["headers"] if name.lower() == "content-length"] == [str(len(body))]


@pytest.mark.parametrize("case", EXACT)
async def test_where_the_model_must_change_only_its_value_does(h: House, case: str) -> None:
    body = EXACT[case]
    await ready(h, "a", backend_type="mlx_lm")
    assert (await h.raw(post(h, body))).startswith(b"HTTP/1.1 200 ")
    (seen,) = await h.recorded("a")
    changed = seen["body"].encode("utf-8", "surrogateescape")
    value = b'"\\u0061"' if case == "escaped-model" else b'"a"'
    places = [at for at in range(len(body)) if body[:at] + b'"default_model"' + body[at + len(value) :] == changed]
    assert len(places) == 1
    assert body[places[0] :].startswith(value)
    assert json.loads(changed)["model"] == "default_model"


@both
@pytest.mark.parametrize("backend_type", ["llama_cpp", "mlx_lm"])
async def test_a_large_body_passes_exactly(h: House, backend_type: str) -> None:
    await ready(h, "a", backend_type=backend_type)
    noise = hashlib.shake_256(b"noise").hexdigest(2_500_000)
    body = json.dumps({"x": noise, "model": "a", "y": noise}).encode()
    assert (await h.raw(post(h, body))).startswith(b"HTTP/1.1 200 ")
    (seen,) = await h.recorded("a")
    expected = body if backend_type == "llama_cpp" else body.replace(b'"model": "a"', b'"model": "default_model"')
    assert (seen["length"], seen["sha256"]) == (len(expected), hashlib.sha256(expected).hexdigest())


async def test_a_chunked_upload_arrives_whole(h: House) -> None:
    await ready(h, "a")
    body = wish(x="y" * 1000)
    parts = [body[at : at + 97] for at in range(0, len(body), 97)]
    chunks = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(part), part) for part in parts)
    answer = await h.raw(h.head("POST", CHAT, "Transfer-Encoding: chunked") + chunks + b"0\r\nX-Trailer: 1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    (seen,) = await h.recorded("a")
    assert (seen["body"].encode(), seen["complete"]) == (body, True)


async def test_a_compressed_body_reaches_the_backend_as_it_was_before(h: House) -> None:
    await ready(h, "a")
    body = wish()
    answer = await h.raw(post(h, gzip.compress(body), "Content-Encoding: gzip"))
    assert answer.startswith(b"HTTP/1.1 200 ")
    (seen,) = await h.recorded("a")
    assert seen["body"].encode() == body
    assert "content-encoding" not in {name.lower() for name, _ in seen["headers"]}


async def test_a_broken_compressed_body_is_400(h: House) -> None:
    await ready(h, "a")
    answer = await h.raw(post(h, b"\x1f\x8b no gzip at all", "Content-Encoding: gzip"))
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert h.requests("a") == []


async def test_who_expects_100_continue_gets_it_and_then_the_answer(h: House) -> None:
    await ready(h, "a")
    body = wish()
    async with h.connection() as (reader, writer):
        writer.write(h.head("POST", CHAT, f"Content-Length: {len(body)}", "Expect: 100-continue"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    (seen,) = await h.recorded("a")
    assert "expect" not in {name.lower() for name, _ in seen["headers"]}


async def test_an_http_1_0_client_gets_its_answer_without_chunks_and_then_the_end(h: House) -> None:
    await ready(h, "a", "tokens=3")
    body = wish(stream=True)
    answer = await h.raw(post(h, body).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
    head, _, events_ = answer.partition(b"\r\n\r\n")
    assert head.split()[1] == b"200"
    assert b"chunked" not in head.lower()
    assert events_.startswith(b"data: {")
    assert events_.endswith(b"data: [DONE]\n\n")


async def test_a_head_request_has_no_body_and_the_connection_goes_on(h: House) -> None:
    await ready(h, "a")
    async with h.connection() as (reader, writer):
        for _ in range(2):
            writer.write(h.head("HEAD", "/api/v1/instances/a/proxy/props", "Connection: keep-alive"))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 404 ")
            assert b"content-length: " in head.lower()
        writer.write(h.head("GET", "/health", "Connection: keep-alive"))
        assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"


@both
async def test_one_connection_carries_many_requests_one_after_the_other(h: House) -> None:
    await ready(h, "a", "tokens=2")
    async with h.connection() as (reader, writer):
        for number in range(20):
            stream = number % 2 == 0
            writer.write(post(h, wish(stream=stream, n=number), "Connection: keep-alive"))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            if stream:
                await reader.readuntil(b"0\r\n\r\n")
            else:
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                assert json.loads(await reader.readexactly(length))["model"] == "a"
    assert [json.loads(line["body"])["n"] for line in await h.recorded("a", 20)] == list(range(20))


@both
async def test_pipelined_requests_are_answered_in_order(h: House) -> None:
    await ready(h, "a", "tokens=1")
    kept = [post(h, wish(stream=n % 3 == 0, user=f"u{n}", model="a"), "Connection: keep-alive") for n in range(9)]
    answer = await h.raw(b"".join(kept) + post(h, wish(user="u9")))
    assert answer.count(b"HTTP/1.1 200 OK") == 10
    assert [json.loads(line["body"])["user"] for line in await h.recorded("a", 10)] == [f"u{n}" for n in range(10)]


# ---- headers


@both
async def test_credentials_of_clients_stay_here_and_the_backend_gets_its_own_key(h: House) -> None:
    ours = await ready(h, "a")
    canary = "canary-0123456789"
    answer = await h.raw(
        post(
            h,
            wish(),
            f"X-API-Key: {canary}",
            f"Cookie: session={canary}",
            f"Proxy-Authorization: Basic {canary}",
            f"Forwarded: for={canary}",
            f"X-Forwarded-For: {canary}",
            f"X-Forwarded-Host: {canary}",
            f"X-Forwarded-Proto: {canary}",
            f"x-forwarded-anything: {canary}",
            f"Proxy-Connection: {canary}",
            f"Keep-Alive: timeout={canary}",
            f"TE: {canary}",
            f"Trailer: {canary}",
            f"Upgrade: {canary}",
            f"X-Named: {canary}",
            "Connection: close, X-Named, Upgrade",
            "X-Kept: kept",
            "X-Twice: 1",
            "X-Twice: 2",
            "Accept: text/event-stream",
            "User-Agent: tests/1.0",
            "OpenAI-Organization: org",
        ),
    )
    assert answer.startswith(b"HTTP/1.1 200 ")
    (seen,) = await h.recorded("a")
    assert canary not in json.dumps(seen)
    assert h.daemon.management_key not in json.dumps(seen)
    headers = [(name.lower(), value) for name, value in seen["headers"]]
    assert [value for name, value in headers if name == "host"] == [f"127.0.0.1:{ours['port']}"]
    keys = [value for name, value in headers if name == "authorization"]
    environment = Path(f"/proc/{ours['pid']}/environ").read_bytes().split(b"\0")
    assert [f"LLAMA_API_KEY={key.removeprefix('Bearer ')}".encode() in environment for key in keys] == [True]
    kept = [(name, value) for name, value in headers if name not in ("host", "authorization", "content-length", "connection")]
    assert kept == [
        ("content-type", "application/json"),
        ("x-kept", "kept"),
        ("x-twice", "1"),
        ("x-twice", "2"),
        ("accept", "text/event-stream"),
        ("user-agent", "tests/1.0"),
        ("openai-organization", "org"),
    ]


async def test_a_request_without_headers_gets_none_that_it_did_not_have(h: House) -> None:
    await ready(h, "a")
    body = wish()
    await h.raw(h.head("POST", CHAT, f"Content-Length: {len(body)}") + body)
    (seen,) = await h.recorded("a")
    assert {name.lower() for name, _ in seen["headers"]} <= {"host", "authorization", "content-length", "connection"}


async def test_nobody_else_has_a_way_to_the_backend(h: House) -> None:
    port = (await ready(h, "a"))["port"]
    for headers in ({}, {"Authorization": f"Bearer {h.daemon.management_key}"}, {"Authorization": "Bearer "}):
        async with aiohttp.request("POST", f"http://127.0.0.1:{port}{CHAT}", data=wish(), headers=headers) as answer:
            assert answer.status == 401
    shown = json.dumps([await h.get("a"), (await h.ask("GET", "/api/v1/instances/a/logs"))[1]])
    assert "LLAMA_API_KEY" not in shown
    assert (await h.chat("a"))[0] == 200


# ---- streams


@both
async def test_each_event_is_passed_on_before_the_next_one_exists(h: House) -> None:
    await ready(h, "a", "hang-after=3")  # from the fourth word on there is nothing, for ever
    async with h.connection() as (reader, writer):
        writer.write(post(h, wish(stream=True)))
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"content-type: text/event-stream" in head.lower()
        assert words(await asyncio.wait_for(events(reader, 3), 5)) == [" one", " two", " three"]


async def test_events_come_at_the_pace_of_the_backend(h: House) -> None:
    await ready(h, "a", "tok-rate=20 tokens=8")
    async with h.session.post(h.url + CHAT, data=wish(stream=True)) as answer:
        arrived = [time.monotonic() async for line in answer.content if line.startswith(b"data: {")]
    gaps = [later - earlier for earlier, later in pairwise(arrived)]
    assert sum(gap > 0.02 for gap in gaps) >= 5  # 50 ms apart; all at once would be none
    assert arrived[-1] - arrived[0] > 0.25


@both
async def test_a_stream_is_what_the_backend_sent_byte_for_byte(h: House) -> None:
    port = (await ready(h, "a", "tokens=200"))["port"]
    async with h.session.post(h.url + CHAT, data=wish(stream=True)) as answer:
        through = await answer.read()
    key = dict((await h.recorded("a"))[0]["headers"])["Authorization"]
    async with aiohttp.ClientSession() as session:
        direct = await session.post(f"http://127.0.0.1:{port}{CHAT}", data=wish(stream=True), headers={"Authorization": key})
        expected = await direct.read()
    created = through.partition(b'"created": ')[2][:10]
    assert through == expected.replace(expected.partition(b'"created": ')[2][:10], created)
    assert through.count(b"data: ") == 202


async def test_many_streams_at_once_do_not_wait_for_each_other(h: House) -> None:
    await ready(h, "a", "hang-after=1")
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:

        async def first_word() -> None:
            async with h.connection() as (reader, writer):
                writer.write(post(h, wish(stream=True)))
                await reader.readuntil(b'" one"')
                began.append(1)
                await eventually(lambda: len(began) == 150)

        began: list[int] = []
        for _ in range(150):
            tasks.create_task(first_word())
    assert len(await h.recorded("a", 150)) == 150


@both
async def test_a_reader_that_stalls_does_not_make_us_hold_its_answer(h: House) -> None:
    await ready(h, "a", "tokens=400000")
    async with h.connection() as (reader, writer):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(post(h, wish(stream=True)))
        await in_flight(h, "a")
        before = _resident()
        await asyncio.sleep(0.5)  # the stub could send 30 MB in that time
        assert _resident() - before < 10_000_000
        assert (await h.chat("a", max_tokens=1))[0] == 200
    (_, stalled) = await h.recorded("a", 2)
    assert stalled["sent"] < 20_000_000
    assert stalled["lost"] is not None


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# ---- the client leaves


async def close(streams: Streams) -> None:
    streams[1].close()


async def reset(streams: Streams) -> None:
    sock = streams[1].get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    streams[1].transport.abort()


Leave = Callable[[Streams], Awaitable[None]]
leaving = pytest.mark.parametrize("leave", [close, reset])


async def lost_within_a_second(h: House, left: float) -> None:
    (seen,) = await asyncio.wait_for(h.recorded("a"), 3)
    assert seen["lost"] is not None
    assert 0 <= seen["lost"] - left < 1.0


@both
@leaving
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_before_the_first_byte_ends_the_work(h: House, leave: Leave, stream: bool) -> None:
    await ready(h, "a", "hang-on-request")
    async with h.connection() as streams:
        streams[1].write(post(h, wish(stream=stream)))
        await in_flight(h, "a")
        await asyncio.sleep(0.05)  # the request is on its way to the backend
        left = time.monotonic()
        await leave(streams)
        await lost_within_a_second(h, left)
    await in_flight(h, "a", 0)


@both
@leaving
async def test_a_client_that_leaves_in_the_middle_of_a_stream_ends_the_work(h: House, leave: Leave) -> None:
    await ready(h, "a", "tok-rate=50 tokens=100000")
    async with h.connection() as streams:
        streams[1].write(post(h, wish(stream=True)))
        await events(streams[0], 3)
        left = time.monotonic()
        await leave(streams)
        await lost_within_a_second(h, left)
    await in_flight(h, "a", 0)


@leaving
async def test_a_client_that_leaves_between_two_words_that_are_far_apart_ends_the_work(h: House, leave: Leave) -> None:
    await ready(h, "a", "hang-after=2")
    async with h.connection() as streams:
        streams[1].write(post(h, wish(stream=True)))
        await events(streams[0], 2)
        left = time.monotonic()
        await leave(streams)
        await lost_within_a_second(h, left)


@leaving
async def test_a_request_whose_client_left_while_it_was_queued_is_never_sent(h: House, leave: Leave) -> None:
    await h.create("a", "load-time=0.4")
    async with h.connection() as streams:
        streams[1].write(post(h, wish(user="left")))
        await h.until("a", "starting")
        staying = asyncio.ensure_future(h.chat("a", user="stayed"))
        await asyncio.sleep(0.05)
        await leave(streams)
        assert (await staying)[0] == 200
    assert (await h.chat("a", user="later"))[0] == 200
    assert [json.loads(line["body"])["user"] for line in await h.recorded("a", 2)] == ["stayed", "later"]
    assert (await h.get("a"))["in_flight"] == 0


async def test_a_client_that_leaves_in_the_middle_of_its_upload_reaches_no_backend(h: House) -> None:
    await ready(h, "a")
    async with h.connection() as (_, writer):
        body = wish(x="y" * 100_000)
        writer.write(post(h, body)[:-50_000])
        await writer.drain()
        await asyncio.sleep(0.05)
    assert (await h.chat("a"))[0] == 200
    assert len(await h.recorded("a")) == 1
    assert (await h.get("a"))["in_flight"] == 0


@both
async def test_many_clients_that_leave_give_everything_back(h: House) -> None:
    await ready(h, "a", "tok-rate=20 tokens=1000")
    descriptors = len(os.listdir("/proc/self/fd"))

    async def glance() -> None:
        async with h.connection() as (reader, writer):
            writer.write(post(h, wish(stream=True)))
            await events(reader, 1)

    await asyncio.gather(*(glance() for _ in range(60)))
    assert {line["lost"] is None for line in await h.recorded("a", 60)} == {False}
    await in_flight(h, "a", 0)
    await eventually(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)


# ---- the backend leaves


@both
@pytest.mark.parametrize("has_answered_before", [False, True])
async def test_a_backend_that_dies_before_its_answer_is_502_with_its_name_and_last_words(
    h: House, has_answered_before: bool
) -> None:
    await ready(h, "a", "exit-on-request=3 last-words=CUDA-error:out-of-memory")
    if has_answered_before:  # the connection may be used again
        assert (await h.ask("GET", "/api/v1/instances/a/proxy/props"))[0] == 200
    status, body = await h.chat("a")
    assert (status, body["error"]["code"], body["error"]["type"]) == (502, "backend_failed", "server_error")
    said = r"instance 'a' (closed|reset|could not be) .*; its log says: CUDA-error:out-of-memory"
    assert re.fullmatch(said, body["error"]["message"])
    await eventually(lambda: len(h.spawned("a")) == 2)


@asynccontextmanager
async def stream_of(h: House, model: str = "a") -> AsyncIterator[Streams]:
    """A connection whose stream has begun."""
    async with h.connection() as (reader, writer):
        writer.write(post(h, wish(model, stream=True), "Connection: keep-alive"))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        await events(reader, 1)
        yield reader, writer


async def rest_of(reader: asyncio.StreamReader) -> tuple[bytes, bool]:
    """What is still to come, and whether it ended as a whole answer does."""
    received = b""
    try:
        while part := await asyncio.wait_for(reader.read(1 << 16), 10):
            received += part
            if received.endswith(b"\r\n0\r\n\r\n"):
                return received, True
    except ConnectionResetError:
        pass
    return received, False


@both
async def test_a_stream_that_its_backend_cut_never_looks_whole(h: House) -> None:
    await ready(h, "a", "drop-mid-stream=3")
    async with stream_of(h) as (reader, _):
        received, is_whole = await rest_of(reader)
    assert not is_whole
    assert b"[DONE]" not in received
    assert b'" three"' in received
    with pytest.raises(aiohttp.ClientError):
        async with h.session.post(h.url + CHAT, data=wish(stream=True)) as answer:
            await answer.read()


async def test_an_http_1_0_client_of_a_cut_stream_sees_a_reset(h: House) -> None:
    """For it the end of the connection is the end of the answer: only a reset can tell it otherwise."""
    await ready(h, "a", "drop-mid-stream=3")
    async with h.connection() as (reader, writer):
        writer.write(post(h, wish(stream=True)).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 10)


@both
async def test_twenty_streams_of_a_killed_backend_end_honestly_and_it_comes_back_by_itself(h: House) -> None:
    first = await ready(h, "a", "tok-rate=50 tokens=100000 workers=2 setsid-worker worker-ignore-term", stop_timeout="50ms")
    family = h.spawned("a")
    assert len(family) == 4

    async def watch() -> tuple[bytes, bool]:
        async with stream_of(h) as (reader, _):
            return await rest_of(reader)

    watching = [asyncio.ensure_future(watch()) for _ in range(20)]
    await in_flight(h, "a", 20)
    await asyncio.sleep(0.1)
    os.kill(first["pid"], signal.SIGKILL)
    for received, is_whole in await asyncio.gather(*watching):
        assert not is_whole
        assert b"[DONE]" not in received
    await eventually(lambda: len(h.spawned("a")) == 8)
    assert not any(map(is_alive, family))  # before the new ones began
    second = await h.until("a", "ready")
    status, body = await h.chat("a", max_tokens=1)
    assert (status, body["system_fingerprint"]) == (200, f"stub-{second['pid']}")
    assert second["pid"] != first["pid"]


async def test_requests_that_come_while_it_comes_back_wait_and_are_answered(h: House) -> None:
    first = await ready(h, "a", "load-time=0.2", restart_delay="100ms")
    os.kill(first["pid"], signal.SIGKILL)
    await h.until("a", "backoff", "starting")
    answers = await asyncio.gather(*(h.chat("a") for _ in range(10)))
    assert {status for status, _ in answers} == {200}
    assert len(h.spawned("a")) == 2


# ---- stop, restart, eviction, idleness


@both
async def test_a_stop_lets_streams_finish_and_has_new_requests_wait_for_the_next_start(h: House) -> None:
    first = await ready(h, "a", "tok-rate=30 tokens=20")
    async with stream_of(h) as (reader, _):
        stopping = asyncio.ensure_future(h.ask("POST", "/api/v1/instances/a/stop"))
        await h.until("a", "stopping")
        waiting = asyncio.ensure_future(h.chat("a", max_tokens=1))
        received, is_whole = await rest_of(reader)
    assert is_whole
    assert b"[DONE]" in received
    assert (await stopping)[0] == 200
    status, body = await waiting
    assert (status, body["system_fingerprint"]) == (200, f"stub-{h.spawned('a')[1]}")
    assert not is_alive(first["pid"])


async def test_a_restart_lets_streams_finish_and_new_requests_go_to_the_new_one(h: House) -> None:
    first = await ready(h, "a", "tok-rate=30 tokens=20")
    async with stream_of(h) as (reader, _):
        assert (await h.ask("POST", "/api/v1/instances/a/restart"))[0] == 200
        waiting = asyncio.ensure_future(h.chat("a", max_tokens=1))
        received, is_whole = await rest_of(reader)
    assert (is_whole, b"[DONE]" in received) == (True, True)
    status, body = await waiting
    assert status == 200
    assert body["system_fingerprint"] == f"stub-{(await h.get('a'))['pid']}" != f"stub-{first['pid']}"


async def test_a_stream_longer_than_the_drain_is_cut_and_told_so(tmp_path: Path) -> None:
    async with house(tmp_path, instances={"drain_timeout": "200ms"}) as h:
        await ready(h, "a", "tok-rate=30 tokens=1000")
        async with stream_of(h) as (reader, _):
            began = time.monotonic()
            assert (await h.ask("POST", "/api/v1/instances/a/stop"))[1]["state"] == "stopped"
            assert 0.2 <= time.monotonic() - began < 3
            _, is_whole = await rest_of(reader)
            assert not is_whole


async def test_two_models_never_live_at_once_where_only_one_may(tmp_path: Path) -> None:
    async with house(tmp_path, instances={"max_running_instances": 1}) as h:
        names = ("a", "b", "c")
        for name in names:
            await h.create(name, "load-time=0.02 workers=1 setsid-worker term-delay=0.02")
        most = 0
        done = asyncio.Event()

        async def sample() -> None:
            nonlocal most
            while not done.is_set():
                alive = [name for name in names if any(map(is_alive, h.spawned(name)))]
                most = max(most, len(alive))
                assert len(alive) <= 1, alive
                await asyncio.sleep(0.02)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(sample())
            answers = await asyncio.gather(*(h.chat(name, max_tokens=1) for name in "abcbca" for _ in range(2)))
            done.set()
        assert {status for status, _ in answers} == {200}
        assert most == 1
        assert [len(h.requests(name)) for name in names] == [4, 4, 4]


async def test_the_one_that_was_used_longest_ago_leaves(tmp_path: Path) -> None:
    async with house(tmp_path, instances={"max_running_instances": 2}) as h:
        for name in "abc":
            await h.create(name)
        for name in ("a", "b", "a", "c"):
            assert (await h.chat(name))[0] == 200
        assert [(await h.get(name))["state"] for name in "abc"] == ["ready", "stopped", "ready"]


async def test_a_busy_one_is_not_evicted_and_the_request_waits_for_it(tmp_path: Path) -> None:
    async with house(tmp_path, instances={"max_running_instances": 1}) as h:
        await h.create("a", "tok-rate=30 tokens=15")
        await h.create("b")
        async with stream_of(h) as (reader, _):
            waiting = asyncio.ensure_future(h.chat("b"))
            received, is_whole = await rest_of(reader)
        assert (is_whole, b"[DONE]" in received) == (True, True)
        assert (await waiting)[0] == 200
        assert (await h.get("a"))["state"] == "stopped"


@both
async def test_idleness_begins_with_the_last_byte_of_a_stream(h: House) -> None:
    await ready(h, "a", "tok-rate=20 tokens=14", idle_timeout="300ms")
    async with stream_of(h) as (reader, _):
        received, is_whole = await rest_of(reader)  # takes 0.7 s
    ended = time.monotonic()
    assert (is_whole, b"[DONE]" in received) == (True, True)
    assert (await h.get("a"))["state"] == "ready"
    await h.until("a", "stopping", "stopped")
    assert time.monotonic() - ended >= 0.25
    await h.until("a", "stopped")
    assert (await h.chat("a", max_tokens=1))[0] == 200
    assert len(h.spawned("a")) == 2


# ---- whose port is it


@asynccontextmanager
async def thief(port: int, *, shares: bool, answers: bool = True) -> AsyncIterator[list[bytes]]:
    """A stranger on *port* who says that all is well, or nothing; what it was asked."""
    asked: list[bytes] = []

    async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        if answers:
            writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 17\r\nConnection: close\r\n\r\n{"spawn":"thief"}')
        else:
            await reader.read()
        writer.close()

    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shares:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", port))
        async with await asyncio.start_server(lie, sock=sock):
            yield asked


@pytest.mark.parametrize("answers", [False, True], ids=["silent", "lying"])
@pytest.mark.parametrize("shares", [False, True], ids=["alone", "sharing"])
@pytest.mark.parametrize("stub", ["", "reuse-port", "hang-if-port-taken"])
async def test_a_port_stolen_before_the_backend_had_it_is_left_to_the_thief(
    h: House, stub: str, shares: bool, answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "PROBE_TIMEOUT", 0.1)
    await h.create("a", f"bind-after=0.2 {stub}")
    await h.ask("POST", "/api/v1/instances/a/start")
    await eventually(lambda: h.spawned("a"))
    port = (await h.get("a"))["port"]
    async with thief(port, shares=shares, answers=answers) as asked:
        status, body = await asyncio.wait_for(h.chat("a"), 5)
        found = await h.get("a")
        assert (status, body["system_fingerprint"]) == (200, f"stub-{found['pid']}")
        assert found["port"] != port
        assert not any(line.startswith(b"POST") for line in asked)
    assert len(h.spawned("a")) == 2
    assert found["restarts"] == 0  # bad luck is no crash


@pytest.mark.parametrize("shares", [False, True])
async def test_a_port_that_somebody_has_is_never_given_to_a_backend(tmp_path: Path, shares: bool) -> None:
    port = FIRST_PORT + 60
    async with house(tmp_path, instances={"port_range": [port, port + 2]}) as h, thief(port, shares=shares) as asked:
        await h.create("a", "reuse-port" if shares else "")
        status, body = await h.chat("a")
        assert (status, body["spawn"] != "thief") == (200, True)
        assert (await h.get("a"))["port"] > port
        assert asked == []


async def test_an_orphan_that_answers_on_a_port_of_ours_is_never_asked(tmp_path: Path) -> None:
    port = FIRST_PORT + 70
    note = tmp_path / "orphan.record"
    orphan = await asyncio.create_subprocess_exec(
        *(sys.executable, "-S", "-E", str(STUB), "--port", str(port)),
        env={"STUBD": f"reuse-port record={note} max-life=30 port-file={tmp_path}/port"},
    )
    try:
        await eventually((tmp_path / "port").exists)
        async with house(tmp_path, instances={"port_range": [port, port + 2]}) as h:
            await h.create("a", "reuse-port")
            for _ in range(10):
                status, body = await h.chat("a", max_tokens=1)
                assert (status, body["system_fingerprint"]) == (200, f"stub-{h.spawned('a')[0]}")
        assert not note.exists()
        assert orphan.returncode is None  # it is not ours to end
    finally:
        orphan.kill()
        await orphan.wait()


async def test_a_range_without_a_free_port_is_a_reason_that_is_told(tmp_path: Path) -> None:
    port = FIRST_PORT + 80
    async with house(tmp_path, instances={"port_range": [port, port]}) as h, thief(port, shares=False):
        await h.create("a")
        status, body = await h.chat("a")
        assert (status, body["error"]["code"]) == (503, "start_failed")
        assert f"no free port between {port} and {port}" in body["error"]["message"]
