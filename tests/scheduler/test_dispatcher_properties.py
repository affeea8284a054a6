"""The dispatcher under random schedules, in virtual time: whatever happens, the invariants hold and everybody gets an answer.

A schedule is a list of things that clients, people and backends do at whole seconds, some of them a few turns of the loop
later, so that much of it falls together. What must hold at every moment is watched by the world itself (see
`tests/support/fakes.py`): never two trees of one instance, never a process behind one that is called stopped, no leased
instance cut before its time; and when a world is left, no claim, lease, port, ticket, process or task. A schedule that
fails is printed, made as small as it gets.

`seed`: the order in which callbacks of one turn run. None is asyncio's own order.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from llamactl_py.ground.errors import (
    Conflict,
    LlamactlError,
    NameTaken,
    NoRoom,
    NotFound,
    NotRunning,
    StartFailed,
    StorageFailed,
    TimedOut,
    WasStopped,
)
from llamactl_py.instances.state import AT_REST, State
from llamactl_py.launchers.base import Listening
from tests.support.fakes import Life, World, outcome, raw_options, world
from tests.support.virtual import now, run, turns

EXAMPLES = int(os.environ.get("LLAMACTL_TEST_EXAMPLES", "200"))
NAMES = "abcd"


@dataclass(frozen=True)
class Moment:
    """A whole second, and so many turns of the loop later."""

    second: int
    turn: int = 0

    async def come(self) -> None:
        await asyncio.sleep(self.second - now())
        await turns(self.turn)


seconds = st.integers(0, 12)
moments = st.builds(Moment, st.integers(0, 40), st.just(0) | st.integers(0, 12))
names = st.sampled_from(NAMES)
seeds = st.none() | st.integers(0, 1 << 16)
limits = st.integers(1, 3)
mostly = st.integers(0, 9).map(lambda n: n < 9)
"""Nearly always true."""


def some(strategy: st.SearchStrategy[Any], largest: int) -> st.SearchStrategy[list[Any]]:
    """Short ones too, and many long ones."""
    return st.lists(strategy, max_size=largest) | st.lists(strategy, min_size=largest // 2, max_size=largest)


# ---- nothing goes wrong: then everybody is served


@dataclass(frozen=True)
class Request:
    at: Moment
    name: str
    hold: int
    leaves: Moment | None = None
    """So long after it came, whether it was served or not."""
    counts_as_use: bool = True
    may_start: bool = True
    may_evict: bool = True

    async def make(self, w: World) -> float | None:
        instance = w.fleet.get(self.name)
        how = {"counts_as_use": self.counts_as_use, "may_start": self.may_start, "may_evict": self.may_evict}
        request = asyncio.ensure_future(w.use(instance, seconds=self.hold, **how))
        if self.leaves:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.leaves.second):
                    await asyncio.wait([request])
            await turns(self.leaves.turn)
            request.cancel()
            await asyncio.wait([request])
        return None if request.cancelled() else await request


healthy = st.builds(Life, load=seconds, term=seconds, orphans=st.integers(0, 3), takes=st.integers(0, 3))


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    lives=st.fixed_dictionaries(dict.fromkeys(NAMES, healthy)),
    schedule=some(st.builds(Request, moments, names, seconds, may_evict=st.booleans()), 16),
    limit=limits,
    idle_timeout=st.sampled_from(["0.1m", "1m", "30m"]),
    seed=seeds,
)
def test_where_backends_are_healthy_every_request_is_served(
    lives: dict[str, Life], schedule: list[Request], limit: int, idle_timeout: str, seed: int | None
) -> None:
    async def scenario() -> None:
        async with world(max_running_instances=limit, on_demand_start_timeout="1d") as w:
            for name, life in lives.items():
                await w.create(name, *[life] * 99, idle_timeout=idle_timeout)
            granted = await asyncio.gather(*(served(w, request) for request in schedule))
            assert all(moment >= request.at.second for moment, request in zip(granted, schedule, strict=True))
            assert w.launcher.most <= limit
            assert {change.new for change in w.changes}.isdisjoint({State.BACKOFF, State.FAILED})
            asked = {request.name for request in schedule}
            assert {name for name, _ in w.launcher.launches} == asked

    run(scenario(), seed)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    lives=st.fixed_dictionaries(dict.fromkeys(NAMES, healthy)),
    groups=st.fixed_dictionaries(dict.fromkeys(NAMES, st.sampled_from(["", "g", "h", "free"]))),
    schedule=some(st.builds(Request, moments, names, seconds, may_evict=st.booleans()), 16),
    limit=st.sampled_from([-1, 2, 3]),
    seed=seeds,
)
def test_no_group_is_ever_above_its_limit_and_every_request_is_served(
    lives: dict[str, Life], groups: dict[str, str], schedule: list[Request], limit: int, seed: int | None
) -> None:
    most = {"g": 1, "h": 2}

    async def scenario() -> None:
        limits = {"max_running_instances": limit, "group_limits": most, "on_demand_start_timeout": "1d"}
        async with world(**limits) as w:
            for name, life in lives.items():
                await w.create(name, *[life] * 99, idle_timeout="1m", group=groups[name])
            await asyncio.gather(*(served(w, request) for request in schedule))
            assert limit < 0 or w.launcher.most <= limit
            for handle in w.launcher.handles:
                group = groups[handle.ticket.instance]
                there = [
                    other
                    for other in w.launcher.handles
                    if groups[other.ticket.instance] == group
                    and other.launched_at <= handle.launched_at
                    and (other.gone_at is None or other.gone_at > handle.launched_at)
                ]
                assert len(there) <= most.get(group, len(NAMES))

    run(scenario(), seed)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    lives=st.fixed_dictionaries(dict.fromkeys(NAMES, healthy)),
    schedule=some(st.builds(Request, moments, names, seconds, may_evict=st.just(False)), 16),
    limit=limits,
    seed=seeds,
)
def test_where_no_request_may_evict_nobody_leaves_before_its_idle_time(
    lives: dict[str, Life], schedule: list[Request], limit: int, seed: int | None
) -> None:
    async def scenario() -> None:
        async with world(max_running_instances=limit, on_demand_start_timeout="1d") as w:
            for name, life in lives.items():
                await w.create(name, *[life] * 99, idle_timeout="10m")
            await asyncio.gather(*(served(w, request) for request in schedule))
            for left in (change for change in w.changes if change.new is State.STOPPING):
                since = max(change.at for change in w.changes if (change.name, change.new) == (left.name, State.READY))
                assert left.at - since >= 600

    run(scenario(), seed)


async def served(w: World, request: Request) -> float:
    await request.at.come()
    moment = await request.make(w)
    assert moment is not None
    return moment


# ---- everything goes wrong


@dataclass(frozen=True)
class Start:
    at: Moment
    name: str

    async def make(self, w: World) -> None:
        await w.dispatcher.start(w.fleet.get(self.name))


@dataclass(frozen=True)
class Stop:
    at: Moment
    name: str

    async def make(self, w: World) -> None:
        await w.dispatcher.stop(w.fleet.get(self.name))


@dataclass(frozen=True)
class Restart:
    at: Moment
    name: str

    async def make(self, w: World) -> None:
        await w.dispatcher.restart(w.fleet.get(self.name))


@dataclass(frozen=True)
class Update:
    at: Moment
    name: str
    idle_timeout: str
    max_restarts: int

    async def make(self, w: World) -> None:
        await w.fleet.change(self.name, raw_options(idle_timeout=self.idle_timeout, max_restarts=self.max_restarts))


@dataclass(frozen=True)
class Delete:
    at: Moment
    name: str
    force: bool

    async def make(self, w: World) -> None:
        instance = w.fleet.get(self.name)
        async with w.dispatcher.retiring(instance, force=self.force):
            await w.fleet.delete(self.name)


@dataclass(frozen=True)
class Create:
    at: Moment
    name: str

    async def make(self, w: World) -> None:
        await w.fleet.create(self.name, raw_options(idle_timeout="0.2m"))


@dataclass(frozen=True)
class Crash:
    at: Moment
    name: str
    code: int

    async def make(self, w: World) -> None:
        for handle in w.launcher.trees:
            if handle.ticket.instance == self.name:
                handle.die(self.code)


@dataclass(frozen=True)
class DiskTrouble:
    """For some seconds nothing can be written. (Tickets can be removed: one that cannot be stays for the next sweep.)"""

    at: Moment
    lasts: int
    name: str = "the disk"

    async def make(self, w: World) -> None:
        w.tickets.add_error = w.store.error = StorageFailed("disk full")
        await asyncio.sleep(self.lasts)
        w.tickets.add_error = w.store.error = None


EXPECTED: dict[type, tuple[type[Exception], ...]] = {
    Request: (NoRoom, NotFound, NotRunning, StartFailed, TimedOut, WasStopped),
    Start: (NoRoom, NotFound, TimedOut, WasStopped),
    Stop: (NotFound,),
    Restart: (NoRoom, NotFound, TimedOut, WasStopped),
    Update: (NotFound, StorageFailed),
    Delete: (NotFound, Conflict, StorageFailed),
    Create: (NameTaken, StorageFailed),
    Crash: (),
    DiskTrouble: (),
}
"""How each may end, beside success."""

patience = st.none() | st.builds(Moment, st.integers(0, 20), st.integers(0, 12))
requests = st.builds(Request, moments, names, seconds, patience, st.booleans(), mostly, st.booleans())
troubles = st.one_of(
    st.builds(Crash, moments, names, st.sampled_from([0, 1, -9])),
    st.builds(Start, moments, names),
    st.builds(Stop, moments, names),
    st.builds(Restart, moments, names),
    st.builds(Update, moments, names, st.sampled_from(["0", "0.1m", "1m"]), st.integers(0, 3)),
    st.builds(Delete, moments, names, st.booleans()),
    st.builds(Create, moments, names),
    st.builds(DiskTrouble, moments, seconds),
)
quick = st.integers(0, 3)
mortal = st.one_of(
    st.builds(Life, load=quick, term=quick, orphans=quick),
    st.builds(Life, load=quick, term=quick, takes=quick),
    st.builds(Life, load=quick, lives=st.integers(0, 15), orphans=quick),
    st.builds(Life, load=st.none() | seconds, term=st.none() | seconds, takes=quick, orphans=quick),
    st.builds(Life, listens=st.just(Listening.STRANGER), orphans=quick),
    st.sampled_from([Life(refusal=StartFailed("no such file")), Life(exec_error=StartFailed("Exec format error"))]),
)
settings_of_the_world = st.fixed_dictionaries(
    {
        "max_running_instances": limits,
        "enable_lru_eviction": mostly,
        "on_demand_start_timeout": st.sampled_from([5, 20, 60]),
        "max_queued_requests": st.sampled_from([2, 1024]),
        "drain_timeout": st.sampled_from([5, 20]),
        "failed_cooldown": st.sampled_from([0, 10]),
        "restart_window": st.sampled_from([10, 600]),
    }
)
options_of_one = st.fixed_dictionaries(
    {
        "idle_timeout": st.sampled_from(["0", "0.1m", "0.2m", "30m"]),
        "restart_delay": st.integers(0, 5),
        "max_restarts": st.integers(0, 3),
        "start_timeout": st.sampled_from([3, 10]),
        "stop_timeout": st.sampled_from([0, 4, 20]),
        "on_demand_start": mostly,
    }
)


async def play(w: World, event: Any, ends: Callable[[Any, object], None]) -> None:
    await event.at.come()
    ends(event, await outcome(event.make(w)))


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    limits=settings_of_the_world,
    options=st.fixed_dictionaries(dict.fromkeys(NAMES, options_of_one)),
    lives=st.fixed_dictionaries(dict.fromkeys(NAMES, some(mortal, 4))),
    requests=some(requests, 20),
    troubles=some(troubles, 10),
    slowness=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    seed=seeds,
)
def test_whatever_happens_the_invariants_hold_and_everybody_gets_an_answer(
    limits: dict[str, Any],
    options: dict[str, dict[str, Any]],
    lives: dict[str, list[Life]],
    requests: list[Request],
    troubles: list[Any],
    slowness: tuple[int, int],
    seed: int | None,
) -> None:
    schedule = [*troubles, *requests]
    answers: list[tuple[Any, object]] = []

    async def scenario() -> None:
        async with world(**limits) as w:
            for name in NAMES:
                await w.create(name, *lives[name], **options[name])
            w.store.takes, w.tickets.takes = slowness
            async with asyncio.timeout(3600), asyncio.TaskGroup() as crowd:
                for event in schedule:
                    crowd.create_task(play(w, event, lambda *answer: answers.append(answer)))
            refuse_surprises(w, answers)
            assert w.launcher.most <= limits["max_running_instances"]
            assert len(answers) == len(schedule)
            await everything_settles(w)

    run(scenario(), seed)


def refuse_surprises(w: World, answers: list[tuple[Any, object]]) -> None:
    for event, answer in answers:
        if isinstance(answer, Exception):
            assert isinstance(answer, EXPECTED[type(event)]), (event, repr(answer))
            assert str(answer) or not isinstance(answer, LlamactlError)
    for change in w.changes:
        assert change.leases >= 0
        assert change.reason or change.new is not State.FAILED


async def everything_settles(w: World) -> None:
    """When nobody asks for anything any more, an instance is at rest, or ready for good because it is pinned."""
    await asyncio.sleep(4 * 3600)
    for instance in w.fleet:
        pinned = instance.running_options is not None and instance.running_options.idle_timeout == 0
        assert instance.state in AT_REST or (pinned and instance.state in (State.READY, State.BACKOFF, State.STARTING)), instance
        assert instance.leases.value == 0
    assert {instance.name for instance in w.fleet} == set(w.store.rows)
