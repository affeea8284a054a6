"""`llamactl` as a person types it: processes of their own, what they said, and those that run on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.house import STUB

PROGRAM = (sys.executable, "-m", "llamactl_py")


@dataclass(frozen=True)
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str


Llamactl = Callable[..., Said]


def surroundings(**more: str) -> dict[str, str]:
    """Our environment without any of llamactl's variables."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith("LLAMACTL_")}, **more}


def run(*words: str, **environment: str) -> Said:
    done = subprocess.run(
        (*PROGRAM, *words), env=surroundings(**environment), capture_output=True, text=True, timeout=60, check=False
    )
    return Said(done.returncode, done.stdout, done.stderr)


def stub_on_path(folder: Path, switches: str = "") -> str:
    """A PATH on which `llama-server` is the stub."""
    program = folder / "bin" / "llama-server"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nSTUBD="max-life=60 {switches} $STUBD" exec {sys.executable} -S -E {STUB} "$@"\n')
    program.chmod(0o755)
    return f"{program.parent}{os.pathsep}{os.environ['PATH']}"


@dataclass
class Talking:
    """A command that runs on, and what it says."""

    process: subprocess.Popen[str]

    def until(self, part: str) -> str:
        """The next line with *part* in it; empty when it ended before. The test's time limit is the process's: see `talking`."""
        assert self.process.stdout
        return next((line for line in self.process.stdout if part in line), "")


@contextmanager
def talking(*words: str, stderr: int | None = None, **environment: str) -> Iterator[Talking]:
    """A command in the background, killed after half a minute or at the end of the block."""
    process = subprocess.Popen(
        (*PROGRAM, *words),
        env=surroundings(PYTHONUNBUFFERED="1", **environment),
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
    timer = threading.Timer(30, process.kill)
    timer.start()
    try:
        with process:
            try:
                yield Talking(process)
            finally:
                process.kill()
    finally:
        timer.cancel()
