"""What is read from an answer: the true shapes of every backend, and whatever else the bytes may be."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamactl_py.accounting.tail import HEAD, LIMIT, Tail, tells_usage
from llamactl_py.accounting.usage import MOST_TOKENS, Usage

# As llama-server (build b1-0c1e570) and mlx_lm.server (0.32.2) sent them.
TIMINGS = (
    '"timings":{"cache_n":11,"prompt_n":1,"prompt_ms":0.5,"prompt_per_token_ms":0.5,"prompt_per_second":2000.0,'
    '"predicted_n":3,"predicted_ms":2,"predicted_per_token_ms":0.115,"predicted_per_second":8695.652173913044}'
)
USAGE = '"usage":{"completion_tokens":3,"prompt_tokens":12,"total_tokens":15,"prompt_tokens_details":{"cached_tokens":11}}'
RESPONSES = '"usage":{"input_tokens":12,"output_tokens":3,"total_tokens":15,"input_tokens_details":{"cached_tokens":11}}'
ANTHROPIC = '"usage":{"cache_read_input_tokens":11,"input_tokens":1,"output_tokens":3}'
EVENT = 'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":" one"}}],"object":"chat.completion.chunk"%s}\n\n'
START = f'event: message_start\ndata: {{"type":"message_start","message":{{"content":[],{ANTHROPIC.replace("3}", "0}")}}}}}\n\n'
DELTA = 'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":3}}\n\n'
COMPLETED = (
    f'event: response.completed\ndata: {{"type":"response.completed","response":{{"output":[],{RESPONSES}}},{TIMINGS}}}\n\n'
)
DETAILED = (
    '{"usage":{"input_tokens":1,"cache_creation_input_tokens":4,"cache_read_input_tokens":7,"cache_creation":'
    '{"ephemeral_5m_input_tokens":4,"ephemeral_1h_input_tokens":0},"output_tokens":3,"service_tier":"standard"}}'
)

COUNTS = Usage(prompt_tokens=12, cached_tokens=11, completion_tokens=3)
ALL = Usage(12, 11, 3, 0.0005, 2000.0, 0.002, 8695.652173913044)

SHAPES: dict[str, tuple[str, Usage]] = {
    "llama-server, chat": (f'{{"choices":[{{"message":{{"content":" one"}}}}],{USAGE},"id":"chatcmpl-1",{TIMINGS}}}', ALL),
    "llama-server, stream with usage": (f'{EVENT % ""}data: {{"choices":[],{USAGE},{TIMINGS}}}\n\ndata: [DONE]\n\n', ALL),
    "llama-server, stream without": (EVENT % "" + EVENT % f",{TIMINGS}" + "data: [DONE]\n\n", ALL),
    "llama-server, /completion": (f'{{"index":0,"content":" one","tokens_evaluated":12,"tokens_cached":14,{TIMINGS}}}', ALL),
    "llama-server, responses": (f'{{"object":"response","output":[],"status":"completed",{RESPONSES}}}', COUNTS),
    "llama-server, responses stream": (COMPLETED, ALL),
    "llama-server, messages": (f'{{"type":"message","stop_sequence":null,{ANTHROPIC}}}', COUNTS),
    "llama-server, messages stream": (f'{START}{DELTA}event: message_stop\ndata: {{"type":"message_stop"}}\n\n', COUNTS),
    "llama-server, embeddings": ('{"model":"x","usage":{"prompt_tokens":3,"total_tokens":3},"data":[]}', Usage(3)),
    "mlx_lm.server": (f'{{"choices": [], {USAGE.replace(":", ": ").replace(",", ", ")}}}', COUNTS),
    "mlx_lm.server, stream without usage": (": keepalive 1/1\n\n" + EVENT % "" + "data: [DONE]\n\n", Usage()),
    "vLLM, usage in each event": (EVENT % ',"usage":{"prompt_tokens":12,"completion_tokens":1}' + EVENT % f",{USAGE}", COUNTS),
    "vLLM, embeddings": ('{"usage":{"prompt_tokens":7,"completion_tokens":0,"prompt_tokens_details":null}}', Usage(7, None, 0)),
    "vLLM, no completion": ('{"usage":{"prompt_tokens":7,"total_tokens":7,"completion_tokens":null}}', Usage(7)),
    "null in each event": (EVENT % ',"usage":null' + EVENT % f",{USAGE}" + EVENT % ',"usage":null' * 20, COUNTS),
    "llama-cpp-python, CRLF": ((EVENT % "" + f'data: {{"choices":[],{USAGE}}}\n\n').replace("\n", "\r\n"), COUNTS),
    "pretty": (json.dumps(json.loads(f"{{{USAGE},{TIMINGS}}}"), indent=2).replace("\n", "\r\n"), ALL),
    "no cache": ('{"usage":{"prompt_tokens":12,"completion_tokens":3},"timings":{"prompt_n":12}}', Usage(12, None, 3)),
    "all details of OpenAI": (f'{{{USAGE[:-1]},"completion_tokens_details":{{"reasoning_tokens":2}}}},"tier":"x"}}', COUNTS),
    "all details of Anthropic": (DETAILED, Usage(12, 7, 3)),
    "an error": ('{"error":{"code":501,"message":"no usage","type":"not_supported_error"}}', Usage()),
    "nothing": ("", Usage()),
}  # fmt: skip


def read(body: bytes, size: int = 1 << 16) -> Usage:
    tail = Tail()
    for start in range(0, len(body), size):
        tail.feed(body[start : start + size])
    return tail.read()


def framed(body: bytes, sizes: list[int]) -> bytes:
    """*body* with HTTP's chunk framing, the chunks having *sizes* over and over."""
    parts, at, turn = [], 0, 0
    while at < len(body):
        size = min(sizes[turn % len(sizes)], len(body) - at)
        parts.append(b"%x%b\r\n%b\r\n" % (size, b";ext=1" if turn % 3 == 2 else b"", body[at : at + size]))
        at, turn = at + size, turn + 1
    return b"".join((*parts, b"0\r\nTrailer: x\r\n\r\n"))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_true_shape_is_read(shape: str) -> None:
    body, usage = SHAPES[shape]
    assert read(body.encode()) == usage
    assert read(framed(body.encode(), [100, 30])) == usage


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if "data: " in SHAPES[shape][0] and SHAPES[shape][1] != Usage()])
def test_a_stream_is_read_however_long_it_was(shape: str) -> None:
    body, usage = SHAPES[shape]
    first, rest = body.encode().split(b"\n\n", 1) if "messages" in shape else (b": ping", body.encode())
    long = first + b"\n\n" + (EVENT % "").encode() * 3000 + rest
    assert len(long) > 2 * LIMIT
    for size in (1 << 18, 1000, 7):
        assert read(long, size) == usage
    assert read(framed(long, [100])) == usage


