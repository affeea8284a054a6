"""A stub backend: answers like llama-server, counts like our tiny model, and misbehaves on request. `Switches` says how.

    STUBD="load-time=3 workers=2 ignore-term" python -S -E tests/support/stubd.py --port 8001 -m any.gguf
    python -S -E tests/support/stubd.py --port 8001 --stub-load-time=3

It takes llama-server's flags and ignores those that mean nothing to it, so it can stand in for the real one. The standard
library only, and little of that: a test that starts a hundred of these should not have to wait. Everything is written to
the socket by hand, as no HTTP library would send what a broken server sends. It outlives its parent like any daemon would,
but none of its processes lives longer than `max-life`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import socket
import sys
import time
import traceback
from collections.abc import AsyncIterator, Iterable, Mapping
from types import SimpleNamespace

if __name__ == "__main__":
    sys.modules["ssl"] = None  # type: ignore[assignment]  # asyncio can do without, and starts 7 ms and 3 MB lighter

import asyncio

BEGAN = time.monotonic()
NEVER = float("inf")
WORDS = "one two three four five six seven eight nine ten".split()  # noqa: SIM905
REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 503: "Service Unavailable"}
LARGEST_HEAD = 1 << 20
RECORDED_BODY = 1 << 16
LOG_LINE = 100


class Switches:
    """How to misbehave. Words like `load-time=3` or `ignore-term` in STUBD, or `--stub-load-time=3`; times are in seconds.

    What spoils an answer spoils only those to POST: health and model list stay right, so that the stub is found ready first.
    """

    # life
    load_time: float = 0  # the port is bound, but every path answers 503 "Loading model" for so long
    never_ready: bool = False  # ... for ever
    bind_after: float = 0  # nobody listens on the port for so long
    exit_after: float = NEVER  # exit, counted from the start, ready or not
    exit_code: int = -1  # ... with this code (0 if not given); alone it means: exit at once
    exit_on_request: int = -1  # exit with this code as soon as a request's body has arrived
    last_words: str = ""  # the last line on stderr before any exit of its own accord
    ignore_term: bool = False
    term_delay: float = 0  # exit so long after SIGTERM, and answer as before until then
    max_life: float = 300  # each process is ended after so long, whatever it is doing
    # family: none of them is told when the leader leaves
    workers: int = 0  # child processes that do nothing
    setsid_worker: bool = False  # one that has its own session, and is nobody's child
    worker_ignore_term: bool = False  # for both kinds
    hold_stdout: bool = False  # an orphan in the leader's session that keeps stdout open
    # port
    reuse_port: bool = False
    hang_if_port_taken: bool = False  # print a traceback and stay, as mlx_lm does, instead of exit code 1
    port_file: str = ""  # where to write the port once it is bound
    # log
    spew: int = 0  # bytes per second on stdout, in numbered lines of 100 bytes
    spew_total: int = 0  # ... and no more than this; alone: as fast as they are taken
    long_line: int = 0  # one line of so many bytes at the start
    dirty_log: bool = False  # NUL, invalid UTF-8, escape sequences and an unfinished line at the start
    # answers
    tokens: int = 10  # words in an answer, unless max_tokens is less
    tok_rate: float = NEVER  # words per second
    slow_health: float = 0  # health takes so long to answer
    status: int = 0  # answer every POST with this status and an error
    hang_on_request: bool = False  # take the request, never answer
    hang_after: int = -1  # no more words after so many
    drop_mid_stream: int = -1  # close a stream's connection after so many events, in the midst of the body
    idle_close: float = NEVER  # close a connection that sent no request for so long
    fixed_length_lie: bool = False  # promise 100 bytes more than there are, then close
    bad_status_line: bool = False
    giant_head: bool = False  # a header of 1 MiB
    # notes, one JSON object on a line
    record: str = ""  # what was asked and what became of it; written when a request is over
    pids: str = ""  # each process when it starts; complete once the port is bound

    def __init__(self, words: Iterable[str]) -> None:
        kinds = {"bool": bool, "int": int, "float": float, "str": str}
        for word in words:
            name, _, value = word.partition("=")
            attribute = name.replace("-", "_")
            annotation = Switches.__annotations__.get(attribute)
            if annotation is None:  # a test with a typing error should not pass
                raise SystemExit(f"stubd: there is no switch {name!r}")
            setattr(self, attribute, kinds[annotation](value or "yes"))
        if self.exit_code >= 0 and self.exit_after == NEVER:
            self.exit_after = 0


def understand(argv: Iterable[str], environment: Mapping[str, str]) -> tuple[SimpleNamespace, Switches]:
    """The options that llama-server has too, and the switches. The command line goes before the environment."""
    names = {"-m": "model", "--model": "model", "-a": "alias", "--alias": "alias", "--host": "host", "--port": "port"}
    names["--api-key"] = "api_key"
    options = SimpleNamespace(model="stub", alias="", host="127.0.0.1", port="8080", api_key=environment.get("LLAMA_API_KEY", ""))
    words = shlex.split(environment.get("STUBD", ""))
    rest = iter(argv)
    for word in rest:
        flag, equals, value = word.partition("=")
        if flag.startswith("--stub-"):
            words.append(word.removeprefix("--stub-"))
        elif flag in names:
            setattr(options, names[flag], value if equals else next(rest, ""))
    return options, Switches(words)


# ---- processes


def enrol(switches: Switches, role: str) -> None:
    """What each process does first: see to its end, and note that it is there."""
    signal.setitimer(signal.ITIMER_REAL, switches.max_life)  # the kernel ends us, also when Python is stuck; not inherited
    note(switches.pids, {"pid": os.getpid(), "role": role, "ticks": start_ticks()})


def start_ticks() -> int:
    """When this process started, in the kernel's ticks since boot; 0 where there is no /proc."""
    try:
        with open("/proc/self/stat", "rb") as stat:
            return int(stat.read().rpartition(b")")[2].split()[19])
    except OSError:
        return 0


