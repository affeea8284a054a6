"""The client where answers go wrong: a stream that breaks off, or that ends with an error, never looks whole.

`answering(data)` is an address at which one request is answered with these bytes, and nothing more.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from llamactl_py.client import BrokenOff, Client, Refused
from tests.support.daemons import Daemon

EVENT = b'data: {"choices": [{"delta": {"content": "one"}}]}\n\n'


@contextmanager
def answering(data: bytes) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(data)

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def chunked(*pieces: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces)


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (chunked(EVENT), BrokenOff, "broke off"),
        (chunked(EVENT)[:-9], BrokenOff, "broke off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + EVENT, BrokenOff, "broke off"),
        (chunked(EVENT, b'data: {"error": {"message": "out of memory"}}\n\n'), Refused, "with an error: out of memory"),
        (chunked(EVENT, b'error: {"code": 500, "message": "slot"}\n\n'), Refused, "with an error: slot"),
        (chunked(EVENT, b"data: nonsense\n\n"), Refused, "'nonsense' in its stream"),
        (chunked(EVENT, b"data: []\n\n"), Refused, "which is no JSON object"),
    ],
)
def test_a_chat_that_does_not_end_well_says_so_after_what_came(data: bytes, error: type[Exception], said: str) -> None:
    with answering(data) as url:
        words = Client(url, None).chat("a", [])
        if len(data) > len(chunked(EVENT)) - 9:
            assert next(words) == "one"
        with pytest.raises(error, match=said):
            list(words)


@pytest.mark.parametrize(
    "data",
    [chunked(EVENT, b"data: [DONE]\n\n", b""), b"HTTP/1.0 200 OK\r\n\r\n" + EVENT, chunked(*[b"%c" % c for c in EVENT], b"")],
)
def test_a_chat_that_ends_well_is_read_however_it_is_cut(data: bytes) -> None:
    with answering(data) as url:
        assert list(Client(url, None).chat("a", [])) == ["one"]


def test_a_server_that_drops_a_stream_is_told_through_the_daemon(served: Daemon) -> None:
    served.create("a", "llama-server -m /dev/null", environment={"STUBD": "drop-mid-stream=3"})
    words = served.client.chat("a", [{"role": "user", "content": "Count."}])
    assert next(words) == " one"
    with pytest.raises(BrokenOff):
        list(words)
