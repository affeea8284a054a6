"""The dispatcher, one situation at a time, in virtual time: who gets a lease, who waits, who has to leave, who is told what.

`w.use(a, seconds)` is a request: it leases the instance for so long, and gives the moment at which it got the lease. An
instance takes one second to load unless its `Life` says otherwise, and no time to stop. `in_turn` makes things happen in
one and the same turn of the loop, where races live. What is left over at the end of a world fails its test.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import FrameType

import pytest

from llamactl_py.ground.errors import (
    Conflict,
    NoRoom,
    NotFound,
    NotRunning,
    ShuttingDown,
    StartFailed,
    StorageFailed,
    TimedOut,
    WasStopped,
)
from llamactl_py.instances.instance import Instance
from llamactl_py.instances.state import State
from llamactl_py.launchers.base import Listening
from llamactl_py.scheduler.plan import plan
from tests.support.fakes import Life, World, outcome, world
from tests.support.virtual import in_virtual_time, now, turns

STOPPED, STARTING, READY, STOPPING, BACKOFF, FAILED = (
    State.STOPPED,
    State.STARTING,
    State.READY,
    State.STOPPING,
    State.BACKOFF,
    State.FAILED,
)
DUD = Life(load=None, lives=2, last_lines=("error: invalid magic",))
NO_SUCH_FILE = Life(refusal=StartFailed("no such file"))


def at(moment: float, do: Callable[[], object]) -> None:
    """Have it done at that moment of the scenario, before anything that is planned for the same moment later on."""
    asyncio.get_running_loop().call_at(moment, do)


def spawn(thing: Awaitable[object]) -> asyncio.Task[object]:
    """A request, or a person, of its own: its error is its outcome."""
    return asyncio.ensure_future(outcome(thing))


async def results(*tasks: asyncio.Task[object]) -> list[object]:
    return list(await asyncio.gather(*tasks))


def claims(w: World) -> int:
    return len(w.dispatcher._claims)


# ---- granting


@in_virtual_time
async def test_a_sleeping_instance_is_woken_by_its_first_request() -> None:
    async with world() as w:
        a = await w.create("a", Life(load=30))
        async with w.lease(a) as target:
            assert (now(), a.leases.value) == (30, 1)
            assert (target.instance, target.port) == ("a", w.launcher.of("a").command.port)
        assert a.leases.value == 0


@in_virtual_time
async def test_a_request_to_a_ready_instance_does_not_wait_a_turn() -> None:
    async with world() as w:
        a = await w.create("a")
        await w.use(a)
        lease = w.lease(a)
        with pytest.raises(StopIteration):
            lease.__aenter__().send(None)
        assert a.leases.value == 1
        await lease.__aexit__(None, None, None)


@in_virtual_time
async def test_a_hundred_requests_to_a_cold_instance_are_one_launch_and_a_hundred_grants() -> None:
    async with world() as w:
        a = await w.create("a", Life(load=30))
        granted = await asyncio.gather(*(w.use(a, seconds=5) for _ in range(100)))
        assert (granted, w.launcher.launches) == ([30] * 100, [("a", 0)])


@in_virtual_time
async def test_a_request_during_a_restart_waits_for_the_new_one() -> None:
    async with world() as w:
        a = await w.create("a", Life(load=1, term=5), Life(load=10))
        await w.use(a)
        await w.dispatcher.restart(a)
        assert not a.is_here_to_stay  # in the very turn of the wish
        assert await w.use(a) == 1 + 5 + 10


@in_virtual_time
async def test_a_request_after_a_crash_waits_for_the_restart() -> None:
    async with world() as w:
        a = await w.create("a", Life(load=1, lives=10, orphans=2))
        await w.use(a)
        await w.until(a, BACKOFF)
        assert await w.use(a) == 10 + 2 + 1 + 1


@in_virtual_time
async def test_a_request_while_it_stops_starts_it_again_when_it_is_gone() -> None:
    async with world() as w:
        a = await w.create("a", Life(load=1, term=5))
        await w.use(a)
        stop = spawn(w.dispatcher.stop(a))
        await asyncio.sleep(2)
        assert await w.use(a) == 1 + 5 + 1
        assert await stop is None


@pytest.mark.parametrize(("on_demand_start", "may_start"), [(False, True), (True, False)])
@in_virtual_time
async def test_a_request_that_may_not_start_it_is_refused_while_it_is_down(on_demand_start: bool, may_start: bool) -> None:
    async with world() as w:
        a = await w.create("a", Life(load=5, term=3), on_demand_start=on_demand_start)
        with pytest.raises(NotRunning, match="'a' is stopped"):
            await w.use(a, may_start=may_start)
        await w.dispatcher.start(a)
        assert await w.use(a, may_start=may_start) == 5  # one that is coming is waited for
        stop = spawn(w.dispatcher.stop(a))
        await turns()
        with pytest.raises(NotRunning, match="'a' is stopping"):
            await w.use(a, may_start=may_start)
        await stop


# ---- when the start fails


@in_virtual_time
async def test_a_death_before_it_is_ready_is_told_to_all_who_wait_at_once() -> None:
    async with world() as w:
        a = await w.create("a", DUD)
        waiting = [spawn(w.use(a)) for _ in range(10)]
        for answer in await results(*waiting):
            assert isinstance(answer, StartFailed)
            assert "invalid magic" in str(answer)
        assert (now(), a.state) == (2, BACKOFF)
        assert await w.use(a) == 2 + 1 + 1  # the restarts go on for those who come later


@pytest.mark.parametrize(
    ("life", "options", "words"),
    [
        (NO_SUCH_FILE, {}, "no such file"),
        (Life(exec_error=StartFailed("Exec format error")), {}, "Exec format error"),
        (Life(exec_error=StorageFailed("disk full")), {}, "disk full"),
        (Life(load=None), {"start_timeout": 20}, r"was not ready within 20s \(start_timeout\)"),
    ],
)
@in_virtual_time
async def test_whatever_keeps_it_from_starting_is_told_to_who_waits(life: Life, options: dict[str, object], words: str) -> None:
    async with world() as w:
        a = await w.create("a", life, **options)
        with pytest.raises(StartFailed, match=f"'a': .*{words}"):
            await w.use(a)
        assert not claims(w)


@in_virtual_time
async def test_who_comes_after_a_stop_does_not_hear_of_the_start_that_was_stopped() -> None:
    async with world() as w:
        a = await w.create("a", Life(load=None, orphans=5), start_timeout=20)
        await w.dispatcher.start(a)
        await asyncio.sleep(22)  # not ready in time, and being ended
        stop = spawn(w.dispatcher.stop(a))
        await turns()
        late = spawn(w.use(a)), spawn(w.dispatcher.start(a))
        assert await results(stop, *late) == [None, 20 + 5 + 1, None]


@in_virtual_time
async def test_a_stolen_port_is_not_noticed_by_who_waits() -> None:
    async with world() as w:
        stranger = Life(listens=Listening.STRANGER, orphans=2)
        a = await w.create("a", stranger, stranger, Life(load=3))
        assert await w.use(a) == 2 + 2 + 3


@in_virtual_time
async def test_a_failed_instance_refuses_until_its_cool_down_is_over_and_then_lets_one_start_it() -> None:
    async with world(failed_cooldown=60) as w:
        a = await w.create("a", NO_SUCH_FILE, NO_SUCH_FILE, Life(load=5))
        with pytest.raises(StartFailed):
            await w.use(a)
        await asyncio.sleep(45)
        with pytest.raises(StartFailed, match="has failed: no such file") as refused:
            await w.use(a)
        assert (refused.value.retry_after, len(w.launcher.launches)) == (15, 1)
        await asyncio.sleep(15)
        answers = await results(spawn(w.use(a)), spawn(w.use(a)))
        assert [type(answer) for answer in answers] == [StartFailed, StartFailed]
        assert w.launcher.moments("a") == [0, 60]
        await asyncio.sleep(60)
        assert await w.use(a) == 120 + 5


@in_virtual_time
async def test_one_that_failed_while_it_served_may_be_started_at_once() -> None:
    async with world() as w:
        a = await w.create("a", Life(load=1, lives=10), auto_restart=False)
        await w.use(a)
        await w.until(a, FAILED)
        assert await w.use(a) == 10 + 1


@in_virtual_time
async def test_a_person_need_not_wait_for_a_cool_down() -> None:
    async with world() as w:
        a = await w.create("a", NO_SUCH_FILE)
        with pytest.raises(StartFailed):
            await w.use(a)
        await w.dispatcher.start(a)
        assert await w.use(a) == 1


# ---- room


@in_virtual_time
async def test_the_idle_one_used_longest_ago_leaves() -> None:
    async with world(max_running_instances=3) as w:
        a, b, c, d = [await w.create(name) for name in "abcd"]
        for instance in (a, b, c, a):
            await w.use(instance, seconds=1)
        await w.use(d)
        assert [i.state for i in (a, b, c, d)] == [READY, STOPPED, READY, READY]
        await w.use(b)
        assert [i.state for i in (a, b, c, d)] == [READY, READY, STOPPED, READY]


@in_virtual_time
async def test_a_slot_is_free_when_the_last_process_is_gone_and_not_before() -> None:
    async with world(max_running_instances=1) as w:
        a, b = await w.create("a", Life(load=1, term=4, orphans=3)), await w.create("b")
        await w.use(a)
        assert await w.use(b) == 1 + 4 + 3 + 1
        assert w.launcher.most == 1


@in_virtual_time
async def test_many_cold_starts_at_once_never_pass_the_limit() -> None:
    async with world(max_running_instances=3) as w:
        fleet = [await w.create(f"i{n}", Life(load=2, term=1, orphans=1)) for n in range(12)]
        await asyncio.gather(*(w.use(instance, seconds=3) for instance in fleet for _ in range(3)))
        assert (w.launcher.most, len(w.launcher.launches)) == (3, 12)


@in_virtual_time
async def test_a_busy_instance_is_not_made_to_leave() -> None:
    async with world(max_running_instances=1) as w:
        a, b = await w.create("a"), await w.create("b")
        stream = spawn(w.use(a, seconds=100))
        await asyncio.sleep(50)
        assert await w.use(b) == 1 + 100 + 1
        assert await stream == 1


@in_virtual_time
async def test_an_instance_that_loads_is_not_made_to_leave() -> None:
    async with world(max_running_instances=1) as w:
        a, b = await w.create("a", Life(load=30)), await w.create("b")
        await w.dispatcher.start(a)
        assert await w.use(b) == 30 + 1
        assert w.path(a) == [STOPPED, STARTING, READY, STOPPING, STOPPED]


@in_virtual_time
async def test_a_pinned_instance_never_leaves() -> None:
    async with world(max_running_instances=1, on_demand_start_timeout=50) as w:
        a, b = await w.create("a", idle_timeout=0), await w.create("b")
        await w.use(a)
        await asyncio.sleep(86400)
        with pytest.raises(NoRoom, match=r"a is pinned \(idle_timeout 0\)"):
            await w.use(b)
        assert (a.state, now()) == (READY, 1 + 86400 + 50)


@in_virtual_time
async def test_without_eviction_nobody_leaves() -> None:
    async with world(max_running_instances=1, enable_lru_eviction=False, on_demand_start_timeout=50) as w:
        a, b = await w.create("a"), await w.create("b")
        await w.use(a)
        with pytest.raises(NoRoom, match="none may be evicted for it"):
            await w.use(b)
        assert a.state is READY


@in_virtual_time
async def test_a_request_that_may_not_evict_waits_until_somebody_leaves_by_himself() -> None:
    async with world(max_running_instances=1, on_demand_start_timeout=600) as w:
        a, b = await w.create("a", idle_timeout="5m"), await w.create("b")
        await w.use(a)
        assert await w.use(b, may_evict=False) == 1 + 300 + 1


@in_virtual_time
async def test_a_request_that_may_not_evict_is_told_so_when_nobody_leaves_in_time() -> None:
    async with world(max_running_instances=1, on_demand_start_timeout=50) as w:
        a, b = await w.create("a"), await w.create("b")
        await w.use(a)
        with pytest.raises(NoRoom, match="none may be evicted for it"):
            await w.use(b, may_evict=False)
        assert (a.state, now()) == (READY, 1 + 50)
        assert await w.use(b) == 51 + 1


@in_virtual_time
async def test_a_place_that_one_had_made_is_not_taken_by_one_who_may_not() -> None:
    async with world(max_running_instances=1, on_demand_start_timeout=7200) as w:
        a, b, c = await w.create("a", Life(load=1, term=5)), await w.create("b", idle_timeout="5m"), await w.create("c")
        await w.use(a)
        modest = spawn(w.use(b, may_evict=False))
        await turns()
        assert await w.use(c) == 1 + 5 + 1
        assert await modest == 7 + 1800 + 1


@in_virtual_time
async def test_one_that_is_up_is_there_for_who_may_neither_start_nor_evict() -> None:
    async with world(max_running_instances=1) as w:
        a = await w.create("a")
        await w.use(a)
        assert await w.use(a, may_start=False, may_evict=False) == 1


@in_virtual_time
async def test_one_in_backoff_leaves_if_nobody_waits_for_it() -> None:
    async with world(max_running_instances=1) as w:
        a, b = await w.create("a", Life(load=1, lives=10), restart_delay=300), await w.create("b")
        await w.use(a)
        await w.until(a, BACKOFF)
        assert await w.use(b) == 10 + 1
        await asyncio.sleep(600)
        assert (a.state, w.launcher.moments("a")) == (STOPPED, [0])


@in_virtual_time
async def test_one_in_backoff_stays_while_somebody_waits_for_it() -> None:
    async with world(max_running_instances=1) as w:
        a, b = await w.create("a", Life(load=1, lives=10), restart_delay=30), await w.create("b")
        await w.use(a)
        await w.until(a, BACKOFF)
        faithful, other = spawn(w.use(a, seconds=5)), spawn(w.use(b))
        assert await results(faithful, other) == [10 + 30 + 1, 41 + 5 + 1]


@in_virtual_time
async def test_two_that_want_each_others_place_take_turns() -> None:
    async with world(max_running_instances=1) as w:
        a, b = await w.create("a"), await w.create("b")
        tasks = [spawn(w.use(instance, seconds=2)) for instance in (a, b, a, b)]
        assert await results(*tasks) == [1, 4, 1, 4]


@in_virtual_time
async def test_no_room_at_all_refuses_who_waited_long_enough() -> None:
    async with world(max_running_instances=0, on_demand_start_timeout=20) as w:
        a = await w.create("a")
        with pytest.raises(NoRoom):
            await w.use(a)
        assert (now(), w.launcher.launches) == (20, [])


# ---- idleness


@in_virtual_time
async def test_idle_time_counts_from_the_end_of_the_last_request() -> None:
    async with world() as w:
        a = await w.create("a", idle_timeout="15m")
        await w.use(a, seconds=10)
        await asyncio.sleep(600)
        await w.use(a, seconds=20)
        assert await w.until(a, STOPPED) == 1 + 10 + 600 + 20 + 900


@in_virtual_time
async def test_a_stream_longer_than_the_idle_timeout_is_not_cut() -> None:
    async with world() as w:
        a = await w.create("a", idle_timeout="15m")
        stream = spawn(w.use(a, seconds=7200))
        await asyncio.sleep(3600)
        await w.use(a, seconds=10)  # its end does not make the other one idle
        await stream
        assert (now(), a.state) == (1 + 7200, READY)
        assert await w.until(a, STOPPED) == 1 + 7200 + 900


@in_virtual_time
async def test_one_that_was_started_and_never_used_idles_out_too() -> None:
    async with world() as w:
        a = await w.create("a", Life(load=50), idle_timeout="15m")
        await w.dispatcher.start(a)
        assert await w.until(a, STOPPING) == 50 + 900


@in_virtual_time
async def test_polls_keep_it_only_while_they_last() -> None:
    async with world() as w:
        a = await w.create("a", idle_timeout="15m")
        await w.use(a)
        await asyncio.sleep(800)
        poll = spawn(w.use(a, seconds=200, counts_as_use=False))
        await asyncio.sleep(199)
        assert a.state is READY
        await poll
        assert await w.until(a, STOPPED) == 1 + 1000


@in_virtual_time
async def test_each_has_its_own_idle_timeout() -> None:
    async with world() as w:
        a, b, c = await w.create("a", idle_timeout="10m"), await w.create("b", idle_timeout="5h"), await w.create("c")
        await asyncio.gather(*(w.use(instance) for instance in (a, b, c)))
        await asyncio.sleep(86400)
        assert [w.moments(instance, STOPPED) for instance in (a, b, c)] == [[601], [18001], [1801]]


@in_virtual_time
async def test_a_new_idle_timeout_holds_at_once() -> None:
    async with world() as w:
        a = await w.create("a", idle_timeout="15m")
        await w.use(a)
        await w.fleet.change("a", {**a.options.whole(), "idle_timeout": "1m"})
        assert await w.until(a, STOPPED) == 61


@in_virtual_time
async def test_a_request_in_the_very_turn_in_which_it_idles_out_is_served_by_the_next_one() -> None:
    async with world() as w:
        a = await w.create("a", idle_timeout="15m")
        await w.use(a)
        await asyncio.sleep(900)
        granted = await w.use(a, seconds=5)
        assert granted in (901, 902)
        assert not w.faults


# ---- deadlines and limits of the queue


@in_virtual_time
async def test_who_waits_too_long_for_a_slow_start_is_told_so_and_the_start_goes_on() -> None:
    async with world(on_demand_start_timeout=20) as w:
        a = await w.create("a", Life(load=30))
        with pytest.raises(TimedOut, match="still starting") as refused:
            await w.use(a)
        assert (now(), refused.value.retry_after is not None, claims(w)) == (20, True, 0)
        assert await w.use(a) == 30


@in_virtual_time
async def test_who_waits_too_long_for_room_is_told_what_holds_it() -> None:
    async with world(max_running_instances=1, on_demand_start_timeout=20) as w:
        a, b = await w.create("a"), await w.create("b")
        stream = spawn(w.use(a, seconds=100))
        await w.until(a, READY)
        with pytest.raises(NoRoom, match="a has 1 requests in flight"):
            await w.use(b)
        assert (now(), claims(w)) == (21, 0)
        await stream


@in_virtual_time
async def test_the_queue_has_a_length() -> None:
    async with world(max_queued_requests=3) as w:
        a, b = await w.create("a", Life(load=30)), await w.create("b")
        waiting = [spawn(w.use(a)) for _ in range(3)]
        await turns()
        with pytest.raises(NoRoom, match="max_queued_requests") as refused:
            await w.use(b)
        assert refused.value.retry_after
        assert await results(*waiting) == [30, 30, 30]
        assert await w.use(a) == 30  # who need not wait is not counted


@in_virtual_time
async def test_a_client_that_leaves_the_queue_withdraws_its_claim() -> None:
    async with world(max_running_instances=1) as w:
        a, b = await w.create("a"), await w.create("b")
        stream = spawn(w.use(a, seconds=100))
        await asyncio.sleep(10)
        with pytest.raises(TimeoutError):
            await w.use(b, patience=20)
        assert (claims(w), now()) == (0, 30)
        await stream
        await asyncio.sleep(60)
        assert (a.state, w.launcher.moments("b")) == (READY, [])


@in_virtual_time
async def test_a_start_goes_on_for_others_when_the_client_that_caused_it_leaves() -> None:
    async with world() as w:
        a = await w.create("a", Life(load=30))
        first, second = spawn(w.use(a, patience=5)), spawn(w.use(a))
        assert isinstance(await first, TimeoutError)
        assert await second == 30


@in_virtual_time
async def test_room_that_a_leaving_client_no_longer_needs_goes_to_the_next() -> None:
    async with world(max_running_instances=1) as w:
        a, b, c = await w.create("a", Life(load=1, lives=10), restart_delay=300), await w.create("b"), await w.create("c")
        await w.use(a)
        await w.until(a, BACKOFF)
        faithful = spawn(w.use(a, patience=20))
        other = spawn(w.use(b))
        assert isinstance(await faithful, TimeoutError)
        assert await other == 10 + 20 + 1
        assert c.state is STOPPED


# ---- the same turn: a grant and a leaving that do not know of each other


@in_virtual_time
async def test_a_lease_granted_in_the_turn_in_which_its_client_leaves_is_given_back() -> None:
    async with world() as w:
        a = await w.create("a", Life(load=30))
        request = asyncio.create_task(w.use(a))
        w.fleet.on_change(lambda instance, old: instance.state is READY and request.cancel())  # the grant has just been made
        with pytest.raises(asyncio.CancelledError):
            await request
        assert (now(), a.state, a.leases.value) == (30, READY, 0)


async def leave(w: World, a: Instance, request: asyncio.Task[float]) -> None:
    request.cancel()


async def crash(w: World, a: Instance, request: asyncio.Task[float]) -> None:
    w.launcher.of("a").die()


async def come(w: World, a: Instance, request: asyncio.Task[float]) -> None:
    await w.use(a, seconds=3)


async def stop(w: World, a: Instance, request: asyncio.Task[float]) -> None:
    await w.dispatcher.stop(a)


async def restart(w: World, a: Instance, request: asyncio.Task[float]) -> None:
    await w.dispatcher.restart(a)


async def delete(w: World, a: Instance, request: asyncio.Task[float]) -> None:
    async with w.dispatcher.retiring(a, force=True):
        await w.fleet.delete("a")


@pytest.mark.parametrize("turn", range(14))
@pytest.mark.parametrize("what", [leave, crash, come, stop, restart, delete])
@pytest.mark.parametrize("moment", [30, 33, 36])
@in_virtual_time
async def test_in_no_turn_around_a_change_can_anything_be_lost(
    what: Callable[[World, Instance, asyncio.Task[float]], Awaitable[None]], turn: int, moment: int
) -> None:
    """At 30 it becomes ready and grants, at 33 a lease ends, at 36 it leaves for another: then, or some turns later, ..."""
    async with world(max_running_instances=1, drain_timeout=5) as w:
        a, b = await w.create("a", Life(load=30, orphans=1)), await w.create("b")
        request, longer = asyncio.create_task(w.use(a, seconds=3)), spawn(w.use(a, seconds=6))
        other = spawn(w.use(b, seconds=3))
        await asyncio.sleep(moment)
        await turns(turn)
        answers = await results(spawn(what(w, a, request)), longer, other)
        assert not [answer for answer in answers if not isinstance(answer, float | StartFailed | WasStopped | NoRoom | None)]
        assert isinstance(answers[2], float)  # the other one gets its turn in any case
        await asyncio.wait([request])
        assert request.cancelled() or isinstance(request.exception(), StartFailed | WasStopped) or request.result() >= 30
        await turns()
        assert (a.leases.value, b.leases.value, claims(w)) == (0, 0, 0)


@in_virtual_time
async def test_a_client_that_leaves_in_the_turn_before_the_grant_gets_none() -> None:
    async with world() as w:
        a = await w.create("a", Life(load=30))
        request = asyncio.create_task(w.use(a))
        w.fleet._listeners.insert(0, lambda instance, old: instance.state is READY and request.cancel())
        with pytest.raises(asyncio.CancelledError):
            await request
        assert (now(), a.state, a.leases.value, claims(w)) == (30, READY, 0, 0)


@in_virtual_time
async def test_a_request_whose_deadline_passes_in_the_turn_of_its_grant_holds_nothing_afterwards() -> None:
    async with world(on_demand_start_timeout=30) as w:
        a = await w.create("a", Life(load=30))
        answers = await results(*(spawn(w.use(a)) for _ in range(5)))
        assert all(answer == 30 or isinstance(answer, TimedOut) for answer in answers)
        assert (now(), a.leases.value) == (30, 0)


@in_virtual_time
async def test_a_patience_that_ends_in_the_turn_of_the_grant_holds_nothing_afterwards() -> None:
    async with world() as w:
        a = await w.create("a", Life(load=30))
        answers = await results(*(spawn(w.use(a, seconds=5, patience=30)) for _ in range(5)))
        assert all(isinstance(answer, TimeoutError) for answer in answers)
        assert a.leases.value == 0


@in_virtual_time
async def test_a_client_that_leaves_in_the_turn_of_its_refusal_leaves_nothing() -> None:
    async with world() as w:
        a = await w.create("a", DUD)
        request = asyncio.create_task(w.use(a))
        w.fleet.on_change(lambda instance, old: instance.state is BACKOFF and request.cancel())
        with pytest.raises(asyncio.CancelledError):
            await request
        assert claims(w) == 0


@in_virtual_time
async def test_a_lease_that_ends_in_the_turn_of_a_stop_is_no_lease() -> None:
    async with world(drain_timeout=300) as w:
        a = await w.create("a")
        request = spawn(w.use(a, seconds=10))
        at(11, lambda: spawn(w.dispatcher.stop(a)))
        await request
        assert await w.until(a, STOPPED) == 11


@in_virtual_time
async def test_a_request_and_a_stop_in_one_turn_end_in_a_grant_or_a_refusal() -> None:
    async with world() as w:
        a = await w.create("a", Life(load=5))
        for first, second in ((w.use(a), w.dispatcher.stop(a)), (w.dispatcher.stop(a), w.use(a))):
            one, other = await results(spawn(first), spawn(second))
            assert all(answer is None or isinstance(answer, float | WasStopped) for answer in (one, other))
            await w.dispatcher.stop(a)


@in_virtual_time
async def test_a_request_and_a_restart_in_the_turn_of_a_crash_end_in_a_grant() -> None:
    async with world() as w:
        a = await w.create("a", Life(load=1, lives=10, orphans=3), Life(load=2))
        await w.use(a)
        await asyncio.sleep(9)
        w.launcher.of("a").die()
        people = spawn(w.dispatcher.restart(a)), spawn(w.use(a))
        assert await results(*people) == [None, 10 + 3 + 2]


@in_virtual_time
async def test_an_eviction_and_a_request_for_the_evicted_one_in_one_turn_serve_both() -> None:
    async with world(max_running_instances=1) as w:
        a, b = await w.create("a"), await w.create("b")
        await w.use(a)
        asked = [spawn(w.use(b, seconds=2)), spawn(w.use(a, seconds=2))]
        assert await results(*asked) == [2, 5]  # whoever was first: a is leaving already when its request comes
        asked = [spawn(w.use(a, seconds=2)), spawn(w.use(b, seconds=2))]
        assert await results(*asked) == [7, 10]


@in_virtual_time
async def test_a_crash_in_the_turn_of_a_request_grants_no_dead_target() -> None:
    async with world() as w:
        a = await w.create("a", Life(load=1, lives=10))
        await w.use(a)
        await asyncio.sleep(9)
        async with w.lease(a) as target:
            assert target.port == w.launcher.of("a").command.port or now() == 10
        await w.until(a, BACKOFF, READY)


# ---- starting by hand


@in_virtual_time
async def test_a_person_is_told_at_once_when_all_are_busy() -> None:
    async with world(max_running_instances=1) as w:
        a, b = await w.create("a"), await w.create("b")
        stream = spawn(w.use(a, seconds=100))
        await w.until(a, READY)
        with pytest.raises(NoRoom, match="a has 1 requests in flight") as refused:
            await w.dispatcher.start(b)
        assert (now(), claims(w), refused.value.retry_after is not None) == (1, 0, True)
        await stream


@pytest.mark.parametrize("options", [{"idle_timeout": 0}, {}])
@in_virtual_time
async def test_a_person_is_told_at_once_when_all_are_pinned_or_loading(options: dict[str, object]) -> None:
    async with world(max_running_instances=1) as w:
        a, b = await w.create("a", Life(load=30), **options), await w.create("b")
        await w.dispatcher.start(a)
        if options:
            await w.until(a, READY)
        with pytest.raises(NoRoom, match="pinned" if options else "a is starting"):
            await w.dispatcher.start(b)


@in_virtual_time
async def test_a_person_waits_while_an_idle_one_leaves() -> None:
    async with world(max_running_instances=1) as w:
        a, b = await w.create("a", Life(load=1, term=5)), await w.create("b", Life(load=10))
        await w.use(a)
        await w.dispatcher.start(b)
        assert (now(), b.state) == (1 + 5, STARTING)  # it has begun: that is what was asked for


@in_virtual_time
async def test_starting_what_is_up_or_coming_is_no_error() -> None:
    async with world(max_running_instances=1) as w:
        a = await w.create("a", Life(load=10))
        for _ in range(3):
            await w.dispatcher.start(a)
        assert now() == 0
        await w.until(a, READY)
        await w.dispatcher.start(a)
        assert w.launcher.launches == [("a", 0)]


@in_virtual_time
async def test_starting_what_is_leaving_starts_it_again() -> None:
    async with world() as w:
        a = await w.create("a", Life(load=1, term=5))
        await w.use(a)
        stop = spawn(w.dispatcher.stop(a))
        await asyncio.sleep(2)
        await w.dispatcher.start(a)
        assert (now(), a.is_wanted) == (6, True)
        assert await stop is None


@in_virtual_time
async def test_one_place_is_not_promised_to_two_people() -> None:
    async with world(max_running_instances=1) as w:
        a, b, c = await w.create("a", Life(load=1, term=5)), await w.create("b"), await w.create("c")
        await w.use(a)
        answers = await results(spawn(w.dispatcher.start(b)), spawn(w.dispatcher.start(c)))
        assert [type(answer) for answer in answers] == [type(None), NoRoom]
        assert (w.launcher.most, c.state) == (1, STOPPED)


# ---- stopping, restarting, deleting by hand


@in_virtual_time
async def test_a_stop_by_hand_refuses_who_waits() -> None:
    async with world() as w:
        a = await w.create("a", Life(load=30))
        waiting = [spawn(w.use(a)) for _ in range(3)]
        await asyncio.sleep(5)
        await w.dispatcher.stop(a)
        assert [type(answer) for answer in await results(*waiting)] == [WasStopped] * 3
        await asyncio.sleep(60)
        assert (a.state, w.launcher.moments("a")) == (STOPPED, [0])


@in_virtual_time
async def test_a_stop_by_hand_of_one_that_waits_for_room_takes_it_out_of_the_queue() -> None:
    async with world(max_running_instances=1) as w:
        a, b = await w.create("a"), await w.create("b")
        stream, waiting = spawn(w.use(a, seconds=100)), spawn(w.use(b))
        await asyncio.sleep(5)
        await w.dispatcher.stop(b)
        assert isinstance(await waiting, WasStopped)
        await stream
        assert (a.state, w.launcher.moments("b")) == (READY, [])


@in_virtual_time
async def test_a_stop_by_hand_lets_requests_in_flight_finish_until_the_drain_deadline() -> None:
    async with world(drain_timeout=30) as w:
        a = await w.create("a")
        short, long = spawn(w.use(a, seconds=10)), spawn(w.use(a, seconds=3600))
        await asyncio.sleep(5)
        await w.dispatcher.stop(a)
        assert (now(), short.done(), long.done()) == (5 + 30, True, False)
        assert await results(short, long) == [1, 1]


@in_virtual_time
async def test_a_stop_frees_the_place_of_one_whose_owner_has_not_yet_begun() -> None:
    async with world(max_running_instances=1) as w:
        a, b = await w.create("a"), await w.create("b")
        people = spawn(w.dispatcher.start(a)), spawn(w.use(b)), spawn(w.dispatcher.stop(a))  # all in one turn
        assert await results(*people) == [None, 1, None]
        assert w.path(a) == []


@in_virtual_time
async def test_stopping_what_is_stopped_is_no_error() -> None:
    async with world() as w:
        a = await w.create("a", NO_SUCH_FILE)
        await w.dispatcher.stop(a)
        with suppress(StartFailed):
            await w.use(a)
        await w.dispatcher.stop(a)
        assert (a.state, now()) == (FAILED, 0)


@in_virtual_time
async def test_a_restart_by_hand_keeps_its_place_and_who_waits() -> None:
    async with world(max_running_instances=1) as w:
        a, b = await w.create("a", Life(load=1, term=5)), await w.create("b")
        await w.use(a)
        await w.dispatcher.restart(a)
        other, mine = spawn(w.use(b)), spawn(w.use(a, seconds=3))
        assert await results(other, mine) == [7 + 3 + 1, 7]


@pytest.mark.parametrize("life", [Life(), NO_SUCH_FILE])
@in_virtual_time
async def test_a_restart_of_what_is_at_rest_is_a_start(life: Life) -> None:
    async with world() as w:
        a = await w.create("a", life)
        if life is NO_SUCH_FILE:
            with suppress(StartFailed):
                await w.use(a)
        await w.dispatcher.restart(a)
        assert await w.until(a, READY) == 1


@in_virtual_time
async def test_of_two_who_delete_it_at_once_the_first_may_leave() -> None:
    async with world() as w:
        a = await w.create("a")
        first = asyncio.Event()

        async def retire_until(left: asyncio.Event) -> None:
            async with w.dispatcher.retiring(a, force=True):
                await left.wait()

        leaving = asyncio.create_task(retire_until(first))
        async with w.dispatcher.retiring(a, force=True):
            first.set()
            await leaving
            with pytest.raises(NotFound, match="is being deleted"):
                await w.dispatcher.start(a)
            await w.fleet.delete("a")
        assert not w.dispatcher._retiring


@in_virtual_time
async def test_one_that_is_wanted_is_not_deleted() -> None:
    async with world() as w:
        a = await w.create("a")
        a.want_up()
        with pytest.raises(Conflict, match="'a' is about to start"):
            await w.fleet.delete("a")
        await w.until(a, READY)
        with pytest.raises(Conflict, match="'a' is ready"):
            await w.fleet.delete("a")
        assert list(w.fleet) == [a]


@in_virtual_time
async def test_what_is_up_is_deleted_only_with_force() -> None:
    async with world() as w:
        a = await w.create("a", Life(load=1, term=5))
        await w.use(a)
        with pytest.raises(Conflict, match="'a' is ready"):
            async with w.dispatcher.retiring(a, force=False):
                pytest.fail("it is up")
        assert a.state is READY
        async with w.dispatcher.retiring(a, force=True):
            assert (now(), a.state) == (1 + 5, STOPPED)
            await w.fleet.delete("a")


@in_virtual_time
async def test_what_is_about_to_be_up_is_deleted_only_with_force() -> None:
    async with world() as w:
        a = await w.create("a")
        a.want_up()
        with pytest.raises(Conflict):
            async with w.dispatcher.retiring(a, force=False):
                pytest.fail("it is about to be up")


@in_virtual_time
async def test_nobody_can_claim_or_start_what_is_being_deleted() -> None:
    async with world() as w:
        a = await w.create("a", Life(load=30, term=5))
        waiting = spawn(w.use(a))
        await asyncio.sleep(10)
        w.store.takes = 10

        async def delete() -> None:
            async with w.dispatcher.retiring(a, force=True):
                await w.fleet.delete("a")

        deletion = spawn(delete())
        for moment in (12, 20):  # while it stops, and while its row is removed
            await asyncio.sleep(moment - now())
            for answer in await results(*(spawn(thing) for thing in (w.use(a), w.dispatcher.start(a), w.dispatcher.restart(a)))):
                assert isinstance(answer, NotFound)
                assert "being deleted" in str(answer)
        assert isinstance(await waiting, WasStopped)
        assert await deletion is None
        assert now() == 10 + 5 + 10


@in_virtual_time
async def test_a_deletion_that_fails_gives_the_instance_back_to_all() -> None:
    async with world() as w:
        a = await w.create("a")
        w.store.error = StorageFailed("disk full")
        with pytest.raises(StorageFailed):
            async with w.dispatcher.retiring(a, force=False):
                await w.fleet.delete("a")
        assert await w.use(a) == 1


@in_virtual_time
async def test_who_still_holds_a_deleted_instance_is_told_that_it_is_gone() -> None:
    async with world() as w:
        a = await w.create("a")
        async with w.dispatcher.retiring(a, force=False):
            await w.fleet.delete("a")
        answers = await results(*(spawn(thing) for thing in (w.use(a), w.dispatcher.start(a), w.dispatcher.restart(a))))
        assert [type(answer) for answer in answers] == [NotFound] * 3
        assert (now(), a.is_wanted) == (0, False)


# ---- the end


@in_virtual_time
async def test_closing_refuses_all_who_wait_and_all_who_come_and_stops_everything_at_once() -> None:
    async with world(max_running_instances=3) as w:
        ready, loading, other = [await w.create(name, Life(load=load, term=6)) for name, load in (("a", 0), ("b", 1), ("c", 2))]
        dead = await w.create("dead", Life(load=0, lives=2), restart_delay=300)
        await w.use(dead)
        await w.use(ready)
        await w.until(dead, BACKOFF)
        waiting = [spawn(w.use(loading)), spawn(w.use(other))]
        await turns()
        before = now()
        closing = spawn(w.dispatcher.close(30))
        assert [type(answer) for answer in await results(*waiting)] == [ShuttingDown] * 2
        late = (w.use(ready), w.use(dead), w.dispatcher.start(other), w.dispatcher.restart(loading))
        assert [type(answer) for answer in await results(*map(spawn, late))] == [ShuttingDown] * 4
        assert await closing is None
        assert now() == before + 6
        assert {instance.state for instance in w.fleet} == {STOPPED}


@in_virtual_time
async def test_closing_drains_until_its_deadline() -> None:
    async with world() as w:
        w.drain = 10
        a, b = await w.create("a"), await w.create("b")
        short, long = spawn(w.use(a, seconds=5)), spawn(w.use(b, seconds=3600))
        await w.until(b, READY)
        await w.dispatcher.close(10)
        assert (now(), short.done(), long.done()) == (1 + 10, True, False)
        assert await results(short, long) == [1, 1]


@in_virtual_time
async def test_closing_shortens_a_stop_that_is_under_way() -> None:
    async with world(drain_timeout=600) as w:
        a = await w.create("a")
        stream = spawn(w.use(a, seconds=3600))
        await w.until(a, READY)
        stop = spawn(w.dispatcher.stop(a))
        await asyncio.sleep(5)
        w.drain = 5 + 10
        await w.dispatcher.close(10)
        assert now() == 1 + 5 + 10
        assert await results(stop, stream) == [None, 1]


@pytest.mark.parametrize("comes", [True, False])
@in_virtual_time
async def test_instances_may_come_or_go_while_it_closes(comes: bool) -> None:
    async with world() as w:
        a, b = await w.create("a", Life(term=5)), await w.create("b")
        await w.use(a)
        closing = spawn(w.dispatcher.close(0))
        await asyncio.sleep(1)
        if comes:
            await w.create("c")
        else:
            async with w.dispatcher.retiring(b, force=True):
                await w.fleet.delete("b")
        assert await closing is None
        assert {instance.state for instance in w.fleet} == {STOPPED}


# ---- bugs and bookkeeping


@in_virtual_time
async def test_a_bug_in_an_owner_frees_its_place_and_is_told_to_who_waits() -> None:
    async with world(max_running_instances=1) as w:
        w.has_bugs = True
        a, b = await w.create("a", Life(takes=5, refusal=RuntimeError("a bug"))), await w.create("b")
        mine, other = spawn(w.use(a)), spawn(w.use(b))
        answer = await mine
        assert isinstance(answer, StartFailed)
        assert "internal error, please report it: RuntimeError: a bug" in str(answer)
        assert await other == 5 + 1


@in_virtual_time
async def test_it_can_be_looked_at() -> None:
    async with world(max_running_instances=1) as w:
        a, b = await w.create("a", Life(load=30)), await w.create("b")
        tasks = spawn(w.use(a)), spawn(w.use(b))
        await asyncio.sleep(5)
        seen = repr(w.dispatcher)
        assert "<Instance a starting" in seen
        assert "b (1 instances are running, which is the limit" in seen
        await results(*tasks)


@in_virtual_time
async def test_a_long_queue_does_not_hold_up_the_loop() -> None:
    """Each change looks at the whole queue, so that must be cheap: one plan for all, not one for each who waits."""
    plans = 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal plans
        plans += event == "call" and frame.f_code is plan.__code__

    async with world(max_running_instances=1, on_demand_start_timeout=5) as w:
        pinned = await w.create("pinned", idle_timeout=0)
        await w.use(pinned)
        fleet = [await w.create(f"i{n}") for n in range(4)]
        before = sys.getprofile()
        sys.setprofile(count)
        try:
            waiting = [spawn(w.use(fleet[n % 4])) for n in range(200)]
            answers = await results(*waiting)
        finally:
            sys.setprofile(before)
        assert [type(answer) for answer in answers] == [NoRoom] * 200
        assert 200 <= plans <= 450  # one when it comes, one when it leaves
