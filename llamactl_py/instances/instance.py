"""One instance: what we want of it, what it is, and the single task that moves it from one to the other.

Level-triggered: commands only set a wish, the owner task looks at the newest wish and acts. So "start" twice is harmless,
and "stop while starting" is the same code as "stop while ready". Nobody but the owner touches the handle. One that is at rest,
as most of a thousand are, has no owner: it gets one when it is wanted.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from functools import partial
from operator import ne

from msgspec import Struct, field
from msgspec.structs import replace

from llamactl_py.ground.clock import Now
from llamactl_py.ground.durations import show
from llamactl_py.ground.errors import LlamactlError, StorageFailed
from llamactl_py.ground.waiting import Watched, first_of, within
from llamactl_py.instances.command import Launch, Workshop
from llamactl_py.instances.last_words import telling_line
from llamactl_py.instances.options import InstanceOptions, is_same_process
from llamactl_py.instances.readiness import PortStolen, until_ready
from llamactl_py.instances.restart import GiveUp, Restart, RestartPolicy, decide
from llamactl_py.instances.state import AT_REST, EDGES, State
from llamactl_py.instances.target import Target
from llamactl_py.launchers.base import Exit, Handle, Usage

log = logging.getLogger(__name__)

PORT_ATTEMPTS = 3


class Wish(Struct, frozen=True):
    """What is wanted. A new *generation* while up means: stop, then start again. *drain*: seconds for requests in flight."""

    up: bool = False
    generation: int = 0
    drain: float = 0.0


NOTHING = Wish()


class Death(Struct, frozen=True):
    """A backend's end that nobody asked for. *final*: trying again would end the same way; *port_stolen*: on that port only."""

    reason: str
    final: bool = False
    port_stolen: bool = False
    was_serving: bool = False


