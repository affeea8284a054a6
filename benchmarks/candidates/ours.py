"""llamactl-py as a user runs it: a daemon process, instances made through its API, keys, routing and accounting on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks import machine, processes
from benchmarks.candidates.base import Bench, NotMeasured, Open, opened
from benchmarks.load import Door
from llamactl_py import __version__
from llamactl_py.client import Client
from llamactl_py.proxy.pump import IS_COMPILED

ROOT = Path(__file__).parent.parent.parent
THREADS = 4096


class Ours:
    """With *instances* registered, of which the one named `bench` gets the requests. It is told to expect many connections (a
    llama-server gives each of them a thread), unless *has_few_threads*. *is_compiled*: with the part that is in C."""

    def __init__(
        self,
        name: str,
        instances: int = 1,
        skips: frozenset[str] = frozenset(),
        *,
        has_few_threads: bool = False,
        is_compiled: bool = True,
    ) -> None:
        self.name, self.skips = name, skips
        self._is_compiled = is_compiled
        self._instances, self._has_few_threads = instances, has_few_threads

    def prepare(self, bench: Bench) -> str:
        if self._is_compiled and not IS_COMPILED:
            raise NotMeasured("its C part is not compiled; do that with: python hatch_build.py")
        self._folder = bench.folder / f"ours-{self._instances}-{self._has_few_threads:d}-{self._is_compiled:d}"
        self._folder.mkdir()
        self.port = processes.free_port()
        self.command = (
            *(sys.executable, "-m", "llamactl_py", "serve"),
            *("--port", str(self.port), "--data-dir", str(self._folder / "data")),
        )
        with processes.timed(self.command, cpu=None, log=self._folder / "log"):
            processes.until(lambda: processes.answers(self.port, "/health"), "llamactl serve")
            self._headers = {"Authorization": f"Bearer {self._register(bench)}"}
        return f"{__version__} ({_commit()})"

    @contextmanager
    def open(self) -> Iterator[Open]:
        environment = {"LLAMACTL_COMPILED_PATH": str(self._is_compiled).lower()}
        with opened(self.command, self.door, self._folder / "log", environment) as it:
            yield it

    def door(self, process: psutil.Process | None = None) -> Door:
        return Door(self.port, self._headers, process)

    def _register(self, bench: Bench) -> str:
        """Make the instances, and an inference key."""
        client = Client(f"http://127.0.0.1:{self.port}", (self._folder / "data" / "management.key").read_text().strip())
        model = bench.folder / "model.gguf"
        model.touch()
        words = f"{bench.programs.backend} --bench-cpu {machine.OTHERS_CPU} -m {model}"
        if not self._has_few_threads:
            words += f" --threads-http {THREADS}"
        options = client.parse_command(words)
        options.pop("warnings", None)
        for name in ("bench", *(f"other-{number}" for number in range(1, self._instances))):
            client.create(name, {**options, "auto_restart": False})
        key: str = client.create_key("bench")["key"]
        return key


def _commit() -> str:
    done = subprocess.run(
        ("git", "-C", str(ROOT), "describe", "--always", "--dirty"), capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "no checkout"
