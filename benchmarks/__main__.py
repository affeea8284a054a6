"""The figures of the main job, each beside what it is compared with, in one run. `python -m benchmarks` prints a table.

Needs a real llama-server (LLAMACTL_TEST_LLAMA_SERVER, or on PATH) and a quiet machine: about two minutes.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from llamactl_py.client import Client
from llamactl_py.demo import tiny_gguf

CHAT = {"messages": [{"role": "user", "content": "Count."}], "max_tokens": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each timing (default: 15)")
    rounds = parser.parse_args().rounds
    server = os.environ.get("LLAMACTL_TEST_LLAMA_SERVER") or shutil.which("llama-server")
    if not server:
        raise SystemExit("no llama-server; run `make bench`, which builds one")
    with tempfile.TemporaryDirectory(prefix="llamactl-bench-") as name:
        folder = Path(name)
        model = tiny_gguf.write(folder / "tiny.gguf")
        command = [server, "-m", str(model), "-c", "2048", "-t", "1", "--threads-http", "2"]
        rows = [
            *start_up(folder, rounds),
            *memory(folder),
            *cold_start(folder, command, rounds),
            *added_latency(folder, command, rounds * 40),
        ]
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, {time.strftime('%Y-%m-%d')}\n")
    print("| figure | median | range |\n|---|---|---|")
    for figure, median, spread in rows:
        print(f"| {figure} | {median} | {spread} |")


Row = tuple[str, str, str]


def start_up(folder: Path, rounds: int) -> Iterator[Row]:
    """exec to listening, and to the first answered request."""
    listening, answered = [], []
    for number in range(rounds):
        port = free_port()
        with daemon(folder / f"start-{number}", port) as begun:
            listening.append(until(lambda port=port: connects(port), begun))
            answered.append(until(lambda port=port: status(port, "/health") == 200, begun))
    yield row("daemon: exec to listening", listening)
    yield row("daemon: exec to first answered request", answered)


def memory(folder: Path) -> Iterator[Row]:
    """Resident memory of an idle daemon, with none and with a thousand instances."""
    data = folder / "memory"
    for count in (0, 1000):
        with client_of(data) as (client, process):
            for number in range(count):
                client.create(
                    f"i{number}", {"backend_type": "llama_cpp", "backend_options": {"model": "/models/m.gguf", "ctx_size": 4096}}
                )
        with client_of(data) as (client, process):
            begun = time.perf_counter()
            listed = len(client.instances())
            listing = (time.perf_counter() - begun) * 1e3
            resident = psutil.Process(process.pid).memory_info().rss / 1e6
        yield f"daemon idle, {listed} instances: resident memory", f"{resident:.0f} MB", f"list of all in {listing:.0f} ms"


def cold_start(folder: Path, command: Sequence[str], rounds: int) -> Iterator[Row]:
    """A request to a stopped llama-server until its first token, beside the server alone from exec to healthy and its answer."""
    alone, answer, through = [], [], []
    with client_of(folder / "cold") as (client, _):
        make(client, "tiny", command)
        for _ in range(rounds):
            with server(command) as (port, healthy):
                alone.append(healthy)
                answer.append(first_byte(f"http://127.0.0.1:{port}", None, "tiny"))
            through.append(first_byte(client.url, key_of(client), "tiny"))
            client.stop("tiny")
    yield row("llama-server alone: exec to healthy", alone)
    yield row("llama-server alone: first request to first token", answer)
    yield row("through llamactl, stopped: request to first token", through)
    share = [t - a - f for t, a, f in zip(through, alone, answer, strict=True)]
    yield row("our share of that (difference, round by round)", share)


def added_latency(folder: Path, command: Sequence[str], requests: int) -> Iterator[Row]:
    """One token over a kept-alive connection, direct and through us in turn."""
    direct, proxied = [], []
    with client_of(folder / "warm") as (client, _), server(command) as (port, _):
        make(client, "tiny", command)
        client.start("tiny")
        ask_direct, ask_proxied = asker(f"http://127.0.0.1:{port}", None), asker(client.url, key_of(client))
        for _ in range(20):
            ask_direct(), ask_proxied()
        for _ in range(requests):
            direct.append(ask_direct())
            proxied.append(ask_proxied())
    yield row("one-token chat, direct", direct)
    yield row("one-token chat, through llamactl", proxied)
    added = statistics.median(proxied) - statistics.median(direct)
    yield (
        "added by llamactl (difference of medians)",
        f"{added:.2f} ms",
        f"ratio {statistics.median(proxied) / statistics.median(direct):.2f}",
    )


# -- parts ----------------------------------------------------------------------------------------------------------------


def row(figure: str, milliseconds: Sequence[float]) -> Row:
    return figure, f"{statistics.median(milliseconds):.1f} ms", f"{min(milliseconds):.1f} to {max(milliseconds):.1f}"


@contextmanager
def daemon(data: Path, port: int) -> Iterator[float]:
    """A daemon process; gives the moment of its exec."""
    begun = time.perf_counter()
    process = spawn(
        [sys.executable, "-m", "llamactl_py", "serve", "--log-level", "error", "--port", str(port), "--data-dir", str(data)]
    )
    try:
        yield begun
    finally:
        end(process)


@contextmanager
def client_of(data: Path) -> Iterator[tuple[Client, subprocess.Popen[bytes]]]:
    """A daemon process and a client of it."""
    port = free_port()
    process = spawn(
        [sys.executable, "-m", "llamactl_py", "serve", "--log-level", "error", "--port", str(port), "--data-dir", str(data)]
    )
    try:
        until(lambda: status(port, "/health") == 200, time.perf_counter())
        yield Client(f"http://127.0.0.1:{port}", (data / "management.key").read_text().strip()), process
    finally:
        end(process)


@contextmanager
def server(command: Sequence[str]) -> Iterator[tuple[int, float]]:
    """A llama-server alone; gives its port, and its milliseconds from exec to healthy."""
    port = free_port()
    begun = time.perf_counter()
    process = spawn([*command, "--port", str(port)])
    try:
        yield port, until(lambda: status(port, "/health") == 200, begun)
    finally:
        end(process)


def spawn(command: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(30)


def make(client: Client, name: str, command: Sequence[str]) -> None:
    parsed = client.parse_command(" ".join(command))
    parsed.pop("warnings", None)
    client.create(name, parsed)


def until(condition: Callable[[], bool], begun: float) -> float:
    """Milliseconds from *begun* until *condition()* first holds, polled every millisecond."""
    while not condition():
        if time.perf_counter() - begun > 60:
            raise SystemExit("gave up after 60 s")
        time.sleep(0.001)
    return (time.perf_counter() - begun) * 1e3


def connects(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def status(port: int, path: str) -> int | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()


def first_byte(url: str, key: str | None, model: str) -> float:
    """Milliseconds from connecting to the first byte of a streamed chat's body."""
    begun = time.perf_counter()
    connection, answer = chat(url, key, {**CHAT, "model": model, "stream": True})
    answer.read(1)
    taken = (time.perf_counter() - begun) * 1e3
    connection.close()
    return taken


def asker(url: str, key: str | None) -> Callable[[], float]:
    """A function that sends one chat over one kept-alive connection, and gives the milliseconds that it took."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    body = json.dumps({**CHAT, "model": "tiny"})
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    def ask() -> float:
        begun = time.perf_counter()
        connection.request("POST", "/v1/chat/completions", body, headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        return (time.perf_counter() - begun) * 1e3

    return ask


def chat(url: str, key: str | None, body: dict[str, object]) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    return connection, answer


def key_of(client: Client) -> str:
    """An inference key."""
    key: str = client.create_key("bench")["key"]
    return key


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
