"""Answers of backends, byte by byte: heads that are read, heads that are refused, chunked bodies cut in every possible way."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llamactl_py.proxy.http1 import LONGEST_KNOWN, AnswerHead, Chunks, Malformed, size_lines


def head(text: str, has_no_body: bool = False) -> AnswerHead:
    return AnswerHead.parse(text.replace("\n", "\r\n").encode("latin-1"), has_no_body)


@pytest.mark.parametrize(
    ("text", "status", "length", "is_chunked", "keeps_alive"),
    [
        ("HTTP/1.1 200 OK\nContent-Length: 5", 200, 5, False, True),
        ("HTTP/1.1 200 OK\nContent-Length: 5\nContent-Length: 5", 200, 5, False, True),
        ("HTTP/1.1 200 OK\ntransfer-encoding: Chunked", 200, None, True, True),
        ("HTTP/1.1 200 OK", 200, None, False, True),
        ("HTTP/1.1 200", 200, None, False, True),
        ("HTTP/1.1 200 \nContent-Length: 0", 200, 0, False, True),
        ("HTTP/1.1 204 No Content\nTransfer-Encoding: chunked", 204, 0, False, True),
        ("HTTP/1.1 304 Not Modified\nContent-Length: 9", 304, 0, False, True),
        ("HTTP/1.1 200 OK\nConnection: Close\nContent-Length: 1", 200, 1, False, False),
        ("HTTP/1.1 200 OK\nConnection: x, close\nContent-Length: 1", 200, 1, False, False),
        ("HTTP/1.0 200 OK\nContent-Length: 1", 200, 1, False, False),
        ("HTTP/1.0 200 OK\nConnection: keep-alive\nContent-Length: 1", 200, 1, False, True),
        ("HTTP/1.1 200 Gr\xfc\xdfe\nX-A:\nX-B:  two words \t\nContent-Length: 1", 200, 1, False, True),
    ],
)
def test_a_well_formed_head_is_read(text: str, status: int, length: int | None, is_chunked: bool, keeps_alive: bool) -> None:
    found = head(text)
    assert (found.status, found.length, found.is_chunked, found.keeps_alive) == (status, length, is_chunked, keeps_alive)


def test_the_answer_to_a_head_request_has_no_body_whatever_it_says() -> None:
    assert head("HTTP/1.1 200 OK\nContent-Length: 500", has_no_body=True).length == 0
    assert not head("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", has_no_body=True).is_chunked


@pytest.mark.parametrize(
    "text",
    [
        "HTTP/2 200 OK",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 099 OK",
        "HTTP/1.1  200 OK",
        "http/1.1 200 OK",
        "ICY 200 OK",
        "",
        "HTTP/1.1 200 OK\nNo colon",
        "HTTP/1.1 200 OK\n folded: x",
        "HTTP/1.1 200 OK\nX: a\n b",
        "HTTP/1.1 200 OK\nName : x",
        "HTTP/1.1 200 OK\n: x",
        "HTTP/1.1 200 OK\nX: a\x00b",
        "HTTP/1.1 200 OK\nX: a\x7fb",
        "HTTP/1.1 200 O\x0bK",
        "HTTP/1.1 200 OK\nContent-Length: -1",
        "HTTP/1.1 200 OK\nContent-Length: +1",
        "HTTP/1.1 200 OK\nContent-Length: 1, 1",
        "HTTP/1.1 200 OK\nContent-Length: 0x1",
        "HTTP/1.1 200 OK\nContent-Length:",
        "HTTP/1.1 200 OK\nContent-Length: 1\nContent-Length: 2",
        "HTTP/1.1 200 OK\nContent-Length: 9999999999999999999",
        "HTTP/1.1 200 OK\nContent-Length: 1\nTransfer-Encoding: chunked",
        "HTTP/1.1 200 OK\nTransfer-Encoding: gzip, chunked",
        "HTTP/1.1 200 OK\nTransfer-Encoding: identity",
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked",
    ],
)
def test_what_two_readers_could_take_differently_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        head(text)


def test_a_bare_line_feed_does_not_end_a_line() -> None:
    with pytest.raises(Malformed):
        AnswerHead.parse(b"HTTP/1.1 200 OK\nX: y", has_no_body=False)


pieces = st.lists(st.binary(min_size=1, max_size=40), max_size=6)


@given(pieces, st.lists(st.integers(0, 400), max_size=8), st.sampled_from([b"", b";name=value", b" ; x"]), st.binary(max_size=9))
def test_a_chunked_body_cut_anywhere_comes_out_whole_and_ends_where_it_ends(
    payloads: list[bytes], cuts: list[int], extension: bytes, behind: bytes
) -> None:
    wire = b"".join(b"%X%b\r\n%b\r\n" % (len(p), extension, p) for p in payloads) + b"0\r\nTrailer: x\r\n\r\n"
    sent = wire + behind
    edges = sorted({0, len(sent), *(min(cut, len(sent)) for cut in cuts)})
    chunks, found, taken = Chunks(), [], 0
    for begin, end in pairwise(edges):
        taken += chunks.feed(sent[begin:end], found)
    assert chunks.is_complete
    assert b"".join(found) == b"".join(payloads)
    assert taken == len(wire)


@pytest.mark.parametrize(
    "wire",
    [
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"-5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"5 5\r\nhello\r\n",
        b"\r\n",
        b"g\r\n",
        b"FFFFFFFFFFFFFFFFF\r\n",
        b"0" * 5000,
        b"5;" + b"x" * 5000,
        b"0\r\nno colon\r\n\r\n",
        b"0\r\n" + b"X: y\r\n" * 5000,
    ],
)
def test_broken_chunk_framing_is_refused(wire: bytes) -> None:
    with pytest.raises(Malformed):
        Chunks().feed(wire)


@given(st.binary(max_size=40), st.integers(0, LONGEST_KNOWN))
@example(b"10\r\n", 22)
@example(b"f\r\n", 20)
@example(b"F\r\n", 20)
@example(b"-", 21)
def test_what_begins_like_a_chunk_of_its_length_is_one(start: bytes, length: int) -> None:
    for begin in (start, size_lines()[length] or b""):
        data = (begin + b"x" * length)[: max(0, length - 2)] + b"\r\n"
        if len(data) <= LONGEST_KNOWN and data.startswith(size_lines()[len(data)]):
            chunks, payload = Chunks(), list[bytes]()
            assert chunks.feed(data, payload) == len(data)
            assert chunks.is_between
            assert len(payload) == 1, "one chunk, and not the last"


def test_the_size_lines_of_all_chunks_of_usual_length_are_known() -> None:
    for size in range(1, LONGEST_KNOWN - 10):
        chunk = b"%x\r\n" % size + bytes(size) + b"\r\n"
        assert chunk.startswith(size_lines()[len(chunk)]), size
    assert {length for length, line in enumerate(size_lines()) if not line} == {0, 1, 2, 3, 4, 5, 21, 262}
