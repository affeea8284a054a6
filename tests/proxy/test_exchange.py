"""One answer on its way, byte by byte, between transports that only remember: `passed` is what a client gets of some pieces.

What is known from earlier answers on a connection (`Memo`), and the short way for single chunks, must change nothing: each
example is given to an exchange that has seen other answers, and to one that has seen none.
"""

from __future__ import annotations

import json
from typing import Any, cast

from hypothesis import example, given
from hypothesis import strategies as st

from llamactl_py.instances.target import Target
from llamactl_py.proxy.exchange import Exchange, Memo, Watch
from llamactl_py.proxy.http1 import AnswerHead, Malformed, Mould, cut_length

TARGET = Target("a", "127.0.0.1", 8001)
LONG = "HTTP/1.1 200 OK\r\nServer: bench\r\nX-Length: 5\r\nContent-Length: 5\r\nContent-Type: application/json\r\n\r\n"
ANSWERS = [
    LONG + "12345",
    LONG.replace("Content-Length: 5", "Content-Length: 15") + "x" * 15,
    LONG.replace("Content-Length: 5", "Content-Length: 05") + "12345",
    LONG.replace("Content-Length: 5", "Content-Length: ") + "12345",
    LONG.replace("Content-Length: 5", "Content-Length: " + "1" * 5000) + "12345",
    LONG.replace("Content-Length: 5", "content-length: 5") + "12345",
    LONG.replace("Content-Length: 5", "Content-Length: 5\r\nConnection: close") + "12345",
    LONG.replace("Content-Length: 5\r\n", "") + "12345",
    LONG.replace("200 OK", "404 Not Found") + "12345",
    LONG.replace("1.1", "1.0") + "12345",
    LONG + "1234",
    LONG + "123456",
    LONG + "1234\r\n",
    LONG.replace("5\r\nContent-Type", "0\r\nContent-Type"),
    "HTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n" + LONG + "12345",
    *(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + body
        for body in (
            "5\r\n12345\r\n0\r\n\r\n",
            "5\r\n12345\r\n5\r\n67890\r\n0\r\nA: b\r\n\r\n",
            "5\r\n12345\r\n5\r\n6789\r\n0\r\n\r\n",
            "10\r\n0123456789abcdef\r\n0\r\n\r\n",
            "5;a=b\r\n12345\r\n0\r\n\r\nmore",
            "A\r\n12\r\n345678\r\n0\r\n\r\n",
        )
    ),
]


class Transport:
    """Takes everything at once, or keeps it all back."""

    def __init__(self, is_slow: bool) -> None:
        self.written = b""
        self._is_slow = is_slow

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return len(self.written) if self._is_slow else 0


class Client:
    """Whoever asked, in each way in which that matters."""

    def __init__(self, *, speaks_11: bool, keeps_alive: bool, is_head: bool, is_slow: bool) -> None:
        self.speaks_11, self.keeps_alive, self.is_head = speaks_11, keeps_alive, is_head
        self.transport: Any = Transport(is_slow)

    async def drained(self) -> None:
        raise NotImplementedError


class Heard(Exchange):
    """Remembers what it hears."""

    def __init__(self, client: Client) -> None:
        super().__init__(client, TARGET)
        self.status, self.body = 0, b""

    def hear(self, head: AnswerHead) -> Watch:
        self.status = head.status
        return self.watch

    def watch(self, piece: bytes) -> None:
        self.body += piece

    def is_current(self) -> bool:
        return True


def passed(memo: Memo, pieces: list[bytes], client: Client) -> tuple[Any, ...]:
    """What becomes of an answer that comes in these *pieces*, on a connection that has *memo*."""
    exchange = Heard(client)
    exchange.memo = memo
    try:
        for piece in pieces:
            if not (exchange.is_between and exchange.pass_chunk(piece)):
                exchange.feed(piece)
    except Malformed as error:
        exchange.fail(str(error))
    written = cast(Transport, client.transport).written
    over = (exchange.is_complete, exchange.failure, exchange.stays_open, exchange.is_full)
    return written, exchange.sent, exchange.status, exchange.body, over


def cut(text: str, places: list[int]) -> list[bytes]:
    data = text.encode()
    ends = sorted({place % len(data) for place in places} - {0})
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


CLIENT = st.fixed_dictionaries({name: st.booleans() for name in ("speaks_11", "keeps_alive", "is_head", "is_slow")})
PLAIN = {"speaks_11": True, "keeps_alive": True, "is_head": False, "is_slow": False}
ANSWER = st.tuples(
    st.sampled_from(ANSWERS), st.one_of(st.just([]), st.lists(st.integers(0, 400), max_size=4)), CLIENT | st.just(PLAIN)
)


@given(st.lists(ANSWER, min_size=2, max_size=6))
@example([(answer, [], PLAIN) for answer in ANSWERS])
@example([(answer, [], PLAIN) for one in ANSWERS[1:] for answer in (ANSWERS[0], one, ANSWERS[0])])
def test_what_is_known_of_earlier_answers_changes_nothing(answers: list[tuple[str, list[int], dict[str, bool]]]) -> None:
    memo = Memo()
    for text, places, kind in answers:
        pieces = cut(text, places)
        known, fresh = passed(memo, pieces, Client(**kind)), passed(Memo(), pieces, Client(**kind))
        assert as_told(known) == as_told(fresh), (json.dumps(text), places, kind)


def as_told(passed: tuple[Any, ...]) -> tuple[Any, ...]:
    """A length may be written in another way: `05` or `5`."""
    return (passed[0].replace(b"Content-Length: 05", b"Content-Length: 5"), *passed[1:])


@given(st.sampled_from(ANSWERS), st.lists(st.integers(0, 400), max_size=4))
def test_an_answer_that_is_known_takes_the_short_way(text: str, places: list[int]) -> None:
    head = text.encode().partition(b"\r\n\r\n")[0]
    text_without, digits, at = cut_length(head + b"\r\n", len(head) + 2)
    mould = Mould()
    mould.take(head + b"\r\n\r\n", at, digits)
    assert mould.body(b"") is None
    if digits is None:
        assert mould.body(text.encode()) is None
        return
    assert text_without == head[:at] + head[at + len(digits) :] + b"\r\n"
    for other in (b"", b"x", b"\r\n\r\n", b"y" * 1234):
        whole = head[:at] + b"%d" % len(other) + head[at + len(digits) :] + b"\r\n\r\n" + other
        assert mould.body(whole) == other
        assert mould.body(whole + b"z") is None
        assert mould.body(whole[:-1]) is None
        for piece in cut(whole.decode(), places)[:-1]:
            assert mould.body(piece) is None
