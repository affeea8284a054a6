"""llama-swap, whose binary is given by path. It starts its own backend, as for its users.

Its limit of 10 requests at once for each model, beyond which it answers 429, is raised; all else is as by default.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks import machine, processes
from benchmarks.candidates.base import GROWTH, Bench, NotMeasured, Open, opened
from benchmarks.load import Door

CONFIGURATION = """
startPort: {backend_port}
models:
  bench:
    cmd: {backend} --host 127.0.0.1 --port ${{PORT}} --bench-cpu {cpu}
    proxy: http://127.0.0.1:${{PORT}}
    concurrencyLimit: 100000
"""


class LlamaSwap:
    name = "llama-swap"
    skips = GROWTH

    def __init__(self, program: Path | None) -> None:
        self._program = program

    def prepare(self, bench: Bench) -> str:
        if self._program is None:
            raise NotMeasured("its binary is given with: --llama-swap PATH")
        self._port = processes.free_port()
        self._log = bench.folder / "llama-swap.log"
        configuration = bench.folder / "llama-swap.yaml"
        configuration.write_text(
            CONFIGURATION.format(backend=bench.programs.backend, backend_port=processes.free_port(), cpu=machine.OTHERS_CPU)
        )
        self._command = (str(self._program), "-config", str(configuration), "-listen", f"127.0.0.1:{self._port}")
        told = subprocess.run((str(self._program), "-version"), capture_output=True, text=True, check=False)
        return (told.stdout or told.stderr).strip().splitlines()[0]

    @contextmanager
    def open(self) -> Iterator[Open]:
        with opened(self._command, self._door, self._log) as it:
            yield it

    def _door(self, process: psutil.Process) -> Door:
        return Door(self._port, process=process)
