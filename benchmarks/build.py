"""The C programs, compiled on first use into the user's cache, named by what they were compiled from."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parent / "native"
FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror")


@dataclass(frozen=True)
class Programs:
    """Where the compiled programs are."""

    backend: Path
    requests: Path
    streams: Path


def cache() -> Path:
    """Where benchmarks keep what they build or install: $XDG_CACHE_HOME/llamactl-py/bench, else below ~/.cache."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llamactl-py" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def programs(folder: Path | None = None) -> Programs:
    """Compile what *folder* (the cache) lacks. Raises SystemExit where there is no compiler, or it complains."""
    sources = sorted(SOURCES.iterdir())
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    place = (folder or cache()) / f"native-{digest}"
    if not place.exists():
        _compile(place)
    # The backend bears the name of the server that it stands for: our daemon and others know by it how to start it.
    return Programs(place / "llama-server", place / "requests", place / "streams")


def _compile(place: Path) -> None:
    compiler = os.environ.get("CC") or shutil.which("cc")
    if not compiler:
        raise SystemExit(
            "the benchmarks' backend and clients are C programs and there is no cc; install one with: apt-get install gcc"
        )
    with tempfile.TemporaryDirectory(dir=place.parent, prefix="compiling-") as scratch:
        built = Path(scratch) / "built"
        built.mkdir()
        for source, program in (("backend.c", "llama-server"), ("requests.c", "requests"), ("streams.c", "streams")):
            command = (compiler, *FLAGS, "-o", str(built / program), str(SOURCES / source))
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        try:
            built.rename(place)
        except OSError:
            if not place.exists():  # else another run was faster
                raise
