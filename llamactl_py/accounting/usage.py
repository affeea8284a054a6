"""What an answer says of itself: how many tokens, and how fast. Knows the bytes of an answer, not where they come from. Pure.

Three spellings of `usage`, and llama-server's `timings`, are looked for by their keys, from the end of the answer: no JSON
around them is parsed, so it does not matter that the beginning was cut off. Inside of generated text neither key can stand:
a quotation mark is escaped there.

Sources: llama.cpp tools/server/server-task.cpp (`result_timings`, `usage` of each kind of answer), vLLM
entrypoints/openai/protocol.py (`UsageInfo`), mlx_lm/server.py (`completion_usage_response`), and the API references of OpenAI
(chat, completions, embeddings, responses) and Anthropic (messages).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar

import msgspec

T = TypeVar("T")

LONGEST = 1 << 11
"""Bytes that one `usage` or `timings` may have. The longest known has 600."""
MOST_OBJECTS = 64
MOST_BRACES = 6
"""How many places may be looked at that look like one of ours, and how many closing braces each may have."""
MOST_TOKENS = 10**9
LONGEST_TIME = 10**7
FASTEST = 10**7
"""Tokens of one answer, seconds, and tokens per second: what is more is a mistake of the backend, and left out."""

_FRAMING = re.compile(rb"\r\n[0-9A-Fa-f]{1,16}[ \t]*(?:;[^\r\n]*+)?\r\n")
"""What stands between two chunks of an HTTP/1.1 body. JSON has no such line but for a bare number in a list."""
_OPENING = re.compile(rb"[ \t\r\n]*+:[ \t\r\n]*+\{")


class Usage(msgspec.Struct, frozen=True):
    """What is known of an answer; None where it does not say. *prompt_tokens* include *cached_tokens*, those that the backend
    had in its cache; times are in seconds, speeds in tokens per second, both as the backend measured them."""

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_seconds: float | None = None
    prompt_speed: float | None = None
    generation_seconds: float | None = None
    generation_speed: float | None = None


class _Spelled(msgspec.Struct):
    """`usage` in every spelling; values are checked one by one, so that a bad one spoils itself only."""

    prompt_tokens: Any = None
    completion_tokens: Any = None
    prompt_tokens_details: Any = None
    input_tokens: Any = None
    output_tokens: Any = None
    input_tokens_details: Any = None
    cache_read_input_tokens: Any = None
    cache_creation_input_tokens: Any = None


class _Timings(msgspec.Struct):
    """llama-server's; *prompt_n* are the tokens that were not in the cache."""

    cache_n: Any = None
    prompt_n: Any = None
    prompt_ms: Any = None
    prompt_per_second: Any = None
    predicted_n: Any = None
    predicted_ms: Any = None
    predicted_per_second: Any = None


Count = Annotated[int, msgspec.Meta(ge=0, le=MOST_TOKENS)]
Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=LONGEST_TIME * 1e3)]
Speed = Annotated[float, msgspec.Meta(ge=0, le=FASTEST)]


class _Details(msgspec.Struct):
    cached_tokens: Count | None = None


class _Plain(msgspec.Struct):
    """OpenAI's spelling of `usage`, with nothing wrong in it."""

    prompt_tokens: Count
    completion_tokens: Count
    prompt_tokens_details: _Details | None = None


class _PlainTimings(msgspec.Struct):
    cache_n: Count | None = None
    prompt_ms: Milliseconds | None = None
    prompt_per_second: Speed | None = None
    predicted_ms: Milliseconds | None = None
    predicted_per_second: Speed | None = None


class _Answer(msgspec.Struct):
    usage: _Plain
    timings: _PlainTimings | None = None


_answer = msgspec.json.Decoder(_Answer)
_usage = msgspec.json.Decoder(_Spelled)
_timings = msgspec.json.Decoder(_Timings)


def of_whole(data: bytes) -> Usage | None:
    """What the JSON answer *data* says, if it is one as most are: whole, plainly spelled, with nothing wrong in it."""
    try:
        answer = _answer.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    usage, timings = answer.usage, answer.timings
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else None
    if timings is None:
        return Usage(usage.prompt_tokens, cached, usage.completion_tokens)
    return Usage(
        usage.prompt_tokens,
        timings.cache_n if cached is None else cached,
        usage.completion_tokens,
        None if timings.prompt_ms is None else timings.prompt_ms / 1e3,
        timings.prompt_per_second,
        None if timings.predicted_ms is None else timings.predicted_ms / 1e3,
        timings.predicted_per_second,
    )


