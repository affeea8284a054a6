"""llamactl-py as a user runs it: a daemon process, instances made through its API, keys, routing and accounting on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks import machine
from benchmarks.candidates.base import Bench, Open, opened
from benchmarks.load import Door
from llamactl_py import __version__
from llamactl_py.client import Client

ROOT = Path(__file__).parent.parent.parent


class Ours:
    """With *instances* registered, of which the one named `bench` gets the requests."""

    def __init__(self, name: str = "llamactl-py", instances: int = 1) -> None:
        self.name = name
        self._instances = instances

    def prepare(self, bench: Bench) -> str:
        self._folder = bench.folder / self.name
        self._folder.mkdir()
        self._port = machine.free_port()
        self._command = (
            *(sys.executable, "-m", "llamactl_py", "serve", "--log-level", "warning"),
            *("--port", str(self._port), "--data-dir", str(self._folder / "data")),
        )
        with machine.running(self._command, cpu=machine.CANDIDATES_CPU, log=self._folder / "log"):
            machine.until(lambda: machine.answers(self._port, "/health", {}), "llamactl serve")
            self._headers = {"Authorization": f"Bearer {self._register(bench)}"}
        return f"{__version__} ({_commit()})"

    def _register(self, bench: Bench) -> str:
        """Make the instances, and an inference key."""
        client = Client(f"http://127.0.0.1:{self._port}", (self._folder / "data" / "management.key").read_text().strip())
        words = f"{bench.programs.backend} --bench-cpu {machine.OTHERS_CPU}"
        options = client.parse_command(words)
        options.pop("warnings", None)
        for name in ("bench", *(f"other-{number}" for number in range(1, self._instances))):
            client.create(name, {**options, "auto_restart": False})
        key: str = client.create_key("bench")["key"]
        return key

    @contextmanager
    def open(self) -> Iterator[Open]:
        with opened(self._command, self._door, self._folder / "log") as it:
            yield it

    def _door(self, process: psutil.Process) -> Door:
        return Door(self._port, self._headers, process)


def _commit() -> str:
    done = subprocess.run(
        ("git", "-C", str(ROOT), "describe", "--always", "--dirty"), capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "no checkout"
