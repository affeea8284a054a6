"""One request's answer on its way from a backend to a client: its head is read once, then its bytes go from one transport to the
other as they are, counted or followed along their chunks, never held back. Without tasks, queues or timers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llamactl_py.instances.target import Target, is_deserted
from llamactl_py.proxy.client import Client, has_left
from llamactl_py.proxy.heads import answer_framing, answer_lines
from llamactl_py.proxy.http1 import LONGEST_KNOWN, MAX_HEAD, AnswerHead, Chunks, Malformed, Mould, cut_length, size_lines
from llamactl_py.proxy.pump import MOST

HIGH_WATER = 1 << 16
"""Bytes that may wait for a client before we stop reading from its backend."""
MAX_INTERIM = 20
FLOWS_AFTER = 2
"""Chunks one by one that make a stream which flows."""
SETTLE = 0.05
"""Seconds to wait whether a close, behind a body that ends with its connection, was the death of the backend."""

LAST_EVENT = b"[DONE]"
"""What OpenAI's streams end with."""

Watch = Callable[[bytes], object]


class Memo:
    """What the last answer of a backend began with, and what that means: the next one nearly always begins alike, but for the
    digits of its Content-Length."""

    __slots__ = ("__weakref__", "_text", "head", "lines", "mould")

    def __init__(self) -> None:
        self._text = b""
        self.head: AnswerHead
        self.lines: bytes
        """Those for the client, up to the framing."""
        self.mould = Mould()

    def read(self, data: bytes, end: int, target: Target) -> tuple[AnswerHead, bytes, bytes | None]:
        """(the head, its lines for the client, its Content-Length) of the answer to anything but a HEAD. The `length` of a head
        that was known is that of an earlier answer. Raises Malformed."""
        text, digits, at = cut_length(data, end)
        if text == self._text and self.head.has_one_length == (digits is not None):  # an empty length leaves the same text
            return self.head, self.lines, digits
        head = AnswerHead.parse(data[: end - 2], has_no_body=False)
        lines = answer_lines(head, target)
        has_body = head.status >= 200 and head.status not in (204, 304)
        if has_body and head.has_one_length == (digits is not None) and head.is_counted == head.has_one_length:
            self._text, self.head, self.lines = text, head, lines
            self.mould.take(data[: end + 2], at, digits)
        return head, lines, digits if digits is not None else head.said_length


