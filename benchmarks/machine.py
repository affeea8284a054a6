"""The machine: which processor who runs on, and what a tree of processes has used of time and memory.

The candidate has processor 0 to itself; the backend, the clients and this program are on processor 1.
"""

from __future__ import annotations

import os
import platform
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

CANDIDATES_CPU = 0
OTHERS_CPU = 1


def settle() -> None:
    """Move this program off the candidates' processor, and let everybody open as many sockets as there may be."""
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("the benchmarks need two processors: one for the proxy alone, one for everything else")
    os.sched_setaffinity(0, {OTHERS_CPU})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def running(
    command: Sequence[str], *, cpu: int, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, on that processor; ended with the block, politely and then not."""
    with log.open("ab") as output:
        os.sched_setaffinity(0, {cpu})  # inherited: a wrapper such as taskset would be measured with it
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        finally:
            os.sched_setaffinity(0, {OTHERS_CPU})
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    left = _tree(process.pid)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for one in left[1:]:  # what it did not end itself
        if one.is_running():
            one.kill()


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def of(pid: int, besides: Path) -> list[psutil.Process]:
    """The processes of the tree below *pid*, less those that run the program *besides*."""
    found = []
    for process in _tree(pid):
        try:
            if process.exe() != str(besides):
                found.append(process)
        except psutil.Error:
            continue
    return found


def cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    """Time on a processor of all their threads, exact to the nanosecond where the kernel keeps it so."""
    total = 0
    for process in processes:
        for thread in Path(f"/proc/{process.pid}/task").iterdir():
            total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9


def resident_mb(processes: Sequence[psutil.Process]) -> float:
    return float(sum(process.memory_info().rss for process in processes) / 1e6)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(condition: Callable[[], bool], what: str, timeout: float = 60.0) -> float:
    """Milliseconds until *condition()* first holds, asked every half millisecond. Raises TimeoutError."""
    began = time.perf_counter()
    while not condition():
        if time.perf_counter() - began > timeout:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        time.sleep(0.0005)
    return (time.perf_counter() - began) * 1e3


def answers(port: int, path: str, headers: Mapping[str, str]) -> bool:
    """Does `GET path` get 200? One attempt; written by hand, as it is asked a thousand times a second during starts."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{lines}Connection: close\r\n\r\n".encode())
            return connection.recv(64).startswith((b"HTTP/1.1 200", b"HTTP/1.0 200"))
    except OSError:
        return False


def description() -> str:
    names = (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name"))
    processors = f"{psutil.cpu_count()} x {next(names, platform.machine())}"
    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GiB"
    return f"{processors}, {memory}, {platform.system()} {platform.release()}, Python {platform.python_version()}"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
