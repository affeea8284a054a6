"""The waiting tools: who waits is woken once for what it waited for, and nothing that was started is left running.

`Log` collects what happened, in order; a turn of the loop is `await turn()`.
"""

from __future__ import annotations

import asyncio
import gc

import pytest

from llamactl_py.ground.waiting import Watched, first_of, to_its_end, within


async def turn() -> None:
    await asyncio.sleep(0)


class Log(list[str]):
    async def note_end(self, name: str, forever: asyncio.Event) -> None:
        try:
            await forever.wait()
        finally:
            self.append(f"{name} ended")


async def test_a_value_that_fits_already_is_not_waited_for() -> None:
    assert await Watched(5).until(lambda value: value > 3) == 5


async def test_the_value_that_first_fits_is_given_even_when_it_changed_since() -> None:
    watched = Watched(0)
    waiting = asyncio.ensure_future(watched.until(lambda value: value == 1))
    await turn()
    watched.set(1)
    watched.set(2)
    assert await waiting == 1
    assert watched.value == 2


async def test_everybody_whose_condition_is_met_is_woken_and_nobody_else() -> None:
    watched = Watched(0)
    waiting = [asyncio.ensure_future(watched.until(lambda value, n=n: value >= n)) for n in (1, 2, 3)]  # type: ignore[misc]
    await turn()
    watched.set(2)
    await turn()
    await turn()
    assert [task.done() for task in waiting] == [True, True, False]
    watched.set(3)
    assert await asyncio.gather(*waiting) == [2, 2, 3]
    assert repr(watched) == "<Watched 3, 0 waiting>"


async def test_who_gives_up_waiting_leaves_nothing_behind() -> None:
    watched = Watched(0)
    waiting = asyncio.ensure_future(watched.until(bool))
    await turn()
    waiting.cancel()
    await asyncio.wait([waiting])
    assert repr(watched) == "<Watched 0, 0 waiting>"
    watched.set(1)


async def test_the_first_one_wins_and_the_others_have_ended() -> None:
    log, never = Log(), asyncio.Event()

    async def quick() -> str:
        await turn()
        return "quick"

    assert await first_of(quick=quick(), slow=log.note_end("slow", never)) == {"quick": "quick"}
    assert log == ["slow ended"]
    assert len(asyncio.all_tasks()) == 1


async def test_those_that_finish_in_the_same_turn_are_all_told() -> None:
    watched = Watched(0)
    both = asyncio.ensure_future(first_of(a=watched.until(bool), b=watched.until(bool), c=watched.until(lambda v: v == 2)))
    await turn()
    await turn()
    watched.set(1)
    assert await both == {"a": 1, "b": 1}


async def test_the_error_of_a_finished_one_is_raised_after_the_others_ended() -> None:
    log, never = Log(), asyncio.Event()

    async def fails() -> None:
        await turn()
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone"):
        await first_of(fails=fails(), slow=log.note_end("slow", never))
    assert log == ["slow ended"]


async def test_cancelling_who_waits_cancels_what_it_waits_for() -> None:
    log, never = Log(), asyncio.Event()
    waiting = asyncio.ensure_future(first_of(a=log.note_end("a", never), b=log.note_end("b", never)))
    await turn()
    await turn()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert sorted(log) == ["a ended", "b ended"]
    assert len(asyncio.all_tasks()) == 1


async def test_what_a_caller_that_left_would_have_been_told_is_no_unheard_error() -> None:
    unheard: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: unheard.append(what))
    go = asyncio.Event()

    async def fails() -> None:
        await go.wait()
        raise ConnectionError("refused")

    caller = asyncio.ensure_future(to_its_end(fails()))
    await turn()
    caller.cancel()
    await turn()
    assert not caller.done()
    go.set()
    await asyncio.wait([caller])
    assert caller.cancelled()
    del caller
    gc.collect()
    await turn()
    assert unheard == []


async def test_within_says_whether_it_was_in_time() -> None:
    log, never = Log(), asyncio.Event()
    assert await within(60, turn()) is True
    assert await within(0.001, log.note_end("it", never)) is False
    assert log == ["it ended"]


async def test_within_lets_errors_of_the_thing_itself_through() -> None:
    async def fails() -> None:
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        await within(60, fails())
