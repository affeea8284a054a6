"""From the one who says what happened to those who listen. Knows nothing of what events mean, nor of HTTP.

Telling is synchronous and never waits: a listener that does not keep up is dropped, and told so. What is *kept* has an id and is
told again to a listener that comes back with the last id it saw; what is *passing* is only for those who listen at that moment.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from msgspec import Struct

BACKLOG = 1000
"""How many events a listener may be behind before it is dropped."""


class Event(Struct, frozen=True):
    """*data*: JSON values. *id*: empty for what is not kept."""

    kind: str
    data: Mapping[str, Any]
    id: str = ""


class Subscription:
    """The events for one listener, in order."""

    def __init__(self, passing: Collection[str], backlog: int) -> None:
        self.passing = frozenset(passing)
        self._backlog = backlog
        self._events: deque[Event] = deque()
        self._is_over = False
        self._news = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Subscription {len(self._events)} waiting{', over' if self._is_over else ''}>"

    @property
    def is_over(self) -> bool:
        """Will nothing be added any more?"""
        return self._is_over

    def put(self, event: Event) -> None:
        """Add an event, or drop the listener when it is too far behind."""
        if self._is_over:
            return
        if len(self._events) >= self._backlog:
            self._events.clear()
            reason = f"more than {self._backlog} events were waiting to be read; come back with the last id that was read"
            self.end(Event("dropped", {"reason": reason}))
        else:
            self._events.append(event)
            self._news.set()

    def end(self, last: Event) -> None:
        """Let *last* be the last event."""
        if not self._is_over:
            self._is_over = True
            self._events.append(last)
            self._news.set()

    async def next(self) -> Event | None:
        """The next event, as soon as there is one; None when there will be none any more."""
        while not self._events:
            if self._is_over:
                return None
            self._news.clear()
            await self._news.wait()
        return self._events.popleft()


class Bus:
    """*history*: how many events are kept for those who come back. *era*: tells the ids of this bus from those of others."""

    def __init__(self, history: int, era: str, backlog: int = BACKLOG) -> None:
        self._era, self._backlog = era, backlog
        self._count = 0
        self._kept: deque[Event] = deque(maxlen=history)
        self._subscriptions: set[Subscription] = set()
        self._heard: Counter[str] = Counter()
        self._closing: Event | None = None

    def __repr__(self) -> str:
        return f"<Bus {self._id(self._count)}, {len(self._kept)} kept, {len(self._subscriptions)} listen>"

    def publish(self, kind: str, data: Mapping[str, Any]) -> None:
        """Tell everybody, and keep it for those who come back."""
        self._count += 1
        event = Event(kind, data, self._id(self._count))
        self._kept.append(event)
        for subscription in self._subscriptions:
            subscription.put(event)

    def publish_passing(self, kind: str, data: Mapping[str, Any]) -> None:
        """Tell those who listen for that kind now. Ask `is_heard` first where the data costs something to make."""
        for subscription in self._subscriptions:
            if kind in subscription.passing:
                subscription.put(Event(kind, data))

    def is_heard(self, kind: str) -> bool:
        """Does anybody listen for that passing kind? Costs next to nothing."""
        return kind in self._heard

    def close(self, reason: str) -> None:
        """Tell everybody, also those who come later, that this is the end."""
        self._closing = Event("closing", {"reason": reason})
        for subscription in self._subscriptions:
            subscription.end(self._closing)

    @contextmanager
    def subscription(self, last_id: str = "", passing: Collection[str] = ()) -> Iterator[Subscription]:
        """Listen for the length of the block, to what is kept and to what is *passing* of those kinds.

        The first event is `hello`, with an id to come back with. With *last_id* it is what happened since; or `gap`, when that
        is not kept any more: then everything has to be looked at anew.
        """
        since = self._since(last_id) if last_id else []
        found = Subscription(passing, self._backlog + len(since or ()))
        if since is None:
            found.put(Event("gap", {"since": last_id, "kept": len(self._kept)}, self._id(self._count)))
        elif not last_id:
            found.put(Event("hello", {"kept": len(self._kept)}, self._id(self._count)))
        for event in since or ():
            found.put(event)
        if self._closing:
            found.end(self._closing)
        self._subscriptions.add(found)
        self._heard.update(found.passing)
        try:
            yield found
        finally:
            self._subscriptions.discard(found)
            self._heard -= Counter(found.passing)  # what comes to nothing is left out

    def _since(self, last_id: str) -> list[Event] | None:
        """What was kept after *last_id*; None when something after it is not kept, or it is no id of ours."""
        era, _, number = last_id.rpartition("-")
        if era != self._era or not number.isascii() or not number.isdigit() or len(number) > 18:
            return None
        missing = self._count - int(number)
        if not 0 <= missing <= len(self._kept):
            return None
        return list(self._kept)[len(self._kept) - missing :]

    def _id(self, number: int) -> str:
        return f"{self._era}-{number}"
