"""Where our start-up goes: a bare interpreter, imports in all and by package, until the port listens, until the first answer."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path

from benchmarks import machine, processes
from benchmarks.candidates.ours import Ours
from benchmarks.load import Door

_LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \| +(\S+)")
_STANDARD = "standard library"
_IMPORTS = "import os, uvloop, llamactl_py.cli.serve, llamactl_py.config.load, llamactl_py.daemon; os._exit(0)"
"""All that is imported until the port listens, without the time that it takes to tear it down again."""


def phases(folder: Path, candidate: Ours) -> dict[str, float]:
    """Milliseconds from exec to the end of a bare interpreter, to everything imported, to a listening port, and to the first
    answer."""
    log = folder / "phases.log"
    bare, imported = (_runs_for(program, log) for program in ("pass", _IMPORTS))
    with processes.timed(candidate.command, cpu=machine.CANDIDATES_CPU, log=log) as (_, elapsed):
        processes.until(lambda: processes.listens(candidate.port), "llamactl serve listens")
        listening = elapsed()
        processes.until(lambda: _answers(candidate.door()), "llamactl serve answers")
        return {"interpreter_ms": bare, "imported_ms": imported, "listening_ms": listening, "answered_ms": elapsed()}


def _runs_for(program: str, log: Path) -> float:
    with processes.timed((sys.executable, "-c", program), cpu=machine.CANDIDATES_CPU, log=log) as (process, elapsed):
        process.wait()
        return elapsed()


def imports(folder: Path, candidate: Ours) -> dict[str, float]:
    """Milliseconds of own time by top-level package, of what is imported before the first answer; slowed by being timed."""
    log = folder / "importtime.log"
    command = (candidate.command[0], "-X", "importtime", *candidate.command[1:])
    with processes.timed(command, cpu=machine.CANDIDATES_CPU, log=log):
        processes.until(lambda: _answers(candidate.door()), "llamactl serve answers")
        text = log.read_text(errors="replace")
    return by_package(text)


def by_package(text: str) -> dict[str, float]:
    """The lines of `-X importtime`, summed up; the largest first."""
    totals: dict[str, float] = defaultdict(float)
    for microseconds, module in _LINE.findall(text):
        package = module.partition(".")[0]
        totals[_STANDARD if package.lstrip("_") in _OF_PYTHON or package in _OF_PYTHON else package] += int(microseconds) / 1e3
    return dict(sorted(totals.items(), key=lambda item: -item[1]))


_OF_PYTHON = sys.stdlib_module_names | {"_virtualenv", "sitecustomize", "usercustomize"}


def _answers(door: Door) -> bool:
    return processes.answers(door.port, "/v1/models", door.headers)
