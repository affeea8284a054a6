"""The only place where the parts are put together, and the one path by which they are taken apart again."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from aiohttp.web_log import AccessLogger

from llamactl_py.accounting.ledger import Ledger
from llamactl_py.api.access_log import AccessLog
from llamactl_py.api.inference import FrontDesk
from llamactl_py.app import build_app
from llamactl_py.auth.keys import KeyRing, management_key
from llamactl_py.config import paths
from llamactl_py.config.settings import Server, Settings
from llamactl_py.ground import clock
from llamactl_py.ground.errors import BadConfiguration, DaemonRefused, LlamactlError, ShuttingDown, StorageFailed
from llamactl_py.ground.ticket import Ticket
from llamactl_py.instances.command import ENGINE, Workshop, inherited
from llamactl_py.instances.fleet import Fleet
from llamactl_py.instances.ports import Ports
from llamactl_py.instances.programs import Programs
from llamactl_py.instances.state import AT_REST
from llamactl_py.launchers.local import LocalLauncher
from llamactl_py.proxy.desk import Patience
from llamactl_py.proxy.door import Door
from llamactl_py.proxy.upstream import Pool
from llamactl_py.scheduler.dispatcher import Dispatcher
from llamactl_py.services import Services
from llamactl_py.storage.database import Database
from llamactl_py.storage.instances import InstanceStore
from llamactl_py.storage.keys import KeyStore
from llamactl_py.storage.lock import DataDirectoryLock
from llamactl_py.storage.programs import ProgramStore
from llamactl_py.storage.tickets import TicketStore

log = logging.getLogger(__name__)


LAST_MOMENT = 1.0
"""Seconds for what is still open when every instance is down: half-sent requests, answers about to go out."""


@dataclass(frozen=True)
class Running:
    """A daemon that answers."""

    url: str
    management_key: str
    key_is_new: bool
    key_file: Path
    services: Services
    swept: tuple[int, ...]
    """Processes that an earlier daemon had left and that were killed before this one started."""

    def hurry(self) -> None:
        """Let a shutdown under way wait for nothing any more."""
        for instance in self.services.fleet:
            instance.hurry()


async def serve(settings: Settings, started: Callable[[Running], None], environ: Mapping[str, str] = os.environ) -> None:
    """Run until SIGINT or SIGTERM; the first drains, the second hurries. Raises DaemonRefused when it cannot start."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    daemon: Running | None = None

    def on_signal() -> None:
        if stop.is_set() and daemon:
            log.warning("asked again: ending everything at once")
            daemon.hurry()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    try:
        async with running(settings, environ) as daemon:
            gc.freeze()  # what start-up made lives as long as we do: no collection needs to look at it again
            started(daemon)
            await stop.wait()
            log.info("shutting down")
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@asynccontextmanager
async def running(settings: Settings, environ: Mapping[str, str] = os.environ) -> AsyncIterator[Running]:
    """A daemon for the length of the block; when it is left nothing of ours runs any more. Raises DaemonRefused."""
    refuse_open_door(settings)
    lock = DataDirectoryLock(settings.data_dir)
    try:
        (settings.data_dir / paths.ADDRESS).unlink(missing_ok=True)  # of a daemon that was killed
        listener = listen(settings)
        try:
            database = Database(settings.data_dir / paths.DATABASE)
            try:
                async with _alive(settings, environ, listener, database) as daemon:
                    yield daemon
            finally:
                database.close()
        finally:
            listener.close()
    finally:
        lock.release()


