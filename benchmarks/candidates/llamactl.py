"""llamactl, the one in Go, whose binary is given by path. It starts its own backend, as for its users.

Its keys are off: with them it computes an argon2 hash for each request, and answers 28 of them in a second.
"""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks import machine, processes
from benchmarks.candidates.base import GROWTH, Bench, NotMeasured, Open, opened
from benchmarks.load import Door

CONFIGURATION = """
server: {{host: 127.0.0.1, port: {port}}}
data_dir: {folder}
database: {{path: {folder}/llamactl.db}}
auth: {{require_inference_auth: false, require_management_auth: false}}
backends:
  llama-cpp:
    command: {backend}
    args: [--bench-cpu, "{cpu}"]
instances: {{port_range: [{first_port}, {last_port}], default_idle_timeout: 0}}
"""
INSTANCE = {
    "backend_type": "llama_cpp",
    "auto_restart": False,
    "idle_timeout": 0,
    "backend_options": {"model": "bench", "host": "127.0.0.1"},
}


class Llamactl:
    name = "llamactl"
    skips = GROWTH

    def __init__(self, program: Path | None) -> None:
        self._program = program

    def prepare(self, bench: Bench) -> str:
        if self._program is None:
            raise NotMeasured("its binary is given with: --llamactl PATH")
        self._port = processes.free_port()
        first_port = processes.free_port()
        folder = bench.folder / "llamactl"
        folder.mkdir()
        self._log, configuration = folder / "log", folder / "llamactl.yaml"
        configuration.write_text(
            CONFIGURATION.format(
                port=self._port,
                folder=folder,
                backend=bench.programs.backend,
                first_port=first_port,
                last_port=first_port + 100,  # it takes no range of one
                cpu=machine.OTHERS_CPU,
            )
        )
        self._environment = {"LLAMACTL_CONFIG_PATH": str(configuration)}
        self._command = (str(self._program),)
        with self.open():
            self._make_instance()
        told = subprocess.run((str(self._program), "--version"), capture_output=True, text=True, check=False)
        return (told.stdout or told.stderr).strip().splitlines()[0]

    def _make_instance(self) -> None:
        wanted = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/api/v1/instances/bench",
            data=json.dumps(INSTANCE).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(wanted, timeout=20) as answer:
            answer.read()

    @contextmanager
    def open(self) -> Iterator[Open]:
        with opened(self._command, self._door, self._log, self._environment) as it:
            yield it

    def _door(self, process: psutil.Process) -> Door:
        return Door(self._port, process=process)
