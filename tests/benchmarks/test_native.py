"""The C programs of the benchmarks: the backend answers, and the clients notice every way in which an answer can be wrong.

Between them stands a proxy of a few lines that does to the bytes what a test tells it to. `door` gives the port to ask.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from benchmarks import build, load
from benchmarks.build import Programs
from benchmarks.load import Door
from benchmarks.processes import answers, free_port, get, timed, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="epoll: the benchmarks are for Linux")

Tamper = Callable[[bytes], bytes]
EVENTS = 5


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return build.programs(tmp_path_factory.mktemp("native"))


@pytest.fixture(scope="module")
def backend(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A running backend's port. It is given flags of llama-server, as the daemons that start it give them."""
    port = free_port()
    command = (str(programs.backend), "-m", "tiny.gguf", "--host", "127.0.0.1", "--port", str(port), "--ctx-size", "2048")
    with timed(command, cpu=None, log=tmp_path_factory.mktemp("backend") / "log"):
        until(lambda: answers(port, "/health"), "the backend")
        yield port


class Clients:
    """The C clients, asking at a port."""

    def __init__(self, programs: Programs, folder: Path) -> None:
        self.programs, self.folder = programs, folder

    async def requests(self, port: int, *words: str, body: bytes = load.small("hello"), count: int = 20) -> dict[str, Any]:
        return await self._run(self.programs.requests, port, body, "--count", str(count), *words)

    async def streams(self, port: int, *words: str, events: int = EVENTS, period_us: int = 1000) -> dict[str, Any]:
        body = load.small(f"bench-events={events} bench-period-us={period_us} ", stream=True)
        return await self._run(self.programs.streams, port, body, "--events", str(events), *words, "--seconds", "5")

    async def _run(self, program: Path, port: int, body: bytes, *words: str) -> dict[str, Any]:
        file = self.folder / "request"
        file.write_bytes(load.request(Door(port), body))
        process = await asyncio.create_subprocess_exec(
            *(str(program), "--port", str(port), "--request", str(file), *words), stdout=asyncio.subprocess.PIPE
        )
        told, _ = await asyncio.wait_for(process.communicate(), 20)
        result: dict[str, Any] = json.loads(told)
        return result


@pytest.fixture
def clients(programs: Programs, tmp_path: Path) -> Clients:
    return Clients(programs, tmp_path)


