"""Real daemons: `llamactl serve` as a process of its own, as a user runs it.

with daemon(tmp_path) as d:
    d.client.create("a", d.command("llama-server -m ..."))
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamactl_py.client import Client
from tests.support.house import PORTS, is_alive

START_TIMEOUT = 20.0
RANGE = f"{PORTS[1] + 1}-{PORTS[1] + 1000}"


@dataclass
class Daemon:
    """A daemon process and its client."""

    process: subprocess.Popen[bytes]
    folder: Path
    client: Client = field(init=False)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def key(self) -> str:
        return (self.data / "management.key").read_text().strip()

    @property
    def log(self) -> str:
        return (self.folder / "daemon.log").read_text(errors="replace")

    def wait_until_it_listens(self) -> None:
        address = self.data / "address"
        wait_for(lambda: address.exists() or self.process.poll() is not None, START_TIMEOUT)
        assert self.process.poll() is None, self.log
        self.client = Client(address.read_text().strip(), self.key)

    def create(self, name: str, command: str, **options: Any) -> dict[str, Any]:
        parsed = self.client.parse_command(command)
        parsed.pop("warnings", None)
        environment = {**parsed.pop("environment", {}), **options.pop("environment", {})}
        return self.client.create(name, {"restart_delay": "100ms", **parsed, "environment": environment, **options})

    def until(self, name: str, *states: str, timeout: float = 20.0) -> dict[str, Any]:
        wait_for(lambda: self.client.instance(name)["state"] in states, timeout)
        return self.client.instance(name)

    def end(self, number: signal.Signals = signal.SIGTERM, timeout: float = 20.0) -> int:
        """Send a signal and wait for the end; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout)


@contextmanager
def daemon(folder: Path, *flags: str, environment: Mapping[str, str] | None = None, listens: bool = True) -> Iterator[Daemon]:
    """A daemon with its data in *folder*/data; ended with the block if it still runs."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LLAMACTL_")}
    (folder / "data" / "address").unlink(missing_ok=True)  # a killed daemon leaves it; we wait for the new one
    with (folder / "daemon.log").open("ab") as log:
        process = subprocess.Popen(
            (sys.executable, "-m", "llamactl_py", "serve", "--port", "0", "--data-dir", str(folder / "data"), *flags),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # No file of this machine is theirs; where a test names one, it wins.
            env={**inherited, "LLAMACTL_CONFIG_PATH": os.devnull, "LLAMACTL_INSTANCE_PORT_RANGE": RANGE, **(environment or {})},
            start_new_session=True,
        )
    running = Daemon(process, folder)
    try:
        if listens:
            running.wait_until_it_listens()
        yield running
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(START_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(condition: Any, timeout: float) -> None:
    """Poll until *condition()* is true; fails when that takes longer than *timeout* seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"still not true after {timeout} s"
        time.sleep(0.01)


def of_tree(marker: str) -> list[int]:
    """Pids of living processes whose command line or environment holds *marker*."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            text = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if marker.encode() in text and is_alive(int(entry.name)):
            found.append(int(entry.name))
    return found
