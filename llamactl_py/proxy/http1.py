"""HTTP/1.1 as backends speak it: reading the head of an answer, and finding the end of its body. Pure, and strict: what is not
plainly well-formed is refused, as a lenient reading is how one client's answer ends up with another (RFC 9112).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from msgspec import Struct

MAX_HEAD = 1 << 16
MAX_LINE = 1 << 12
MAX_TRAILERS = 1 << 14
LONGEST_PLAIN_LINE = 1 << 5
"""Bytes of a size line without extensions, or with short ones."""
MOST_DIGITS = 18
"""Of a Content-Length that is understood at a glance."""

Headers = Iterable[tuple[bytes, bytes]]

_EVENTS = b"text/event-stream"
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: ([\t\x20-\x7e\x80-\xff]*))?")
_HEADER = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*((?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)[ \t]*"
)
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_LENGTH = re.compile(rb"\d{1,18}")
_LENGTH_LINE = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: (\d{1,18})\r\n")


def cut_length(data: bytes, end: int) -> tuple[bytes, bytes | None, int]:
    """(the head data[:*end*] less the digits of its Content-Length, those digits, where they stood); None where it has none, in
    its usual spelling.

    Both sides of a connection send the same head again and again, but for the length: what was found out about one holds for
    the next. *end* is where the empty line begins, behind the last line's CRLF.
    """
    found = _LENGTH_LINE.search(data, 0, end)
    if found is None:
        return data[:end], None, end
    at, behind = found.span(1)
    return data[:at] + data[behind:end], found[1], at


class Mould:
    """A head that was read, around the digits of its Content-Length: one with other digits means the same."""

    __slots__ = ("_before", "_behind")

    def __init__(self) -> None:
        self._before: bytes | tuple[()] = ()  # as nothing begins
        self._behind = b""

    def take(self, head: bytes, at: int, digits: bytes | None) -> None:
        """From now on it is *head*, whose *digits* stand *at* that place; nothing fits where there are none."""
        self._before = () if digits is None else head[:at]
        self._behind = head[at + len(digits or b"") :]

    def body(self, data: bytes) -> bytes | None:
        """The body behind such a head, if *data* is that, and all of that, and nothing more."""
        before, behind = self._before, self._behind
        if not data.startswith(before):
            return None
        start = len(before)
        end = data.find(b"\r", start, start + MOST_DIGITS)  # -1 if there is none: at the last byte there is no *behind*
        digits = data[start:end]
        if not data.startswith(behind, end) or not digits.isdigit():
            return None
        body = data[end + len(behind) :]
        return body if int(digits) == len(body) else None


class Malformed(ValueError):
    """That is no HTTP/1.1, or not unambiguously."""


class AnswerHead(Struct):
    """The head of an answer. *length*: bytes of its body, where it says; *is_chunked*; with neither the body ends with the
    connection."""

    status: int
    reason: bytes
    headers: tuple[tuple[bytes, bytes, bytes], ...]
    """(name as sent, name in lower case, value)."""
    length: int | None
    is_chunked: bool
    keeps_alive: bool
    said_length: bytes | None
    """Content-Length as sent: that of the body, or of the one that a HEAD or a 304 leaves out."""
    connection: bytes
    """What Connection says, in lower case."""
    has_one_length: bool
    """There is one Content-Length header."""
    content_type: bytes

    @property
    def is_events(self) -> bool:
        """Its body is a stream of server-sent events."""
        return self.content_type[: len(_EVENTS)].lower() == _EVENTS

    @property
    def is_counted(self) -> bool:
        """Its Content-Length is that of its body."""
        return self.said_length is not None and self.length == int(self.said_length)

    @classmethod
    def parse(cls, head: bytes, has_no_body: bool) -> AnswerHead:
        """*head* up to, without, its empty line; *has_no_body* where the request was a HEAD. Raises Malformed."""
        first, *lines = head.split(b"\r\n")
        status_line = _STATUS_LINE.fullmatch(first)
        if status_line is None:
            raise Malformed("bad status line")
        minor, status, reason = status_line.groups()
        headers = []
        lengths: list[bytes] = []
        encodings, connection, content_type = [], b"", b""
        for line in lines:
            header = _HEADER.fullmatch(line)
            if header is None:
                raise Malformed("bad header line")
            name, value = header.groups()
            folded = name.lower()
            headers.append((name, folded, value))
            if folded == b"content-length":
                lengths.append(value)
            elif folded == b"transfer-encoding":
                encodings.append(value.lower())
            elif folded == b"content-type":
                content_type = value
            elif folded == b"connection":
                connection += b"," + value.lower()
        tokens = {token.strip() for token in connection.split(b",")}
        length = _length(set(lengths), encodings, int(status), has_no_body)
        keeps_alive = b"close" not in tokens if minor == b"1" else b"keep-alive" in tokens
        is_chunked = bool(encodings) and length is None
        return cls(
            int(status),
            reason or b"",
            tuple(headers),
            length,
            is_chunked,
            keeps_alive,
            lengths[0] if lengths else None,
            connection,
            len(lengths) == 1,
            content_type,
        )


def _length(lengths: set[bytes], encodings: list[bytes], status: int, has_no_body: bool) -> int | None:
    """RFC 9112, section 6.3, less every case that two readers could take differently."""
    if encodings and (encodings != [b"chunked"] or lengths):
        raise Malformed("bad Transfer-Encoding, or Content-Length beside it")
    if len(lengths) > 1 or not all(_LENGTH.fullmatch(length) for length in lengths):
        raise Malformed("bad Content-Length")
    if has_no_body or status < 200 or status in (204, 304):
        return 0
    return int(next(iter(lengths))) if lengths else None


LONGEST_KNOWN = 1 << 11


@cache
def size_lines() -> list[bytes | tuple[()]]:
    """By length up to LONGEST_KNOWN, framing included: what exactly one chunk of so many bytes begins with, as servers nearly
    always write it, small hex digits and nothing more. Where no such chunk has that length, what nothing begins with."""
    lines: list[bytes | tuple[()]] = [()] * (LONGEST_KNOWN + 1)
    for size in range(1, LONGEST_KNOWN):
        line = b"%x\r\n" % size
        if (length := len(line) + size + 2) <= LONGEST_KNOWN:
            lines[length] = line
    return lines


class Chunks:
    """Follows the framing of a chunked body through its pieces, without copying the body. Raises Malformed."""

    __slots__ = ("_crlf", "_in_trailers", "_left", "_line", "_trailers", "is_complete")

    def __init__(self) -> None:
        self.is_complete = False
        self._left = 0  # payload bytes of the current chunk that are still to come
        self._crlf = b""  # what has to follow it
        self._line = b""  # a size or trailer line that is not complete yet
        self._in_trailers = False
        self._trailers = 0

    @property
    def is_between(self) -> bool:
        """Does the next byte begin a chunk?"""
        return not (self._left or self._crlf or self._line or self._in_trailers or self.is_complete)

    def feed(self, data: bytes, payload: list[bytes] | None = None) -> int:
        """Go through *data*; gives how many bytes of it belong to this body. Payload is appended to *payload*, if given."""
        at, end = 0, len(data)
        while at < end and not self.is_complete:
            if self._left:
                step = min(self._left, end - at)
                if payload is not None:
                    payload.append(data[at : at + step])
                self._left -= step
                at += step
                if not self._left:
                    self._crlf = b"\r\n"
            elif self._crlf:
                step = min(len(self._crlf), end - at)
                if data[at : at + step] != self._crlf[:step]:
                    raise Malformed("a chunk is longer than it said")
                self._crlf = self._crlf[step:]
                at += step
            elif behind := self._skip(data, at, payload):
                at = behind
            else:
                found = data.find(b"\n", at) + 1 or end
                self._line += data[at:found]
                at = found
                if len(self._line) > MAX_LINE:
                    raise Malformed("a chunk's size line is too long")
                if self._line.endswith(b"\n"):
                    line, self._line = self._line, b""
                    self._take(line)
        return at

    def _skip(self, data: bytes, at: int, payload: list[bytes] | None) -> int:
        """Where the chunk ends that begins *at*, if the whole of it is there and nothing special about it; else 0."""
        line = None if self._line or self._in_trailers else _CHUNK_SIZE.match(data, at, at + LONGEST_PLAIN_LINE)
        if line is None:
            return 0
        start, size = line.end(), int(line[1], 16)
        stop = start + size
        if not size or not data.startswith(b"\r\n", stop):
            return 0
        if payload is not None:
            payload.append(data[start:stop])
        return stop + 2

    def _take(self, line: bytes) -> None:
        if self._in_trailers:
            self._trailers += len(line)
            if line == b"\r\n":
                self.is_complete = True
            elif not _HEADER.fullmatch(line.removesuffix(b"\r\n")) or self._trailers > MAX_TRAILERS:
                raise Malformed("bad trailers")
            return
        size = _CHUNK_SIZE.fullmatch(line)
        if size is None:
            raise Malformed("bad chunk size")
        self._left = int(size[1], 16)
        self._in_trailers = self._left == 0
