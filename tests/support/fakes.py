"""What stands in for the machine and the disk: a launcher whose backends are scripts, stores in memory, and a world of them.

    async with world(max_running_instances=1) as w:
        a = await w.create("a", Life(load=30, lives=100), Life(load=None))
        async with w.lease(a): ...

Each `Life` is what one launch of that instance does; after the last one come ordinary lives. The fakes keep the promises
of `launchers/base.py`, and they watch: whatever must never happen (two trees of one instance, two on one port, a process
that a stop left behind, a leased instance cut) is written to `faults`, and a world with faults fails when it is left, as
one does in which anything is left over: a claim, a lease, a port, a ticket, a process.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from llamactl_py.config.settings import Settings
from llamactl_py.ground.errors import NameTaken, NotFound
from llamactl_py.ground.ticket import Ticket
from llamactl_py.ground.validation import parse
from llamactl_py.instances.command import Workshop
from llamactl_py.instances.fleet import Fleet
from llamactl_py.instances.instance import Instance
from llamactl_py.instances.ports import Ports
from llamactl_py.instances.state import AT_REST, State
from llamactl_py.instances.target import Target
from llamactl_py.launchers.base import Command, Exit, Listening, Record, Usage
from llamactl_py.scheduler.dispatcher import Dispatcher
from llamactl_py.storage.instances import InstanceRow
from tests.support.virtual import now, turns

T = TypeVar("T")

PORTS = (22000, 22999)
"""Below the ephemeral range; nobody listens there, but we do ask the real machine whether a port is free."""


@dataclass(frozen=True)
class Life:
    """What one launch does. Times are in seconds; None is never."""

    load: float | None = 1.0
    """From the launch until it answers."""
    lives: float | None = None
    """From the launch until its leader ends of its own accord."""
    code: int = 1
    """... with this exit code."""
    last_lines: tuple[str, ...] = ()
    term: float | None = 0.0
    """From SIGTERM until its leader ends; None ignores it."""
    orphans: float = 0.0
    """How long the rest of the tree needs to be gone, once the leader has ended and somebody sees to it."""
    listens: Listening = Listening.OURS
    """Whose the port is. A stranger answers at once, and well."""
    takes: float = 0.0
    """Duration of the launch itself."""
    refusal: Exception | None = None
    """Raised by the launch, before there is a process."""
    exec_error: Exception | None = None
    """Raised by the launch when the ticket is stored already: the process could not become the command."""
    stop_errors: tuple[Exception, ...] = ()
    """Raised by the first stop, by the second, ...: a defect of ours, or a machine without descriptors. Then it works."""


ORDINARY = Life()


class FakeHandle:
    """One process tree that is not there."""

    def __init__(self, launcher: FakeLauncher, command: Command, ticket: Ticket, life: Life) -> None:
        self.ticket = ticket
        self.command, self.life = command, life
        self.launched_at = now()
        self.gone_at: float | None = None
        self.terms: list[tuple[float, float | None]] = []
        """(grace, repeat_term_after) of each stop that was asked for."""
        self._launcher = launcher
        self._hurried = asyncio.Event()
        self._exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        if life.lives is not None:
            asyncio.get_running_loop().call_later(life.lives, self.die, life.code)

    def __repr__(self) -> str:
        return f"<FakeHandle {self.ticket.instance} {self.life} {'gone' if self.gone_at is not None else 'there'}>"

    @property
    def is_running(self) -> bool:
        return not self._exit.done()

    def die(self, code: int = 1) -> None:
        """The leader ends now; the rest of its tree stays, as it does."""
        if not self._exit.done():
            self._exit.set_result(Exit(code, self.life.last_lines))

    async def exited(self) -> Exit:
        return await asyncio.shield(self._exit)

    async def stop(self, grace: float, repeat_term_after: float | None = None) -> Exit:
        self.terms.append((grace, repeat_term_after))
        self._launcher.on_stop(self)
        if len(self.terms) <= len(self.life.stop_errors):
            raise self.life.stop_errors[len(self.terms) - 1]
        if self.is_running and grace > 0 and self.life.term is not None:
            asyncio.get_running_loop().call_later(self.life.term, self.die, -15)
        with suppress(TimeoutError):
            async with asyncio.timeout(0 if self._hurried.is_set() else grace):
                await self._exited_or_hurried()
        self.die(-9)
        await asyncio.sleep(self.life.orphans)
        self._be_gone()
        return self._exit.result()

    def kill(self) -> None:
        if self.gone_at is None:
            self._launcher.killed.append(self.ticket.instance)
        self.die(-9)
        self._be_gone()

    def hurry(self) -> None:
        self._hurried.set()

    async def listening(self, port: int) -> Listening:
        assert port == self.command.port
        return self.life.listens if self.is_running else Listening.NOBODY

    async def usage(self) -> Usage:
        return Usage(1, 1 << 20, 0.0, None)

    async def answers(self) -> int:
        """Wait until it does: the status of its health path."""
        if self.life.listens is not Listening.STRANGER:
            await (asyncio.Event().wait() if self.life.load is None else asyncio.sleep(self.launched_at + self.life.load - now()))
        return 200

    async def _exited_or_hurried(self) -> None:
        if self.is_running:
            hurried = asyncio.ensure_future(self._hurried.wait())
            try:
                await asyncio.wait((self._exit, hurried), return_when=asyncio.FIRST_COMPLETED)
            finally:
                hurried.cancel()

    def _be_gone(self) -> None:
        if self.gone_at is None:
            self.gone_at = now()


class FakeLauncher:
    """Starts scripts, and watches what is done with them."""

    def __init__(self) -> None:
        self.lives: dict[str, list[Life]] = {}
        self.default = ORDINARY
        self.launches: list[tuple[str, float]] = []
        """(instance, moment) of each launch, failed ones too."""
        self.handles: list[FakeHandle] = []
        self.killed: list[str] = []
        """Instances of trees that were there when the last resort was taken."""
        self.forgotten_logs: list[Path] = []
        self.faults: list[str] = []
        self.most = 0
        """How many instances were up at once, from launch to the end of the last process."""
        self.on_stop: Callable[[FakeHandle], None] = lambda handle: None
        self._launching: list[str] = []

    @property
    def trees(self) -> list[FakeHandle]:
        """Those of which a process exists."""
        return [handle for handle in self.handles if handle.gone_at is None]

    def of(self, instance: str) -> FakeHandle:
        """The newest of that instance."""
        return next(handle for handle in reversed(self.handles) if handle.ticket.instance == instance)

    def moments(self, instance: str) -> list[float]:
        """When it was launched."""
        return [at for name, at in self.launches if name == instance]

    async def launch(self, command: Command, record: Record) -> FakeHandle:
        name = command.instance
        script = self.lives.get(name, [])
        life = script.pop(0) if script else self.default
        self._watch(command)
        self.launches.append((name, now()))
        self._launching.append(name)
        self.most = max(self.most, len(self._launching) + len(self.trees))
        try:
            if life.takes:
                await asyncio.sleep(life.takes)
            if life.refusal:
                raise life.refusal
            number = len(self.launches)
            ticket = Ticket(f"token-{number}", name, "this-boot", 1000 + number, number)
            await record(ticket)
            if life.exec_error:
                raise life.exec_error
            handle = FakeHandle(self, command, ticket, life)
        finally:
            self._launching.remove(name)
        self.handles.append(handle)
        return handle

    def forget_log(self, log_file: Path) -> None:
        self.forgotten_logs.append(log_file)

    async def probe(self, target: Target, path: str) -> int | None:
        """Whoever has that port, asked for its health path. Answers as soon as it is healthy."""
        found = [handle for handle in self.trees if handle.command.port == target.port]
        if not found:
            self.faults.append(f"port {target.port} was asked for {path} and nobody is there")
            return None
        return await found[-1].answers()

    def _watch(self, command: Command) -> None:
        if command.instance in [*self._launching, *(handle.ticket.instance for handle in self.trees)]:
            self.faults.append(f"{command.instance} was launched while a process of it was left")
        if command.port in [handle.command.port for handle in self.trees]:
            self.faults.append(f"port {command.port} was given twice")


class Disk:
    """Where a change takes a moment, or fails. As with the real one, whoever is cancelled meanwhile cannot call it back."""

    def __init__(self) -> None:
        self.takes = 0.0
        self.error: Exception | None = None

    async def commit(self, change: Callable[[], T]) -> T:
        if self.error:
            raise self.error
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def finish() -> None:
            try:
                result = change()
            except Exception as error:
                if not done.cancelled():
                    done.set_exception(error)
            else:
                if not done.cancelled():
                    done.set_result(result)

        if self.takes:
            asyncio.get_running_loop().call_later(self.takes, finish)
        else:
            finish()
        return await done


class FakeTickets(Disk):
    """Tickets in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, Ticket] = {}
        self.add_error: Exception | None = None

    async def add(self, ticket: Ticket) -> None:
        if self.add_error:
            raise self.add_error
        await self.commit(lambda: self.rows.update({ticket.token: ticket}))

    async def remove(self, token: str) -> None:
        await self.commit(lambda: self.rows.pop(token, None))


