"""Hands out leases on ready instances, and sees to it that instances start, leave and idle out as the plan says.

All capacity changes inside the synchronous `_assign`, which runs again after every change of any kind; no decision is kept
across an `await`, so there is no lock and nothing to get out of step. See design.md.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cached_property

from msgspec import Struct, field

from llamactl_py.config.settings import Instances
from llamactl_py.ground.durations import show
from llamactl_py.ground.errors import (
    Conflict,
    LlamactlError,
    NoRoom,
    NotFound,
    NotRunning,
    ShuttingDown,
    StartFailed,
    TimedOut,
    WasStopped,
)
from llamactl_py.ground.waiting import within
from llamactl_py.instances.fleet import Fleet
from llamactl_py.instances.instance import Instance
from llamactl_py.instances.state import AT_REST, State
from llamactl_py.instances.target import Target
from llamactl_py.scheduler.plan import Evict, Seat, Start, Wait, idle_for_too_long, next_idle_moment, plan


class Claim(Struct, eq=False):
    """Somebody waits: for a lease, or (*only_start*) for the start to have begun. It is in the queue until it is answered."""

    instance: Instance
    only_start: bool = False
    may_evict: bool = True
    answer: asyncio.Future[Target | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    waits_for: str = "its turn"

    def grant(self, target: Target | None) -> None:
        if not self.answer.done():
            self.answer.set_result(target)

    def refuse(self, error: LlamactlError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Dispatcher:
    """Its state is the queue of claims, and the lease counts that it keeps on the instances."""

    def __init__(self, fleet: Fleet, limits: Instances) -> None:
        self._fleet = fleet
        self._limits = limits
        self._claims: list[Claim] = []
        self._retiring: Counter[Instance] = Counter()
        self._closed = False
        self._changed = asyncio.Event()
        self._wakes_at = 0.0
        fleet.on_change(self._instance_changed)
        fleet.on_reshape(self._changed.set)  # another idle_timeout means another moment to wake

    def __repr__(self) -> str:
        waiting = [f"{claim.instance.name} ({claim.waits_for})" for claim in self._claims]
        return f"<Dispatcher {[instance for instance in self._fleet if instance.state not in AT_REST]} waiting={waiting}>"

    # -- for requests -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def lease(
        self, instance: Instance, *, may_start: bool = True, may_evict: bool = True, counts_as_use: bool = True
    ) -> AsyncIterator[Target]:
        """Hold *instance* ready for the length of the block; it is started for it where *may_start* and its options allow, and
        with *may_evict* an idle one is stopped for it where room is needed.

        Leaving early by cancellation, queued or granted, gives back what was held. Raises NotRunning, StartFailed, NoRoom,
        TimedOut, WasStopped, ShuttingDown.
        """
        may_start = may_start and instance.options.on_demand_start
        target = self.grant(instance) or await self._queue_for(instance, may_start, may_evict)
        try:
            yield target
        finally:
            self.give_back(instance, counts_as_use)

    def grant(self, instance: Instance) -> Target | None:
        """A lease, if the instance is ready and is to stay; whoever gets one must `give_back`. For those who cannot wait."""
        if not instance.is_here_to_stay or instance.target is None:
            return None
        instance.leases.set(instance.leases.value + 1)
        return instance.target

    def give_back(self, instance: Instance, counts_as_use: bool) -> None:
        """The lease has ended."""
        instance.leases.set(instance.leases.value - 1)
        if counts_as_use:
            instance.last_used = self._time()
        if self._claims:
            self._assign()
        idle_timeout = (instance.running_options or instance.options).idle_timeout
        if idle_timeout and instance.last_used + idle_timeout < self._wakes_at:
            self._changed.set()

    async def _queue_for(self, instance: Instance, may_start: bool, may_evict: bool) -> Target:
        if not may_start and not instance.is_wanted:
            raise NotRunning(
                f"instance {instance.name!r} is {instance.state.value} and is not started by this request; start it first"
            )
        if len(self._claims) >= self._limits.max_queued_requests:
            raise _after(1.0, NoRoom(f"{len(self._claims)} requests are waiting already (max_queued_requests)"))
        target = await self._wait(Claim(instance, may_evict=may_evict))
        assert target is not None
        return target

    async def _wait(self, claim: Claim) -> Target | None:
        """Queue *claim* until it is answered, its deadline passes, or its owner leaves."""
        if self._closed:
            raise ShuttingDown("llamactl is shutting down")
        if claim.instance in self._retiring:
            raise NotFound(f"instance {claim.instance.name!r} is being deleted")
        if claim.instance not in self._fleet:
            raise NotFound(f"instance {claim.instance.name!r} was deleted")
        insort(self._claims, claim, key=_yields)
        self._assign()
        try:
            async with asyncio.timeout(self._limits.on_demand_start_timeout):
                return await claim.answer
        except TimeoutError:
            self._withdraw(claim)
            raise self._too_late(claim) from None
        except BaseException:
            self._withdraw(claim)
            raise

    def _withdraw(self, claim: Claim) -> None:
        """Take a claim back, whatever became of it. One that was granted in the very turn in which its owner left holds a
        lease that nobody will use: that is given back too."""
        if claim in self._claims:
            self._claims.remove(claim)
        elif not claim.answer.cancelled() and not claim.answer.exception() and not claim.only_start:
            self.give_back(claim.instance, counts_as_use=False)
        self._assign()

    def _too_late(self, claim: Claim) -> LlamactlError:
        limit = f"{show(self._limits.on_demand_start_timeout)} (on_demand_start_timeout)"
        waited = f"instance {claim.instance.name!r}: the request waited {limit}"
        if claim.instance.state in AT_REST:
            return _after(5.0, NoRoom(f"{waited} for room: {claim.waits_for}"))
        return _after(
            5.0, TimedOut(f"{waited} and the instance is still {claim.instance.state.value}; it goes on, try again later")
        )

    # -- for people -------------------------------------------------------------------------------------------------------

    async def start(self, instance: Instance) -> None:
        """Have it started as soon as there is room; returns when the start has begun. Raises NoRoom at once when every slot
        is busy, pinned or loading: a person decides better than a queue what to do then."""
        await self._wait(Claim(instance, only_start=True))
        await instance.begun()

    async def stop(self, instance: Instance) -> None:
        """Stop it, requests in flight first having time to finish; returns when no process of it is left."""
        self._refuse_waiting(instance, WasStopped(f"instance {instance.name!r} was stopped while the request waited for it"))
        instance.want_down(self._limits.drain_timeout)
        self._assign()
        await instance.down()

    async def restart(self, instance: Instance) -> None:
        """Stop and start it again, with its newest options; one that is at rest is simply started."""
        if instance.is_wanted:
            instance.want_restart(self._limits.drain_timeout)
        else:
            await self.start(instance)

    @asynccontextmanager
    async def retiring(self, instance: Instance, *, force: bool) -> AsyncIterator[None]:
        """For the length of the block nobody can claim *instance*, so that it can be deleted; with *force* it is stopped first.

        Raises Conflict when it is up and *force* is not given.
        """
        if not force and (instance.state not in AT_REST or instance.is_wanted):
            raise Conflict(f"instance {instance.name!r} is {instance.state.value}; stop it first, or delete it with force")
        self._retiring[instance] += 1  # several may delete it at once, and the first may leave before it is done
        try:
            await self.stop(instance)
            yield
        finally:
            self._retiring[instance] -= 1
            self._retiring = +self._retiring

    # -- the life of the daemon -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Stop idle instances when their time has come; until cancelled."""
        while True:
            self._changed.clear()
            self._assign()
            now = self._time()
            self._wakes_at = max(now, next_idle_moment(self._seats()) or now + 3600.0)
            await within(self._wakes_at - now, self._changed.wait())

    def use(self, limits: Instances) -> None:
        """From now on go by these limits; who waits may have room now."""
        self._limits = limits
        self._assign()
        self._changed.set()

    async def close(self, drain: float) -> None:
        """Refuse whoever waits and whoever comes, and stop every instance, all at once; returns when they are down."""
        self._closed = True
        for claim in self._claims:
            claim.refuse(ShuttingDown("llamactl is shutting down"))
        up = list(self._fleet)  # some may be created or deleted while we wait; nobody can start them any more
        for instance in up:
            instance.want_down(drain)
        for instance in up:
            await instance.down()

    # -- the rules --------------------------------------------------------------------------------------------------------

    def _assign(self) -> None:
        """Answer every claim that can be answered now, and set the wishes of instances as the plan says.

        For each claim, one of three cases: its instance can take it; there is room, so the instance is wanted up; an idle
        one can leave, so that one is wanted down first. Otherwise the claim waits.
        """
        verdicts: dict[tuple[str, bool], Wait] = {}  # one for all of a kind, until one is acted on: the queue may be long
        for claim in list(self._claims):
            instance = claim.instance
            if claim.answer.done():
                self._claims.remove(claim)
            elif instance.state is State.FAILED and not claim.only_start and (left := instance.may_retry_at - self._time()) > 0:
                self._answer(claim, _after(left, StartFailed(f"instance {instance.name!r} has failed: {instance.reason}")))
            elif instance.state in AT_REST and not instance.is_wanted:
                group = instance.options.group if instance.options.group in self._limits.group_limits else ""
                kind = (group, claim.may_evict)
                if verdict := self._make_room(claim, verdicts.get(kind) or self._plan(*kind)):
                    verdicts[kind] = verdict
                else:
                    verdicts.clear()
            elif claim.only_start and instance.is_wanted:
                self._answer(claim, None)
            elif not claim.only_start and (target := self.grant(instance)):
                self._answer(claim, target)
            else:
                claim.waits_for = f"it is {instance.state.value}"
        for name in idle_for_too_long(self._seats(), self._time()):
            self._fleet.get(name).want_down(0.0)

    def _plan(self, group: str, may_evict: bool) -> Start | Evict | Wait:
        limits = self._limits
        of_group = limits.group_limits.get(group, -1)
        may_evict = may_evict and limits.enable_lru_eviction
        return plan(self._seats(), limits.max_running_instances, may_evict, group, of_group)

    def _make_room(self, claim: Claim, verdict: Start | Evict | Wait) -> Wait | None:
        """Act on *verdict* for one that is at rest, so has no seat itself; gives it back if it holds for the next one too."""
        match verdict:
            case Start():
                claim.instance.want_up()
                if claim.only_start:
                    self._answer(claim, None)
            case Evict(name):
                claim.waits_for = f"{name} is leaving for it"
                self._fleet.get(name).want_down(0.0)
            case Wait(why, is_coming):
                claim.waits_for = why
                if claim.only_start and not is_coming:
                    self._answer(claim, _after(5.0, NoRoom(f"instance {claim.instance.name!r} cannot start: {why}")))
                return verdict
        return None

    def _answer(self, claim: Claim, answer: Target | LlamactlError | None) -> None:
        self._claims.remove(claim)
        if isinstance(answer, LlamactlError):
            claim.refuse(answer)
        else:
            claim.grant(answer)

    def _instance_changed(self, instance: Instance, old: State) -> None:
        """Called by an owner after each change of state. A start that failed is told to all who waited for it, at once: they
        need not sit through the restarts, which go on for those who come later. Those who came after it was stopped did not
        wait for that start, but for the next one."""
        if instance.state is State.FAILED or (instance.state is State.BACKOFF and old is State.STARTING and instance.is_wanted):
            self._refuse_waiting(instance, StartFailed(f"instance {instance.name!r}: {instance.reason}"))
        self._assign()
        self._changed.set()

    def _refuse_waiting(self, instance: Instance, error: LlamactlError) -> None:
        for claim in [claim for claim in self._claims if claim.instance is instance]:
            self._answer(claim, error)

    def _seats(self) -> list[Seat]:
        """Every instance that holds a running slot: one that is up, or is wanted up and about to be."""
        waiting: dict[str, int] = {}
        for claim in self._claims:
            waiting[claim.instance.name] = waiting.get(claim.instance.name, 0) + 1
        return [
            _seat(instance, waiting.get(instance.name, 0))
            for instance in self._fleet.awake()
            if instance.state not in AT_REST or instance.is_wanted
        ]

    @cached_property
    def _time(self) -> Callable[[], float]:
        """The loop's clock. Asked for once: to find the running loop costs as much as to route a request."""
        return asyncio.get_running_loop().time


def _seat(instance: Instance, waiting: int) -> Seat:
    options = instance.running_options or instance.options
    # One that is to end, for ever or for a restart, is as good as stopping, though its owner may not have acted yet.
    is_ending = instance.state is State.READY and not instance.is_here_to_stay
    return Seat(
        instance.name,
        State.STOPPING if is_ending else instance.state,
        instance.is_wanted,
        instance.leases.value,
        waiting,
        instance.last_used,
        options.idle_timeout,
        options.group,
    )


def _yields(claim: Claim) -> bool:
    """Who may not evict stands behind all who may: a place that was made for one of them is not for the taking."""
    return not claim.may_evict


def _after(seconds: float, error: LlamactlError) -> LlamactlError:
    error.retry_after = seconds
    return error
