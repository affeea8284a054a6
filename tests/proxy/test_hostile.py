"""Clients and backends that mean no good, or know no better. Requests are sent as raw bytes, and so are answers.

`canned` is a house whose instance `a` sends exactly the bytes that the test puts into `answer`, to each POST, and notes what it
was asked. `h` is a house with the stub. Both are there twice: with the front, and without it.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.house import House, eventually, house

CHAT = "/v1/chat/completions"
PROXY = "/api/v1/instances/a/proxy"
WISH = b'{"model":"a"}'
PAUSE = b"<PAUSE>"
KEEP = b"<KEEP>"

BACKEND = r"""
import os, socket, sys, threading, time
folder = os.environ["CANNED"]
def serve(connection):
    data = b""
    while True:
        while b"\r\n\r\n" not in data:
            part = connection.recv(65536)
            if not part:
                return
            data += part
        head, _, data = data.partition(b"\r\n\r\n")
        length = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        while length and len(data) < length[0]:
            data += connection.recv(65536)
        data = data[length[0]:] if length else data
        if head.startswith(b"GET /health "):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            continue
        with open(folder + "/asked", "ab") as file:
            file.write(head.split(b"\r\n")[0] + b"\n")
        with open(folder + "/answer", "rb") as file:
            answer = file.read()
        for part in answer.replace(b"<KEEP>", b"").split(b"<PAUSE>"):
            connection.sendall(part)
            time.sleep(0.02)
        if not answer.endswith(b"<KEEP>"):
            connection.close()
            return
listener = socket.create_server(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), backlog=100)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


@dataclass
class Canned:
    """A house, and what its instance `a` answers."""

    house: House

    def answer(self, *parts: bytes) -> None:
        """Send these, with a pause between them, and close; unless the last ends with KEEP."""
        (self.house.folder / "answer").write_bytes(PAUSE.join(parts))

    def asked(self) -> list[bytes]:
        """The request lines that it got."""
        file = self.house.folder / "asked"
        return file.read_bytes().splitlines() if file.exists() else []

    async def post(self, *headers: str, version: bytes = b"HTTP/1.1") -> tuple[bytes, bytes, bool]:
        """(head, body as on the wire, was the connection reset) of a request."""
        request = post(self.house, WISH, *headers).replace(b"HTTP/1.1", version, 1)
        async with asyncio.timeout(5), self.house.connection() as (reader, writer):
            writer.write(request)
            received, was_reset = b"", False
            try:
                while part := await reader.read(1 << 16):
                    received += part
            except ConnectionResetError:
                was_reset = True
        head, _, body = received.partition(b"\r\n\r\n")
        return head, body, was_reset


def post(h: House, body: bytes, *headers: str, target: str = CHAT) -> bytes:
    return h.head("POST", target, "Content-Type: application/json", f"Content-Length: {len(body)}", *headers) + body


@pytest.fixture
async def canned(tmp_path: Path, fast_path: bool) -> AsyncIterator[Canned]:
    program = tmp_path / "backend.py"
    program.write_text(BACKEND)
    options = {
        "backend_type": "llama_cpp",
        "backend_options": {"model": "/dev/null"},
        "command_override": [sys.executable, "-S", "-E", str(program)],
        "environment": {"CANNED": str(tmp_path)},
        "stop_timeout": 1,
    }
    async with house(tmp_path, server={"fast_path": fast_path}) as h:
        assert (await h.ask("POST", "/api/v1/instances/a", json=options))[0] == 201
        await h.ask("POST", "/api/v1/instances/a/start")
        await h.until("a", "ready")
        yield Canned(h)


@pytest.fixture
async def h(tmp_path: Path, fast_path: bool) -> AsyncIterator[House]:
    async with house(tmp_path, server={"fast_path": fast_path}) as running:
        await running.create("a")
        await running.ask("POST", "/api/v1/instances/a/start")
        await running.until("a", "ready")
        yield running


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def ok(*headers: str, body: bytes = b"") -> bytes:
    return "".join(f"{line}\r\n" for line in ("HTTP/1.1 200 OK", *headers, "")).encode("latin-1") + body


def without_framing(head: bytes, body: bytes) -> tuple[bytes, bool]:
    """The body's bytes, and whether it came whole."""
    if b"transfer-encoding: chunked" not in head.lower():
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        return body, not length or len(body) == int(length)
    found = b""
    while line := re.match(rb"([0-9a-f]+) *(?:;[^\r]*)?\r\n", body):
        size, body = int(line[1], 16), body[line.end() :]
        if size == 0:
            return found, body == b"\r\n"
        found, body = found + body[:size], body[size + 2 :]
    return found, False