class FakeStore(Disk):
    """Rows of instances in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, InstanceRow] = {}
        self._count = 0

    async def all(self) -> list[InstanceRow]:
        return await self.commit(lambda: sorted(self.rows.values(), key=lambda row: row.id))

    async def add(self, name: str, options: str) -> InstanceRow:
        return await self.commit(lambda: self.put(name, options))

    async def declare(self, new: list[str], gone: list[str] | tuple[str, ...] = ()) -> list[InstanceRow]:
        def write() -> list[InstanceRow]:
            for name in gone:
                self.rows.pop(name)
            return [self.put(name, "{}", declared=True) for name in new]

        return await self.commit(write)

    async def change(self, name: str, options: str) -> None:
        await self.commit(lambda: self._change(name, options))

    async def remove(self, name: str) -> None:
        await self.commit(lambda: self.rows.pop(name, None))

    async def mark_resume(self, names: list[str]) -> None:
        await self.commit(lambda: [self.put(row.name, row.options, row.name in names) for row in list(self.rows.values())])

    def put(self, name: str, options: str, resume: bool = False, declared: bool = False) -> InstanceRow:
        if name.casefold() in {known.casefold() for known in self.rows} - {name.casefold()} or (not resume and name in self.rows):
            raise NameTaken(f"an instance named {name!r} exists already")
        self._count += 1
        self.rows[name] = InstanceRow(self._count, name, options, resume, 0, declared)
        return self.rows[name]

    def _change(self, name: str, options: str) -> None:
        row = self.rows.get(name)
        if row is None:
            raise NotFound(f"there is no instance named {name!r}")
        self.rows[name] = InstanceRow(row.id, name, options, row.resume, row.created_at)


@dataclass(frozen=True)
class Change:
    """One change of state, as it was published."""

    at: float
    name: str
    id: int
    old: State
    new: State
    has_target: bool
    reason: str
    leases: int


@dataclass
class World:
    """A fleet and a dispatcher at work on fakes."""

    settings: Settings
    launcher: FakeLauncher
    store: FakeStore
    tickets: FakeTickets
    ports: Ports
    fleet: Fleet
    dispatcher: Dispatcher
    changes: list[Change] = field(default_factory=list)
    drain: float = 0.0
    """The least time that a stop has to leave to requests in flight, at this moment."""
    has_bugs: bool = False
    """A defect of ours is part of the scenario."""
    is_torn_down: bool = False
    """Owners are cancelled in the scenario: then the last resort may be taken, and tickets may be left for the sweep."""

    @property
    def faults(self) -> list[str]:
        return self.launcher.faults

    async def create(self, name: str, *lives: Life, **options: Any) -> Instance:
        """An instance that is at rest; *options* over ones that keep the arithmetic simple."""
        self.launcher.lives[name] = list(lives)
        instance, _ = await self.fleet.create(name, raw_options(**options))
        return instance

    def lease(self, instance: Instance, **how: bool) -> AbstractAsyncContextManager[Target]:
        return self.dispatcher.lease(instance, **how)

    async def use(self, instance: Instance, seconds: float = 0.0, patience: float | None = None, **how: bool) -> float:
        """Lease it for so long, as one request does; gives the moment at which the lease was granted."""
        async with asyncio.timeout(patience), self.lease(instance, **how):
            granted = now()
            await asyncio.sleep(seconds)
            return granted

    async def until(self, instance: Instance, *states: State) -> float:
        """Wait until it is in one of *states*; gives the moment."""
        while instance.state not in states:
            reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._watchers.append(reached)
            await reached
        return now()

    def path(self, instance: Instance) -> list[State]:
        """The states that it went through, beginning with the first."""
        mine = [change for change in self.changes if change.name == instance.name]
        return [*(change.old for change in mine[:1]), *(change.new for change in mine)]

    def moments(self, instance: Instance, state: State) -> list[float]:
        """When it came into that state."""
        return [change.at for change in self.changes if change.name == instance.name and change.new is state]

    _watchers: list[asyncio.Future[None]] = field(default_factory=list)

    def note_change(self, instance: Instance, old: State) -> None:
        i = instance
        self.changes.append(
            Change(now(), i.name, i.id, old, i.state, has_target=i.target is not None, reason=i.reason, leases=i.leases.value)
        )
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(None)
        self._watchers.clear()
        if instance.state in AT_REST and instance.name in [handle.ticket.instance for handle in self.launcher.trees]:
            self.faults.append(f"{instance.name} is called {instance.state} while a process of it is left")
        if instance.state not in AT_REST and instance not in self.fleet.awake():
            self.faults.append(f"{instance.name} is {instance.state} and has no owner")
        if (instance.state is State.READY) != (instance.target is not None) and instance.state is not State.STOPPING:
            self.faults.append(f"{instance.name} is {instance.state} and its target is {instance.target}")

    def note_stop(self, handle: FakeHandle) -> None:
        instance = next((i for i in self.fleet if i.name == handle.ticket.instance), None)
        if instance and instance.state is State.STOPPING and instance.leases.value:
            stopping = next(change for change in reversed(self.changes) if change.id == instance.id)
            waited = now() - stopping.at
            # One that does not serve yet has only leases on an earlier backend, which is dead: their requests are ending.
            if stopping.old is State.READY and waited < self.drain:
                self.faults.append(f"{instance.name} was cut {waited} s after its stop with {instance.leases.value} leases")

    def refuse_leftovers(self) -> None:
        """Fail if anything is left over, or ever went wrong."""
        assert not self.faults, self.faults
        assert not self.dispatcher._claims, self.dispatcher
        assert {i.name: i.leases.value for i in self.fleet if i.leases.value} == {}
        assert not self.launcher.trees
        assert not self.ports._held, self.ports
        assert not list(self.fleet.awake()), "who is at rest has no owner"
        assert all(change.old is before for change, before in self._successions())
        assert self.has_bugs or not [change for change in self.changes if "internal error" in change.reason]
        if not self.is_torn_down:
            assert not self.tickets.rows
            assert not self.launcher.killed, f"ended by the last resort: {self.launcher.killed}"

    def _successions(self) -> Iterator[tuple[Change, State]]:
        """Each change, and where the one before it had led."""
        at: dict[int, State] = {}
        for change in self.changes:
            yield change, at.get(change.id, State.STOPPED)
            at[change.id] = change.new


def raw_options(**options: Any) -> dict[str, Any]:
    """Options as they come over the API."""
    words = [sys.executable]
    return {"backend_type": "llama_cpp", "command_override": words, "restart_delay": 1, "stop_timeout": 10, **options}


def build(launcher: FakeLauncher, store: FakeStore, tickets: FakeTickets, **limits: Any) -> World:
    """A world in which nothing moves yet."""
    settings = parse(Settings, {"data_dir": "nowhere", "instances": {"port_range": PORTS, **limits}})
    ports = Ports(*settings.instances.port_range)
    fleet = Fleet(store, Workshop(settings, launcher, tickets, ports, {}, launcher.probe), now)  # type: ignore[arg-type]
    made = World(settings, launcher, store, tickets, ports, fleet, Dispatcher(fleet, settings.instances))
    made.drain = settings.instances.drain_timeout
    fleet.on_change(made.note_change)
    launcher.on_stop = made.note_stop
    return made


@asynccontextmanager
async def world(**limits: Any) -> AsyncIterator[World]:
    """A world at work, with *limits* (settings of the section `instances`). Nothing may be left over when it is left."""
    made = build(FakeLauncher(), FakeStore(), FakeTickets(), **limits)
    async with at_work(made):
        yield made
    made.refuse_leftovers()


@asynccontextmanager
async def at_work(made: World) -> AsyncIterator[None]:
    """Run the owners and the dispatcher for the length of the block, and close them in order, as the daemon does."""
    workers = [asyncio.create_task(work) for work in (made.fleet.run(), made.dispatcher.run())]
    await turns()
    try:
        yield
        made.drain = 0.0
        await made.dispatcher.close(0.0)
        assert not [worker for worker in workers if worker.done()], workers
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def outcome(thing: Awaitable[T]) -> T | Exception:
    """What came of it, an error too."""
    try:
        return await thing
    except Exception as error:
        return error
