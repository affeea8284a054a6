"""The bus by itself: what is kept, who is told what, and that telling never waits."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamactl_py.events.bus import Bus, Event, Subscription


async def drain(subscription: Subscription) -> list[Event]:
    """What is there now."""
    found: list[Event] = []
    try:
        async with asyncio.timeout(0.01):
            while event := await subscription.next():
                found.append(event)
    except TimeoutError:
        pass
    return found


def kinds(events: list[Event]) -> str:
    return " ".join(event.kind for event in events)


async def test_who_listens_is_told_in_order_from_then_on() -> None:
    bus = Bus(10, "era")
    bus.publish("before", {})
    with bus.subscription() as one, bus.subscription() as two:
        bus.publish("a", {"x": 1})
        bus.publish("b", {})
        for subscription in (one, two):
            events = await drain(subscription)
            assert [(event.kind, event.id) for event in events] == [("hello", "era-1"), ("a", "era-2"), ("b", "era-3")]
            assert events[1].data == {"x": 1}


async def test_who_waits_is_woken() -> None:
    bus = Bus(10, "era")
    with bus.subscription() as subscription:
        await subscription.next()
        waiting = asyncio.ensure_future(subscription.next())
        await asyncio.sleep(0)
        assert not waiting.done()
        bus.publish("a", {})
        event = await waiting
        assert event
        assert event.kind == "a"


async def test_a_wait_that_is_given_up_loses_no_event() -> None:
    bus = Bus(10, "era")
    with bus.subscription() as subscription:
        await subscription.next()
        for number in range(5):
            waiting = asyncio.ensure_future(subscription.next())
            await asyncio.sleep(0)
            bus.publish(str(number), {})
            waiting.cancel()  # in the very turn in which there is news
            await asyncio.wait([waiting])
            assert waiting.cancelled()
            assert kinds(await drain(subscription)) == str(number)


async def test_what_passes_is_told_to_those_who_want_it_and_not_again() -> None:
    bus = Bus(10, "era")
    assert not bus.is_heard("request")
    with bus.subscription(passing=["request"]) as one, bus.subscription() as two:
        assert bus.is_heard("request")
        assert not bus.is_heard("other")
        bus.publish_passing("request", {})
        bus.publish_passing("other", {})
        assert [(event.kind, event.id) for event in await drain(one)] == [("hello", "era-0"), ("request", "")]
        assert kinds(await drain(two)) == "hello"
    assert not bus.is_heard("request")
    with bus.subscription("era-0", ["request"]) as again:
        assert await drain(again) == []


@given(st.integers(0, 6), st.integers(0, 12), st.integers(0, 14))
def test_who_comes_back_is_told_all_that_it_missed_or_that_there_is_a_gap(history: int, count: int, seen: int) -> None:
    async def scenario() -> None:
        bus = Bus(history, "era")
        for number in range(1, count + 1):
            bus.publish(str(number), {})
        with bus.subscription(f"era-{seen}") as subscription:
            bus.publish("new", {})
            told = kinds(await drain(subscription)).split()
        missed = [str(number) for number in range(seen + 1, count + 1)]
        has_gap = seen > count or len(missed) > history
        assert told == (["gap", "new"] if has_gap else [*missed, "new"])

    asyncio.run(scenario())


@pytest.mark.parametrize("last", ["old-1", "era-", "era-x", "1", "-1", "era--1", "era-1.0", "era-\u0661", "era-" + "9" * 30, "x"])
async def test_an_id_that_is_none_of_ours_is_a_gap_with_an_id_to_go_on_from(last: str) -> None:
    bus = Bus(10, "era")
    bus.publish("a", {})
    with bus.subscription(last) as subscription:
        (event,) = await drain(subscription)
        assert (event.kind, event.id) == ("gap", "era-1")


async def test_who_does_not_keep_up_is_dropped_and_told_so_and_nobody_else() -> None:
    bus = Bus(0, "era", backlog=3)
    with bus.subscription() as slow, bus.subscription() as quick:
        for number in range(10):
            bus.publish(str(number), {})
            await drain(quick)
        assert slow.is_over
        events = await drain(slow)
        assert kinds(events) == "dropped"
        assert "more than 3 events" in events[0].data["reason"]
        assert await slow.next() is None
        assert not quick.is_over


async def test_a_long_replay_is_no_reason_to_be_dropped() -> None:
    bus = Bus(100, "era", backlog=3)
    for number in range(50):
        bus.publish(str(number), {})
    with bus.subscription("era-0") as subscription:
        bus.publish("new", {})
        assert len(await drain(subscription)) == 51


async def test_the_end_is_told_to_all_and_to_those_who_come_later() -> None:
    bus = Bus(10, "era")
    with bus.subscription() as early:
        bus.publish("a", {})
        bus.close("because")
        bus.publish("too late", {})
        assert kinds(await drain(early)) == "hello a closing"
        assert await early.next() is None
    with bus.subscription() as late:
        assert kinds(await drain(late)) == "hello closing"
