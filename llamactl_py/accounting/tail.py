"""The last bytes of an answer that passes by, kept by keeping references to its pieces: no copy, no decoding, no lock.

Some servers tell the size of the prompt first (Anthropic's message_start, llama-server's embeddings), so that of a long answer
the first bytes are kept too. Text of prompts or answers is in no result.
"""

from __future__ import annotations

from collections import deque

from llamactl_py.accounting.usage import Reading, Usage, of_whole

LIMIT = 1 << 15
"""Bytes at the end of an answer that are looked at. Up to twice as many are kept, so that not every piece has to drop one."""
MOST = 2 * LIMIT
NEAR = 1 << 11
"""Bytes of them that are looked at first: nearly always they say all."""
HEAD = 1 << 12
"""Bytes that are kept of the beginning of an answer that is longer than LIMIT."""


class Tail:
    """Feed it each piece of the body as it goes to the client, with HTTP's chunk framing or without; `read` it at the end."""

    __slots__ = ("_dropped", "_head", "_pieces", "_size")

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self._head = b""

    @property
    def total(self) -> int:
        """Bytes that it was fed."""
        return self._size + self._dropped

    def feed(self, piece: bytes) -> None:
        """Remember *piece*, which nobody changes any more."""
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > MOST:
            self._drop()

    def read(self) -> Usage:
        """What the answer said of itself."""
        if len(self._pieces) == 1 and self._size <= LIMIT and (usage := of_whole(self._pieces[0])):
            return usage
        return self.search()

    def search(self) -> Usage:
        """`read`, where it is no plain answer of JSON that is here whole."""
        reading = Reading()
        reading.look(self._last(NEAR))
        if not reading.is_complete and self._size > NEAR:
            reading.look(self._last(LIMIT))
        if not reading.is_complete and (self._head or self._size > LIMIT):
            reading.look((self._head + b"".join(self._pieces)[:HEAD])[:HEAD])
        return reading.result()

    def ends_with(self, words: bytes) -> bool:
        """Are they among the last bytes?"""
        return words in self._last(2 * len(words) + 16)

    def _last(self, count: int) -> bytes:
        """The last *count* bytes, or all that there are."""
        taken: list[bytes] = []
        missing = count
        for piece in reversed(self._pieces):
            taken.append(piece)
            missing -= len(piece)
            if missing <= 0:
                break
        return b"".join(reversed(taken))[-count:]

    def _drop(self) -> None:
        """Let go of all pieces but those with the last LIMIT bytes; of a large one, keep only so much."""
        pieces = self._pieces
        while self._size - len(pieces[0]) >= LIMIT:
            self._let_go(pieces.popleft())
        if (excess := len(pieces[0]) - LIMIT) > 0:
            piece = pieces.popleft()
            self._let_go(piece[:excess])
            pieces.appendleft(piece[excess:])

    def _let_go(self, piece: bytes) -> None:
        self._size -= len(piece)
        self._dropped += len(piece)
        if len(self._head) < HEAD:
            self._head += piece[: HEAD - len(self._head)]


def of_answer(body: bytes) -> Usage:
    """What an answer says of itself that came all at once."""
    if len(body) <= LIMIT and (usage := of_whole(body)):
        return usage
    tail = Tail()
    tail.feed(body)
    return tail.search()


def tells_usage(content_type: bytes) -> bool:
    """May an answer of that type have a usage: is it JSON or a stream of events?"""
    kind = content_type.partition(b";")[0].strip().lower()
    return kind in (b"application/json", b"text/event-stream")
