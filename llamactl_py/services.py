"""What the API needs, in one place. Made by the daemon, or by a test with other parts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from llamactl_py.accounting.ledger import Ledger
from llamactl_py.auth.keys import MANAGEMENT, KeyRing
from llamactl_py.auth.policy import Requirements
from llamactl_py.backends import backend
from llamactl_py.config.load import Configuration
from llamactl_py.config.settings import Settings
from llamactl_py.events.bus import Bus
from llamactl_py.ground import chance
from llamactl_py.ground.clock import Now
from llamactl_py.instances.fleet import Edit, Fleet
from llamactl_py.instances.instance import Instance
from llamactl_py.instances.state import State, status_word
from llamactl_py.launchers import logs
from llamactl_py.launchers.follow import Follower as LogFollower
from llamactl_py.proxy.bodies import Bodies
from llamactl_py.proxy.routing import Entry, Routes
from llamactl_py.proxy.upstream import Pool
from llamactl_py.scheduler.dispatcher import Dispatcher

MAX_LOG_BYTES = 16 << 20
"""Most that one request for logs reads."""
MAX_LOG_LINES = 1_000_000

__all__ = ["MAX_LOG_BYTES", "MAX_LOG_LINES", "LogFollower", "Services"]


class Services:
    """Everything that handlers call."""

    def __init__(
        self,
        settings: Settings,
        fleet: Fleet,
        dispatcher: Dispatcher,
        keys: KeyRing,
        pool: Pool,
        ledger: Ledger,
        now: Now,
        webui: Path,
        configuration: Configuration,
    ) -> None:
        self.settings, self.configuration = settings, configuration
        """The configuration as it was read last; `settings` are those of it that a running daemon can take over."""
        self.fleet, self.dispatcher, self.keys, self.pool, self.ledger = fleet, dispatcher, keys, pool, ledger
        self.now, self.webui = now, webui
        self.time: Callable[[], float] = asyncio.get_running_loop().time
        """The loop's clock, in seconds."""
        self.reloading = asyncio.Lock()
        self.watchers = 0
        """How many follow events and logs now."""
        self.is_closing = False
        """The daemon is ending: nothing that goes on without end may go on."""
        self.bodies = Bodies(settings.server.max_buffered_bodies)
        self.requirements = _requirements(settings)
        self.bus = Bus(settings.server.event_history, chance.token(4))
        """What happens, for whoever listens."""
        fleet.on_change(self._tell_state)
        fleet.on_edit(self._tell_edit)
        fleet.on_reshape(self._reroute)
        fleet.on_reshape(self.settle_ledger)
        self._reroute()

    def use(self, configuration: Configuration, settings: Settings) -> None:
        """From now on go by these *settings*, of this *configuration*."""
        self.configuration, self.settings = configuration, settings
        self.requirements = _requirements(settings)
        workshop = self.fleet.workshop
        workshop.settings, workshop.environ = settings, configuration.environ
        workshop.ports.use_range(*settings.instances.port_range)
        self.keys.use_management_keys(settings.auth.management_keys)
        self.dispatcher.use(settings.instances)

    def settle_ledger(self) -> None:
        """Tell the ledger which instances and keys there are. When some were deleted it need not be at once, but at last."""
        instances = {instance.name for instance in self.fleet}
        keys = {MANAGEMENT, *(row.name for row in self.keys.all())}
        self.ledger.keep(instances, keys, self.time())

    def log_file(self, name: str) -> Path:
        return self.fleet.workshop.log_file(name)

    def log_follower(self, name: str) -> tuple[LogFollower, int]:
        """Reads on in an instance's log from the end of its last whole line; and where that is. Blocks: call it in a thread."""
        end = logs.end_of_last_line(self.log_file(name))
        return LogFollower(self.log_file(name), end), end

    def log_files(self, name: str) -> list[BinaryIO]:
        """An instance's log and its rotated files, oldest first, for the caller to read and close."""
        return logs.opened(self.log_file(name))

    def log_text(self, name: str, lines: int, until: int | None = None, *, newest_run: bool = False) -> bytes:
        """`log_lines` as one text; only from the last start on, if *newest_run*. Blocks: call it in a thread."""
        found = self.log_lines(name, MAX_LOG_LINES if newest_run else lines, until)
        if newest_run:
            begins = (n for n in range(len(found) - 1, -1, -1) if found[n].startswith(logs.started(name)))
            found = found[next(begins, 0) :][-lines:]
        return "\n".join(found).encode()

    def log_lines(self, name: str, lines: int, until: int | None = None) -> list[str]:
        """The last *lines* lines of an instance's log before *until*, rotated files included. Blocks: call it in a thread."""
        return logs.tail_rotated(self.log_file(name), lines, MAX_LOG_BYTES, until)

    def _tell_state(self, instance: Instance, old: State) -> None:
        has_process = instance.state in (State.READY, State.STOPPING)  # in others it is not there yet, or gone already
        told = {
            "name": instance.name,
            "id": instance.id,
            "status": status_word(instance.state),
            "state": instance.state.value,
            "from": old.value,
            "since": int(instance.since),
            "reason": instance.reason or None,
            "pid": instance.pid if has_process else None,
            "port": instance.port if has_process else None,
            "socket": instance.socket if has_process else None,
            "restarts": instance.restarts,
        }
        self.bus.publish("state", {field: value for field, value in told.items() if value is not None})

    def _tell_edit(self, instance: Instance, edit: Edit) -> None:
        self.bus.publish(edit.value, {"name": instance.name, "id": instance.id, "revision": instance.revision})

    def _reroute(self) -> None:
        self.routes = Routes(_entry(instance) for instance in self.fleet)


def _requirements(settings: Settings) -> Requirements:
    return Requirements(settings.auth.require_inference_auth, settings.auth.require_management_auth)


def _entry(instance: Instance) -> Entry:
    options = instance.options
    return Entry(
        instance.name,
        instance.created_at,
        backend(options.backend_type).served(options.backend_options, instance.name),
        options.aliases,
    )
