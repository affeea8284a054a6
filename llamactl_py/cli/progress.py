"""What a command waits for, told on stderr once that takes longer than a second; and work beside it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

from llamactl_py.cli import say

if TYPE_CHECKING:
    from rich.status import Status

SILENT = 1.0
"""Seconds after which somebody begins to wonder."""

Result = TypeVar("Result")


class Progress:
    """Call it with what is going on, again and again: a spinner where somebody watches, else a line for each change."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._told = ""
        self._spinner: Status | None = None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begun

    def __call__(self, text: str) -> None:
        if self.seconds < SILENT:
            return
        if not say.is_watched(sys.stderr):
            if text != self._told:
                say.err(text)
            self._told = text
            return
        self._spin(f"{text} ({self.seconds:.0f} s)")

    def _spin(self, text: str) -> None:
        from llamactl_py.cli import render

        if self._spinner is None:
            self._spinner = render.err.status("")
            self._spinner.start()
        self._spinner.update(render.escape(text))

    def end(self) -> None:
        """Take the spinner away."""
        if self._spinner is not None:
            self._spinner.stop()
            self._spinner = None


@contextmanager
def progress() -> Iterator[Progress]:
    """For the length of the block."""
    telling = Progress()
    try:
        yield telling
    finally:
        telling.end()


class Background(Generic[Result]):
    """*work* in a thread of its own, which does not keep the command from ending."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self._results: list[Result] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], Result]) -> None:
        try:
            self._results.append(work())
        except BaseException as error:  # noqa: BLE001 it is raised where the result is asked for
            self._error = error

    def is_done(self, timeout: float) -> bool:
        """Has it ended within so many seconds?"""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def result(self) -> Result:
        """What it gave, once it is done. Raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._results[0]