class Reading:
    """What was found so far. Look at the end of the answer first: some repeat their counts in each event, and the last ones hold.

    Whatever the bytes are, nothing is raised, and 32 KiB take milliseconds at most.
    """

    __slots__ = ("cached", "completion", "prompt", "timings")

    def __init__(self) -> None:
        self.prompt: int | None = None
        self.cached: int | None = None
        self.completion: int | None = None
        self.timings = _Timings()

    @property
    def is_complete(self) -> bool:
        has_timings = self.timings.prompt_n is not None and self.timings.predicted_n is not None
        return has_timings or (self.prompt is not None and self.completion is not None)

    def look(self, data: bytes) -> None:
        """Take what *data* has to add: JSON or events, whole or a part, with HTTP's chunk framing in between or without."""
        if b"\r\n" in data:
            data = _FRAMING.sub(b"", data)
        if self.timings.predicted_n is None:
            self.timings = next(_objects(data, b'"timings"', _timings), self.timings)
        for usage in _objects(data, b'"usage"', _usage):
            self._take(usage)
            if self.prompt is not None and self.completion is not None:
                return

    def _take(self, usage: _Spelled) -> None:
        if self.prompt is None:
            self.prompt, self.cached = _prompt(usage)
        if self.completion is None:
            count = _count(usage.completion_tokens)
            self.completion = _count(usage.output_tokens) if count is None else count

    def result(self) -> Usage:
        timings, prompt, cached, completion = self.timings, self.prompt, self.cached, self.completion
        if cached is None:
            cached = _count(timings.cache_n)
        if prompt is None and (evaluated := _count(timings.prompt_n)) is not None:
            prompt = evaluated + (cached or 0)
        if cached is not None:
            cached = None if prompt is None else min(cached, prompt)
        if completion is None:
            completion = _count(timings.predicted_n)
        return Usage(
            prompt,
            cached,
            completion,
            _quantity(timings.prompt_ms, 1e3, LONGEST_TIME),
            _quantity(timings.prompt_per_second, 1, FASTEST),
            _quantity(timings.predicted_ms, 1e3, LONGEST_TIME),
            _quantity(timings.predicted_per_second, 1, FASTEST),
        )


def _prompt(usage: _Spelled) -> tuple[int | None, int | None]:
    """(tokens of the prompt, how many of them came from a cache). Anthropic counts those beside `input_tokens`, OpenAI within."""
    if (count := _count(usage.prompt_tokens)) is not None:
        return count, _detail(usage.prompt_tokens_details)
    if (count := _count(usage.input_tokens)) is None:
        return None, None
    read, written = _count(usage.cache_read_input_tokens), _count(usage.cache_creation_input_tokens)
    cached = _detail(usage.input_tokens_details)
    return count + (read or 0) + (written or 0), read if cached is None else cached


def _detail(details: Any) -> int | None:
    return _count(details.get("cached_tokens")) if isinstance(details, dict) else None


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else None


def _quantity(value: Any, per: float, most: float) -> float | None:
    return value / per if type(value) in (int, float) and 0 <= value <= most * per else None


def _objects(data: bytes, key: bytes, decoder: msgspec.json.Decoder[T]) -> Iterator[T]:
    """The objects in *data* that are the value of *key* (with its quotes), from the last to the first."""
    end = len(data)
    for _ in range(MOST_OBJECTS):
        if (end := data.rfind(key, 0, end)) < 0:
            return
        opening = _OPENING.match(data, end + len(key), end + LONGEST)
        if opening and (found := _decoded(data, opening.end() - 1, decoder)) is not None:
            yield found


def _decoded(data: bytes, start: int, decoder: msgspec.json.Decoder[T]) -> T | None:
    """The object that begins at *start*, if one does. Of its beginnings that end in a brace, only the whole of it is JSON."""
    stop = start
    for _ in range(MOST_BRACES):
        if not (stop := data.find(b"}", stop, start + LONGEST) + 1):
            return None
        try:
            return decoder.decode(data[start:stop])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
    return None
