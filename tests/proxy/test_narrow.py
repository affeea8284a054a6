"""The narrow form is read as aiohttp reads it, and what was found out about one head is never taken for another's meaning."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser, RawRequestMessage
from hypothesis import example, given
from hypothesis import strategies as st

from llamactl_py.instances.target import Target
from llamactl_py.proxy import narrow
from llamactl_py.proxy.exchange import Memo
from llamactl_py.proxy.heads import answer_lines, forwarded
from llamactl_py.proxy.http1 import AnswerHead, Malformed, cut_length

LINE = "POST /v1/chat/completions HTTP/1.1"
PLAIN = (LINE, "Host: localhost:8080", "Content-Type: application/json", "Content-Length: 13")
TARGET = Target("a", "127.0.0.1", 1234)


def read(*lines: str) -> narrow.Head | None:
    """What the front makes of a head."""
    return understand("".join(f"{line}\r\n" for line in lines).encode("latin-1"))


def understand(head: bytes) -> narrow.Head | None:
    text, digits, _ = cut_length(head, len(head))
    return narrow.read(text) if digits is not None else None


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


class Silent:
    """All of a connection that aiohttp's parser asks for."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def aiohttp_reads(loop: asyncio.AbstractEventLoop, head: bytes) -> RawRequestMessage | None:
    """The request that aiohttp finds in *head*; None if it refuses it."""
    protocol: Any = Silent()
    parser = HttpRequestParser(protocol, loop, 1 << 16, max_line_size=8190, max_field_size=8190)
    try:
        messages, _, _ = parser.feed_data(head + b"\r\n")
    except HttpProcessingError:
        return None
    return messages[0][0] if messages else None