@pytest.mark.parametrize("length", [LIMIT // 2, LIMIT + LIMIT // 2, 3 * LIMIT])
def test_embeddings_tell_their_usage_before_a_long_list(length: int) -> None:
    body = (
        b'{"model":"x","object":"list","usage":{"prompt_tokens":3,"total_tokens":3},"data":[' + b"0.25," * (length // 5) + b"1]}"
    )
    for size in (len(body), 1 << 16, 1 << 14, 1000, HEAD - 1):
        assert read(body, size).prompt_tokens == 3


def test_the_last_usage_counts() -> None:
    assert read(
        b'{"usage":{"prompt_tokens":1,"completion_tokens":1}}{"usage":{"prompt_tokens":2,"completion_tokens":2}}'
    ) == Usage(2, None, 2)


@pytest.mark.parametrize(
    "text",
    [
        "usage",
        '"usage":{"prompt_tokens":1,"completion_tokens":1}',
        '{"usage":{"prompt_tokens":1}}',
        '\\"usage":{"prompt_tokens":1}',
        'data: {"timings":{"prompt_n":1,"predicted_n":1}}\n\n',
        '"timings":{"prompt_n":1,"predicted_n":1}',
        "\r\n5\r\n",
        "größe 東京 \U0001f999",
    ],
)
@pytest.mark.parametrize("is_ascii", [True, False])
def test_generated_text_cannot_speak_for_the_backend(text: str, is_ascii: bool) -> None:
    said = json.dumps({"choices": [{"delta": {"content": text}, "text": [text]}]}, ensure_ascii=is_ascii).encode()
    assert read(said) == Usage()
    assert read(b"data: " + said + b"\n\n") == Usage()
    assert read(b"data: " + said + b"\n\ndata: {%b}\n\ndata: " % USAGE.encode() + said) == COUNTS
    for cut in range(len(said)):
        assert read(said[cut:]) == Usage()


@pytest.mark.parametrize(
    "value",
    [
        "-1",
        "1.5",
        "1e3",
        "1e999",
        "-1e999",
        "NaN",
        '"5"',
        "true",
        "null",
        "[]",
        "{}",
        "[[1]]",
        str(MOST_TOKENS + 1),
        "9" * 5000,
        "0x1",
        "1 2",
    ],
)
def test_a_value_that_makes_no_sense_is_not_told(value: str) -> None:
    usage = read(f'{{"usage":{{"prompt_tokens":{value},"completion_tokens":{value},"prompt_tokens_details":{value}}}}}'.encode())
    assert usage == Usage()
    timings = read(f'{{"timings":{{"prompt_n":{value},"predicted_n":{value},"cache_n":{value}}}}}'.encode())
    assert timings == Usage()


@pytest.mark.parametrize("value", ["-1", "1e999", "1e300", "NaN", '"5"', "true", "[]", "9" * 400])
def test_a_time_or_a_speed_that_makes_no_sense_is_not_told(value: str) -> None:
    keys = ("prompt_ms", "prompt_per_second", "predicted_ms", "predicted_per_second")
    for key in keys:
        timings = {"prompt_ms": 1, "prompt_per_second": 1, "predicted_ms": 1, "predicted_per_second": 1, key: "@"}
        usage = read(b'{"timings":%b}' % json.dumps(timings).replace('"@"', value).encode())
        assert [usage.prompt_seconds, usage.prompt_speed, usage.generation_seconds, usage.generation_speed].count(None) in (1, 4)


def test_a_bad_value_spoils_itself_only() -> None:
    assert read(b'{"usage":{"prompt_tokens":-1,"completion_tokens":3}}') == Usage(None, None, 3)
    assert read(b'{"usage":{"prompt_tokens":5,"prompt_tokens_details":{"cached_tokens":"x"}}}') == Usage(5)
    assert read(b'{"usage":{"prompt_tokens":5,"prompt_tokens_details":{"cached_tokens":6}}}') == Usage(5, 5)
    assert read(b'{"timings":{"cache_n":6}}') == Usage()


HOSTILE = {
    "usage in usage": b'"usage":{' * 10_000,
    "objects that do not end": b'"usage":{"a":[}' * 6_000,
    "timings in timings": b'"timings":{"a":{"a":' * 5_000,
    "null, over and over": b'"usage":null,' * 6_000,
    "deep": b'"usage":' + b'{"a":' * 100_000 + b"}" * 100_000,
    "deep list": b'"usage":{"prompt_tokens":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep, cut": b'"timings":{"prompt_n":' + b"[" * 1_900 + b"}" * 100,
    "framing all over": b"\r\n1" * 30_000,
    "framing that does not end": b"\r\n1;" + b"x" * 100_000,
    "blanks in framing": (b"\r\n1" + b" " * 8_000) * 10,
    "blanks after the key": (b'"usage"' + b" " * 2_000) * 40,
    "one long string": b'"usage":{"a":"' + b"\\" * 100_000,
    "no text": bytes(range(256)) * 400,
    "cut characters": b'{"usage":{"\xe6\x9d":1,"prompt_tokens":"\xff"}}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_cost_little_and_say_nothing(name: str) -> None:
    for size in (1 << 18, 1_000):
        began = time.perf_counter()
        assert read(HOSTILE[name], size) == Usage()
        assert time.perf_counter() - began < 1.0  # 2 ms, really


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=5) | st.sampled_from(["usage", "timings", "prompt_tokens", "predicted_ms"]), inner, max_size=4
        )
    ),
    max_leaves=20,
)


@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()), st.integers(1, 50))
def test_whatever_comes_nothing_is_raised_and_every_figure_is_bounded(body: bytes, size: int) -> None:
    usage = read(body, size)
    for count in (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens):
        assert count is None or 0 <= count <= 2 * MOST_TOKENS
    for quantity in (usage.prompt_seconds, usage.prompt_speed, usage.generation_seconds, usage.generation_speed):
        assert quantity is None or 0 <= quantity <= 10**7