class Exchange:
    """Its state is what the client has had of the answer, and whether that was all.

    Whoever carries it overrides `tell`, and what else it wants to know.
    """

    head: AnswerHead | None = None
    length: int | None = None
    """Bytes of the body, where the head says."""
    memo: Memo
    """That of the backend which is asked."""
    sent = 0
    """Bytes of the answer's body written to the client, framing included."""
    stays_open = False
    """The client's connection may be used again when this is over."""
    is_complete = False
    is_upgraded = False
    """The backend agreed to another protocol; *rest* are the first bytes of that."""
    rest = b""
    failure = ""
    failure_is_closing = False
    """The failure is that the connection was closed: before a byte of an answer that may mean that it was stale."""
    has_left = False
    """The failure is that of the client."""
    is_closing = False
    """The connection was closed behind a body without framing: its end, or that of the backend."""
    is_full = False
    """The client has more than HIGH_WATER bytes to read; reading from the backend is paused."""
    _buffer = b""
    _interim = 0
    _left = 0
    _last = b""
    """The last bytes of a body without framing."""
    _chunks: Chunks | None = None
    is_between = False
    """The client gets the chunks as they are, and the next byte begins one."""
    _seen = 0
    _silent_since = 0.0
    _watch: Watch
    passed: list[bytes]
    """Chunks that were passed on, and that are neither counted nor watched yet."""
    _beginnings: list[bytes | tuple[()]]

    def __init__(self, client: Client, target: Target, may_upgrade: bool = False) -> None:
        transport = client.transport
        if transport is None:
            raise ConnectionResetError("the client has left")
        self.target, self.may_upgrade = target, may_upgrade
        self._client, self.client_transport = client, transport

    def tell(self) -> None:
        """There may be something to decide: the answer is over (`is_complete` or `failure`), or the client reads too slowly
        (`is_full`). Called from the loop, as `_settle` is, never from inside a method that somebody else called."""
        raise NotImplementedError

    def is_current(self) -> bool:
        """Is the backend behind the target still the one that was asked?"""
        raise NotImplementedError

    def hear(self, head: AnswerHead) -> Watch:
        """The answer has begun; gives what is to see every piece of its body as it is passed on."""
        raise NotImplementedError

    def hear_whole(self, head: AnswerHead, body: bytes) -> None:
        """`hear`, when the whole answer is there."""
        self.hear(head)(body)

    @property
    def is_over(self) -> bool:
        return self.is_complete or bool(self.failure)

    @property
    def has_heard(self) -> bool:
        """Has the backend said anything at all?"""
        return self.head is not None or bool(self._buffer) or self._interim > 0

    def fail(self, why: str, is_closing: bool = False) -> None:
        """The backend did not give a whole answer."""
        if self._chunks:
            self.is_between = False
            self._hear_the_rest()
        if not self.failure and not self.is_complete:
            self.failure, self.failure_is_closing = why, is_closing

    def lose_client(self) -> None:
        """The client is gone."""
        self.has_left = True
        self.fail("was not heard to its end: the client has left")

    def look_around(self, now: float, silence: float) -> None:
        """What no event tells: while nothing is read from a side, nobody hears it hang up. *silence*: the longest that the
        backend may be silent, in seconds; 0 for ever. Called about once a second."""
        if self._chunks:
            self._hear_the_rest()
        if self.sent != self._seen or not self._silent_since:
            self._seen, self._silent_since = self.sent, now
        if self.is_full:
            self._silent_since = now  # we do not listen: that is no silence of the backend
        if self.is_closing:
            return
        if has_left(self.client_transport):
            self.lose_client()
        elif not self.is_current():
            self.fail("ended before its answer was complete")
        elif silence and now - self._silent_since >= silence:
            self.fail(f"was silent for {silence:g} seconds (server.response_timeout)")

    def pass_chunk(self, data: bytes) -> bool:
        """Where it `is_between`, pass *data* on if it is just one chunk: so streams of events come, nothing to decide. False if
        `feed` has to look at it; that is also who looks, from time to time, how much waits for the client."""
        size = len(data)
        if (
            size > LONGEST_KNOWN
            or not data.startswith(self._beginnings[size])
            or not data.endswith(b"\r\n")
            or len(self.passed) >= MOST
        ):
            return False
        try:
            self.client_transport.write(data)
        except RuntimeError:  # it was closed; we hear of that in a moment
            return False
        self.passed.append(data)
        return True

    def _hear_the_rest(self) -> None:
        """Count and watch what was passed on."""
        if not self.passed:
            return
        together = b"".join(self.passed)
        self.passed.clear()
        self.sent += len(together)
        self._watch(together)

    def feed(self, data: bytes) -> None:
        """Bytes from the backend. Raises Malformed, also when the answer was complete before: what follows it is nobody's."""
        if self.head is None:
            if not self._feed_known(data):
                self._feed_head(data)
        elif self.is_upgraded:
            self.rest += data
        elif self.is_complete:
            raise Malformed("bytes behind the end of the answer")
        elif self._chunks:
            self._feed_chunks(data)
        elif self.length is not None:
            self._feed_counted(data)
        else:
            self._last = (self._last + data[-len(LAST_EVENT) :])[-len(LAST_EVENT) :]
            self._pass_on(data if not self._client.speaks_11 else b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        """The backend closed its side: the end of a body without framing, else too early."""
        if self.is_over:
            return
        if self.head and self.length is None and not self._chunks:
            if not self.is_closing:  # a backend that is dying closes its connections a moment before it is gone
                self.is_closing = True
                asyncio.get_running_loop().call_later(SETTLE, self._settle)
        else:
            when = "its answer was complete" if self.head else "it answered"
            self.fail(f"closed the connection before {when}", is_closing=True)

    def _settle(self) -> None:
        """Was the close that was seen the end of the answer, or that of the backend? The process that we started may only be
        the wrapper of the one that answered, and outlive it."""
        if self.is_over:
            return
        if self.is_current() and not self._breaks_off() and not is_deserted(self.target):
            if self._client.speaks_11:
                self._write(b"0\r\n\r\n")
            self.is_complete = True
        else:
            self.fail("ended in the middle of its answer")
        self.tell()

    def _breaks_off(self) -> bool:
        """Does a body without framing end within a line of its events? (Some forget the end of their last line.)"""
        assert self.head
        return self.head.is_events and self._last != b"" and not self._last.endswith((b"\n", b"\r", LAST_EVENT))

    def _feed_known(self, data: bytes) -> bool:
        """Pass on a whole answer with a head that is known, as most answers come. False if that is for `_feed_head` to judge."""
        body = self.memo.mould.body(data)
        client, transport = self._client, self.client_transport
        if body is None or self._buffer or not client.keeps_alive or not client.speaks_11 or client.is_head:
            return False
        if transport.is_closing():
            return False
        head = self.memo.head
        self.head, self.length, self.stays_open = head, len(body), True
        transport.write(b"%bContent-Length: %d\r\n\r\n%b" % (self.memo.lines, len(body), body))
        self.sent = len(body)
        self.hear_whole(head, body)
        self.is_complete = True
        return True

    def _feed_head(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        end = data.find(b"\r\n\r\n")
        if end < 0 or end > MAX_HEAD:
            if len(data) > MAX_HEAD:
                raise Malformed("the head of the answer is too long")
            self._buffer = data
            return
        client = self._client
        if client.is_head:
            head = AnswerHead.parse(data[:end], has_no_body=True)
            lines, said = answer_lines(head, self.target), head.said_length
        else:
            head, lines, said = self.memo.read(data, end + 2, self.target)
        rest = data[end + 4 :]
        if head.status < 200 and not (head.status == 101 and self.may_upgrade):
            self._feed_interim(head, rest)
            return
        self.head, self._buffer = head, b""
        if head.status == 101:
            self.is_upgraded = self.is_complete = True
            self.rest = rest
            return
        self.length = int(said) if said is not None and head.is_counted else head.length
        self.stays_open = client.keeps_alive and (client.speaks_11 or self.length is not None)
        text = lines + answer_framing(head, said, client.speaks_11, self.stays_open)
        self._watch = self.hear(head)
        self._silent_since = 0.0
        if self.length is not None and self.length == len(rest):  # all of it at once, as most answers come: one write
            self.send(text + rest)
            self.sent = len(rest)
            self._watch(rest)
            self.is_complete = True
            return
        self._left = self.length or 0
        if head.is_chunked:
            self._chunks, self.passed, self._beginnings = Chunks(), [], size_lines()
            self.is_between = client.speaks_11
        self.send(text)
        if rest:
            self.feed(rest)

    def _feed_interim(self, head: AnswerHead, rest: bytes) -> None:
        """An answer before the answer (100 Continue, 103 Early Hints): nothing for the client."""
        self._interim += 1
        if head.status == 101 or self._interim > MAX_INTERIM:
            raise Malformed("it switched protocols unasked" if head.status == 101 else "too many interim answers")
        self._buffer = b""
        if rest:
            self._feed_head(rest)

    def _feed_counted(self, data: bytes) -> None:
        if len(data) > self._left:
            counted, self._left = data[: self._left], 0
        else:
            counted, self._left = data, self._left - len(data)
        self._pass_on(counted)
        if not self._left:
            self.is_complete = True
        if len(counted) < len(data):
            raise Malformed("the answer is longer than it said")

    def _feed_chunks(self, data: bytes) -> None:
        assert self._chunks
        self._hear_the_rest()
        payload: list[bytes] | None = None if self._client.speaks_11 else []
        taken = self._chunks.feed(data, payload)
        if payload is None:
            self._pass_on(data[:taken] if taken < len(data) else data)
        else:
            self._pass_on(b"".join(payload))
        self.is_complete = self._chunks.is_complete
        self.is_between = payload is None and self._chunks.is_between
        if taken < len(data):
            raise Malformed("bytes behind the end of the answer")

    def _pass_on(self, data: bytes) -> None:
        self._write(data)
        self._watch(data)

    def send(self, data: bytes) -> None:
        if not self.client_transport.is_closing():  # we hear of that in a moment; uvloop would take a write for an error of ours
            self.client_transport.write(data)

    def _write(self, data: bytes) -> None:
        self.sent += len(data)
        self.send(data)
        if self.client_transport.get_write_buffer_size() > HIGH_WATER:
            self.is_full = True