@asynccontextmanager
async def tampering(backend: int, tamper: Tamper) -> AsyncIterator[int]:
    """A port that passes one request a connection on to the backend, and *tamper*s with the whole of its answer."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_backend, to_backend = await asyncio.open_connection("127.0.0.1", backend)
        with closing(to_backend):
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]))
            to_backend.write(head + body)
            answer = b""
            while not is_whole(answer):
                answer += await from_backend.read(1 << 16)
        writer.write(tamper(answer))
        await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.current_task())
        with closing(writer), suppress(asyncio.IncompleteReadError, ConnectionError):  # a client may have what it wants
            await answer(reader, writer)

    tasks: list[asyncio.Task[Any] | None] = []
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
    await asyncio.gather(*filter(None, tasks))


def is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    return bool(end) and (len(body) == int(length[1]) if length else answer.endswith(b"\r\n0\r\n\r\n"))


# ---- the backend


def test_the_backend_answers_what_a_daemon_asks_of_a_llama_server(backend: int) -> None:
    assert get(backend, "/health", {}) == b'{"status":"ok"}'
    assert json.loads(get(backend, "/v1/models", {}) or b"")["data"][0]["id"] == "bench"
    assert get(backend, "/nothing", {}) is None


async def test_an_answer_has_usage_and_timings_and_about_420_bytes(backend: int) -> None:
    seen: list[bytes] = []
    async with tampering(backend, lambda answer: seen.append(answer) or answer) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(load.request(Door(port), load.small("hello")))
        body = (await reader.read()).partition(b"\r\n\r\n")[2]
        writer.close()
    answer = json.loads(body)
    assert 350 <= len(body) <= 450
    assert answer["usage"]["completion_tokens"] == answer["timings"]["predicted_n"] == 10


async def test_every_connection_gets_its_own_answer(backend: int, clients: Clients) -> None:
    told = await clients.requests(backend, "--connections", "8")
    assert (told["failed"], told["reconnected"], told["failure"]) == (0, 0, "")
    assert told["answered"] >= 20
    assert 0 < told["latency"]["p50"] <= told["latency"]["p99"] <= told["latency"]["max"]


async def test_requests_are_told_in_slices(backend: int, clients: Clients) -> None:
    told = await clients.requests(backend, "--seconds", "0.5", count=0)
    slices = told["slices"]
    assert 3 <= len(slices) <= 10
    assert 0 < sum(seen for _, seen, _ in slices) <= told["answered"]
    for seconds, seen, p50 in slices:
        assert 0.05 <= seconds <= told["seconds"]
        assert seen > 0
        assert 0 < p50 <= told["latency"]["max"]


async def test_bodies_of_ten_megabytes_are_taken(backend: int, clients: Clients) -> None:
    told = await clients.requests(backend, body=load.large())
    assert (told["answered"], told["failed"]) == (20, 0)


async def test_streams_are_whole_and_keep_their_pace(backend: int, clients: Clients) -> None:
    told = await clients.streams(backend, "--streams", "20", "--period-us", "10000", events=10, period_us=10_000)
    assert (told["whole"], told["failed"], told["unfinished"], told["events"]) == (20, 0, 0, 200)
    assert told["seconds"] >= 0.09
    assert told["delay"]["count"] == 200
    assert told["first_event"]["count"] == 20


async def test_streams_without_a_pace_come_as_fast_as_they_are_taken(backend: int, clients: Clients) -> None:
    told = await clients.streams(backend, "--streams", "4", events=5000, period_us=0)
    assert (told["whole"], told["events"], told["failed"]) == (4, 20_000, 0)


async def test_a_stream_may_be_left_before_its_end(backend: int, clients: Clients) -> None:
    told = await clients.streams(backend, "--seconds", "0.2", "--whole", "0", events=1_000_000, period_us=0)
    assert (told["whole"], told["failed"], told["unfinished"]) == (0, 0, 0)
    assert told["events"] > 0
    assert answers(backend, "/health")


async def test_a_stream_that_does_not_end_in_time_is_unfinished(backend: int, clients: Clients) -> None:
    told = await clients.streams(backend, "--seconds", "0.2", events=1000, period_us=100_000)
    assert (told["whole"], told["failed"], told["unfinished"]) == (0, 0, 1)


# ---- what the clients notice

LAST_EVENT = f"n{EVENTS - 1:08x}".encode()
WRONG_STREAMS = {
    "cut off": (lambda a: a[: a.index(LAST_EVENT)], "was cut off after 4 events"),
    "cut off after the last event": (lambda a: a.removesuffix(b"0\r\n\r\n"), "was cut off after 5 events"),
    "ended as if whole": (lambda a: a[: a.index(event(a, 4))] + b"0\r\n\r\n", "ended as if whole after 4 of 5"),
    "without its usage": (lambda a: a.replace(b'"total_tokens":22', b'"total_tokens":23'), "the last events differ"),
    "another byte": (lambda a: a.replace(b"n00000003 at", b"n00000003 aT"), "event 3 differs from what was sent at byte"),
    "two in each other's place": (
        lambda a: a.replace(b"n00000001", b"nx").replace(b"n00000002", b"n00000001").replace(b"nx", b"n00000002"),
        "event 1 differs",
    ),
    "of another client": (lambda a: a.replace(b" t000001 ", b" t000002 "), "event 0 differs"),
    "an event twice": (lambda a: a.replace(event(a, 3), event(a, 3) * 2), "event 4 differs"),
    "bytes behind the end": (lambda a: a + b"data: more", "10 bytes more than the answer has"),
    "a chunk of no size": (lambda a: a.replace(event(a, 0)[:2], b"zz", 1), "not the size of a chunk"),
    "a chunk of the wrong size": (lambda a: a.replace(event(a, 0)[:2], b"10", 1), "a chunk is longer than it says"),
    "another status": (lambda a: a.replace(b"200 OK", b"502 Bad Gateway"), "status 502"),
    "no HTTP": (lambda _: b"SSH-2.0-OpenSSH_9\r\n\r\n", "no HTTP answer"),
    "nothing at all": (lambda _: b"", "was cut off after 0 events"),
}


def event(answer: bytes, number: int) -> bytes:
    """The whole chunk with that event; chunks of events are all of one length."""
    found = re.search(rb"[0-9a-f]{2}\r\ndata: [^\r]* n%08x [^\r]*\r\n" % number, answer)
    assert found
    return found[0]


@pytest.mark.parametrize(("tamper", "failure"), WRONG_STREAMS.values(), ids=WRONG_STREAMS.keys())
async def test_a_stream_that_is_not_what_was_sent_is_told(backend: int, clients: Clients, tamper: Tamper, failure: str) -> None:
    async with tampering(backend, tamper) as port:
        told = await clients.streams(port)
    assert (told["whole"], told["failed"]) == (0, 1)
    assert failure in told["failure"]


WRONG_ANSWERS = {
    "of another client": (lambda a: a.replace(b"t000001", b"t000002"), "connection 1 got another answer"),
    "another byte": (lambda a: a.replace(b"one two", b"one twp"), "connection 1 got another answer"),
    "none": (lambda _: b"", "closed before the answer was complete"),
    "too short": (lambda a: a[:-1], "closed before the answer was complete"),
    "an error": (lambda a: a.replace(b"200 OK", b"429 Too Many Requests"), "status 429"),
}


@pytest.mark.parametrize(("tamper", "failure"), WRONG_ANSWERS.values(), ids=WRONG_ANSWERS.keys())
async def test_an_answer_that_is_not_what_was_sent_is_told(backend: int, clients: Clients, tamper: Tamper, failure: str) -> None:
    async with tampering(backend, tamper) as port:
        told = await clients.requests(port)
    assert told["failed"] > 0
    assert failure in told["failure"]


async def test_a_close_between_two_answers_is_no_failure(backend: int, clients: Clients) -> None:
    async with tampering(backend, lambda answer: answer) as port:
        told = await clients.requests(port)
    assert (told["answered"], told["failed"]) == (20, 0)
    assert told["reconnected"] >= 19


# ---- a proxy that writes answers anew


def anew(answer: bytes) -> bytes:
    """Every event with another id, each in two chunks."""
    events = [b"data: " + part.partition(b"\r\n")[0] for part in answer.partition(b"\r\n\r\n")[2].split(b"data: ")[1:]]
    halves = [half for text in events for half in (text[:40], text[40:])]
    body = b"".join(b"%x\r\n%b\r\n" % (len(h), h) for h in halves if h).replace(b'"created":1760000000', b'"created":1760000009')
    return answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" + body + b"0\r\n\r\n"


async def test_events_written_anew_are_known_by_their_marks(backend: int, clients: Clients) -> None:
    async with tampering(backend, anew) as port:
        told = await clients.streams(port, "--exact", "0")
        exactly = await clients.streams(port)
    assert (told["whole"], told["events"], told["failure"]) == (1, EVENTS, "")
    assert "differs" in exactly["failure"]


@pytest.mark.parametrize("lost", [0, 2, EVENTS - 1])
async def test_an_event_lost_on_the_way_is_told(backend: int, clients: Clients, lost: int) -> None:
    async with tampering(backend, lambda answer: anew(answer.replace(event(answer, lost), b""))) as port:
        told = await clients.streams(port, "--exact", "0")
    assert (told["whole"], told["failed"]) == (0, 1)


# ---- building


def test_programs_are_compiled_once(programs: Programs, tmp_path: Path) -> None:
    folder = programs.backend.parent.parent
    before = programs.backend.stat().st_mtime_ns
    assert build.programs(folder) == programs
    assert programs.backend.stat().st_mtime_ns == before


def test_without_a_compiler_the_remedy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(SystemExit, match="install one with: apt-get install gcc"):
        build.programs(tmp_path)
