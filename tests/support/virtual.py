"""Time that jumps: a loop whose clock goes straight to the next deadline whenever nothing else can happen.

    @in_virtual_time
    async def test_a_day_passes_at_once() -> None:
        await asyncio.sleep(86400)
        assert now() == 86400

Hours take milliseconds, and moments can be compared with `==`. What would hang a real loop is an error here, with the tasks
that hang: nobody can ever run again (`Stuck`), or the scenario is not over at the end of its day. A task that is left
behind fails the test, and so does an error that only the loop heard of.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import random
import selectors
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

LONGEST = 1e6
"""Seconds that a scenario may take, in its own time."""


class Stuck(AssertionError):
    """The scenario cannot go on."""


class _NeverWaits(selectors.DefaultSelector):
    """Gives what is ready. Where a real selector would sleep, the clock jumps instead."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout != 0:
            self.loop.jump(timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Begins at 0. With *seed*, callbacks that are due in the same turn run in an order drawn from it.

    asyncio runs them in the order in which they were made; good code does not depend on that, and a seed shows whether it does.
    """

    def __init__(self, seed: int | None = None) -> None:
        selector = _NeverWaits()
        selector.loop = self
        self._now = 0.0
        self._limit = LONGEST
        self._dice = None if seed is None else random.Random(seed)
        self.complaints: list[str] = []
        super().__init__(selector)
        self.set_exception_handler(self._complain)

    def time(self) -> float:
        return self._now

    def jump(self, seconds: float | None) -> None:
        if seconds is None and self._limit == LONGEST:
            self._limit *= 2  # what is cleaned up now may take its time too
            raise Stuck(f"at {self._now} nothing can ever happen again; waiting: {waiting(self)}")
        self._now += seconds or 1.0
        if self._now > self._limit:
            self._limit *= 2
            raise Stuck(f"not over after {LONGEST} s; waiting: {waiting(self)}")

    def _run_once(self) -> None:
        if self._dice:
            self._dice.shuffle(self._ready)  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]

    def _complain(self, _: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        self.complaints.append(f"{context['message']}: {context.get('exception')!r}")


def waiting(loop: asyncio.AbstractEventLoop) -> str:
    return "; ".join(sorted(f"{task.get_name()} {task.get_coro()!r}" for task in asyncio.all_tasks(loop)))


def run(main: Coroutine[Any, Any, T], seed: int | None = None) -> T:
    """The result of *main* in virtual time; nothing may be left of it."""
    loop = VirtualLoop(seed)

    async def whole() -> T:
        result = await main
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"left behind: {waiting(loop)}"
        return result

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        result = runner.run(whole())
    assert not loop.complaints, loop.complaints
    return result


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make an async test one that runs in virtual time."""
    assert inspect.iscoroutinefunction(test)

    @functools.wraps(test)
    def run_it(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs))

    return run_it


def now() -> float:
    """Seconds since the scenario began."""
    return asyncio.get_running_loop().time()


async def turns(count: int = 10) -> None:
    """Let everybody run who can, without letting time pass."""
    for _ in range(count):
        await asyncio.sleep(0)