# ---- backends that answer well, in every way there is


WELL = {
    "counted": (ok("Content-Length: 5", body=b"hello"), b"hello"),
    "counted-twice-the-same": (ok("Content-Length: 5", "Content-Length: 5", body=b"hello"), b"hello"),
    "empty": (ok("Content-Length: 0"), b""),
    "chunked": (ok("Transfer-Encoding: chunked", body=b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n"), b"hello"),
    "chunked-odd-sizes": (ok("Transfer-Encoding: chunked", body=b"0002\r\nhe\r\n003 \r\nllo\r\n000\r\n\r\n"), b"hello"),
    "chunked-in-pieces": (ok("Transfer-Encoding: chunked") + PAUSE.join((b"5\r\nhe", b"llo\r\n0\r", b"\n\r\n")), b"hello"),
    "chunked-byte-by-byte": (
        ok("Transfer-Encoding: chunked") + PAUSE.join(bytes([b]) for b in b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
        b"hello",
    ),
    "head-in-pieces": (PAUSE.join((b"HT", b"TP/1.1 200 OK\r\nContent-", b"Length: 5\r\n\r", b"\nhel", b"lo")), b"hello"),
    "until-close": (ok(body=b"hello"), b"hello"),
    "http-1.0": (b"HTTP/1.0 200 OK\r\n\r\nhello", b"hello"),
    "no-reason": (b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "odd-reason": (b"HTTP/1.1 200 \xc3\x9cber (cool)!\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "continue-first": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nX: y\r\n\r\n" + ok("Content-Length: 5", body=b"hello"), b"hello"
    ),
    "many-headers": (ok(*(f"X-{n}: {'y' * 50}" for n in range(100)), "Content-Length: 5", body=b"hello"), b"hello"),
}  # fmt: skip


@pytest.mark.parametrize("keep", [b"", KEEP], ids=["closes", "keeps"])
async def test_every_way_to_frame_an_answer_is_understood(canned: Canned, keep: bytes) -> None:
    for name, (answer, body) in WELL.items():
        if keep and name in ("until-close", "http-1.0"):
            continue
        for version in (b"HTTP/1.1", b"HTTP/1.0"):
            canned.answer(answer + keep)
            head, received, was_reset = await canned.post(version=version)
            assert (status(head), was_reset) == (200, False), (name, version)
            assert without_framing(head, received) == (body, True), (name, version, received)
            assert version == b"HTTP/1.1" or b"chunked" not in head.lower()
    assert len(canned.asked()) == 2 * len(WELL) - (4 if keep else 0)


@pytest.mark.parametrize("code", [200, 201, 204, 304, 400, 401, 404, 418, 429, 500, 503, 599])
async def test_any_status_is_passed_on(canned: Canned, code: int) -> None:
    has_body = code not in (204, 304)
    canned.answer(f"HTTP/1.1 {code} Whatever\r\n".encode() + (b"Content-Length: 2\r\n\r\nhi" if has_body else b"\r\n"))
    head, body, was_reset = await canned.post()
    assert head.startswith(f"HTTP/1.1 {code} Whatever".encode())
    assert (without_framing(head, body), was_reset) == ((b"hi" if has_body else b"", True), False)


# ---- backends that do not


BAD = {
    "nothing": b"",
    "no-http": b"SSH-2.0-OpenSSH_9.6\r\n",
    "words": b"hello\r\n\r\n",
    "html": b"<html>502</html>",
    "bad-version": b"HTTP/one.one 200 fine\r\n\r\n",
    "http-2": b"HTTP/2 200 OK\r\n\r\n",
    "http-0.9": b"HTTP/0.9 200 OK\r\n\r\n",
    "status-0": b"HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n",
    "status-20": b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
    "status-2000": b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    "status-minus": b"HTTP/1.1 -200 OK\r\nContent-Length: 0\r\n\r\n",
    "status-word": b"HTTP/1.1 OK 200\r\nContent-Length: 0\r\n\r\n",
    "switches": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
    "half-a-head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "head-without-end": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n",
    "only-continue": b"HTTP/1.1 100 Continue\r\n\r\n",
    "giant-head": b"HTTP/1.1 200 OK\r\nX: " + b"x" * (1 << 20) + b"\r\n\r\n",
    "giant-head-of-many": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200_000 + b"\r\n",
    "no-colon": ok("Content-Length"),
    "space-before-colon": ok("Content-Length : 0"),
    "name-with-space": ok("X Y: z", "Content-Length: 0"),
    "no-name": ok(": z", "Content-Length: 0"),
    "folded": ok("X: y\r\n z", "Content-Length: 0"),
    "nul": ok("X: a\0b", "Content-Length: 0"),
    "bare-cr": ok("X: a\rEvil: b", "Content-Length: 0"),
    "bare-lf": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "length-negative": ok("Content-Length: -1"),
    "length-word": ok("Content-Length: many"),
    "length-plus": ok("Content-Length: +2", body=b"hi"),
    "length-hex": ok("Content-Length: 0x2", body=b"hi"),
    "length-list": ok("Content-Length: 2, 2", body=b"hi"),
    "length-huge": ok("Content-Length: " + "9" * 30, body=b"hi"),
    "length-unicode": ok("Content-Length: \xb2", body=b"hi"),
    "lengths-differ": ok("Content-Length: 2", "Content-Length: 3", body=b"hi"),
    "length-and-chunked": ok("Content-Length: 2", "Transfer-Encoding: chunked", body=b"2\r\nhi\r\n0\r\n\r\n"),
    "gzip-chunked": ok("Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "chunked-twice": ok("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "identity": ok("Transfer-Encoding: identity", body=b"hi"),
    "chunked-first": ok("Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n"),
    "xchunked": ok("Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
}
CUT = {
    "length-lie": ok("Content-Length: 100", body=b"hello"),
    "no-body": ok("Content-Length: 100"),
    "chunk-cut": ok("Transfer-Encoding: chunked", body=b"a\r\nhello"),
    "chunk-size-cut": ok("Transfer-Encoding: chunked", body=b"5\r\nhello\r\n1"),
    "no-last-chunk": ok("Transfer-Encoding: chunked", body=b"5\r\nhello\r\n"),
    "last-chunk-cut": ok("Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n"),
    "chunk-too-long": ok("Transfer-Encoding: chunked", body=b"2\r\nhello\r\n0\r\n\r\n"),
    "chunk-size-word": ok("Transfer-Encoding: chunked", body=b"five\r\nhello\r\n0\r\n\r\n"),
    "chunk-size-negative": ok("Transfer-Encoding: chunked", body=b"-5\r\nhello\r\n0\r\n\r\n"),
    "chunk-size-empty": ok("Transfer-Encoding: chunked", body=b"\r\nhello\r\n0\r\n\r\n"),
    "chunk-size-huge": ok("Transfer-Encoding: chunked", body=b"f" * 40 + b"\r\nhello\r\n0\r\n\r\n"),
    "chunk-size-0x": ok("Transfer-Encoding: chunked", body=b"0x5\r\nhello\r\n0\r\n\r\n"),
    "chunk-line-endless": ok("Transfer-Encoding: chunked", body=b"5;" + b"x" * 100_000),
    "chunk-bare-lf": ok("Transfer-Encoding: chunked", body=b"5\nhello\n0\n\n"),
    "no-chunks": ok("Transfer-Encoding: chunked", body=b"hello"),
    "trailer-with-no-name": ok("Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\nno trailer\r\n\r\n"),
    "trailers-endless": ok("Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n" + b"X: y\r\n" * 50_000),
}


async def test_an_answer_that_is_no_http_is_502_with_the_instances_name(canned: Canned) -> None:
    for name, answer in BAD.items():
        canned.answer(answer)
        head, body, was_reset = await canned.post()
        assert (status(head), was_reset) == (502, False), (name, head, body[:100])
        error = json.loads(body)["error"]
        assert (error["code"], error["type"]) == ("backend_failed", "server_error"), name
        assert error["message"].startswith("instance 'a' "), error
        assert len(body) < 500, name
    assert (await canned.house.get("a"))["state"] == "ready"


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
async def test_an_answer_that_breaks_off_never_looks_whole(canned: Canned, version: bytes) -> None:
    for name, answer in CUT.items():
        canned.answer(answer.replace(b"\r\n\r\n", b"\r\n\r\n" + PAUSE, 1))  # the head is with the client before the rest comes
        head, body, was_reset = await canned.post(version=version)
        assert status(head) == 200, name
        content, is_whole = without_framing(head, body)
        assert b"hello".startswith(content), name
        assert was_reset or not is_whole, (name, head, body)


async def test_an_empty_length_is_not_taken_for_that_of_the_last_answer(canned: Canned) -> None:
    for _ in range(2):
        canned.answer(ok("Content-Length: 3", body=b"own") + KEEP)
        assert (await canned.post())[1] == b"own"
        canned.answer(ok("Content-Length: ", body=b"hello") + KEEP)
        assert status((await canned.post())[0]) == 502


@pytest.mark.parametrize(
    "begun",
    [b"HTTP/1.1 200 OK\r\nContent-Ty", b"H", b"HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"],
    ids=["half-a-head", "a-byte", "early-hints", "continue"],
)
async def test_a_request_that_the_backend_began_to_answer_is_not_sent_again(canned: Canned, begun: bytes) -> None:
    canned.answer(ok("Content-Length: 3", body=b"own") + KEEP)
    for _ in range(2):
        assert (await canned.post())[1] == b"own"
    canned.answer(begun)
    assert status((await canned.post())[0]) == 502
    assert len(canned.asked()) == 3, "the last of them on a connection that had rested"


async def test_what_one_client_is_sent_never_reaches_another(canned: Canned) -> None:
    evil = ok("Content-Length: 4", body=b"EVIL")
    for name, answer in {
        "behind-a-counted-answer": ok("Content-Length: 5", body=b"hello") + evil,
        "behind-a-chunked-answer": ok("Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n") + evil,
        "behind-an-empty-answer": ok("Content-Length: 0") + evil,
        "behind-a-204": b"HTTP/1.1 204 No Content\r\n\r\n" + evil,
        "behind-a-304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n" + evil,
        "a-little-later": PAUSE.join((ok("Content-Length: 5", body=b"hello"), evil)),
        "length-and-chunked": ok("Content-Length: 40", "Transfer-Encoding: chunked", body=b"0\r\n\r\n") + evil,
    }.items():
        for client in range(3):
            canned.answer(answer + KEEP if client < 2 else ok("Content-Length: 3", body=b"own") + KEEP)
            head, body, was_reset = await canned.post()
            await asyncio.sleep(0.05 if PAUSE in answer else 0)  # what comes unasked, comes before anybody asks again
            assert b"EVIL" not in without_framing(head, body)[0] or was_reset, (name, client)
            if client == 2:
                assert (status(head), body) == (200, b"own"), name


async def test_what_a_backend_says_about_connections_cookies_origins_and_redirects(canned: Canned) -> None:
    port = (await canned.house.get("a"))["port"]
    canned.answer(
        ok(
            "Connection: close, X-Named",
            "X-Named: dropped",
            "Keep-Alive: dropped",
            "Proxy-Authenticate: dropped",
            "Proxy-Connection: dropped",
            "Upgrade: dropped",
            "Trailer: dropped",
            "Access-Control-Allow-Origin: dropped",
            "access-control-allow-credentials: dropped",
            "Access-Control-Expose-Headers: dropped",
            f"Location: http://127.0.0.1:{port}/dropped",
            "Server: kept",
            "Set-Cookie: a=kept; Path=/",
            "Set-Cookie: b=kept",
            "X-Latin: k\xe9pt",
            "X-Empty:",
            "Content-Type: text/kept",
            "Content-Length: 2",
            body=b"hi",
        )
    )
    head, body, _ = await canned.post()
    lines = head.decode("latin-1").split("\r\n")[1:]
    assert "dropped" not in head.decode("latin-1")
    assert lines.count("Server: kept") == 1
    assert [line for line in lines if line.startswith("Set-Cookie")] == ["Set-Cookie: a=kept; Path=/", "Set-Cookie: b=kept"]
    assert {"X-Latin: k\xe9pt", "Content-Type: text/kept"} <= set(lines)
    assert any(line.rstrip() == "X-Empty:" for line in lines)
    assert body == b"hi"


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(canned: Canned, code: int) -> None:
    asked: list[bytes] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.close()

    async with await asyncio.start_server(note, "127.0.0.1", 0) as elsewhere:
        target = f"http://127.0.0.1:{elsewhere.sockets[0].getsockname()[1]}/stolen"
        canned.answer(f"HTTP/1.1 {code} Go\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode())
        head, _, _ = await canned.post()
        assert status(head) == code
        assert f"Location: {target}".encode() in head
        canned.answer(f"HTTP/1.1 {code} Go\r\nLocation: /relative\r\nContent-Length: 0\r\n\r\n".encode())
        assert b"Location: /relative" in (await canned.post())[0]
    assert asked == []
    assert len(canned.asked()) == 2


async def test_a_backend_that_says_nothing_for_too_long_is_502(tmp_path: Path) -> None:
    async with house(tmp_path, server={"response_timeout": "200ms"}) as h:
        await h.create("a", "hang-on-request")
        await h.create("b", "hang-after=2")
        await h.create("c", "tok-rate=10 tokens=6")
        status_, body = await h.chat("a")
        assert (status_, body["error"]["code"]) == (502, "backend_failed")
        answer = await h.raw(post(h, b'{"model":"b","stream":true}'))
        assert not answer.endswith(b"0\r\n\r\n")
        answer = await h.raw(post(h, b'{"model":"c","stream":true}'))  # longer as a whole, but never silent
        assert answer.endswith(b"0\r\n\r\n")
        assert (await h.recorded("a"))[0]["lost"] is not None


@pytest.mark.parametrize("switch", ["bad-status-line", "giant-head", "fixed-length-lie", "drop-mid-stream=0"])
async def test_a_stub_that_misbehaves_is_told_as_such(tmp_path: Path, switch: str) -> None:
    async with house(tmp_path) as h:
        await h.create("a", switch)
        answer = await h.raw(post(h, b'{"model":"a","stream":true}' if "drop" in switch else WISH))
        if switch in ("bad-status-line", "giant-head"):
            assert status(answer) == 502
            assert b"instance 'a' gave an answer that is no HTTP" in answer
        else:
            assert not without_framing(*answer.split(b"\r\n\r\n", 1))[1]


async def test_a_backend_that_closes_idle_connections_fails_nobody(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        await h.create("a", "idle-close=0.02 tokens=1")
        for number in range(60):
            assert (await h.chat("a"))[0] == 200
            await asyncio.sleep((0, 0.01, 0.02, 0.03)[number % 4])
        assert len(await h.recorded("a", 60)) == 60  # and none was sent twice


# ---- paths


TRICKS = [
    "/..", "/../", "/../api", "/../../etc/passwd", "/x/..", "/x/../y", "/x/../../y", "/./x", "/x/.", "/x/./y", "/%2e",
    "/%2e%2e", "/%2E%2e/x", "/.%2e/x", "/%2e./x", "/x/%2e%2e/%2e%2e/y", "/%2e%2e%2fx", "/..%2fx", "/..%2Fx", "/x%2f..%2fy",
    "/%2f..", "/..;/x", "/..;a=b/x", "/.;/x", "/%2e%2e;/x", "/x/..;/..;/y", "/\\..\\x", "/x\\..\\y", "/..\\x", "/%5c..%5cx",
    "/%5C%2e%2e%5Cx", "\\x", "/\\evil.com/", "/\\\\evil.com/x", "/%00", "/x%00.json", "/%2e%00%2e/x", "/x/%2e%2e",
    "/x/%2e%2e?y", "/..?x", "/..#x", "/x#y", "/x?y#z", "/%2e%2e%5cx", "/..%5cx", "/..%00/x",
]  # fmt: skip
ODD = [
    "//", "//x", "//evil.com/x", "///x", "/x//y", "/@evil.com", "/@evil.com/x", "/user:pass@evil.com/x", "/:80", "/:80/x",
    "/x;y", "/x;y=z/w", "/x%2fy", "/%2fx", "/%2f%2fevil.com/x", "/x%3fy", "/x%23y", "/%41", "/%7e", "/~", "/%252e%252e/x",
    "/%25%32%65%25%32%65/x", "/x%20y", "/x+y", "/%0d%0aX:%20y", "/x%0aHost:%20evil.com", "/%ff", "/%C0%AE%C0%AE/x",
    "/%E3%80%82%E3%80%82/x", "/x?y=../..", "/x?y=%2e%2e", "/x?http://evil.com", "/x?a=b&c=d%26e", "/x??y", "/x?", "/...",
    "/..x", "/x..", "/x/...", "/.x", "/x.", "/%", "/%zz", "/%2", "/x|y", "/x^y", "/{x}", "/[x]", "/x'y", '/x"y', "/x<y>",
    "/x`y", "/!$&'()*+,=", "/a:b", "/a@b:80", "/http://evil.com/", "/" + "x" * 6000,
]  # fmt: skip


async def test_no_path_leads_out_of_its_prefix_or_to_another_host(h: House) -> None:
    """What is refused reaches nobody; what is not reaches our backend, and as it was written."""
    for prefix, own in (("/v1/x", "/v1/x"), (PROXY, "")):
        for trick in TRICKS:
            answer = await h.raw(post(h, WISH, target=prefix + trick))
            assert status(answer) in (400, 404), (prefix, trick, answer[:200])
        assert h.requests("a") == []
        for path in ODD:
            before = len(h.requests("a"))
            answer = await h.raw(post(h, WISH, target=prefix + path))
            if b"File Not Found" not in answer:
                assert status(answer) in (400, 404), (prefix, path, answer[:200])
                assert len(h.requests("a")) == before, (prefix, path)
                continue
            seen = (await h.recorded("a", before + 1))[-1]
            assert seen["target"] == own + path, (prefix, path)
            host = f"127.0.0.1:{(await h.get('a'))['port']}"
            assert [value for name, value in seen["headers"] if name.lower() == "host"] == [host]
        assert len(h.requests("a")) > 30, prefix  # most of these are odd, and no trick
        h.record("a").unlink()


FORMS = [
    "http://127.0.0.1/v1/x",
    "http://evil.com/v1/x",
    "https://evil.com/v1/x",
    "//evil.com/v1/x",
    "v1/x",
    "*",
    "evil.com:80",
    "?x",
    "#x",
    "@evil.com/v1/x",
    "/v1/x y",
    "/v1/x\ty",
    "/v1/\xe9",
    "/v1/x\x7f",
    "/v1/\x01",
    "/v1/x HTTP/1.1\r\nHost: evil.com\r\n\r\nGET /",
    "",
]


async def test_other_forms_of_a_target_reach_no_backend(h: House) -> None:
    for target in FORMS:
        answer = await h.raw(post(h, WISH, target=target))
        assert 400 <= status(answer) < 500, (target, answer)
    assert h.requests("a") == []


# ---- requests that two readers would read differently


LINE = "POST /v1/x HTTP/1.1"
CHUNKED = b"d\r\n" + WISH + b"\r\n0\r\n\r\n"
SMUGGLED = b"POST /v1/smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: 13\r\n\r\n" + WISH
SMUGGLING: dict[str, tuple[tuple[str, ...], bytes]] = {
    "length-and-chunked": ((LINE, "Content-Length: 13", "Transfer-Encoding: chunked"), CHUNKED),
    "chunked-and-length": ((LINE, "Transfer-Encoding: chunked", "Content-Length: 4"), CHUNKED),
    "lengths-differ": ((LINE, "Content-Length: 13", "Content-Length: 0"), WISH),
    "length-list": ((LINE, "Content-Length: 13, 0"), WISH),
    "length-plus": ((LINE, "Content-Length: +13"), WISH),
    "length-minus": ((LINE, "Content-Length: -13"), WISH),
    "length-hex": ((LINE, "Content-Length: 0xd"), WISH),
    "length-space": ((LINE, "Content-Length: 1 3"), WISH),
    "length-underscore": ((LINE, "Content-Length: 1_3"), WISH),
    "length-point": ((LINE, "Content-Length: 13.0"), WISH),
    "length-empty": ((LINE, "Content-Length:"), WISH),
    "length-empty-too": ((LINE, "Content-Length: "), WISH),
    "length-and-empty": ((LINE, "Content-Length: 13", "Content-Length: "), WISH),
    "empty-and-length": ((LINE, "Content-Length: ", "Content-Length: 13"), WISH),
    "length-list-the-same": ((LINE, "Content-Length: 13, 13"), WISH),
    "lengths-the-same": ((LINE, "Content-Length: 13", "Content-Length: 13"), WISH),
    "length-of-40-digits": ((LINE, "Content-Length: " + "1" * 40), WISH),
    "length-in-other-digits": ((LINE, "Content-Length: \xb9\xb3"), WISH),
    "length-nul": ((LINE, "Content-Length: 13\0"), WISH),
    "space-before-colon": ((LINE, "Content-Length : 13"), WISH),
    "tab-before-colon": ((LINE, "Transfer-Encoding\t: chunked"), CHUNKED),
    "folded-line": ((LINE, "Content-Length:\r\n 13"), WISH),
    "xchunked": ((LINE, "Transfer-Encoding: xchunked"), CHUNKED),
    "chunked-identity": ((LINE, "Transfer-Encoding: chunked, identity"), CHUNKED),
    "identity-chunked": ((LINE, "Transfer-Encoding: identity, chunked"), CHUNKED),
    "chunked-twice": ((LINE, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), CHUNKED),
    "chunked-comma": ((LINE, "Transfer-Encoding: chunked,"), CHUNKED),
    "chunked-quoted": ((LINE, 'Transfer-Encoding: "chunked"'), CHUNKED),
    "chunked-nul": ((LINE, "Transfer-Encoding: chunked\0"), CHUNKED),
    "chunked-vt": ((LINE, "Transfer-Encoding: \x0bchunked"), CHUNKED),
    "folded-elsewhere": ((LINE, "X: y", " z", "Content-Length: 13"), WISH),
    "folded-with-a-tab": ((LINE, "X: y", "\tTransfer-Encoding: chunked", "Content-Length: 13"), WISH),
    "name-with-a-space": ((LINE, "X Y: z", "Content-Length: 13"), WISH),
    "no-name": ((LINE, ": z", "Content-Length: 13"), WISH),
    "no-colon": ((LINE, "X", "Content-Length: 13"), WISH),
    "nul-in-a-name": ((LINE, "X\0: z", "Content-Length: 13"), WISH),
    "cr-in-a-name": ((LINE, "X\rY: z", "Content-Length: 13"), WISH),
    "bare-lf": ((LINE, "X: y\nTransfer-Encoding: chunked", "Content-Length: 13"), WISH),
    "bare-lf-in-the-first-line": (("POST /v1/x HTTP/1.1\nX: y", "Content-Length: 13"), WISH),
    "del": ((LINE, "X: a\x7fb", "Content-Length: 13"), WISH),
    "bare-cr": ((LINE, "X: y\rTransfer-Encoding: chunked", "Content-Length: 13"), WISH),
    "nul-in-header": ((LINE, "X: a\0b", "Content-Length: 13"), WISH),
    "chunk-size-plus": ((LINE, "Transfer-Encoding: chunked"), b"+" + CHUNKED),
    "chunk-size-minus": ((LINE, "Transfer-Encoding: chunked"), b"-" + CHUNKED),
    "chunk-size-0x": ((LINE, "Transfer-Encoding: chunked"), b"0x" + CHUNKED),
    "chunk-size-word": ((LINE, "Transfer-Encoding: chunked"), b"z\r\n" + CHUNKED),
    "chunk-too-long": ((LINE, "Transfer-Encoding: chunked"), b"2\r\n" + WISH + b"\r\n0\r\n\r\n"),
    "chunk-bare-lf": ((LINE, "Transfer-Encoding: chunked"), CHUNKED.replace(b"\r\n", b"\n")),
    "two-hosts": ((LINE, "Host: evil.com", "Content-Length: 13"), WISH),
    "http-1.0-chunked": (("POST /v1/x HTTP/1.0", "Transfer-Encoding: chunked"), CHUNKED),
    "http-1.2": (("POST /v1/x HTTP/1.2", "Content-Length: 13"), WISH),
    "http-2": (("POST /v1/x HTTP/2.0", "Content-Length: 13"), WISH),
    "http-11": (("POST /v1/x HTTP/11", "Content-Length: 13"), WISH),
    "method-with-colon": (("PO:ST /v1/x HTTP/1.1", "Content-Length: 13"), WISH),
    "leading-space": ((" POST /v1/x HTTP/1.1", "Content-Length: 13"), WISH),
    "long-header": ((LINE, "X: " + "y" * 100_000, "Content-Length: 13"), WISH),
    "long-line": (("POST /v1/" + "x" * 100_000 + " HTTP/1.1", "Content-Length: 13"), WISH),
    "many-headers": ((LINE, *(f"X-{n}: y" for n in range(50_000)), "Content-Length: 13"), WISH),
}


async def test_a_request_that_could_be_read_in_two_ways_is_refused_and_nothing_behind_it_is_read(h: House) -> None:
    usual = (f"Host: {h.url[7:]}", f"Authorization: Bearer {h.daemon.management_key}", "Content-Type: application/json")
    behind = SMUGGLED.replace(b"Host", usual[1].encode() + b"\r\nHost")
    for case, ((first, *rest), body) in SMUGGLING.items():
        head = "".join(f"{line}\r\n" for line in (first, *usual, *rest, "")).encode("latin-1")
        answer = await h.raw(head + body + behind)
        assert status(answer) in (400, 431, 505), (case, answer)
        assert len(re.findall(rb"HTTP/1.. \d\d\d ", answer)) == 1, case
        assert h.requests("a") == [], case
    assert (await h.chat("a"))[0] == 200


async def test_a_plain_request_in_that_form_is_answered(h: House) -> None:
    """So that the test above does not pass by refusing everything."""
    usual = f"Host: {h.url[7:]}\r\nAuthorization: Bearer {h.daemon.management_key}\r\nContent-Type: application/json\r\n"
    for headers, body in (("Content-Length: 13\r\n", WISH), ("Transfer-Encoding: chunked\r\n", CHUNKED)):
        answer = await h.raw(f"{LINE}\r\n{usual}{headers}\r\n".encode() + body + SMUGGLED.replace(b"Host", usual.encode() + b"X"))
        assert answer.count(b"File Not Found") == 2
    targets = [line["target"] for line in await h.recorded("a", 4)]
    assert targets == ["/v1/x", "/v1/smuggled"] * 2


# ---- bodies that are too large, or too slow


@asynccontextmanager
async def small(tmp_path: Path, fast_path: bool) -> AsyncIterator[House]:
    limits = {"max_body_size": 2000, "body_timeout": "300ms", "fast_path": fast_path}
    async with house(tmp_path, server=limits) as h:
        await h.create("a")
        await h.ask("POST", "/api/v1/instances/a/start")
        await h.until("a", "ready")
        yield h


@pytest.mark.parametrize("target", [CHAT, f"{PROXY}/echo", "/api/v1/instances/b", "/api/v1/auth/keys"])
@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_body_over_the_limit_is_413(tmp_path: Path, target: str, is_chunked: bool) -> None:
    async with small(tmp_path, fast_path=True) as h:
        body = b'{"model":"a","x":"' + b"y" * 3000 + b'"}'
        if is_chunked:
            answer = await h.raw(
                h.head("POST", target, "Transfer-Encoding: chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            )
        else:
            answer = await h.raw(post(h, body, target=target))
        assert status(answer) == 413
        assert b"over 2000 bytes (server.max_body_size)" in answer
        assert b"too_large" in answer
        assert h.requests("a") == []
        assert (await h.chat("a"))[0] == 200


async def test_a_body_that_is_said_to_be_huge_is_refused_without_being_read(tmp_path: Path, fast_path: bool) -> None:
    async with small(tmp_path, fast_path) as h, h.connection() as (reader, writer):
        writer.write(h.head("POST", CHAT, "Content-Type: application/json", f"Content-Length: {10**12}"))
        assert status(await asyncio.wait_for(reader.readline(), 2)) == 413


@pytest.mark.parametrize("target", [CHAT, f"{PROXY}/echo", "/api/v1/instances/b"])
async def test_a_body_that_does_not_come_is_given_up(tmp_path: Path, target: str) -> None:
    async with small(tmp_path, fast_path=True) as h:
        async with h.connection() as (reader, writer):
            began = time.monotonic()
            writer.write(h.head("POST", target, "Content-Type: application/json", "Content-Length: 1000"))
            answer = b""
            while b"\r\n\r\n" not in answer:
                writer.write(b" ")
                answer += await asyncio.wait_for(reader.read(1000), 0.05) if reader._buffer else b""  # type: ignore[attr-defined]
                await asyncio.sleep(0.02)
                assert time.monotonic() - began < 3
            assert 400 <= status(answer) < 500
            assert b"server.body_timeout" in answer
        assert h.requests("a") == []
        await eventually(lambda: h.daemon.services.fleet.get("a").leases.value == 0)


# ---- what is not relayed


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND", "LOCK", "M-SEARCH", "GETT", "get", "X" * 100])
async def test_other_methods_reach_no_backend(h: House, method: str) -> None:
    for target in (CHAT, f"{PROXY}/props"):
        answer = await h.raw(h.head(method, target))
        assert 400 <= status(answer) < 500, answer
    record = h.record("a")
    assert not record.exists() or all(json.loads(line)["target"] == "/health" for line in record.read_text().splitlines())
