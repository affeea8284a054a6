"""LiteLLM's proxy out of the box: one worker, a master key, one model behind an OpenAI-compatible address.

It parses answers and writes them anew, so they are checked for complete and ordered events instead of byte for byte.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks import build, processes
from benchmarks.candidates.base import GROWTH, Bench, NotMeasured, Open, opened
from benchmarks.load import Door

VERSION = "1.106.2"
CONFIGURATION = """
model_list:
  - model_name: bench
    litellm_params:
      model: openai/bench
      api_base: http://127.0.0.1:{backend}/v1
      api_key: none
"""


class LiteLLM:
    name = "litellm"
    skips = GROWTH

    def prepare(self, bench: Bench) -> str:
        python = _installed()
        self._port, self._backend_port = processes.free_port(), bench.backend_port
        self._log = bench.folder / "litellm.log"
        configuration = bench.folder / "litellm.yaml"
        configuration.write_text(CONFIGURATION.format(backend=bench.backend_port))
        self._command = (
            *(str(python), str(python.parent / "litellm"), "--config", str(configuration)),
            *("--host", "127.0.0.1", "--port", str(self._port), "--num_workers", "1"),
        )
        self._key = f"sk-{secrets.token_hex(16)}"
        return VERSION

    @contextmanager
    def open(self) -> Iterator[Open]:
        # With its own list of prices it need not look for a newer one on the internet while it starts.
        environment = {"LITELLM_MASTER_KEY": self._key, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        with opened(self._command, self._door, self._log, environment) as it:
            yield it

    def _door(self, process: psutil.Process) -> Door:
        return Door(self._port, {"Authorization": f"Bearer {self._key}"}, process, self._backend_port, is_exact=False)


def _installed() -> Path:
    """The python of an environment of its own, made on first use (about a minute). Raises NotMeasured where pip finds nothing."""
    folder = build.cache() / f"litellm-{VERSION}"
    python, complete = folder / "bin" / "python", folder / "complete"
    if not complete.exists():
        print(f"installing litellm {VERSION} into {folder}", file=sys.stderr)
        for command in (
            (sys.executable, "-m", "venv", "--clear", str(folder)),
            (str(python), "-m", "pip", "install", "--quiet", f"litellm[proxy]=={VERSION}"),
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise NotMeasured(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}")
        complete.touch()
    return python
