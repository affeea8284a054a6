"""Nobody in between: what the clients and the backend can do, and what every other figure is read against."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.candidates.base import Bench, Open
from benchmarks.load import Door


class Direct:
    name = "direct"
    skips = frozenset[str]()

    def prepare(self, bench: Bench) -> str:
        self._port = bench.backend_port
        return "the backend itself"

    @contextmanager
    def open(self) -> Iterator[Open]:
        yield Open(Door(self._port, backend_port=self._port), 0.0)