def start_family(switches: Switches) -> None:
    for _ in range(switches.workers):
        start_sleeper(switches, "worker")
    if switches.setsid_worker:
        start_sleeper(switches, "setsid-worker", own_session=True, is_orphan=True)
    if switches.hold_stdout:
        start_sleeper(switches, "stdout-holder", is_orphan=True)


def start_sleeper(switches: Switches, role: str, *, own_session: bool = False, is_orphan: bool = False) -> None:
    enrolled, enrolling = os.pipe()
    child = os.fork()
    if child:
        os.close(enrolling)
        os.read(enrolled, 1)  # ends when the sleeper closes its end: once our port is bound, `pids` names the whole family
        os.close(enrolled)
        if is_orphan:
            os.waitpid(child, 0)
        return
    if own_session:
        os.setsid()
    if is_orphan and os.fork():
        os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    ignores_term = switches.worker_ignore_term and role.endswith("worker")
    signal.signal(signal.SIGTERM, signal.SIG_IGN if ignores_term else signal.SIG_DFL)
    enrol(switches, role)
    say(f"{role} {os.getpid()}")
    os.close(enrolling)
    while True:
        signal.pause()


# ---- notes and log


def note(path: str, entry: Mapping[str, object]) -> None:
    """Append a line to a file that other processes append to as well: in a single write, so that lines stay whole."""
    if path:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(descriptor, json.dumps(entry).encode() + b"\n")
        os.close(descriptor)


def say(text: str) -> None:
    os.write(2, text.encode() + b"\n")


