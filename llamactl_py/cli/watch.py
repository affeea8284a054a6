"""Looking on: when something happened, and a screen that is drawn anew each time."""

from __future__ import annotations

import os
import queue
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Group, RenderableType
from rich.live import Live

from llamactl_py.cli import render, say
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
def listening() -> Iterator[Callable[[float], bool]]:
    """Give it seconds to wait, and it says whether q was pressed meanwhile. Where nobody can press keys it only waits."""
    if not _has_the_keyboard():
        yield _wait
        return
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    tty.setcbreak(keyboard)  # keys come one by one, and are not shown; Ctrl-C stays a signal
    try:
        yield lambda seconds: _is_ended(keyboard, seconds)
    finally:
        with suppress(termios.error):  # it has gone
            termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _has_the_keyboard() -> bool:
    """In the background we do not: who changes a terminal from there is stopped by it."""
    try:
        return say.is_watched(sys.stdin) and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:  # a terminal, and not the one that we were started at
        return False


def _wait(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _is_ended(keyboard: int, seconds: float) -> bool:
    """Was q pressed within so many seconds, or has the terminal gone?"""
    deadline = time.monotonic() + seconds
    while select.select([keyboard], [], [], max(0.0, deadline - time.monotonic()))[0]:
        if (pressed := os.read(keyboard, 64)) == b"" or b"q" in pressed.lower():
            return True
    return False


@contextmanager
def on_screen() -> Iterator[Callable[..., None]]:
    """Give it what is to be seen now. What was seen last stays behind."""
    with Live(console=render.out, auto_refresh=False, vertical_overflow="ellipsis") as live:

        def show(*parts: RenderableType) -> None:
            live.update(Group(*parts), refresh=True)

        yield show
