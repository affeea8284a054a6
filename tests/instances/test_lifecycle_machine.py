"""Two instances and their dispatcher, driven step by step by a machine that looks for the order of steps that breaks them.

The random schedules of `tests/scheduler/test_dispatcher_properties.py` place things at moments. Here hypothesis also chooses
how many turns the loop makes after each step, so that a crash, a stop or a leaving client can fall between a wish and the
owner that reads it, or between a grant and the client that gets it. After every step the world is compared with a model
that knows no more than who holds a lease, and who waits. A failure is printed as the steps that lead to it.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llamactl_py.ground.errors import LlamactlError
from llamactl_py.instances.instance import Instance
from llamactl_py.instances.state import AT_REST, State
from tests.support.fakes import Life, World, outcome, raw_options, world
from tests.support.virtual import VirtualLoop, turns

names = st.sampled_from("ab")
which = st.integers(0, 7)
few = st.integers(0, 3)
pauses = st.tuples(st.just(0.0), st.integers(0, 8)) | st.tuples(st.sampled_from([1.0, 2.0, 5.0]), few)
"""What follows a step: so many seconds, then so many turns of the loop; 0 and 0 is nothing at all."""
Pause = tuple[float, int]
SETTLED = 40
"""Turns after which nothing happens any more unless time passes."""


class Client:
    """A request: it waits, then it holds a lease until it is told to end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, w: World, instance: Instance) -> None:
        self.instance = instance
        self.holds = False
        self.may_end = asyncio.Event()
        self.task = loop.create_task(self.run(w))

    async def run(self, w: World) -> None:
        try:
            async with w.lease(self.instance) as target:
                assert target.instance == self.instance.name
                self.holds = True
                await self.may_end.wait()
        except LlamactlError:
            pass  # it was refused, which is an answer
        finally:
            self.holds = False


class Lifecycle(RuleBasedStateMachine):
    """The world, and what we know of it."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        loop = self.loop
        self.runner = asyncio.Runner(loop_factory=lambda: loop)
        weakref.finalize(self, loop.close)  # a run that is given up before its first step is never torn down
        self.clients: list[Client] = []
        self.people: list[asyncio.Task[object]] = []

    @initialize(
        limit=st.integers(1, 2),
        drain=st.sampled_from([0, 20]),
        idle=st.sampled_from(["0", "0.1m", "1h"]),
        load=st.integers(0, 2),
        term=st.none() | few,
        orphans=few,
    )
    def begin(self, limit: int, drain: int, idle: str, load: int, term: int | None, orphans: int) -> None:
        self.limit = limit
        self.options = raw_options(idle_timeout=idle, restart_delay=2, stop_timeout=4, start_timeout=30)

        async def enter() -> World:
            self.context = world(
                max_running_instances=limit, drain_timeout=drain, on_demand_start_timeout=60, failed_cooldown=5, restart_window=60
            )
            w = await self.context.__aenter__()
            w.launcher.default = Life(load=load, term=term, orphans=orphans)
            for name in "ab":
                await w.fleet.create(name, self.options)
            return w

        self.w = self.runner.run(enter())

    def ask(self, thing: Coroutine[Any, Any, object]) -> None:
        """Somebody wants that; nothing happens before the next turn."""
        self.people.append(self.loop.create_task(outcome(thing)))

    def let(self, pause: Pause) -> None:
        """Let that much time pass, and exactly that many turns."""
        seconds, count = pause
        if seconds:
            self.runner.run(asyncio.sleep(seconds))
        for _ in range(count):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    # -- what clients do

    @rule(name=names, count=st.integers(1, 3), then=pauses)
    def request(self, name: str, count: int, then: Pause) -> None:
        instance = next((i for i in self.w.fleet if i.name == name), None)
        if instance:
            self.clients += [Client(self.loop, self.w, instance) for _ in range(count)]
        self.let(then)

    @precondition(lambda self: self.clients)
    @rule(index=which, leaves=st.booleans(), then=pauses)
    def end(self, index: int, leaves: bool, then: Pause) -> None:
        """It has its answer, or it leaves without."""
        client = self.clients[index % len(self.clients)]
        if leaves:
            client.task.cancel()
        else:
            client.may_end.set()
        self.let(then)

    # -- what people do

    @rule(name=names, what=st.sampled_from(["start", "stop", "stop", "restart"]), then=pauses)
    def order(self, name: str, what: str, then: Pause) -> None:
        async def obey() -> None:
            await getattr(self.w.dispatcher, what)(self.w.fleet.get(name))

        self.ask(obey())
        self.let(then)

    @rule(name=names, force=st.booleans(), then=pauses)
    def delete(self, name: str, force: bool, then: Pause) -> None:
        async def delete_and_make_anew() -> None:
            async with self.w.dispatcher.retiring(self.w.fleet.get(name), force=force):
                await self.w.fleet.delete(name)
            await self.w.fleet.create(name, self.options)

        self.ask(delete_and_make_anew())
        self.let(then)

    # -- what backends do

    @rule(name=names, code=st.sampled_from([0, -9]), then=pauses)
    def crash(self, name: str, code: int, then: Pause) -> None:
        for handle in self.w.launcher.trees:
            if handle.ticket.instance == name:
                handle.die(code)
        self.let(then)

    # -- what must hold when all that can happen now has happened

    @rule()
    def settle(self) -> None:
        """Leases are exactly what clients hold, and nobody waits for what is ready."""
        self.let((0.0, SETTLED))
        self.clients = [client for client in self.clients if not client.task.done()]
        assert self.leases() == Counter(client.instance for client in self.clients if client.holds)
        waits = {claim.instance for claim in self.w.dispatcher._claims}
        assert waits <= {client.instance for client in self.clients if not client.holds} | set(self.w.fleet)
        for instance in self.w.fleet:
            assert not (instance.is_here_to_stay and instance in waits), f"{instance} is ready and lets wait"

    # -- what must hold at every moment

    def leases(self) -> Counter[Instance]:
        counts = Counter({client.instance: client.instance.leases.value for client in self.clients})
        return Counter({instance: count for instance, count in counts.items() if count})

    @invariant()
    def nothing_is_broken(self) -> None:
        if not hasattr(self, "w"):
            return
        assert not self.w.faults
        assert self.w.launcher.most <= self.limit
        for instance in self.w.fleet:
            trees = [handle for handle in self.w.launcher.trees if handle.ticket.instance == instance.name]
            assert len(trees) <= (instance.state not in AT_REST)
            assert (instance.target is not None) <= (instance.state in (State.READY, State.STOPPING))
            mine = [client for client in self.clients if client.instance is instance and not client.task.done()]
            holding = sum(client.holds for client in mine)
            assert holding <= instance.leases.value <= len(mine)

    def teardown(self) -> None:
        async def leave() -> None:
            for client in self.clients:
                client.may_end.set()
            await asyncio.gather(*(client.task for client in self.clients), return_exceptions=True)
            for answer in await asyncio.gather(*self.people):
                assert answer is None or isinstance(answer, tuple | LlamactlError), repr(answer)
            await turns(SETTLED)
            assert not [i for i in self.w.fleet if i.leases.value]
            await self.context.__aexit__(None, None, None)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        if hasattr(self, "w"):
            with self.runner:
                self.runner.run(leave())
            assert not self.loop.complaints
        self.runner.close()


TestLifecycle = Lifecycle.TestCase
TestLifecycle.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
