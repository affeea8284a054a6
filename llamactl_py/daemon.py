"""The only place where the parts are put together, and the one path by which they are taken apart again."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from llamactl_py.accounting.ledger import Ledger
from llamactl_py.api.access_log import AccessLog
from llamactl_py.api.inference import FrontDesk
from llamactl_py.auth.keys import KeyRing, management_key
from llamactl_py.config import paths
from llamactl_py.config.door import for_url, listen, refuse_open_door
from llamactl_py.config.load import Configuration
from llamactl_py.config.settings import Settings
from llamactl_py.ground import clock
from llamactl_py.ground.errors import LlamactlError, ShuttingDown, StorageFailed
from llamactl_py.ground.importing import without_certificates
from llamactl_py.ground.memory import settle
from llamactl_py.ground.ticket import Ticket
from llamactl_py.ground.waiting import within
from llamactl_py.instances.command import ENGINE, Workshop, inherited
from llamactl_py.instances.declared import Declaration, read_declared
from llamactl_py.instances.fleet import Fleet
from llamactl_py.instances.ports import Ports
from llamactl_py.instances.programs import Programs
from llamactl_py.instances.state import AT_REST
from llamactl_py.launchers.local import LocalLauncher
from llamactl_py.proxy.desk import Patience
from llamactl_py.proxy.door import Door
from llamactl_py.proxy.upstream import Pool
from llamactl_py.reload import keep_current
from llamactl_py.scheduler.dispatcher import Dispatcher
from llamactl_py.services import Services
from llamactl_py.storage.database import Database
from llamactl_py.storage.instances import InstanceStore
from llamactl_py.storage.keys import KeyStore
from llamactl_py.storage.lock import DataDirectoryLock
from llamactl_py.storage.programs import ProgramStore
from llamactl_py.storage.tickets import TicketStore

if TYPE_CHECKING:
    from aiohttp import web

log = logging.getLogger(__name__)


MANY_FILES = 1 << 14
"""What the kernel's table of our files is made for at once."""
HEAD_START = 0.1
"""Seconds for requests that the front answers, before what all others need is imported; who needs it does not wait for that."""
LAST_MOMENT = 1.0
"""Seconds for what is still open when every instance is down: half-sent requests, answers about to go out."""


class Running(Struct, frozen=True):
    """A daemon that answers."""

    url: str
    management_key: str
    key_is_new: bool
    key_file: Path
    services: Services
    swept: tuple[int, ...]
    """Processes that an earlier daemon had left and that were killed before this one started."""
    furnished: asyncio.Task[web.AppRunner]
    """Done when every route is there; until then requests wait for the missing ones."""

    def hurry(self) -> None:
        """Let a shutdown under way wait for nothing any more."""
        for instance in self.services.fleet:
            instance.hurry()


async def serve(configuration: Configuration, started: Callable[[Running], None]) -> None:
    """Run until SIGINT or SIGTERM; the first drains, the second hurries. SIGHUP reads the configuration again, unless it says
    that our terminal was closed: then it ends us too. Raises DaemonRefused when it cannot start."""
    stop, asked_to_reload = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    daemon: Running | None = None
    had_terminal = has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN  # as nohup has it

    def on_signal() -> None:
        if stop.is_set() and daemon:
            log.warning("asked again: ending everything at once")
            daemon.hurry()
        stop.set()

    def on_hangup() -> None:
        if had_terminal and not has_terminal():
            on_signal()
        else:
            asked_to_reload.set()

    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    try:
        async with running(configuration, asked_to_reload) as daemon:
            started(daemon)
            await asyncio.wait([daemon.furnished])
            settle()
            await stop.wait()
            log.info("shutting down")
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)