class Instance(Struct, eq=False):
    """See the module. `state`, `reason` and the rest are for anybody to read; they change in the owner task only."""

    name: str
    id: int
    created_at: int
    options: InstanceOptions
    _workshop: Workshop
    _now: Now
    _changed: Callable[[Instance, State], None]
    """Called with its former state, after each change of its state."""
    _wanted: Callable[[Instance], None]
    """Called when it is to be up; sees to it that it has an owner: a task that is in `run`."""
    since: float
    """Unix seconds of its latest change of state."""
    declared_at: str = ""
    """FILE:LINE of the configuration file that declares it; empty for one that was made through the API."""
    state: State = State.STOPPED
    reason: str = ""
    target: Target | None = None
    pid: int | None = None
    port: int | None = None
    socket: str | None = None
    started_at: float | None = None
    """Moment on the loop's clock of its process' start, while there is one."""
    restarts: int = 0
    last_exit: Exit | None = None
    running_options: InstanceOptions | None = None
    loads_since: float = 0.0
    """Moment on the loop's clock at which its latest start began."""
    last_used: float = 0.0
    """Moment on the loop's clock of the end of the last request, or of becoming ready."""
    may_retry_at: float = 0.0
    """Moment on the loop's clock before which requests do not start it again after it failed."""
    leases: Watched[int] = field(default_factory=partial(Watched, 0))
    """Requests in flight; counted by the dispatcher, awaited here before a stop."""
    _wish: Watched[Wish] = field(default_factory=partial(Watched, NOTHING))
    _served: Wish = NOTHING
    _at_rest: Watched[bool] = field(default_factory=partial(Watched, True))
    _hurried: Watched[bool] = field(default_factory=partial(Watched, False))
    _handle: Handle | None = None
    _revision: tuple[InstanceOptions, str] | None = None

    def __repr__(self) -> str:
        process = f"pid={self.pid} port={self.port or self.socket}"
        return f"<Instance {self.name} {self.state} {self._wish.value} leases={self.leases.value} {process} {self.reason!r}>"

    def remarks(self, warnings: tuple[str, ...] = ()) -> tuple[str, ...]:
        """What the installed server would say to its options, and those of *warnings* that it does not contradict."""
        return self._workshop.remarks(self.options, warnings)

    @property
    def revision(self) -> str:
        """Names these options of this instance: other options have another one, also after a restart of the daemon."""
        if self._revision is None or self._revision[0] is not self.options:
            told = f"{self.id} {self.created_at} {self.options.stored()}".encode()
            self._revision = (self.options, hashlib.blake2b(told, digest_size=10).hexdigest())
        return self._revision[1]

    @property
    def uptime(self) -> float | None:
        """Seconds since its process was started, while there is one."""
        return None if self.started_at is None else asyncio.get_running_loop().time() - self.started_at

    @property
    def last_used_at(self) -> float | None:
        """`last_used` in Unix seconds; None while it was never ready."""
        return self._now() - (asyncio.get_running_loop().time() - self.last_used) if self.last_used else None

    def use(self, options: InstanceOptions) -> bool:
        """From now on it has these; False if its process was started with others that it would see, and keeps those."""
        self.options = options
        if self.running_options is None or not is_same_process(self.running_options, options):
            return False
        self.running_options = options
        return True

    # -- wishes: anybody may have them ------------------------------------------------------------------------------------

    @property
    def is_wanted(self) -> bool:
        return self._wish.value.up

    @property
    def is_here_to_stay(self) -> bool:
        """Ready, and neither to be stopped nor to be restarted."""
        wish = self._wish.value
        return self.state is State.READY and (self._served is wish or self._served == wish)

    def want_up(self) -> None:
        if not self._wish.value.up:
            self._wish.set(replace(self._wish.value, up=True))
            self._wanted(self)

    def want_down(self, drain: float) -> None:
        self._wish.set(Wish(False, self._wish.value.generation, drain))

    def want_restart(self, drain: float) -> None:
        self._wish.set(Wish(True, self._wish.value.generation + 1, drain))
        self._wanted(self)

    def hurry(self) -> None:
        """End a stop under way now: no draining, no grace."""
        self._hurried.set(True)
        if self._handle:
            self._handle.hurry()

    async def usage(self) -> Usage | None:
        """What its processes take of the machine, as its launcher sees it; None while there is none."""
        return await self._handle.usage() if self._handle else None

    async def begun(self) -> None:
        """Wait until its owner has acted on its being wanted, or it is not wanted any more."""
        await first_of(
            begun=self._at_rest.until(lambda at_rest: not at_rest), unwanted=self._wish.until(lambda wish: not wish.up)
        )

    async def down(self) -> None:
        """Wait until it is at rest and not wanted: no process of it exists."""
        await self._wish.until(lambda wish: not wish.up)
        await self._at_rest.until(bool)

    # -- the owner task ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Its life from being wanted until it is at rest and not wanted any more."""
        while self._wish.value.up:
            try:
                await self._stay_up()
            except Exception as bug:  # a defect of ours in one owner must not take the others down
                log.exception("%s: its owner failed", self.name)
                self._give_up(f"internal error, please report it: {type(bug).__name__}: {bug}")

    async def _stay_up(self) -> None:
        """Start, and start again after each death, until it is not wanted any more or is given up."""
        deaths: list[float] = []
        failed_starts = stolen_ports = 0
        while self._wish.value.up:
            wish = self._wish.value
            death = await self._serve_once(wish)
            stolen_ports = stolen_ports + 1 if death and death.port_stolen else 0
            if death is None:
                deaths, failed_starts = [], 0
                continue
            if 0 < stolen_ports < PORT_ATTEMPTS:
                log.info("%s: %s; trying another port", self.name, death.reason)
                continue
            now = asyncio.get_running_loop().time()
            deaths.append(now)
            failed_starts = 0 if death.was_serving else failed_starts + 1
            decision = GiveUp("") if death.final else decide(self._policy(), deaths, now, failed_starts)
            if isinstance(decision, GiveUp) and self._wish.value == wish:
                self._give_up(
                    f"{death.reason}; {decision.why}" if decision.why else death.reason, cool_down=not death.was_serving
                )
                return
            if self.state is State.STARTING:
                self._become(State.BACKOFF)
            if isinstance(decision, Restart):
                log.warning("%s: starting it again in %s", self.name, show(decision.after))
                if not await within(decision.after, self._wish.until(partial(ne, wish))):
                    self.restarts += 1
        if self.state is State.STARTING:  # not wanted any more, between two ports
            self._become(State.STOPPING)
        if self.state in (State.BACKOFF, State.STOPPING):
            self._become(State.STOPPED)

    async def _serve_once(self, wish: Wish) -> Death | None:
        """Start, become ready, and serve until the wish changes (None) or the backend ends (a Death).

        Whatever the reason for leaving: afterwards no process of the instance is left.
        """
        self.reason, self._served = "", wish
        if self.state is not State.STARTING:
            self._become(State.STARTING)
        self.running_options = self.options
        try:
            launch = await self._workshop.prepare(self.name, self.options)
        except LlamactlError as error:
            self.reason = str(error)
            return Death(self.reason, final=not isinstance(error, StorageFailed))
        self._handle, self.pid = launch.handle, launch.handle.ticket.pid
        self.port, self.socket = launch.port, launch.socket
        self.started_at = asyncio.get_running_loop().time()
        try:
            return await self._attend(launch, wish)
        except asyncio.CancelledError:
            launch.handle.kill()  # the daemon is being torn down: there is no time to wait
            raise
        except Exception:
            self.target = None
            try:
                await self._clear_away(launch)  # a defect of ours must not leave a process behind
            finally:
                launch.handle.kill()
            raise
        finally:
            self.target = self._handle = self.port = self.socket = self.pid = self.started_at = None
            self._workshop.give_back(launch.target.authority)

    async def _attend(self, launch: Launch, wish: Wish) -> Death | None:
        handle = launch.handle
        death: Death | None = None
        exited = False
        try:
            async with asyncio.timeout(self.options.start_timeout):
                done = await first_of(
                    ready=until_ready(
                        handle, launch.target, launch.health_path, self._workshop.probe, proves_port=launch.has_own_listener
                    ),
                    exited=handle.exited(),
                    unwanted=self._wish.until(partial(ne, wish)),
                )
            exited = "exited" in done
        except TimeoutError:
            done = {}
            death = Death(f"{launch.program} was not ready within {show(self.options.start_timeout)} (start_timeout)", final=True)
        except PortStolen as stolen:
            done = {}
            death = Death(str(stolen), port_stolen=True)
        if set(done) == {"ready"}:
            self._serve(launch.target)
            done = await first_of(exited=handle.exited(), unwanted=self._wish.until(partial(ne, wish)))
            exited = "exited" in done
        if exited:
            was_ready = self.state is State.READY
            return await self._bury(
                launch, "while it was serving" if was_ready else "before it was ready", check_port=not was_ready
            )
        if death:
            return await self._bury(launch, "", death)
        await self._end(launch)
        return None

    def _serve(self, target: Target) -> None:
        self.last_used = asyncio.get_running_loop().time()
        self.target = target
        self._become(State.READY)

    async def _bury(self, launch: Launch, when: str, death: Death | None = None, check_port: bool = False) -> Death:
        """It died, or has to (*death* says why): nobody is sent there any more, and what is left of its tree is ended."""
        self.target = None
        if death is None:
            self.last_exit = await launch.handle.exited()  # at once: it has ended
            said = telling_line(self.last_exit.last_lines)
            self.reason = f"{launch.program} {self.last_exit} {when}" + (f": {said}" if said else "")
            if not check_port:
                self._become(State.BACKOFF)  # now: it is down for everybody while its orphans are still being ended
        self.last_exit = await launch.handle.stop(grace=0.0)
        await self._workshop.settled(launch.handle.ticket)
        if death is None:
            stolen = check_port and not launch.port_is_free()
            return Death(self.reason, port_stolen=stolen, was_serving=not check_port)
        self.reason = death.reason
        return death

    async def _end(self, launch: Launch) -> None:
        """Stop on request: requests in flight may finish, then the tree is ended."""
        self._become(State.STOPPING)
        await self._drain()
        self.target = None
        grace = 0.0 if self._hurried.value else (self.running_options or self.options).stop_timeout
        self.last_exit = await launch.handle.stop(grace, launch.repeat_term_after)
        await self._workshop.settled(launch.handle.ticket)
        self._become(State.STOPPED)

    async def _drain(self) -> None:
        """Let requests in flight finish. A newer wish may shorten the time that they have, never lengthen it."""
        loop = asyncio.get_running_loop()
        deadline = float("inf")
        while self.target and self.leases.value and not self._hurried.value:
            wish = self._wish.value
            deadline = min(deadline, loop.time() + wish.drain)
            drained, hurried = self.leases.until(lambda n: n == 0), self._hurried.until(bool)
            changed = self._wish.until(partial(ne, wish))
            if not await within(deadline - loop.time(), first_of(drained=drained, hurried=hurried, changed=changed)):
                return

    async def _clear_away(self, launch: Launch) -> None:
        """End the tree, however often that fails: whatever is said afterwards, no process of it may be left."""
        while True:
            try:
                await launch.handle.stop(grace=0.0)
                await self._workshop.settled(launch.handle.ticket)
            except OSError as error:  # no descriptors left to look at processes with, for one
                log.error("%s: its processes cannot be ended yet: %s", self.name, error)
                await asyncio.sleep(1.0)
            else:
                return

    def _give_up(self, reason: str, cool_down: bool = True) -> None:
        self.reason = reason
        self.may_retry_at = asyncio.get_running_loop().time() + (self._workshop.limits.failed_cooldown if cool_down else 0.0)
        self._wish.set(Wish(False, self._wish.value.generation))
        if self.state is not State.FAILED:
            self._become(State.FAILED)

    def _policy(self) -> RestartPolicy:
        limits = self._workshop.limits
        options = self.options
        return RestartPolicy(
            options.auto_restart, options.max_restarts, options.restart_delay, limits.max_restart_delay, limits.restart_window
        )

    def _become(self, new: State) -> None:
        """The one place where the state changes."""
        old = self.state
        assert new in EDGES[old], f"{self.name}: {old} -> {new}"
        self.state, self.since = new, self._now()
        if new is State.STARTING:
            self.loads_since = asyncio.get_running_loop().time()
        if new in AT_REST:
            self.running_options = None
        self._at_rest.set(new in AT_REST)
        log.info("%s: %s -> %s%s", self.name, old, new, f" ({self.reason})" if self.reason else "")
        self._changed(self, old)
