"""What a candidate is: something with a door, started anew in every round."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from benchmarks import machine, processes
from benchmarks.build import Programs
from benchmarks.cases import CASES
from benchmarks.load import Door

GROWTH = frozenset(case.name for case in CASES if case.is_of_growth)


class NotMeasured(Exception):
    """Why a candidate cannot be measured here, and what would change that."""


@dataclass(frozen=True)
class Bench:
    """What candidates need to know: the programs, a folder that is gone afterwards, and the port of a running backend."""

    programs: Programs
    folder: Path
    backend_port: int


@dataclass(frozen=True)
class Open:
    """A door, and the milliseconds from exec to the first answered `GET /v1/models`."""

    door: Door
    start_up_ms: float


class Candidate(Protocol):
    """One who is measured."""

    name: str
    skips: frozenset[str]
    """Cases that it takes no part in."""

    def prepare(self, bench: Bench) -> str:
        """Once, before the first round; gives its version. Raises NotMeasured."""

    def open(self) -> AbstractContextManager[Open]:
        """Start it, wait until it answers, and end it with the block."""


@contextmanager
def opened(
    command: tuple[str, ...], door: Callable[[psutil.Process], Door], log: Path, environment: dict[str, str] | None = None
) -> Iterator[Open]:
    """A proxy process on its processor, and how long it took to answer."""
    with processes.timed(command, cpu=machine.CANDIDATES_CPU, log=log, environment=environment) as (process, elapsed):
        there = door(psutil.Process(process.pid))

        def is_there() -> bool:
            if process.poll() is not None:
                raise NotMeasured(f"{command[0]} ended with {process.returncode}: {log.read_text(errors='replace')[-1000:]}")
            return processes.answers(there.port, "/v1/models", there.headers)

        processes.until(is_there, command[0])
        yield Open(there, elapsed())