@asynccontextmanager
async def running(configuration: Configuration, asked_to_reload: asyncio.Event | None = None) -> AsyncIterator[Running]:
    """A daemon for the length of the block; when it is left nothing of ours runs any more. Raises DaemonRefused.

    The configuration is read again whenever *asked_to_reload* is set.
    """
    settings = configuration.settings
    refuse_open_door(settings)
    declared = read_declared(configuration)
    for one in declared:
        for warning in one.warnings:
            log.warning("%s: %s: %s", one.where, one.name, warning)
    lock = DataDirectoryLock(settings.data_dir)
    try:
        (settings.data_dir / paths.ADDRESS).unlink(missing_ok=True)  # of a daemon that was killed
        listener = listen(settings)
        try:
            database = Database(settings.data_dir / paths.DATABASE)
            try:
                async with _alive(configuration, declared, asked_to_reload or asyncio.Event(), listener, database) as daemon:
                    yield daemon
            finally:
                database.close()
        finally:
            listener.close()
    finally:
        lock.release()


@asynccontextmanager
async def _alive(
    configuration: Configuration,
    declared: Collection[Declaration],
    asked_to_reload: asyncio.Event,
    listener: socket.socket,
    database: Database,
) -> AsyncIterator[Running]:
    settings = configuration.settings
    port = listener.getsockname()[1]
    key, is_new = management_key(settings.data_dir / paths.MANAGEMENT_KEY)
    tickets = TicketStore(database, clock.now)
    instances = settings.instances
    launcher = LocalLauncher(
        settings.data_dir, clock.now, int(instances.log_rotation_max_size * 1e6), instances.log_rotation_backups
    )
    left = await tickets.all()
    swept = await _sweep(launcher, left, configuration.environ)
    programs = Programs(launcher.errands.run, ProgramStore(database, clock.now), instances.program_timeout)
    ports = Ports(*instances.port_range, exclude=(port,))
    workshop = Workshop(settings, launcher, tickets, ports, configuration.environ, programs=programs)
    store = InstanceStore(database, clock.now)
    fleet = Fleet(store, workshop, clock.now)
    keys = await _keys(database, settings, key)
    was_up = {*await fleet.load(declared), *(ticket.instance for ticket in left)}
    to_resume = [name for name in was_up if _is_to_resume(fleet, name)]
    if was_up:
        await store.mark_resume(to_resume)  # before the tickets that say so are forgotten
    for ticket in left:
        await tickets.remove(ticket.token)
    dispatcher = Dispatcher(fleet, instances)
    pool = Pool(settings.server.connect_timeout, settings.server.response_timeout, is_compiled=settings.server.compiled_path)
    async with asyncio.TaskGroup() as tasks:
        ledger = Ledger(settings.server.request_history, clock.now)
        services = Services(settings, fleet, dispatcher, keys, pool, ledger, clock.now, webui_folder(), configuration)
        access = AccessLog(clock.now) if settings.server.access_log else None
        door = _door(services, access)
        watching = (fleet.run(), dispatcher.run(), pool.run(), door.run(), keys.run())
        works = (*watching, launcher.maintain(), programs.run(), keep_current(services, asked_to_reload))
        workers = [tasks.create_task(work) for work in works]
        await asyncio.sleep(0)  # let the fleet employ its owners
        server = await asyncio.get_running_loop().create_server(door, sock=listener, backlog=1024)
        url = f"http://{for_url(settings.server.host)}:{port}"
        _write_address(settings.data_dir, url)
        furnished = tasks.create_task(_furnish(door, services, access))
        to_start = [*to_resume, *(i.name for i in fleet if i.options.autostart and i.name not in to_resume)]
        if to_start:
            tasks.create_task(_resume(dispatcher, fleet, store, to_start))
        furnished.add_done_callback(lambda _: workshop.ask_about(instance.options for instance in fleet))  # then nobody waits
        try:
            yield Running(url, key, is_new, settings.data_dir / paths.MANAGEMENT_KEY, services, tuple(swept), furnished)
        finally:
            await _shut_down(services, store, server, door, to_start)
            await (await furnished).cleanup()
            pool.close()
            await keys.write_use()
            if access:
                access.flush()
            (settings.data_dir / paths.ADDRESS).unlink(missing_ok=True)
            for worker in workers:
                worker.cancel()


