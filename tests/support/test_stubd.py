"""The stub backend does what its switches say. Each test runs a real one and talks to it in plain HTTP.

`async with running("load-time=1") as stub:` starts one with these switches on a free port, and ends its family afterwards.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

STUBD = Path(__file__).with_name("stubd.py")
CHAT = "/v1/chat/completions"
COUNTED = " one two three four five six seven eight nine ten"
HELLO = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


# ---- an honest backend


async def test_it_answers_whole_and_says_who_it_is() -> None:
    async with running(environment={"LLAMACTL_SPAWN": "dir:token"}) as stub:
        answer = await stub.post(CHAT, {**HELLO, "model": "Größe/7"})
        assert answer.status == 200
        assert answer.json["choices"] == [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": COUNTED}}
        ]
        assert (answer.json["model"], answer.json["spawn"]) == ("Größe/7", "dir:token")
        assert answer.json["system_fingerprint"] == f"stub-{stub.process.pid}"
        text = (await stub.post("/v1/completions", {"prompt": "x", "max_tokens": 2})).json["choices"][0]
        assert text == {"index": 0, "finish_reason": "length", "text": " one two"}


async def test_it_streams_events_with_usage_and_an_end() -> None:
    async with running("tokens=3") as stub:
        answer = await stub.post(CHAT, {**HELLO, "stream": True, "stream_options": {"include_usage": True}})
        assert answer.headers["content-type"] == "text/event-stream"
        *events, last, end = answer.body.decode().split("\n\n")
        chunks = [json.loads(event.removeprefix("data: ")) for event in events]
        assert (last, end) == ("data: [DONE]", "")
        assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks[:-1]] == [" one", " two", " three", None]
        assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
        assert (chunks[-1]["choices"], chunks[-1]["usage"]["completion_tokens"]) == ([], 3)


async def test_other_paths_answer_as_llama_server_does() -> None:
    async with running(arguments=("-a", "small,tiny", "-m", "x.gguf", "--ctx-size", "99")) as stub:
        assert [model["id"] for model in (await stub.get("/v1/models")).json["data"]] == ["small", "tiny"]
        assert (await stub.get("/props")).json["model_path"] == "x.gguf"
        assert (await stub.get("/nothing")).status == 404
        assert len((await stub.post("/v1/embeddings", {"input": ["a", "b"]})).json["data"]) == 2
        assert (await stub.post(CHAT, b"{")).status == 400


async def test_with_a_key_only_health_is_open() -> None:
    async with running(environment={"LLAMA_API_KEY": "right"}) as stub:
        assert (await stub.get("/health")).status == 200
        assert (await stub.get("/v1/models")).status == 401
        assert (await stub.get("/v1/models", "Authorization: Bearer wrong")).status == 401
        assert (await stub.get("/v1/models", "Authorization: Bearer right")).status == 200
        assert (await stub.post(CHAT, HELLO, "X-Api-Key: right")).status == 200


async def test_a_connection_serves_one_request_after_the_other_and_takes_chunked_bodies() -> None:
    async with running() as stub, stub.connection() as (reader, writer):
        for _ in range(3):
            writer.write(
                b"POST /echo HTTP/1.1\r\nX-Odd:  A b \r\nTransfer-Encoding: chunked\r\n\r\n3;x=1\r\nabc\r\n1\r\n!\r\n0\r\n\r\n"
            )
            answer = await read_answer(reader)
            assert answer.json["headers"] == [["X-Odd", "A b"], ["Transfer-Encoding", "chunked"]]
            assert answer.json["sha256"] == hashlib.sha256(b"abc!").hexdigest()
        writer.write(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n")
        await read_answer(reader)
        assert await reader.read() == b""


async def test_what_it_was_asked_is_on_record_byte_for_byte() -> None:
    async with running() as stub:
        await stub.post("/v1/completions?a=%2F", b'{"prompt": "\xc3\xbc\xff"}', "X-Twice: 1", "x-twice: 2")
        (entry,) = await stub.recorded(1)
        assert (entry["method"], entry["target"], entry["status"]) == ("POST", "/v1/completions?a=%2F", 400)
        assert [pair for pair in entry["headers"] if pair[0].lower() == "x-twice"] == [["X-Twice", "1"], ["x-twice", "2"]]
        assert entry["body"].encode("utf-8", "surrogateescape") == b'{"prompt": "\xc3\xbc\xff"}'
        assert entry["lost"] is None
        assert entry["came"] <= entry["ended"] <= time.monotonic()


# ---- becoming ready


async def test_it_loads_with_503_on_every_path() -> None:
    async with running("load-time=0.6") as stub:
        for path in ("/health", "/v1/models", "/nothing"):
            answer = await stub.get(path)
            assert (answer.status, answer.json["error"]["message"]) == (503, "Loading model")
        await asyncio.sleep(0.6)
        assert (await stub.get("/health")).status == 200


async def test_it_binds_late() -> None:
    port = free_port()
    async with running("bind-after=0.3", port=port, is_waited_for=False) as stub:
        with pytest.raises(ConnectionRefusedError):
            await stub.get("/health")
        await stub.wait_until_bound()
        assert (await stub.get("/health")).status == 200
        assert stub.age() > 0.3


async def test_a_taken_port_ends_it_or_leaves_it_hanging() -> None:
    async with running() as first:
        async with running(port=first.port, is_waited_for=False) as second:
            assert await second.exit_code() == 1
            assert f"couldn't bind HTTP server socket, hostname: 127.0.0.1, port: {first.port}" in second.log()
        async with running("hang-if-port-taken", port=first.port, is_waited_for=False) as second:
            await second.until(lambda: "Address already in use" in second.log())
            assert second.process.poll() is None


async def test_two_share_a_port_with_reuse_port() -> None:
    port = free_port()
    async with running("reuse-port", port=port) as first, running("reuse-port", port=port) as second:
        assert {first.port, second.port} == {port}


# ---- leaving


@pytest.mark.parametrize(("switches", "code"), [("exit-code=3", 3), ("exit-code=0", 0), ("exit-after=0.1", 0)])
async def test_it_exits_by_itself(switches: str, code: int) -> None:
    async with running(switches, "last-words='out of memory'", is_waited_for=False) as stub:
        assert await stub.exit_code() == code
        assert stub.log().endswith("out of memory\n")


async def test_it_dies_of_a_request_that_stays_on_record() -> None:
    async with running("exit-on-request=9") as stub:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await stub.post(CHAT, HELLO)
        assert await stub.exit_code() == 9
        (entry,) = await stub.recorded(1)
        assert (entry["complete"], entry["sent"]) == (True, 0)


async def test_sigterm_ends_it_at_once_or_later_or_never() -> None:
    async with running() as prompt, running("term-delay=0.3") as slow, running("ignore-term") as deaf:
        asked = time.monotonic()
        for stub in (prompt, slow, deaf):
            stub.process.terminate()
        assert await prompt.exit_code() == 0
        assert time.monotonic() - asked < 0.3
        assert (await slow.get("/health")).status == 200
        assert await slow.exit_code() == 0
        assert time.monotonic() - asked >= 0.3
        assert (await deaf.get("/health")).status == 200


async def test_no_process_of_it_outlives_its_time() -> None:
    async with running("max-life=0.4 workers=1 setsid-worker ignore-term worker-ignore-term", is_waited_for=False) as stub:
        await stub.until(lambda: len(stub.family()) == 3)
        assert await stub.exit_code() == -signal.SIGALRM
        await stub.until(lambda: not stub.alive())


# ---- family


async def test_its_workers_stay_when_it_leaves() -> None:
    async with running("workers=2 setsid-worker worker-ignore-term") as stub:
        roles = [member["role"] for member in stub.family()]
        assert sorted(roles) == ["leader", "setsid-worker", "worker", "worker"]
        detached = next(member["pid"] for member in stub.family() if member["role"] == "setsid-worker")
        assert os.getsid(detached) != os.getsid(stub.process.pid)
        stub.process.kill()
        await stub.exit_code()
        for pid in stub.alive():
            os.kill(pid, signal.SIGTERM)
        await asyncio.sleep(0.05)
        assert len(stub.alive()) == 3


async def test_an_orphan_keeps_stdout_open() -> None:
    async with running("hold-stdout", stdout=subprocess.PIPE) as stub:
        stub.process.kill()
        await stub.exit_code()
        assert stub.process.stdout
        os.set_blocking(stub.process.stdout.fileno(), False)
        assert stub.process.stdout.read() is None  # nothing yet, and not the end
        stub.kill_family()
        await stub.until(lambda: stub.process.stdout.read() == b"")


# ---- log


async def test_its_log_floods_in_numbered_lines() -> None:
    async with running("spew=1000000 spew-total=100000 long-line=5000 dirty-log", stdout=subprocess.PIPE) as stub:
        assert stub.process.stdout
        output = await asyncio.to_thread(stub.process.stdout.read, 5001 + 100_000)
        assert output.startswith(b"x" * 5000 + b"\n")
        assert b"\0" in output
        assert b"\xff" in output
        assert b"spew 0000000998 " in output


# ---- spoilt answers


async def test_a_hanging_answer_notices_that_the_client_left() -> None:
    async with running("hang-on-request") as stub:
        async with stub.connection() as (_, writer):
            writer.write(as_request("POST", CHAT, b"{}"))
            await asyncio.sleep(0.1)
            assert (await stub.get("/health")).status == 200
            left = time.monotonic()
        entries = await stub.recorded(2)
        lost = next(entry for entry in entries if entry["method"] == "POST")
        assert 0 <= lost["lost"] - left < 0.2
        assert (lost["how_lost"], lost["sent"]) == ("closed", 0)


async def test_a_stream_stops_when_the_client_resets_the_connection() -> None:
    async with running("tokens=1000 tok-rate=50") as stub:
        async with stub.connection() as (reader, writer):
            writer.write(as_request("POST", CHAT, json.dumps({**HELLO, "stream": True}).encode()))
            await reader.readuntil(b" two")
            no_goodbye = b"\1\0\0\0\0\0\0\0"
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_goodbye)
            writer.transport.abort()
        (entry,) = await stub.recorded(1)
        assert entry["how_lost"] == "reset"
        assert 0 < entry["sent"] < 5000


async def test_a_request_that_never_arrives_whole_is_on_record_too() -> None:
    async with running() as stub:
        async with stub.connection() as (_, writer):
            writer.write(as_request("POST", CHAT, b"{}")[:-1])
            await asyncio.sleep(0.05)
        (entry,) = await stub.recorded(1)
        assert entry["complete"] is False


async def test_words_come_at_the_wished_rate_and_stop_at_the_wished_one() -> None:
    async with running("tok-rate=20 hang-after=4") as stub, stub.connection() as (reader, writer):
        began = time.monotonic()
        writer.write(as_request("POST", CHAT, json.dumps({**HELLO, "stream": True}).encode()))
        await reader.readuntil(b" four")
        assert 0.14 < time.monotonic() - began < 0.5
        await reader.readuntil(b"\r\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readuntil(b"five"), 0.15)
        assert (await stub.get("/health")).status == 200


async def test_a_stream_breaks_off_without_an_end() -> None:
    async with running("drop-mid-stream=2") as stub, stub.connection() as (reader, writer):
        writer.write(as_request("POST", CHAT, json.dumps({**HELLO, "stream": True}).encode()))
        received = await reader.read()
        assert received.count(b"data: ") == 2
        assert not received.endswith(b"0\r\n\r\n")


async def test_an_idle_connection_is_closed() -> None:
    async with running("idle-close=0.1") as stub, stub.connection() as (reader, writer):
        writer.write(as_request("POST", CHAT, json.dumps(HELLO).encode()))
        await read_answer(reader)
        assert await asyncio.wait_for(reader.read(), 1) == b""


async def test_answers_can_be_spoilt_while_health_is_well() -> None:
    async with running("fixed-length-lie") as liar, running("bad-status-line giant-head") as odd, running("status=429") as no:
        with pytest.raises(asyncio.IncompleteReadError):
            await liar.post(CHAT, HELLO)
        async with odd.connection() as (reader, writer):
            writer.write(as_request("POST", CHAT, b"{}", "Connection: close"))
            received = await reader.read()
            assert not received.startswith(b"HTTP/1.1 ")
            assert len(received) > 1 << 20
        refused = await no.post(CHAT, HELLO)
        assert (refused.status, refused.json["error"]["code"]) == (429, 429)
        for stub in (liar, odd, no):
            assert (await stub.get("/health")).status == 200


async def test_health_can_be_slow_while_answers_are_quick() -> None:
    async with running("slow-health=0.3") as stub:
        health = asyncio.ensure_future(stub.get("/health"))
        assert (await stub.post(CHAT, HELLO)).status == 200
        assert not health.done()
        await health
        assert stub.age() > 0.3


async def test_a_misspelt_switch_is_refused() -> None:
    async with running("load-tiem=3", is_waited_for=False) as stub:
        assert await stub.exit_code() == 1
        assert "there is no switch 'load-tiem'" in stub.log()


async def test_switches_are_taken_from_the_command_line_too() -> None:
    async with running("status=400", arguments=("--stub-status=500",)) as stub:
        assert (await stub.post(CHAT, HELLO)).status == 500


# ---- helpers


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Running:
    """A stub that runs, and what it left in its files."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        self.process, self.directory = process, directory
        self.began = time.monotonic()
        self.port = 0

    def age(self) -> float:
        return time.monotonic() - self.began

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def family(self) -> list[dict[str, Any]]:
        return read_lines(self.directory / "pids")

    def alive(self) -> list[int]:
        return [member["pid"] for member in self.family() if is_alive(member["pid"])]

    def kill_family(self) -> None:
        for pid in self.alive():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.01)

    async def wait_until_bound(self) -> None:
        port_file = self.directory / "port"
        await self.until(lambda: port_file.exists() or self.process.poll() is not None)
        self.port = int(port_file.read_text())

    async def exit_code(self) -> int:
        return await asyncio.to_thread(self.process.wait, 5)

    async def recorded(self, count: int) -> list[dict[str, Any]]:
        """The record, as soon as it has *count* requests: a request is written down when it is over."""
        await self.until(lambda: len(read_lines(self.directory / "record")) >= count)
        return read_lines(self.directory / "record")

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 22)
        try:
            yield reader, writer
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def get(self, path: str, *headers: str) -> Answer:
        return await self._ask(as_request("GET", path, b"", *headers))

    async def post(self, path: str, body: object, *headers: str) -> Answer:
        return await self._ask(as_request("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode(), *headers))

    async def _ask(self, request: bytes) -> Answer:
        async with asyncio.timeout(5), self.connection() as (reader, writer):
            writer.write(request)
            return await read_answer(reader)


@asynccontextmanager
async def running(
    *switches: str,
    port: int = 0,
    arguments: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
    stdout: int | None = None,
    is_waited_for: bool = True,
) -> AsyncIterator[Running]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        files = (f"{file.replace('port', 'port-file')}={directory / file}" for file in ("port", "record", "pids"))
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-S", "-E", str(STUBD), *arguments, "--host", "127.0.0.1", "--port", str(port)],
                env={**(environment or {}), "STUBD": " ".join(("max-life=30", *files, *switches))},
                stdout=stdout or log,
                stderr=log,
            )
        with process:
            stub = Running(process, directory)
            stub.port = port
            try:
                if is_waited_for:
                    await stub.wait_until_bound()
                yield stub
            finally:
                process.kill()
                stub.kill_family()


def as_request(method: str, path: str, body: bytes, *headers: str) -> bytes:
    lines = (f"{method} {path} HTTP/1.1", "Host: stub", f"Content-Length: {len(body)}", *headers, "", "")
    return "\r\n".join(lines).encode() + body


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "transfer-encoding" not in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    else:
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
    return Answer(int(first.split()[1]), headers, body)


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def is_alive(pid: int) -> bool:
    """Whether it runs; a zombie does not (an orphan's new parent may take its time)."""
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(found.strip()) and not found.startswith("Z")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