NARROW = {
    "plain": (),
    "bearer": ("Authorization: Bearer llamactl-abc",),
    "bearer-in-capitals": ("authorization: BEARER llamactl-abc",),
    "x-api-key": ("X-API-Key: llamactl-abc",),
    "no-key-in-it": ("X-API-Key:",),
    "accept": ("Accept: text/event-stream, */*;q=0.1", "User-Agent: OpenAI/Python 1.0 (x; y)"),
    "twice": ("X-Stainless: 1", "X-Stainless: 2"),
    "spaces": ("X-Padded: \t two  words\t ",),
    "no-space": ("X-Tight:value",),
    "underscore": ("X_Odd_1: value",),
    "keep-alive": ("Connection: Keep-Alive",),
    "close": ("Connection: close",),
    "accept-encoding": ("Accept-Encoding: gzip, deflate, br, zstd",),
    "cookie": ("Cookie: a=b; c=d",),
    "63 headers": tuple(f"X-{n}: y" for n in range(60)),
}
NOT_NARROW = {
    "get": ("GET /v1/models HTTP/1.1", *PLAIN[1:]),
    "lower-case-method": ("post /v1/x HTTP/1.1", *PLAIN[1:]),
    "query": ("POST /v1/x?y HTTP/1.1", *PLAIN[1:]),
    "management": ("POST /api/v1/instances/a HTTP/1.1", *PLAIN[1:]),
    "v1-alone": ("POST /v1 HTTP/1.1", *PLAIN[1:]),
    "v1-and-nothing": ("POST /v1/ HTTP/1.1", *PLAIN[1:]),
    "v11": ("POST /v11/x HTTP/1.1", *PLAIN[1:]),
    "two-slashes": ("POST /v1//x HTTP/1.1", *PLAIN[1:]),
    "slash-at-the-end": ("POST /v1/x/ HTTP/1.1", *PLAIN[1:]),
    "dots": ("POST /v1/../x HTTP/1.1", *PLAIN[1:]),
    "one-dot": ("POST /v1/x.y HTTP/1.1", *PLAIN[1:]),
    "percent": ("POST /v1/%78 HTTP/1.1", *PLAIN[1:]),
    "absolute": ("POST http://localhost/v1/x HTTP/1.1", *PLAIN[1:]),
    "1.0": ("POST /v1/x HTTP/1.0", *PLAIN[1:]),
    "1.2": ("POST /v1/x HTTP/1.2", *PLAIN[1:]),
    "0.9": ("POST /v1/x", *PLAIN[1:]),
    "space-before": (" " + LINE, *PLAIN[1:]),
    "two-spaces": ("POST  /v1/x HTTP/1.1", *PLAIN[1:]),
    "tab": ("POST\t/v1/x HTTP/1.1", *PLAIN[1:]),
    "empty-line-first": ("", *PLAIN),
    "no-host": (LINE, *PLAIN[2:]),
    "empty-host": (LINE, "Host:", *PLAIN[2:]),
    "two-hosts": (*PLAIN, "Host: localhost"),
    "host-with-at": (LINE, "Host: a@localhost", *PLAIN[2:]),
    "no-length": PLAIN[:3],
    "two-lengths": (*PLAIN, "Content-Length: 13"),
    "two-lengths-that-differ": (*PLAIN, "Content-Length: 12"),
    "empty-length-behind": (*PLAIN, "Content-Length: "),
    "empty-length-before": (LINE, "Content-Length: ", *PLAIN[1:]),
    "only-an-empty-length": (*PLAIN[:3], "Content-Length: "),
    "length-list": (*PLAIN[:3], "Content-Length: 13, 13"),
    "length-plus": (*PLAIN[:3], "Content-Length: +13"),
    "length-hex": (*PLAIN[:3], "Content-Length: 0xd"),
    "length-tight": (*PLAIN[:3], "Content-Length:13"),
    "length-wide": (*PLAIN[:3], "Content-Length:  13"),
    "length-tail": (*PLAIN[:3], "Content-Length: 13 "),
    "length-of-19-digits": (*PLAIN[:3], "Content-Length: " + "1" * 19),
    "length-arabic": (*PLAIN[:3], "Content-Length: \xb2"),
    "length-with-a-space": (*PLAIN[:3], "Content-Length : 13"),
    "length-capitals": (*PLAIN[:3], "CONTENT-LENGTH: 13"),
    "chunked": (*PLAIN[:3], "Transfer-Encoding: chunked"),
    "chunked-and-length": (*PLAIN, "Transfer-Encoding: chunked"),
    "gzip": (*PLAIN, "Content-Encoding: gzip"),
    "expect": (*PLAIN, "Expect: 100-continue"),
    "upgrade": (*PLAIN, "Upgrade: websocket"),
    "h2c": (*PLAIN, "HTTP2-Settings: AAMAAABkAAQAAP__"),
    "trailer": (*PLAIN, "Trailer: X"),
    "te": (*PLAIN, "TE: trailers"),
    "origin": (*PLAIN, "Origin: http://evil.com"),
    "sec-fetch-site": (*PLAIN, "Sec-Fetch-Site: cross-site"),
    "proxy-authorization": (*PLAIN, "Proxy-Authorization: Basic eA=="),
    "proxy-connection": (*PLAIN, "Proxy-Connection: keep-alive"),
    "connection-named": (*PLAIN, "Connection: close, X-Named"),
    "connection-upgrade": (*PLAIN, "Connection: Upgrade"),
    "connection-twice": (*PLAIN, "Connection: close", "Connection: keep-alive"),
    "two-keys": (*PLAIN, "Authorization: Bearer a", "Authorization: Bearer b"),
    "two-kinds-of-key": (*PLAIN, "Authorization: Bearer a", "X-API-Key: b"),
    "basic": (*PLAIN, "Authorization: Basic eDp5"),
    "no-scheme": (*PLAIN, "Authorization: llamactl-abc"),
    "key-with-a-space": (*PLAIN, "Authorization: Bearer a b"),
    "key-behind-two-spaces": (*PLAIN, "Authorization: Bearer  a"),
    "form": (*PLAIN[:2], "Content-Type: multipart/form-data; boundary=x", PLAIN[3]),
    "text": (*PLAIN[:2], "Content-Type: text/plain", PLAIN[3]),
    "utf-16": (*PLAIN[:2], "Content-Type: application/json; charset=utf-16", PLAIN[3]),
    "no-type": (*PLAIN[:2], PLAIN[3]),
    "two-types": (*PLAIN, "Content-Type: application/json"),
    "folded": (*PLAIN, "X: y", " z"),
    "folded-with-a-tab": (*PLAIN, "X: y", "\tz"),
    "bare-cr": (*PLAIN, "X: y\rZ: a"),
    "bare-lf": (*PLAIN, "X: y\nTransfer-Encoding: chunked"),
    "cr-at-the-end": (*PLAIN, "X: y\r"),
    "nul": (*PLAIN, "X: y\0"),
    "nul-in-a-name": (*PLAIN, "X\0Y: z"),
    "del": (*PLAIN, "X: y\x7f"),
    "vt": (*PLAIN, "X: y\x0bz"),
    "latin": (*PLAIN, "X: \xe9"),
    "space-in-a-name": (*PLAIN, "X Y: z"),
    "space-before-the-colon": (*PLAIN, "X : z"),
    "no-name": (*PLAIN, ": z"),
    "no-colon": (*PLAIN, "X"),
    "colon-in-a-name": (*PLAIN, "X.Y: z"),
    "long-name": (*PLAIN, "X" * 65 + ": z"),
    "64 headers": (*PLAIN, *(f"X-{n}: y" for n in range(61))),
}