@asynccontextmanager
async def _alive(
    settings: Settings, environ: Mapping[str, str], listener: socket.socket, database: Database
) -> AsyncIterator[Running]:
    port = listener.getsockname()[1]
    key, is_new = management_key(settings.data_dir / paths.MANAGEMENT_KEY)
    tickets = TicketStore(database, clock.now)
    instances = settings.instances
    launcher = LocalLauncher(
        settings.data_dir, clock.now, int(instances.log_rotation_max_size * 1e6), instances.log_rotation_backups
    )
    left = await tickets.all()
    swept = await _sweep(launcher, left, environ)
    programs = Programs(launcher.errands.run, ProgramStore(database, clock.now), instances.program_timeout)
    ports = Ports(*instances.port_range, exclude=(port,))
    workshop = Workshop(settings, launcher, tickets, ports, environ, programs=programs)
    store = InstanceStore(database, clock.now)
    fleet = Fleet(store, workshop, clock.now)
    keys = KeyRing(KeyStore(database, clock.now), clock.now, (key, *settings.auth.management_keys))
    await keys.load()
    to_resume = [name for name in {*await fleet.load(), *(ticket.instance for ticket in left)} if _is_to_resume(fleet, name)]
    await store.mark_resume(to_resume)  # before the tickets that say so are forgotten
    for ticket in left:
        await tickets.remove(ticket.token)
    dispatcher = Dispatcher(fleet, instances)
    pool = Pool(settings.server.connect_timeout, settings.server.response_timeout)
    async with asyncio.TaskGroup() as tasks:
        ledger = Ledger(settings.server.request_history, clock.now)
        services = Services(settings, fleet, dispatcher, keys, pool, ledger, clock.now, webui_folder())
        access = AccessLog(clock.now) if settings.server.access_log else None
        runner = web.AppRunner(
            build_app(services),
            handler_cancellation=True,
            access_log=log if access else None,  # only whether there is one matters
            access_log_class=access.of_aiohttp() if access else AccessLogger,
            keepalive_timeout=settings.server.keepalive_timeout,
            shutdown_timeout=LAST_MOMENT,
        )
        await runner.setup()
        door = Door(
            FrontDesk(services),
            _aiohttp(runner),
            services.bodies,
            _patience(settings.server),
            settings.server.fast_path,
            access.add if access else None,
        )
        works = (fleet.run(), dispatcher.run(), pool.run(), door.run(), keys.run(), launcher.maintain(), programs.run())
        workers = [tasks.create_task(work) for work in works]
        await asyncio.sleep(0)  # let the fleet employ its owners
        server = await asyncio.get_running_loop().create_server(door, sock=listener, backlog=1024)
        url = f"http://{_for_url(settings.server.host)}:{port}"
        _write_address(settings.data_dir, url)
        tasks.create_task(_resume(dispatcher, fleet, store, to_resume))
        workshop.ask_about(instance.options for instance in fleet)
        try:
            yield Running(url, key, is_new, settings.data_dir / paths.MANAGEMENT_KEY, services, tuple(swept))
        finally:
            await _shut_down(services, store, server, door, to_resume)
            await runner.cleanup()
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


def _aiohttp(runner: web.AppRunner) -> web.Server:
    assert runner.server is not None  # it is set up
    return runner.server


def _patience(server: Server) -> Patience:
    return Patience(server.header_timeout, server.body_timeout, server.keepalive_timeout, server.max_body_size)


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
    """Bring up what was up when the last daemon ended, as far as there is room; *names* gets shorter with each."""
    while names:
        try:
            await dispatcher.start(fleet.get(names[0]))
        except ShuttingDown:
            return  # what is left is the next daemon's
        except LlamactlError as error:
            log.warning("%s was running before and is not started again: %s", names[0], error)
        names.pop(0)
    with suppress(StorageFailed):  # then they are started once more by the next daemon
        await store.mark_resume(())


def webui_folder() -> Path:
    """Where the web page is: beside this file in an installed package, beside the package in a checkout."""
    installed = Path(__file__).parent / "webui"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "webui"


def refuse_open_door(settings: Settings) -> None:
    """Whoever may manage may run any command here: a door that others can reach needs both locks. Raises DaemonRefused."""
    auth = settings.auth
    if not is_loopback(settings.server.host) and not (auth.require_inference_auth and auth.require_management_auth):
        raise BadConfiguration(
            f"refusing to listen on {settings.server.host} without keys: set auth.require_inference_auth and "
            "auth.require_management_auth to true, or listen on 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Can only this machine reach *host*?"""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(settings: Settings) -> socket.socket:
    """The listening socket, bound before anything is started. Raises DaemonRefused."""
    host, port = settings.server.host, settings.server.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1024)
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:  # the latter: a name that no domain name can be
        why = getattr(error, "strerror", None) or error
        raise DaemonRefused(f"cannot listen on {host}:{port}: {why}; choose another with --host and --port") from None
    listener.setblocking(False)
    return listener


def _for_url(host: str) -> str:
    """*host* as others on this machine reach it."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 not bound here, only compared
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _write_address(data_dir: Path, url: str) -> None:
    """Tell the command line client where this daemon listens: all of it at once, as somebody may be waiting for the file."""
    new = data_dir / f"{paths.ADDRESS}.new"
    try:
        new.write_text(url + "\n", "ascii")
        new.replace(data_dir / paths.ADDRESS)
    except OSError as error:
        log.warning("%s cannot be written, so the command line client needs --url: %s", data_dir / paths.ADDRESS, error.strerror)


def raise_file_limit() -> None:
    """Let us open as many files as we may: each stream takes two."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1 << 20), hard))
