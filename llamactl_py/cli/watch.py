"""Looking on: when something happened, and a screen that is drawn anew each time."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Group, RenderableType
from rich.live import Live

from llamactl_py.cli import render
from llamactl_py.cli.progress import Background
from llamactl_py.client import Client, Unreachable

AT_ONCE = 0.05
"""Seconds in which events are taken for one: a start of twenty instances is no reason to draw twenty times."""
ENDED = "ended"


def changes(client: Client, interval: float) -> Iterator[str]:
    """At once, then whenever the daemon tells of something, and every *interval* seconds: the kind of event, or "tick".

    It never ends by itself. Raises Unreachable when the daemon ends, and Refused when it does not let us watch.
    """
    told: queue.SimpleQueue[str] = queue.SimpleQueue()
    watching = Background(lambda: _pass_on(client, told))
    while True:
        try:
            kind = told.get(timeout=interval)
        except queue.Empty:
            kind = "tick"
        else:
            time.sleep(AT_ONCE)
        while not told.empty():
            kind = told.get()
        if kind == ENDED:
            watching.is_done(interval)
            watching.result()
        yield kind


def _pass_on(client: Client, told: queue.SimpleQueue[str]) -> None:
    """Put the kinds of events into *told*, until this raises what `changes` does."""
    kind = ""
    try:
        while True:
            for kind, _, _ in client.events():
                told.put(kind)
            if kind == "closing":
                raise Unreachable(f"the daemon at {client.url} has ended")
    finally:
        told.put(ENDED)


@contextmanager
def on_screen() -> Iterator[Callable[..., None]]:
    """Give it what is to be seen now. What was seen last stays behind."""
    with Live(console=render.out, auto_refresh=False, vertical_overflow="ellipsis") as live:

        def show(*parts: RenderableType) -> None:
            live.update(Group(*parts), refresh=True)

        yield show
