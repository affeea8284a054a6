"""The owner of one instance, in virtual time: what it does with a wish, with a death, and with whatever happens in between.

Wishes are set by hand (`want_up`, `want_down`, `want_restart`); what the backend does is a script (`Life`). Moments are
exact: a delay of two seconds is asserted as two seconds. Whatever a test does, the world checks when it is left that no
process, port, ticket or lease is left over (see `tests/support/fakes.py`).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest

from llamactl_py.ground.errors import StartFailed, StorageFailed
from llamactl_py.instances.instance import Instance
from llamactl_py.instances.last_words import telling_line
from llamactl_py.instances.state import AT_REST, EDGES, State, status_word
from llamactl_py.launchers.base import Listening
from tests.support.fakes import Life, World, world
from tests.support.virtual import in_virtual_time, now, run, turns

STOPPED, STARTING, READY, STOPPING, BACKOFF, FAILED = (
    State.STOPPED,
    State.STARTING,
    State.READY,
    State.STOPPING,
    State.BACKOFF,
    State.FAILED,
)
STRANGER = Life(listens=Listening.STRANGER)
CRASH = Life(load=1, lives=10)
"""Ready after a second, dead after ten."""
DUD = Life(load=None, lives=2)
"""Dead before it is ready."""


async def start(w: World, instance: Instance) -> float:
    instance.want_up()
    return await w.until(instance, READY)


async def stop(instance: Instance, drain: float = 0.0) -> float:
    instance.want_down(drain)
    await instance.down()
    return now()


# ---- the state machine: each scenario is a way through it

Scenario = Callable[[World], Awaitable[Instance]]


async def started(w: World) -> Instance:
    a = await w.create("a")
    await start(w, a)
    return a


async def started_and_stopped(w: World) -> Instance:
    a = await started(w)
    await stop(a)
    return a


async def stopped_while_it_starts(w: World) -> Instance:
    a = await w.create("a", Life(load=30))
    a.want_up()
    await asyncio.sleep(5)
    await stop(a)
    return a


async def died_while_it_served(w: World) -> Instance:
    a = await w.create("a", CRASH)
    await start(w, a)
    await asyncio.sleep(60)
    return a


async def died_before_it_was_ready(w: World) -> Instance:
    a = await w.create("a", DUD)
    await start(w, a)
    return a


async def stopped_during_backoff(w: World) -> Instance:
    a = await w.create("a", CRASH, restart_delay=60)
    await start(w, a)
    await w.until(a, BACKOFF)
    await stop(a)
    return a


async def could_not_start(w: World) -> Instance:
    a = await w.create("a", Life(refusal=StartFailed("no such file")))
    a.want_up()
    await w.until(a, FAILED)
    return a


async def died_and_is_not_to_be_restarted(w: World) -> Instance:
    a = await w.create("a", CRASH, auto_restart=False)
    await start(w, a)
    await w.until(a, FAILED)
    return a


async def failed_and_started_again(w: World) -> Instance:
    a = await could_not_start(w)
    assert a.reason == "no such file"
    await start(w, a)
    assert a.reason == ""
    return a


async def failed_and_stopped(w: World) -> Instance:
    a = await could_not_start(w)
    await stop(a)
    return a


async def restarted(w: World) -> Instance:
    a = await started(w)
    a.want_restart(0)
    await w.until(a, STARTING)
    await w.until(a, READY)
    return a


def a_bug_on_reaching(state: State) -> Scenario:
    """Somebody who listens raises when the instance comes into *state*, the first time."""

    async def scenario(w: World) -> Instance:
        w.has_bugs = True
        pending = [state]

        def broken_listener(instance: Instance, old: State) -> None:
            if pending == [instance.state]:
                pending.clear()
                raise RuntimeError("a bug")

        w.fleet.on_change(broken_listener)
        a = await w.create("a", DUD if state in (BACKOFF, FAILED) else Life(), max_restarts=0 if state is FAILED else 3)
        a.want_up()
        await w.until(a, READY, FAILED)
        a.want_down(0)
        await w.until(a, FAILED)
        await turns(30)
        assert not pending
        return a

    return scenario


WAYS: list[tuple[Scenario, list[State]]] = [
    (started, [STOPPED, STARTING, READY]),
    (started_and_stopped, [STOPPED, STARTING, READY, STOPPING, STOPPED]),
    (stopped_while_it_starts, [STOPPED, STARTING, STOPPING, STOPPED]),
    (died_while_it_served, [STOPPED, STARTING, READY, BACKOFF, STARTING, READY]),
    (died_before_it_was_ready, [STOPPED, STARTING, BACKOFF, STARTING, READY]),
    (stopped_during_backoff, [STOPPED, STARTING, READY, BACKOFF, STOPPED]),
    (could_not_start, [STOPPED, STARTING, FAILED]),
    (died_and_is_not_to_be_restarted, [STOPPED, STARTING, READY, BACKOFF, FAILED]),
    (failed_and_started_again, [STOPPED, STARTING, FAILED, STARTING, READY]),
    (failed_and_stopped, [STOPPED, STARTING, FAILED]),
    (restarted, [STOPPED, STARTING, READY, STOPPING, STOPPED, STARTING, READY]),
    (a_bug_on_reaching(STARTING), [STOPPED, STARTING, FAILED]),
    (a_bug_on_reaching(READY), [STOPPED, STARTING, READY, FAILED]),
    (a_bug_on_reaching(BACKOFF), [STOPPED, STARTING, BACKOFF, FAILED]),
    (a_bug_on_reaching(STOPPING), [STOPPED, STARTING, READY, STOPPING, FAILED]),
    (a_bug_on_reaching(STOPPED), [STOPPED, STARTING, READY, STOPPING, STOPPED, FAILED]),
    (a_bug_on_reaching(FAILED), [STOPPED, STARTING, FAILED]),
]


def way_of(scenario: Scenario) -> list[State]:
    async def walk() -> list[State]:
        async with world() as w:
            return w.path(await scenario(w))

    return run(walk())


@pytest.mark.parametrize(("scenario", "way"), WAYS)
def test_an_instance_goes_its_way_and_each_step_is_published(scenario: Scenario, way: list[State]) -> None:
    assert way_of(scenario) == way


def test_every_edge_of_the_machine_is_gone_in_some_scenario_and_no_other() -> None:
    seen = {edge for _, way in WAYS for edge in pairwise(way)}
    assert seen == {(old, new) for old, news in EDGES.items() for new in news}


@pytest.mark.parametrize("old", State)
@pytest.mark.parametrize("new", State)
@in_virtual_time
async def test_a_step_that_is_no_edge_is_refused(old: State, new: State) -> None:
    async with world() as w:
        a = await w.create("a")
        a.state = old
        if new in EDGES[old]:
            a._become(new)
            assert w.path(a) == [old, new]
        else:
            with pytest.raises(AssertionError, match=f"{old} -> {new}"):
                a._become(new)
            assert (a.state, w.changes) == (old, [])
        a.state = STOPPED
        a._at_rest.set(True)
        w.changes.clear()
        w.faults.clear()


def test_every_state_has_a_public_word() -> None:
    assert {state: status_word(state) for state in State} == {
        STOPPED: "stopped",
        STARTING: "running",
        READY: "running",
        STOPPING: "shutting_down",
        BACKOFF: "restarting",
        FAILED: "failed",
    }


# ---- wishes


@in_virtual_time
async def test_starting_it_twice_starts_one_backend() -> None:
    async with world() as w:
        a = await w.create("a", Life(load=30))
        a.want_up()
        await asyncio.sleep(10)
        a.want_up()
        assert await w.until(a, READY) == 30
        a.want_up()
        await asyncio.sleep(600)
        assert w.launcher.launches == [("a", 0)]


@in_virtual_time
async def test_a_start_taken_back_in_the_same_turn_starts_nothing() -> None:
    async with world() as w:
        a = await w.create("a")
        a.want_up()
        a.want_down(0)
        await asyncio.sleep(60)
        assert (a.state, w.launcher.launches) == (STOPPED, [])


@in_virtual_time
async def test_a_stop_while_the_process_is_being_made_waits_for_it_and_ends_it() -> None:
    async with world() as w:
        a = await w.create("a", Life(takes=8))
        a.want_up()
        await asyncio.sleep(3)
        assert await stop(a) == 8
        assert w.launcher.of("a").gone_at == 8
        assert w.path(a) == [STOPPED, STARTING, STOPPING, STOPPED]


@in_virtual_time
async def test_a_stop_while_a_launch_fails_ends_stopped_and_not_failed() -> None:
    async with world() as w:
        a = await w.create("a", Life(takes=8, refusal=StartFailed("no such file")))
        a.want_up()
        await asyncio.sleep(3)
        await stop(a)
        assert a.state is STOPPED


@in_virtual_time
async def test_a_stop_ends_it_with_its_grace_and_forgets_what_it_was() -> None:
    async with world() as w:
        a = await w.create("a", Life(term=4, orphans=1), stop_timeout=10)
        await start(w, a)
        handle = w.launcher.of("a")
        assert (a.pid, a.port, a.running_options) == (handle.ticket.pid, handle.command.port, a.options)
        assert await stop(a) == 1 + 4 + 1
        assert handle.terms == [(10, 2)]  # llama-server needs a second SIGTERM after two seconds
        assert a.last_exit is not None
        assert a.last_exit.code == -15
        assert (a.pid, a.port, a.target, a.running_options) == (None, None, None, None)


@in_virtual_time
async def test_one_that_ignores_sigterm_is_killed_when_its_grace_is_over() -> None:
    async with world() as w:
        a = await w.create("a", Life(term=None), stop_timeout=7)
        await start(w, a)
        assert await stop(a) == 1 + 7
        assert a.last_exit is not None
        assert a.last_exit.code == -9


@in_virtual_time
async def test_a_stop_during_backoff_is_for_good() -> None:
    async with world() as w:
        a = await w.create("a", CRASH, restart_delay=60)
        await start(w, a)
        assert await w.until(a, BACKOFF) == 10
        await asyncio.sleep(59)
        assert await stop(a) == 69
        await asyncio.sleep(86400)
        assert (a.state, w.launcher.launches, a.restarts) == (STOPPED, [("a", 0)], 0)


@in_virtual_time
async def test_a_stop_in_the_very_turn_in_which_a_restart_is_due_wins() -> None:
    async with world() as w:
        a = await w.create("a", CRASH, restart_delay=60)
        await start(w, a)
        await w.until(a, BACKOFF)
        asyncio.get_running_loop().call_at(70, a.want_down, 0.0)
        await asyncio.sleep(3600)
        assert (a.state, w.launcher.launches) == (STOPPED, [("a", 0)])


@in_virtual_time
async def test_one_that_is_wanted_again_while_it_stops_starts_when_the_old_one_is_gone() -> None:
    async with world() as w:
        a = await w.create("a", Life(term=4, orphans=2))
        await start(w, a)
        a.want_down(0)
        await asyncio.sleep(3)
        assert a.state is STOPPING
        a.want_up()
        assert await w.until(a, READY) == 1 + 4 + 2 + 1
        assert w.path(a) == [STOPPED, STARTING, READY, STOPPING, STOPPED, STARTING, READY]


@in_virtual_time
async def test_a_restart_runs_the_newest_options_and_until_then_the_old_ones_hold() -> None:
    async with world() as w:
        a = await w.create("a", backend_options={"ctx_size": 1024})
        await start(w, a)
        old = a.options
        await w.fleet.change("a", {"backend_type": "llama_cpp", "backend_options": {"ctx_size": 2048}})
        assert (a.running_options, a.state) == (old, READY)
        await w.fleet.change("a", {**a.options.whole(), "command_override": list(old.command_override or ())})
        a.want_restart(0)
        await w.until(a, STARTING)
        await w.until(a, READY)
        assert a.running_options is a.options
        words = [handle.command.argv for handle in w.launcher.handles]
        assert ["1024" in words[0], "2048" in words[0]] == [True, False]
        assert ["1024" in words[1], "2048" in words[1]] == [False, True]


@in_virtual_time
async def test_a_restart_while_it_starts_starts_it_anew() -> None:
    async with world() as w:
        a = await w.create("a", Life(load=30))
        a.want_up()
        await asyncio.sleep(5)
        a.want_restart(0)
        assert await w.until(a, READY) == 6
        assert w.launcher.moments("a") == [0, 5]


@in_virtual_time
async def test_a_restart_during_backoff_does_not_wait_for_its_end() -> None:
    async with world() as w:
        a = await w.create("a", CRASH, restart_delay=60)
        await start(w, a)
        await w.until(a, BACKOFF)
        await asyncio.sleep(5)
        a.want_restart(0)
        assert await w.until(a, READY) == 10 + 5 + 1
        assert a.restarts == 0  # nobody's automatic one


@in_virtual_time
async def test_a_restart_wished_while_a_last_attempt_is_being_buried_is_not_lost() -> None:
    async with world() as w:
        a = await w.create("a", Life(load=None, orphans=5), start_timeout=30)
        a.want_up()
        await asyncio.sleep(32)
        a.want_restart(0)
        assert await w.until(a, READY, FAILED) == 30 + 5 + 1
        assert a.state is READY


@in_virtual_time
async def test_a_second_restart_in_the_same_turn_is_one_restart() -> None:
    async with world() as w:
        a = await w.create("a")
        await start(w, a)
        a.want_restart(0)
        a.want_restart(0)
        await asyncio.sleep(60)
        assert (a.state, w.launcher.moments("a")) == (READY, [0, 1])


# ---- draining


@in_virtual_time
async def test_a_stop_waits_for_the_requests_in_flight() -> None:
    async with world(drain_timeout=30) as w, asyncio.TaskGroup() as clients:
        a = await w.create("a")
        await start(w, a)
        clients.create_task(w.use(a, seconds=20))
        await asyncio.sleep(5)
        assert await stop(a, drain=30) == 1 + 20


@in_virtual_time
async def test_a_stop_goes_on_when_the_drain_deadline_passes() -> None:
    async with world(drain_timeout=30) as w, asyncio.TaskGroup() as clients:
        a = await w.create("a")
        await start(w, a)
        clients.create_task(w.use(a, seconds=3600))
        await asyncio.sleep(5)
        assert await stop(a, drain=30) == 1 + 5 + 30
        assert a.leases.value == 1


@in_virtual_time
async def test_a_restart_drains_too() -> None:
    async with world(drain_timeout=30) as w, asyncio.TaskGroup() as clients:
        a = await w.create("a")
        await start(w, a)
        clients.create_task(w.use(a, seconds=20))
        await asyncio.sleep(5)
        a.want_restart(30)
        assert await w.until(a, STARTING) == 1 + 20


@in_virtual_time
async def test_a_shorter_deadline_counts_for_a_drain_that_has_begun() -> None:
    """A person stops it with half a minute for its requests; then the daemon is asked to end within ten seconds."""
    async with world(drain_timeout=30) as w, asyncio.TaskGroup() as clients:
        a = await w.create("a")
        await start(w, a)
        clients.create_task(w.use(a, seconds=3600))
        await asyncio.sleep(5)
        a.want_down(30)
        await asyncio.sleep(2)
        w.drain = 2 + 10
        assert await stop(a, drain=10) == 1 + 5 + 2 + 10


@in_virtual_time
async def test_a_second_stop_does_not_lengthen_a_drain() -> None:
    async with world(drain_timeout=30) as w, asyncio.TaskGroup() as clients:
        a = await w.create("a")
        await start(w, a)
        clients.create_task(w.use(a, seconds=3600))
        await asyncio.sleep(5)
        a.want_down(30)
        await asyncio.sleep(20)
        a.want_down(60)
        assert await stop(a, drain=300) == 1 + 5 + 30


@in_virtual_time
async def test_hurry_ends_drain_and_grace_at_once() -> None:
    async with world() as w, asyncio.TaskGroup() as clients:
        w.drain = 0
        a = await w.create("draining", Life(term=None))
        b = await w.create("in-its-grace", Life(term=None))
        for instance in (a, b):
            await start(w, instance)
        clients.create_task(w.use(a, seconds=3600))
        await asyncio.sleep(1)
        for instance in (a, b):
            instance.want_down(300)
        await asyncio.sleep(1)
        assert [a.state, b.state] == [STOPPING, STOPPING]
        before = now()
        for instance in (a, b):
            instance.hurry()
            await instance.down()
        assert now() == before
        assert [w.launcher.of(i.name).terms for i in (a, b)] == [[(0, 2)], [(10, 2)]]


# ---- deaths


@in_virtual_time
async def test_a_crash_withdraws_the_target_at_once_and_starts_nothing_before_the_whole_tree_is_gone() -> None:
    async with world() as w:
        a = await w.create("a", Life(load=1, lives=10, orphans=3), Life(load=2))
        await start(w, a)
        assert await w.until(a, BACKOFF) == 10
        assert not w.changes[-1].has_target
        assert a.target is None
        assert await w.until(a, READY) == 10 + 3 + 1 + 2
        first, second = w.launcher.handles
        assert (first.gone_at, second.launched_at) == (13, 14)
        assert first.terms == [(0, None)]
        assert a.restarts == 1


@in_virtual_time
async def test_restarts_come_after_delays_that_double() -> None:
    async with world() as w:
        a = await w.create("a", CRASH, CRASH, CRASH, restart_delay=1)
        await start(w, a)
        await asyncio.sleep(600)
        assert w.launcher.moments("a") == [0, 10 + 1, 21 + 2, 33 + 4]
        assert (a.state, a.restarts) == (READY, 3)


@in_virtual_time
async def test_delays_stop_growing_at_the_longest() -> None:
    async with world(max_restart_delay=3) as w:
        a = await w.create("a", *[CRASH] * 5, restart_delay=1, max_restarts=9)
        await start(w, a)
        await asyncio.sleep(600)
        assert w.launcher.moments("a") == [0, 11, 23, 36, 49, 62]


@in_virtual_time
async def test_too_many_deaths_within_the_window_are_a_failure_with_its_reason() -> None:
    async with world() as w:
        a = await w.create("a", *[Life(load=1, lives=10, last_lines=("loading", "CUDA error: out of memory"))] * 4)
        await start(w, a)
        assert await w.until(a, FAILED) == 10 + (1 + 10) + (2 + 10) + (4 + 10)
        assert a.reason.endswith(
            "exited with code 1 while it was serving: CUDA error: out of memory; it died 4 times within 10m (max_restarts is 3)"
        )
        assert not a.is_wanted
        await asyncio.sleep(86400)
        assert len(w.launcher.launches) == 4


@in_virtual_time
async def test_deaths_before_it_was_ready_count_like_any_other() -> None:
    async with world() as w:
        a = await w.create("a", *[DUD] * 4)
        a.want_up()
        assert await w.until(a, FAILED) == 2 + (1 + 2) + (2 + 2) + (4 + 2)
        assert "before it was ready" in a.reason


@in_virtual_time
async def test_deaths_outside_the_window_do_not_count() -> None:
    async with world(restart_window=60) as w:
        a = await w.create("a", *[Life(load=1, lives=100)] * 6, max_restarts=1)
        await start(w, a)
        await asyncio.sleep(1000)
        assert w.launcher.moments("a") == [0, 101, 202, 303, 404, 505, 606]
        assert a.state is READY


@in_virtual_time
async def test_a_restart_by_a_person_forgets_the_deaths_before_it() -> None:
    async with world() as w:
        a = await w.create("a", CRASH, Life(load=1), CRASH, max_restarts=1)
        await start(w, a)
        await w.until(a, BACKOFF)
        await w.until(a, READY)
        a.want_restart(0)
        await w.until(a, STOPPING)
        await w.until(a, READY)
        await w.until(a, BACKOFF, FAILED)
        assert await w.until(a, READY, FAILED)
        assert a.state is READY


@pytest.mark.parametrize(("code", "words"), [(0, "exited with code 0"), (7, "exited with code 7"), (-9, "was ended by signal 9")])
@in_virtual_time
async def test_any_end_that_nobody_asked_for_is_a_death(code: int, words: str) -> None:
    async with world() as w:
        a = await w.create("a", Life(load=1, lives=10, code=code))
        await start(w, a)
        await w.until(a, BACKOFF)
        await turns()
        assert f"{words} while it was serving" in a.reason
        assert a.last_exit is not None
        assert a.last_exit.code == code
        assert await w.until(a, READY) == 10 + 1 + 1


@in_virtual_time
async def test_one_that_becomes_ready_in_the_turn_in_which_it_dies_is_dead() -> None:
    async with world() as w:
        a = await w.create("a", Life(load=5, lives=5))
        await start(w, a)
        assert w.path(a) == [STOPPED, STARTING, BACKOFF, STARTING, READY]


@in_virtual_time
async def test_one_that_dies_in_the_turn_in_which_it_is_stopped_stays_stopped() -> None:
    async with world() as w:
        a = await w.create("a", CRASH)
        await start(w, a)
        asyncio.get_running_loop().call_at(10, a.want_down, 0.0)
        await asyncio.sleep(3600)
        assert (a.state, w.launcher.launches) == (STOPPED, [("a", 0)])


@pytest.mark.parametrize("limits", [{"auto_restart": False}, {"max_restarts": 0}])
@in_virtual_time
async def test_one_that_is_not_to_be_restarted_has_failed_at_its_first_death(limits: dict[str, object]) -> None:
    async with world() as w:
        a = await w.create("a", CRASH, **limits)
        await start(w, a)
        assert await w.until(a, FAILED) == 10
        assert next(iter(limits)) in a.reason


@in_virtual_time
async def test_one_that_is_not_ready_in_time_is_ended_and_not_tried_again() -> None:
    async with world() as w:
        a = await w.create("a", Life(load=None, term=None, orphans=2), start_timeout=45)
        a.want_up()
        assert await w.until(a, FAILED) == 45 + 2
        assert a.reason.endswith("was not ready within 45s (start_timeout)")
        assert w.launcher.launches == [("a", 0)]


# ---- ports


@in_virtual_time
async def test_a_stolen_port_is_tried_again_elsewhere_and_is_no_death() -> None:
    async with world() as w:
        a = await w.create("a", STRANGER, STRANGER, max_restarts=0)
        assert await start(w, a) == 1
        assert w.path(a) == [STOPPED, STARTING, READY]
        assert len({handle.command.port for handle in w.launcher.handles}) == 3
        assert (a.restarts, len(w.tickets.rows)) == (0, 1)


@in_virtual_time
async def test_one_that_exits_because_its_port_was_taken_gets_another() -> None:
    async with world() as w:
        a = await w.create("a", Life(load=None), max_restarts=0)
        a.want_up()
        await turns()
        handle = w.launcher.of("a")
        with socket.create_server(("127.0.0.1", handle.command.port)):
            handle.die(1)
            await w.until(a, READY, FAILED)
        assert w.path(a) == [STOPPED, STARTING, READY]
        assert w.launcher.of("a").command.port != handle.command.port


@in_virtual_time
async def test_the_third_theft_in_a_row_is_a_death() -> None:
    async with world() as w:
        a = await w.create("a", STRANGER, STRANGER, STRANGER)
        assert await start(w, a) == 1 + 1
        assert w.path(a) == [STOPPED, STARTING, BACKOFF, STARTING, READY]
        assert (w.launcher.moments("a"), a.restarts) == ([0, 0, 0, 1], 1)
        assert "another process listens on port" in w.changes[1].reason


@in_virtual_time
async def test_thefts_of_long_ago_do_not_count() -> None:
    async with world() as w:
        a = await w.create("a", STRANGER, CRASH, STRANGER, STRANGER, Life(load=1))
        await start(w, a)
        await w.until(a, BACKOFF)
        await w.until(a, READY)
        assert w.path(a) == [STOPPED, STARTING, READY, BACKOFF, STARTING, READY]


@in_virtual_time
async def test_a_stop_between_two_ports_ends_stopped() -> None:
    async with world() as w:
        a = await w.create("a", Life(listens=Listening.STRANGER, orphans=5))
        a.want_up()
        await asyncio.sleep(1)
        assert await stop(a) == 5
        assert (a.state, w.launcher.launches) == (STOPPED, [("a", 0)])


# ---- launches that fail


@pytest.mark.parametrize(
    ("life", "options", "reason"),
    [
        (Life(refusal=StartFailed("its log cannot be written")), {}, "its log cannot be written"),
        (Life(exec_error=StartFailed("Exec format error")), {}, "Exec format error"),
        (Life(), {"command_override": "no-such-program"}, "'no-such-program' is not an executable file"),
        (Life(), {"backend_options": {"model": "/no/such.gguf"}}, "model '/no/such.gguf' does not exist"),
    ],
)
@in_virtual_time
async def test_what_cannot_be_started_has_failed_at_once_and_leaves_nothing(
    life: Life, options: dict[str, object], reason: str
) -> None:
    async with world() as w:
        a = await w.create("a", life, **options)
        a.want_up()
        await w.until(a, FAILED)
        assert reason in a.reason
        assert (now(), w.ports._held, w.tickets.rows) == (0, set(), {})
        await asyncio.sleep(3600)
        assert len(w.launcher.launches) <= 1


@in_virtual_time
async def test_no_free_port_is_a_failed_start() -> None:
    async with world(port_range=(22990, 22990)) as w:
        a, b = await w.create("a"), await w.create("b")
        await start(w, a)
        b.want_up()
        await w.until(b, FAILED)
        assert "no free port between 22990 and 22990" in b.reason
        await stop(a)
        assert await start(w, b)


@in_virtual_time
async def test_a_ticket_that_cannot_be_written_delays_the_start_and_says_why() -> None:
    async with world() as w:
        a = await w.create("a")
        w.tickets.add_error = StorageFailed("disk full")
        a.want_up()
        await w.until(a, BACKOFF)
        assert (a.reason, w.ports._held, w.launcher.handles) == ("disk full", set(), [])
        w.tickets.add_error = None
        assert await w.until(a, READY) == 1 + 1


@in_virtual_time
async def test_a_ticket_that_cannot_be_removed_does_not_hold_up_a_stop() -> None:
    async with world() as w:
        a = await w.create("a")
        await start(w, a)
        w.tickets.error = StorageFailed("disk full")
        assert await stop(a) == 1
        w.tickets.rows.clear()


# ---- our own bugs


@pytest.mark.parametrize(
    "life",
    [
        Life(refusal=RuntimeError("a bug")),
        Life(load=1, lives=1, stop_errors=(RuntimeError("a bug"),)),
        Life(load=1, lives=3, stop_errors=(RuntimeError("a bug"),)),
    ],
)
@in_virtual_time
async def test_a_bug_in_one_owner_fails_its_instance_and_touches_no_other(life: Life) -> None:
    async with world() as w:
        w.has_bugs = True
        a, b, c = await w.create("a"), await w.create("b", life), await w.create("c")
        for instance in (a, b, c):
            instance.want_up()
        await w.until(b, FAILED)
        assert b.reason == "internal error, please report it: RuntimeError: a bug"
        await w.until(a, READY)
        await w.until(c, READY)
        await stop(a)
        assert await start(w, b)
        assert await start(w, a)
        await stop(b)


@in_virtual_time
async def test_a_bug_in_a_stop_fails_the_instance_and_lets_nobody_wait() -> None:
    async with world() as w:
        w.has_bugs = True
        a = await w.create("a", Life(stop_errors=(RuntimeError("a bug"),), orphans=3))
        await start(w, a)
        assert await stop(a) == 1 + 3
        assert (a.state, w.launcher.of("a").gone_at) == (FAILED, 4)


@in_virtual_time
async def test_a_tree_that_cannot_be_ended_yet_is_not_called_gone() -> None:
    async with world() as w:
        w.has_bugs = True
        full = OSError(24, "Too many open files")
        a = await w.create("a", Life(stop_errors=(full, full, full)))
        await start(w, a)
        assert await stop(a) == 1 + 2
        assert a.state is FAILED


@in_virtual_time
async def test_an_owner_that_is_cancelled_kills_its_backend() -> None:
    async with world() as w:
        w.is_torn_down = True
        a = await w.create("a")
        await start(w, a)
        w.fleet._owners[a].cancel()
        await turns()
        assert (w.launcher.killed, w.launcher.trees, w.ports._held) == (["a"], [], set())
        a.state, a.target = STOPPED, None
        a._at_rest.set(True)


# ---- last words


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        ([], ""),
        (["", "  "], ""),
        (["loading", "bye"], "bye"),
        (["error: invalid magic", "failed to load model", "exiting"], "error: invalid magic"),
        (["x" * 400], "x" * 300),
        (
            ["usage: x [-h] [--error-log]", "         [--log-level {DEBUG,ERROR}]", "x: error: unrecognized arguments: --y"],
            "x: error: unrecognized arguments: --y",
        ),
        (["x: ValidationError: 1 validation error for Y", "  Value error, too long"], "Value error, too long"),
        (
            ['  File "x/errors.py", line 3, in f', '    raise ValueError(f"failed {why}")', "ValueError: failed to load"],
            "ValueError: failed to load",
        ),
        (["[error] in brackets"], "[error] in brackets"),
        (["\x1b[31mfatal error\x07"], " [31mfatal error "),
    ],
)
def test_the_line_that_says_most_is_told(lines: list[str], line: str) -> None:
    assert telling_line(lines) == line


def test_at_rest_are_the_states_without_a_process() -> None:
    assert {STOPPED, FAILED} == AT_REST