def print_bytes(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


async def talk(switches: Switches) -> None:
    """Everything that the log gets unasked."""
    if switches.long_line:
        print_bytes(b"x" * switches.long_line + b"\n")
    if switches.dirty_log:
        print_bytes(b"nul \0, not utf-8 \xff\xc3, red \x1b[31m, title \x1b]0;owned\x07, return \rover\nno end of line")
    if switches.spew or switches.spew_total:
        await spew(switches.spew, -(-switches.spew_total // LOG_LINE) or NEVER)


async def spew(rate: int, lines: float) -> None:
    """Write so many numbered lines at *rate* bytes per second (0: without a pause), in portions that let requests through."""
    began = time.monotonic()
    written = 0
    while written < lines:
        due = min(lines, written + (1 << 16))
        if rate:
            due = min(due, int((time.monotonic() - began) * rate / LOG_LINE))
        print_bytes(b"".join(b"spew %010d %s\n" % (number, b"." * (LOG_LINE - 17)) for number in range(written, due)))
        written = due
        await asyncio.sleep(0.01 if rate else 0)


# ---- HTTP


class Malformed(Exception):
    """The request cannot be framed: whatever follows on this connection means nothing."""


class Request:
    """One request and what became of it."""

    def __init__(self, head: bytes) -> None:
        # As it came and never refused: what a proxy let through is what its tests want to see.
        self.came = time.monotonic()
        first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        self.method, _, rest = first.partition(" ")
        self.target, _, self.version = rest.rpartition(" ")
        self.path = self.target.partition("?")[0]
        self.headers = [(name, value.strip(" \t")) for name, _, value in (line.partition(":") for line in lines)]
        self.body = b""
        self.digest = hashlib.sha256()
        self.is_complete = False
        self.status = 0
        self.sent = 0
        self.lost: float | None = None
        self.how_lost: str | None = None

    def header(self, name: str) -> str:
        return ", ".join(value for key, value in self.headers if key.lower() == name)

    def keeps_connection(self) -> bool:
        return self.version == "HTTP/1.1" and "close" not in self.header("connection").lower()

    async def read_body(self, reader: asyncio.StreamReader) -> None:
        parts = []
        async for part in self._parts(reader):
            self.digest.update(part)
            parts.append(part)
        self.body = b"".join(parts)
        self.is_complete = True

    async def _parts(self, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        try:
            if "chunked" in self.header("transfer-encoding").lower():
                while size := int((await reader.readline()).partition(b";")[0], 16):
                    yield await reader.readexactly(size)
                    await reader.readexactly(2)
                while await reader.readline() not in (b"\r\n", b""):
                    pass
                return
            left = int(self.header("content-length") or 0)
        except ValueError:
            raise Malformed from None
        while left > 0:
            part = await reader.readexactly(min(left, 1 << 18))
            left -= len(part)
            yield part

    def entry(self) -> dict[str, object]:
        """The line in the record. The body is there as text; `.encode("utf-8", "surrogateescape")` gives its bytes back."""
        short = len(self.body) < RECORDED_BODY
        return {
            "pid": os.getpid(),
            "spawn": os.environ.get("LLAMACTL_SPAWN"),
            "method": self.method,
            "target": self.target,
            "headers": self.headers,
            "complete": self.is_complete,
            "length": len(self.body),
            "sha256": self.digest.hexdigest(),
            "body": self.body.decode("utf-8", "surrogateescape") if short else None,
            "status": self.status,
            "sent": self.sent,
            "came": self.came,
            "ended": time.monotonic(),
            "lost": self.lost,
            "how_lost": self.how_lost,
        }


class Connection(asyncio.StreamReaderProtocol):
    """A client's connection, and the conversation on it. When the client leaves, what is being done for it is cancelled."""

    def __init__(self, stub: Stub) -> None:
        super().__init__(asyncio.StreamReader(limit=LARGEST_HEAD), self.converse)
        self.stub = stub
        self.request: Request | None = None
        """The one that is being read or answered now."""

    def eof_received(self) -> bool | None:
        self.client_left("closed")
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.client_left("reset" if exc else "closed")
        super().connection_lost(exc)

    def client_left(self, how: str) -> None:
        if self.request and self.request.lost is None:
            self.request.lost, self.request.how_lost = time.monotonic(), how
            self.task.cancel()

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.task = asyncio.current_task()
        self.reader, self.writer = reader, writer
        self.stub.connections.add(self)
        try:
            while await self.take_turn():
                pass
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # it left, or was idle for too long: nothing remains to be said to it
        finally:
            self.finish()
            self.stub.connections.discard(self)
            writer.close()

    async def take_turn(self) -> bool:
        """Answer one request; False when it was the last on this connection."""
        idle_close = self.stub.switches.idle_close
        async with asyncio.timeout(None if idle_close == NEVER else idle_close):
            head = await self.reader.readuntil(b"\r\n\r\n")
        request = self.request = Request(head)
        if request.header("expect").lower() == "100-continue":
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            await request.read_body(self.reader)
        except Malformed:
            self.reply(400, error("the body has no length that I understand"))
            return False
        if self.reader.at_eof():  # it had left before we knew that it wanted something
            self.client_left("closed")
        goes_on = await self.answer(request)
        await self.writer.drain()
        self.finish()
        return goes_on and request.keeps_connection()

    def finish(self) -> None:
        """The request is over, in whatever way: it goes on record."""
        request, self.request = self.request, None
        if request:
            request.sent -= self.writer.transport.get_write_buffer_size()  # those never left
            note(self.stub.switches.record, request.entry())

    def send(self, data: bytes) -> None:
        self.request.sent += len(data)
        self.writer.write(data)

    def send_head(self, status: int, *headers: str) -> None:
        self.request.status = status
        is_spoilt = self.request.method == "POST"
        first = f"HTTP/1.1 {status} {REASONS.get(status, 'Something')}"
        if is_spoilt and self.stub.switches.bad_status_line:
            first = "HTTP/one.one fine"
        if is_spoilt and self.stub.switches.giant_head:
            headers = (*headers, "X-Giant: " + "x" * (1 << 20))
        self.send("".join(f"{line}\r\n" for line in (first, "Server: stubd", *headers, "")).encode())

    def reply(self, status: int, content: object) -> bool:
        """Send a whole JSON answer; False if the connection cannot be used after it."""
        body = json.dumps(content).encode()
        lie = self.stub.switches.fixed_length_lie and self.request.method == "POST"
        self.send_head(status, "Content-Type: application/json; charset=utf-8", f"Content-Length: {len(body) + 100 * lie}")
        if self.request.method != "HEAD":
            self.send(body)
        return not lie

    def send_event(self, content: str) -> None:
        data = f"data: {content}\n\n".encode()
        self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def answer(self, request: Request) -> bool:
        switches = self.stub.switches
        if not self.stub.is_ready():
            return self.reply(503, error("Loading model", "unavailable_error", 503))
        is_health = request.path in ("/health", "/v1/health")
        if not is_health and not self.stub.admits(request):
            return self.reply(401, error("Invalid API Key", "authentication_error", 401))
        if request.method == "POST":
            if switches.exit_on_request >= 0:
                self.stub.leave(switches.exit_on_request)
            if switches.hang_on_request:
                await hang()
            if switches.status:
                return self.reply(switches.status, error("as you wished", "stub_error", switches.status))
            return await self.answer_post(request)
        if is_health:
            await asyncio.sleep(switches.slow_health)
        content = self.stub.pages().get(request.path) if request.method == "GET" else None
        return self.reply(200, content) if content else self.reply(404, error("File Not Found", "not_found_error", 404))

    async def answer_post(self, request: Request) -> bool:
        if request.path == "/echo":
            return self.reply(200, request.entry())
        handler = {
            "/v1/chat/completions": self.complete,
            "/v1/completions": self.complete,
            "/v1/embeddings": self.embed,
        }.get(request.path)
        if handler is None:
            return self.reply(404, error("File Not Found", "not_found_error", 404))
        try:
            wish = json.loads(request.body)
        except ValueError as problem:
            return self.reply(400, error(str(problem)))
        if not isinstance(wish, dict):
            return self.reply(400, error("the body is not an object"))
        return await handler(request, wish)

    async def embed(self, _: Request, wish: dict[str, object]) -> bool:
        texts = wish.get("input", "")
        texts = texts if isinstance(texts, list) else [texts]
        vectors = [[byte / 255 for byte in hashlib.sha256(str(text).encode()).digest()[:8]] for text in texts]
        data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
        return self.reply(200, {"object": "list", "data": data, **self.stub.signature(wish)})

    async def complete(self, request: Request, wish: dict[str, object]) -> bool:
        completion = Completion(self.stub, wish, is_chat=request.path.endswith("/chat/completions"))
        if wish.get("stream"):
            return await self.stream(completion)
        text = "".join([word async for word in completion.words()])
        return self.reply(200, completion.whole(text))

    async def stream(self, completion: Completion) -> bool:
        self.send_head(200, "Content-Type: text/event-stream", "Transfer-Encoding: chunked")
        sent = 0
        async for event in completion.events():
            if sent == self.stub.switches.drop_mid_stream:
                raise ConnectionAbortedError  # closes it, as the kernel does for a process that crashed
            self.send_event(event)
            await self.writer.drain()
            sent += 1
        self.send(b"0\r\n\r\n")
        return True


async def hang() -> None:
    await asyncio.get_running_loop().create_future()


def error(message: str, kind: str = "invalid_request_error", code: int = 400) -> dict[str, object]:
    return {"error": {"message": message, "type": kind, "code": code}}


# ---- what it says


class Completion:
    """The answer to one prompt, whole or as OpenAI's events."""

    def __init__(self, stub: Stub, wish: dict[str, object], *, is_chat: bool) -> None:
        self.stub, self.wish, self.is_chat = stub, wish, is_chat
        limit = wish.get("max_completion_tokens") or wish.get("max_tokens")
        self.count = min(stub.switches.tokens, limit) if isinstance(limit, int) and limit > 0 else stub.switches.tokens
        self.finish_reason = "stop" if self.count == stub.switches.tokens else "length"

    async def words(self) -> AsyncIterator[str]:
        for number in range(self.count):
            if number == self.stub.switches.hang_after:
                await hang()
            if number:
                await asyncio.sleep(1 / self.stub.switches.tok_rate)
            yield " " + WORDS[number % len(WORDS)]

    async def events(self) -> AsyncIterator[str]:
        first = {"role": "assistant"}
        async for word in self.words():
            yield self._event(self._choice(None, delta={**first, "content": word}, text=word))
            first = {}
        yield self._event(self._choice(self.finish_reason, delta={}, text=""))
        options = self.wish.get("stream_options")
        if isinstance(options, dict) and options.get("include_usage"):
            yield self._event(usage=self._usage())
        yield "[DONE]"

    def whole(self, text: str) -> dict[str, object]:
        choice = self._choice(self.finish_reason, message={"role": "assistant", "content": text}, text=text)
        return {**self._frame("chat.completion"), "choices": [choice], "usage": self._usage()}

    def _event(self, *choices: object, **more: object) -> str:
        return json.dumps({**self._frame("chat.completion.chunk"), "choices": choices, **more})

    def _choice(self, finish_reason: str | None, *, text: str, **chat: object) -> dict[str, object]:
        return {"index": 0, "finish_reason": finish_reason, **(chat if self.is_chat else {"text": text})}

    def _frame(self, kind: str) -> dict[str, object]:
        kind = kind if self.is_chat else "text_completion"
        return {"id": "chatcmpl-stub", "object": kind, "created": int(time.time()), **self.stub.signature(self.wish)}

    def _usage(self) -> dict[str, int]:
        prompt = len(json.dumps(self.wish.get("messages") or self.wish.get("prompt")).split())
        return {"prompt_tokens": prompt, "completion_tokens": self.count, "total_tokens": prompt + self.count}


# ---- the server


class Stub:
    """The leader: listens, knows whether it is ready, and decides when it leaves."""

    def __init__(self, options: SimpleNamespace, switches: Switches) -> None:
        self.options, self.switches = options, switches
        self.names = [name for name in options.alias.split(",") if name] or [options.model]
        self.keys = {key for key in options.api_key.split(",") if key}
        self.connections: set[Connection] = set()

    def is_ready(self) -> bool:
        return not self.switches.never_ready and time.monotonic() - BEGAN >= self.switches.load_time

    def admits(self, request: Request) -> bool:
        given = (request.header("authorization").removeprefix("Bearer "), request.header("x-api-key"))
        return not self.keys or not self.keys.isdisjoint(given)

    def pages(self) -> dict[str, object]:
        models = [{"id": name, "object": "model", "created": int(time.time()), "owned_by": "stubd"} for name in self.names]
        return {
            "/health": {"status": "ok"},
            "/v1/health": {"status": "ok"},
            "/models": {"object": "list", "data": models},
            "/v1/models": {"object": "list", "data": models},
            "/": {"page": True},
            "/props": {"model_path": self.options.model, "total_slots": 1, "is_sleeping": False},
        }

    def signature(self, wish: dict[str, object]) -> dict[str, object]:
        """In every answer: the model as it was asked for, and which process of which spawn answered."""
        return {
            "model": wish.get("model", self.names[0]),
            "system_fingerprint": f"stub-{os.getpid()}",
            "spawn": os.environ.get("LLAMACTL_SPAWN"),
        }

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.asked_to_leave, number)
        if self.switches.exit_after < NEVER:
            loop.call_later(BEGAN + self.switches.exit_after - time.monotonic(), self.leave, max(self.switches.exit_code, 0))
        talking = asyncio.ensure_future(talk(self.switches))
        await asyncio.sleep(self.switches.bind_after)
        try:
            listener = self.bind()
        except OSError:
            await self.port_taken()
        await loop.create_server(lambda: Connection(self), sock=listener)
        host, port = listener.getsockname()[:2] if listener.family != socket.AF_UNIX else (self.options.host, 0)
        if self.switches.port_file:
            self.write_port(port)
        say(f"stubd: listening on http://{host}:{port}")
        await talking
        await hang()

    def bind(self) -> socket.socket:
        host = self.options.host
        if host.endswith(".sock"):  # as llama-server tells them
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(host)
            listener.listen(128)
            return listener
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, or asyncio sets no TCP_NODELAY
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.switches.reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, int(self.options.port)))
        listener.listen(1024)
        return listener

    async def port_taken(self) -> None:
        if self.switches.hang_if_port_taken:
            traceback.print_exc()
            await hang()
        say(f"srv start: couldn't bind HTTP server socket, hostname: {self.options.host}, port: {self.options.port}")
        self.leave(1)

    def write_port(self, port: int) -> None:
        unfinished = f"{self.switches.port_file}.{os.getpid()}"
        with open(unfinished, "w") as file:
            file.write(f"{port}\n")
        os.replace(unfinished, self.switches.port_file)

    def asked_to_leave(self, number: int) -> None:
        if self.switches.ignore_term and number == signal.SIGTERM:
            return
        asyncio.get_running_loop().call_later(self.switches.term_delay, self.leave, 0)

    def leave(self, code: int) -> None:
        """Be gone at once, whatever is going on: only the notes are finished."""
        if self.switches.last_words:
            say(self.switches.last_words)
        for connection in self.connections:
            connection.finish()
        os._exit(code)


def main() -> None:
    if {"--version", "--help"} & set(sys.argv):  # the daemon asks; llama-server prints and ends as well
        say("version: 1.0-stub (build 1, commit 0123abc)" if "--version" in sys.argv else "-h, --help  print usage and exit")
        return
    options, switches = understand(sys.argv[1:], os.environ)
    if switches.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # also before the loop runs
    enrol(switches, "leader")
    start_family(switches)
    asyncio.run(Stub(options, switches).run())


if __name__ == "__main__":
    main()