@given(
    shape=st.sampled_from(list(SHAPES)),
    before=st.integers(0, 300),
    text=st.text(max_size=30),
    sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=5),
    pieces=st.lists(st.integers(1, 5000), min_size=1, max_size=5),
)
def test_how_a_body_is_cut_changes_nothing(shape: str, before: int, text: str, sizes: list[int], pieces: list[int]) -> None:
    body, usage = SHAPES[shape]
    event = b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}, ensure_ascii=False).encode() + b"\n\n"
    whole = event * before + body.encode()
    for sent in (whole, framed(whole, sizes)):
        tail, at, turn = Tail(), 0, 0
        while at < len(sent):
            tail.feed(sent[at : at + pieces[turn % len(pieces)]])
            at, turn = at + pieces[turn % len(pieces)], turn + 1
        assert tail.read() == usage


@pytest.mark.parametrize(
    ("content_type", "tells"),
    [
        (b"application/json", True),
        (b"application/json; charset=utf-8", True),
        (b"Text/Event-Stream", True),
        (b"text/event-stream;charset=utf-8", True),
        (b"text/html", False),
        (b"application/octet-stream", False),
        (b"", False),
    ],
)
def test_only_json_and_events_are_looked_at(content_type: bytes, tells: bool) -> None:
    assert tells_usage(content_type) is tells


def kept(tail: Tail) -> int:
    return sum(map(len, tail._pieces)) + len(tail._head)


@given(st.lists(st.integers(0, 3 * LIMIT), max_size=30))
def test_no_more_than_the_ends_of_an_answer_are_kept(sizes: list[int]) -> None:
    tail: Any = Tail()
    sent = b""
    for number, size in enumerate(sizes):
        piece = bytes([number]) * size
        sent += piece
        tail.feed(piece)
        assert kept(tail) <= 2 * LIMIT + HEAD
        assert tail._last(LIMIT) == sent[-LIMIT:]
        assert sent.startswith(tail._head)
