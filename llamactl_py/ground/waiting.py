"""The few waiting tools that we own. Tasks made here are awaited here: none outlives the call that made it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

from msgspec import Struct

T = TypeVar("T")


class Watched(Struct, Generic[T], eq=False):
    """A value that can be waited for. Level-triggered: who waits sees the newest value, never a queue of old ones."""

    value: T
    """To be read by anybody, and changed with `set` only."""
    _waiters: set[tuple[Callable[[T], bool], asyncio.Future[T]]] | None = None
    """None for most: nobody has ever waited."""

    def __repr__(self) -> str:
        return f"<Watched {self.value!r}, {len(self._waiters or ())} waiting>"

    def set(self, value: T) -> None:
        """Change the value and wake, in the next turn of the loop, everybody whose condition it meets."""
        self.value = value
        if self._waiters:
            for condition, future in list(self._waiters):
                if not future.done() and condition(value):
                    future.set_result(value)

    async def until(self, condition: Callable[[T], bool]) -> T:
        """The value that first met *condition* (at once if it does now)."""
        if condition(self.value):
            return self.value
        met: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        waiter = (condition, met)
        waiters = self._waiters = self._waiters or set()
        waiters.add(waiter)
        try:
            return await met
        finally:
            waiters.discard(waiter)


async def first_of(**things: Coroutine[Any, Any, object]) -> dict[str, object]:
    """Run all, and as soon as one or more are done, cancel the rest and give the results of those that finished.

    When several finish in the same turn of the loop the answer has them all: the caller decides which one matters.
    An exception in a finished one is raised. Nothing is left running.
    """
    tasks = {name: asyncio.ensure_future(thing) for name, thing in things.items()}
    try:
        done, _ = await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.wait(tasks.values())  # their clean-up runs before we go on
    return {name: task.result() for name, task in tasks.items() if task in done}


async def to_its_end(thing: Coroutine[Any, Any, T]) -> T:
    """Await *thing*. A caller that is cancelled meanwhile leaves when it is done, and not in the middle of it."""
    task = asyncio.ensure_future(thing)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # the one who would have been told has left
        raise


async def within(seconds: float, thing: Awaitable[object]) -> bool:
    """Await *thing* for at most *seconds*; True when it finished in time, False when time was up (it is cancelled)."""
    try:
        async with asyncio.timeout(seconds):
            await thing
    except TimeoutError:
        return False
    return True
