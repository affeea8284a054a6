"""Processes that are started, waited for and ended, and questions to their ports."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from benchmarks import machine

END_TIMEOUT = 20.0
POLL = 0.0005


@contextmanager
def timed(
    command: Sequence[str], *, cpu: int | None, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], float]]]:
    """A process in a session of its own, and a function that tells the milliseconds since its exec; ended with the block.

    Whatever is set here, Python keeps what it compiles, as pip does when it installs: to compile all modules anew at each start
    takes longer than the start itself.
    """
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with log.open("ab") as output, machine.started_on(cpu):
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**inherited, **(environment or {})},
            start_new_session=True,
        )
    try:
        yield process, lambda: (time.perf_counter() - began) * 1e3
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    family = machine.tree(process.pid)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for left in family:
        with suppress(psutil.NoSuchProcess):  # which it also says when the number belongs to another by now
            left.kill()


def until(condition: Callable[[], bool], what: str, timeout: float = 60.0) -> None:
    """Ask *condition* again and again until it holds. Raises TimeoutError."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        time.sleep(POLL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def get(port: int, path: str, headers: Mapping[str, str]) -> bytes | None:
    """The body of a 200 to `GET path`, None for anything else. By hand: it is asked a thousand times a second during starts."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{lines}Connection: close\r\n\r\n".encode())
            head, _, body = connection.recv(1 << 16).partition(b"\r\n\r\n")
    except OSError:
        return None
    return body if head[8:13] == b" 200 " else None


def answers(port: int, path: str, headers: Mapping[str, str] | None = None) -> bool:
    return get(port, path, headers or {}) is not None