async def _shut_down(
    services: Services, store: InstanceStore, server: asyncio.Server, door: Door, still_to_resume: list[str]
) -> None:
    """New connections are refused, who waits is told, requests in flight may finish, every instance is stopped, all at once."""
    services.is_closing = True
    up = [i.name for i in services.fleet if i.state not in AT_REST and i.options.auto_restart]
    with suppress(StorageFailed):  # then the next daemon starts them on demand instead
        await store.mark_resume({*up, *still_to_resume})
    server.close()
    door.close()
    await services.dispatcher.close(services.settings.server.shutdown_timeout)
    services.bus.close("the daemon ends")


async def _furnish(door: Door, services: Services, access: AccessLog | None) -> web.AppRunner:
    """Have everything answered that the front does not answer itself. To import aiohttp and the management API takes as long as
    all the rest of our start, so it is done beside the first requests, and as it slows them down, a moment after them."""

    def load() -> Callable[[Services, AccessLog | None, float], web.AppRunner]:
        with without_certificates():
            from llamactl_py.app import runner_for

        return runner_for

    await within(HEAD_START, door.wants_aiohttp.wait())
    runner = (await asyncio.to_thread(load))(services, access, LAST_MOMENT)
    await runner.setup()
    assert runner.server is not None  # it is set up
    door.furnish(runner.server)
    return runner


async def _keys(database: Database, settings: Settings, management_key: str) -> KeyRing:
    keys = KeyRing(KeyStore(database, clock.now), clock.now, (management_key,))
    keys.use_management_keys(settings.auth.management_keys)
    await keys.load()
    return keys


def _door(services: Services, access: AccessLog | None) -> Door:
    server = services.settings.server
    patience = Patience(server.header_timeout, server.body_timeout, server.keepalive_timeout, server.max_body_size)
    return Door(FrontDesk(services), services.bodies, patience, server.fast_path, access.add if access else None)


async def _sweep(launcher: LocalLauncher, left: list[Ticket], environ: Mapping[str, str]) -> list[int]:
    """Settle what an earlier daemon left: before a port is used, none of its processes may be there any more."""
    swept = await launcher.sweep(left, inherited(environ, ENGINE))
    if swept:
        log.warning("an earlier daemon ended without stopping its backends; killed what was left: %s", swept)
    return swept


def _is_to_resume(fleet: Fleet, name: str) -> bool:
    """Does that instance still exist, and may it start by itself?"""
    return any(instance.name == name and instance.options.auto_restart for instance in fleet)


async def _resume(dispatcher: Dispatcher, fleet: Fleet, store: InstanceStore, names: list[str]) -> None:
    """Bring up what was up when the last daemon ended, or has autostart, as far as there is room; *names* gets shorter."""
    while names:
        try:
            await dispatcher.start(fleet.get(names[0]))
        except ShuttingDown:
            return  # what is left is the next daemon's
        except LlamactlError as error:
            log.warning("%s was to be started with the daemon, and is not: %s", names[0], error)
        names.pop(0)
    with suppress(StorageFailed):  # then they are started once more by the next daemon
        await store.mark_resume(())


def has_terminal() -> bool:
    """Have we a terminal that somebody may type at? One that was closed counts as none."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def webui_folder() -> Path:
    """Where the web page is: beside this file in an installed package, beside the package in a checkout."""
    installed = Path(__file__).parent / "webui"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "webui"


def _write_address(data_dir: Path, url: str) -> None:
    """Tell the command line client where this daemon listens: all of it at once, as somebody may be waiting for the file."""
    new = data_dir / f"{paths.ADDRESS}.new"
    try:
        new.write_text(url + "\n", "ascii")
        new.replace(data_dir / paths.ADDRESS)
    except OSError as error:
        log.warning("%s cannot be written, so the command line client needs --url: %s", data_dir / paths.ADDRESS, error.strerror)


def raise_file_limit() -> None:
    """Let us open as many files as we may: each stream takes three. Call it before there are threads.

    The kernel's table of them grows by doubling, and where a process has threads each time takes 10 ms, in which every stream
    stands still (expand_fdtable waits for RCU): so it is made large once and for all, which costs 130 kB.
    """
    import fcntl
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1 << 20), hard))
    may_open = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    most = MANY_FILES if may_open == resource.RLIM_INFINITY else min(may_open, MANY_FILES)
    with suppress(OSError), open(os.devnull, "rb") as file:
        os.close(fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, most - 1))
