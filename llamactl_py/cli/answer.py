"""One answer of a model: shown as it comes, with what it took."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from llamactl_py.cli import say
from llamactl_py.cli.progress import progress
from llamactl_py.client import Client, Refused, Unreachable

LOOK = 0.25
"""Seconds between two looks at an instance that has not answered yet."""

SHORTEST = 0.05
"""Seconds that an answer must take for its speed to be told."""


class Answer:
    """What has come so far."""

    def __init__(self) -> None:
        self.text = ""
        self._begun = time.monotonic()
        self._first: float | None = None
        self._last = 0.0
        self._usage: dict[str, Any] = {}
        self._timings: dict[str, Any] = {}
        self._pieces = 0
        self._is_thinking = False

    def show(self, client: Client, name: str, messages: list[dict[str, str]], parameters: dict[str, Any]) -> None:
        """Ask, and show what comes. Raises Refused, Unreachable and KeyboardInterrupt, with what had come in `text`."""
        asked = {"stream_options": {"include_usage": True}, **parameters}
        chunks = client.chat_chunks(name, messages, **asked)
        with _watched(client, name):
            first = next(chunks, None)
        if first is not None:
            self._take(first)
        for chunk in chunks:
            self._take(chunk)

    def _take(self, chunk: dict[str, Any]) -> None:
        self._usage = chunk.get("usage") or self._usage
        self._timings = chunk.get("timings") or self._timings
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            if thought := delta.get("reasoning_content") or delta.get("reasoning"):
                self._count()
                self._think(thought)
            if text := delta.get("content"):
                self._count()
                self._end_thought()
                self.text += text
                say.raw(text)

    def _count(self) -> None:
        self._last = time.monotonic()
        self._first = self._first or self._last
        self._pieces += 1

    def _think(self, thought: str) -> None:
        """Thoughts are for people, and no part of the answer: on stderr, where somebody watches."""
        if say.is_watched(sys.stderr):
            self._is_thinking = True
            click.echo(say.coloured(thought, "bright_black", sys.stderr), err=True, nl=False)

    def _end_thought(self) -> None:
        if self._is_thinking:
            self._is_thinking = False
            click.echo("\n", err=True)

    def end(self) -> None:
        """End the line, and tell a watcher how fast it was."""
        self._end_thought()
        if self.text and not self.text.endswith("\n"):
            say.raw("", end="\n")
        if self._pieces and say.is_watched(sys.stderr):
            click.echo(say.coloured(self._speed(), "bright_black", sys.stderr), err=True)

    def _speed(self) -> str:
        """The server's own figures where it gives them; else what was seen from here, a piece being about a token."""
        assert self._first is not None
        tokens = self._usage.get("completion_tokens")
        count = tokens if tokens is not None else self._pieces
        seconds = self._last - self._first
        # What came in one piece of the network says nothing about its speed.
        speed = self._timings.get("predicted_per_second") or (count / seconds if seconds > SHORTEST else None)
        about = "" if tokens is not None else "about "
        told = f"{about}{count} tokens" + (f", {speed:.1f} tokens/s" if speed else "")
        return f"[{told}, the first after {self._first - self._begun:.2f} s]"


@contextmanager
def _watched(client: Client, name: str) -> Iterator[None]:
    """While the block waits for the first word: tell what its instance does, as far as our key lets us know."""
    is_over = threading.Event()

    def look() -> None:
        with progress() as tell:
            while not is_over.wait(LOOK):
                try:
                    state = client.instance(name)["state"]
                except (Refused, Unreachable):
                    state = ""
                if not is_over.is_set():
                    tell(f"{name} is {state}" if state else f"waiting for {name}")

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield
    finally:
        is_over.set()
        looking.join(1.0)  # its own question may hang: what is asked for need not