@pytest.mark.parametrize("case", NARROW)
def test_the_narrow_form_is_taken_and_read_as_aiohttp_reads_it(loop: asyncio.AbstractEventLoop, case: str) -> None:
    head = "".join(f"{line}\r\n" for line in (*PLAIN, *NARROW[case])).encode()
    assert understand(head) is not None
    agrees(loop, head)


@pytest.mark.parametrize("case", NOT_NARROW)
def test_anything_else_is_left_to_aiohttp(case: str) -> None:
    assert read(*NOT_NARROW[case]) is None


def test_the_key_is_in_no_text_about_the_head() -> None:
    head = read(*PLAIN, "Authorization: Bearer canary")
    assert head is not None
    assert head.key == "canary"
    assert "canary" not in repr(head)


def agrees(loop: asyncio.AbstractEventLoop, data: bytes) -> None:
    """Whatever the front takes, aiohttp takes too, and reads the same in it."""
    head = understand(data)
    if head is None:
        return
    seen = aiohttp_reads(loop, data)
    assert seen is not None, data
    _, digits, _ = cut_length(data, len(data))
    assert digits is not None
    assert (seen.method, seen.path, seen.version) == ("POST", head.path, (1, 1))
    assert seen.headers["Host"] == head.host
    assert int(seen.headers["Content-Length"]) == int(digits)
    assert not seen.chunked
    assert not seen.upgrade
    assert seen.compression is None
    assert seen.should_close is not head.keeps_alive
    assert forwarded(seen.raw_headers) == head.lines
    scheme, _, key = seen.headers.get("Authorization", "").partition(" ")
    assert head.key == (key.strip() if scheme.lower() == "bearer" else seen.headers.get("X-API-Key", "").strip())


NAMES = st.sampled_from(
    ["Host", "Content-Length", "content-length", "Content-length", "CONTENT-LENGTH", "Transfer-Encoding", "Connection", "TE",
     "Authorization", "X-API-Key", "Content-Type", "Expect", "Upgrade", "Origin", "Sec-Fetch-Site", "Cookie", "X-Forwarded-For",
     "Keep-Alive", "X", "X_Y", "Accept", "Content-Encoding"]
)  # fmt: skip
SEPARATORS = st.sampled_from([": "] * 8 + [":", ":  ", " : ", ":\t", "", "; "])
VALUES = st.sampled_from(
    ["", "13", "0", "007", "+5", "5, 5", "0x5", "5 ", "1" * 19, "chunked", "close", "keep-alive", "Bearer k", "Bearer  k",
     "Basic k", "localhost", "127.0.0.1:80", "a@b", "application/json", "application/json; charset=utf-8", "text/plain", "x\ty",
     "x\0", "\xe9", "y\rX: z", "y\nX: z", "y\r\n z", "websocket", " x "]
)  # fmt: skip
HEADERS = st.builds(lambda *parts: "".join(parts), NAMES, SEPARATORS, VALUES)
FIRST = st.sampled_from(
    [LINE] * 6 + ["POST /v1/x HTTP/1.0", "POST /v1/a/b/c HTTP/1.1", "GET /v1/x HTTP/1.1", "POST /v1/x  HTTP/1.1"]
)
USUAL = st.sampled_from([PLAIN[1:], PLAIN[1:], PLAIN[1:3], ()])


@given(FIRST, USUAL, st.lists(HEADERS, max_size=5), st.randoms(use_true_random=False))
def test_whatever_is_taken_is_read_as_aiohttp_reads_it(first: str, usual: tuple[str, ...], more: list[str], random: Any) -> None:
    lines = [*usual, *more]
    random.shuffle(lines)
    loop = asyncio.new_event_loop()
    try:
        agrees(loop, "".join(f"{line}\r\n" for line in (first, *lines)).encode("latin-1"))
    finally:
        loop.close()


