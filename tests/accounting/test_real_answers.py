"""The true bytes of real servers, as they pass through a daemon: whole or streamed, each kind of answer tells the same counts."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from llamactl_py.accounting.tail import Tail, tells_usage
from llamactl_py.accounting.usage import Usage
from tests.support.daemons import Daemon, daemon

pytestmark = pytest.mark.real

MESSAGES = {"messages": [{"role": "user", "content": "Count."}], "max_tokens": 5}
STREAM = {"stream": True}
WITH_USAGE = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Daemon]:
    with daemon(tmp_path) as running:
        yield running


def usage(served: Daemon, path: str, size: int = 100, **fields: Any) -> Usage:
    """What the answer to *fields* says, its body fed as it came from the socket, chunk framing and all, in pieces of *size*."""
    body = json.dumps({"model": "m", **fields}).encode()
    address = urlsplit(served.client.url)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {served.key}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    answer = b""
    with socket.create_connection((address.hostname or "", address.port or 0), 60) as connection:
        connection.sendall(head.encode() + body)
        while part := connection.recv(1 << 16):
            answer += part
    head_of_answer, _, answer = answer.partition(b"\r\n\r\n")
    assert b" 200 " in head_of_answer[:20], answer
    lines = [line.partition(b":") for line in head_of_answer.lower().split(b"\r\n")]
    (content_type,) = (value.strip() for name, _, value in lines if name == b"content-type")
    assert tells_usage(content_type), content_type
    tail = Tail()
    for start in range(0, len(answer), size):
        tail.feed(answer[start : start + size])
    return tail.read()


def counts(told: Usage) -> tuple[int | None, int | None]:
    return told.prompt_tokens, told.completion_tokens


def test_llama_server_tells_its_counts_in_every_answer(served: Daemon, llama_server: Path, tiny_gguf_model: Path) -> None:
    served.create("m", f"{llama_server} -m {tiny_gguf_model} -c 8192 -t 1 --threads-http 4 -np 1")
    first = usage(served, "/v1/chat/completions", **MESSAGES)
    assert first.prompt_tokens
    assert (first.cached_tokens, first.completion_tokens) == (0, 5)
    for told in (
        usage(served, "/v1/chat/completions", **MESSAGES),
        usage(served, "/v1/chat/completions", **MESSAGES, **STREAM),
        usage(served, "/v1/chat/completions", **MESSAGES, **WITH_USAGE),
        usage(served, "/v1/messages", **MESSAGES),
        usage(served, "/v1/messages", **MESSAGES, **STREAM),
        usage(served, "/v1/responses", input="Count.", max_output_tokens=5),
        usage(served, "/v1/responses", input="Count.", max_output_tokens=5, **STREAM),
    ):
        assert counts(told) == counts(first)
        assert told.cached_tokens == first.prompt_tokens - 1
    timed = usage(served, "/v1/chat/completions", **MESSAGES, **STREAM)
    assert timed.prompt_speed
    assert timed.generation_speed
    assert 0 < (timed.prompt_seconds or 0) + (timed.generation_seconds or 0) < 60


def test_llama_server_tells_its_counts_at_the_end_of_a_long_stream(
    served: Daemon, llama_server: Path, tiny_gguf_model: Path
) -> None:
    served.create("m", f"{llama_server} -m {tiny_gguf_model} -c 8192 -t 1 --threads-http 4 -np 1")
    for path, fields in (("/v1/chat/completions", WITH_USAGE), ("/v1/messages", STREAM)):
        told = usage(served, path, 1 << 16, **{**MESSAGES, "max_tokens": 700}, **fields)
        assert (told.prompt_tokens, told.completion_tokens) == (usage(served, path, **MESSAGES).prompt_tokens, 700)


def test_mlx_tells_its_counts_when_asked(served: Daemon, mlx_server: Path, tiny_hf_model: Path) -> None:
    served.create("m", f"HF_HUB_OFFLINE=1 PATH={mlx_server.parent} {mlx_server} --model {tiny_hf_model}")
    first = usage(served, "/v1/chat/completions", **MESSAGES)
    assert first.prompt_tokens
    assert (first.cached_tokens, first.completion_tokens) == (0, 5)
    assert counts(usage(served, "/v1/chat/completions", **MESSAGES, **WITH_USAGE)) == counts(first)
    assert usage(served, "/v1/chat/completions", **MESSAGES, **STREAM) == Usage()
