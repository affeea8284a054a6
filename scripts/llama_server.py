#!/usr/bin/env python3
"""Print the path of a real llama-server, building it once if there is none on PATH.

The sources are llama.cpp as vendored in the llama-cpp-python sdist on PyPI (MIT), so nothing but
PyPI is needed. The binary is cached outside the checkout, keyed by version; only stdlib is used.

    python scripts/llama_server.py            path of the binary (builds on first use, ~4 minutes on 2 cores)
    python scripts/llama_server.py --cached   the same, but exit 1 instead of building
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

VERSION = "0.3.36"
"""The llama-cpp-python release whose vendored llama.cpp is built."""

CMAKE_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_NATIVE=OFF",  # the cache may travel to another CPU
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_CURL=OFF",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cached", action="store_true", help="exit 1 instead of building")
    build_allowed = not parser.parse_args().cached
    found = os.environ.get("LLAMACTL_TEST_LLAMA_SERVER") or shutil.which("llama-server")
    if found:
        print(found)
        return 0
    binary = cache_directory() / f"llama-cpp-python-{VERSION}" / "llama-server"
    if not binary.exists():
        if not build_allowed:
            print(f"no llama-server on PATH and none cached at {binary}; run: make llama-server", file=sys.stderr)
            return 1
        binary.parent.mkdir(parents=True, exist_ok=True)
        with open(binary.parent / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two suites starting together build once
            if not binary.exists():
                build(binary)
    print(binary)
    return 0


def cache_directory() -> Path:
    """Where built tools are kept: $XDG_CACHE_HOME/llamactl-py, else ~/.cache/llamactl-py."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llamactl-py"


def build(binary: Path) -> None:
    """Download, configure, compile, and move the binary into place in one rename."""
    require_tools()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="llama-server-build-", dir=binary.parent) as scratch:
        work = Path(scratch)
        say(f"downloading the llama-cpp-python {VERSION} sdist (77 MB)")
        # Only this one as source: with :all: pip would build its build tools from source too, cmake among them.
        source_only = ("--no-deps", "--no-binary", "llama-cpp-python")
        run(sys.executable, "-m", "pip", "download", "--quiet", *source_only, "--dest", scratch, f"llama-cpp-python=={VERSION}")
        with tarfile.open(next(work.glob("llama_cpp_python-*.tar.gz"))) as sdist:
            sdist.extractall(work, filter="data")
        source = next(work.glob("llama_cpp_python-*/vendor/llama.cpp"))
        say("configuring")
        generator = ("-G", "Ninja") if shutil.which("ninja") else ()
        run("cmake", *generator, "-S", str(source), "-B", str(work / "build"), *CMAKE_FLAGS)
        say("compiling llama-server (about 4 minutes on 2 cores; done once, then cached)")
        run("cmake", "--build", str(work / "build"), "--target", "llama-server", "--parallel", str(os.cpu_count() or 2))
        built = work / "build" / "bin" / "llama-server"
        run(str(built), "--version")
        staged = binary.with_suffix(".new")
        shutil.copy2(built, staged)
        staged.rename(binary)
    say(f"built {binary} in {time.monotonic() - started:.0f} s")


def require_tools() -> None:
    """Exit 1 with the command that installs what is missing."""
    remedies = {
        "cmake": "python -m pip install cmake",
        "c++": "apt-get install g++   (Debian, Ubuntu)   or   xcode-select --install   (macOS)",
    }
    for tool, remedy in remedies.items():
        if shutil.which(tool) is None:
            raise SystemExit(f"llama-server has to be built and {tool} is missing; install it with: {remedy}")


def run(*command: str) -> None:
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-30:])
        raise SystemExit(f"{' '.join(command)} failed with exit code {done.returncode}:\n{tail}")


def say(what: str) -> None:
    print(f"[llama-server] {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