@given(FIRST, USUAL, st.lists(HEADERS, max_size=4), FIRST, USUAL, st.lists(HEADERS, max_size=4))
def test_heads_that_look_alike_without_their_length_differ_in_its_digits_alone(
    first: str, usual: tuple[str, ...], more: list[str], first2: str, usual2: tuple[str, ...], more2: list[str]
) -> None:
    one = "".join(f"{line}\r\n" for line in (first, *usual, *more)).encode("latin-1")
    other = "".join(f"{line}\r\n" for line in (first2, *usual2, *more2)).encode("latin-1")
    (text, digits, _), (text2, digits2, _) = cut_length(one, len(one)), cut_length(other, len(other))
    if text != text2 or digits is None or digits2 is None or narrow.read(text) is None:
        return
    assert one.replace(b"ength: " + digits + b"\r\n", b"ength: " + digits2 + b"\r\n", 1) == other


# ---- answers: what the last head meant is what the next one means, or it is read afresh


HEADS = (
    "HTTP/1.1 200 OK\nContent-Type: application/json\nContent-Length: 5",
    "HTTP/1.1 200 OK\nContent-Type: application/json\nContent-Length: 70",
    "HTTP/1.1 200 OK\nContent-Type: application/json\nContent-Length: ",
    "HTTP/1.1 200 OK\nContent-Type: application/json\nContent-Length:",
    "HTTP/1.1 200 OK\nContent-Type: application/json\nContent-Length:5",
    "HTTP/1.1 200 OK\nContent-Type: application/json\ncontent-length: 7",
    "HTTP/1.1 200 OK\nContent-Type: application/json\nCONTENT-LENGTH: 7",
    "HTTP/1.1 200 OK\nContent-Type: application/json\nContent-Length: 5\nContent-Length: 5",
    "HTTP/1.1 200 OK\nContent-Type: application/json\nContent-Length: 5\nContent-Length: 6",
    "HTTP/1.1 200 OK\nContent-Type: application/json\nContent-Length: 5\nContent-Length: ",
    "HTTP/1.1 200 OK\nContent-Type: application/json\nContent-Length: \nContent-Length: 5",
    "HTTP/1.1 200 OK\nContent-Type: application/json\nContent-Length: 5, 5",
    "HTTP/1.1 200 OK\nContent-Type: application/json\nContent-Length: +5",
    "HTTP/1.1 200 OK\nContent-Type: application/json\nContent-Length: 1111111111111111111",
    "HTTP/1.1 200 OK\nContent-Type: text/event-stream\nTransfer-Encoding: chunked",
    "HTTP/1.1 200 OK\nContent-Type: text/event-stream\nTransfer-Encoding: chunked\nContent-Length: 5",
    "HTTP/1.1 200 OK\nContent-Type: text/event-stream",
    "HTTP/1.1 200 OK\nContent-Length: 5\nConnection: close",
    "HTTP/1.0 200 OK\nContent-Length: 5",
    "HTTP/1.1 204 No Content",
    "HTTP/1.1 204 No Content\nContent-Length: 5",
    "HTTP/1.1 204 No Content\nContent-Length: 0",
    "HTTP/1.1 304 Not Modified\nContent-Length: 99",
    "HTTP/1.1 304 Not Modified\nContent-Length: 0",
    "HTTP/1.1 100 Continue",
    "HTTP/1.1 100 Continue\nContent-Length: 5",
    "HTTP/1.1 200 OK\nX: y\rContent-Length: 5",
    "nonsense",
)
Meaning = tuple[int, bytes, int | None, bytes | None, bool, bool] | None


def fresh(data: bytes) -> Meaning:
    """(status, lines for the client, length of the body, Content-Length as the client is told it, chunked, keeps alive)."""
    try:
        head = AnswerHead.parse(data[:-4], has_no_body=False)
    except Malformed:
        return None
    return head.status, answer_lines(head, TARGET), head.length, head.said_length, head.is_chunked, head.keeps_alive


def remembered(memo: Memo, data: bytes) -> Meaning:
    try:
        head, lines, said = memo.read(data, len(data) - 2, TARGET)
    except Malformed:
        return None
    length = int(said) if said is not None and head.is_counted else head.length  # as an exchange takes it
    return head.status, lines, length, said, head.is_chunked, head.keeps_alive


@given(st.lists(st.sampled_from(HEADS), min_size=1, max_size=12))
@example([HEADS[0], HEADS[2]])
@example([HEADS[16], HEADS[0], HEADS[16]])
def test_what_is_remembered_of_a_head_is_what_reading_it_afresh_finds(heads: list[str]) -> None:
    memo = Memo()
    for head in heads:
        data = (head.replace("\n", "\r\n") + "\r\n\r\n").encode("latin-1")
        assert remembered(memo, data) == fresh(data), heads
