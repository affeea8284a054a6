"""The configuration, read again while the daemon runs: only the difference is acted on, and nothing if anything is wrong.

What did not change keeps running, its streams unbroken. Nobody can create or change an instance between the comparison and
what follows from it; requests go on all the while.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from msgspec import Struct

from llamactl_py.config.changes import Adopted, adopt
from llamactl_py.config.load import Configuration
from llamactl_py.ground.errors import BadConfiguration, LlamactlError, ShuttingDown, StorageFailed
from llamactl_py.ground.waiting import to_its_end, within
from llamactl_py.instances.declared import Declaration, Difference, read_declared
from llamactl_py.services import Services

log = logging.getLogger(__name__)

FOR_EVER = 365 * 86400.0


class Reloaded(Struct, frozen=True):
    """What was done. *restarted*: those of the changed instances that were up, and whose process had to change too."""

    configuration: Configuration
    adopted: Adopted
    difference: Difference
    restarted: tuple[str, ...]
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        parts = {
            "settings": self.adopted.applied,
            "added": [one.name for one in self.difference.added],
            "changed": [one.name for one in self.difference.changed],
            "restarted": self.restarted,
            "removed": self.difference.removed,
            "needs a restart of the daemon": self.adopted.needs_restart,
        }
        return "; ".join(f"{what}: {', '.join(names)}" for what, names in parts.items() if names) or "nothing has changed"


async def reload(services: Services) -> Reloaded:
    """Read the configuration again and act on the difference; answers when what was removed is gone.

    A caller that leaves does not stop it half-way. Raises BadConfiguration, with nothing changed; ShuttingDown; StorageFailed,
    after which it should be asked for again.
    """
    return await to_its_end(_reload(services))


async def _reload(services: Services) -> Reloaded:
    async with services.reloading:
        if services.is_closing:
            raise ShuttingDown("llamactl is shutting down")
        configuration, declared = await asyncio.to_thread(_read, services.configuration)
        adopted = adopt(services.settings, configuration.settings)
        async with services.fleet.held():
            difference = services.fleet.compare(declared, adopted.settings.instances.max_instances)
            services.use(configuration, adopted.settings)  # from here on nothing that the file says can be wrong
            await _retire(services, difference.removed)
            to_restart = await services.fleet.declare(difference)
        for instance in to_restart:
            await services.dispatcher.restart(instance)
        warnings = (*configuration.warnings, *(f"{one.where}: {one.name}: {w}" for one in declared for w in one.warnings))
        done = Reloaded(configuration, adopted, difference, tuple(instance.name for instance in to_restart), warnings)
        log.info("the configuration was read again: %s", done)
        return done


def _read(configuration: Configuration) -> tuple[Configuration, tuple[Declaration, ...]]:
    again = configuration.again()
    return again, read_declared(again)


async def _retire(services: Services, names: Iterable[str]) -> None:
    """Stop and forget what is not declared any more, all at once; requests in flight have drain_timeout."""

    failures: list[StorageFailed] = []

    async def retire(name: str) -> None:
        try:
            async with services.dispatcher.retiring(services.fleet.get(name), force=True):
                await services.fleet.forget(name)
        except StorageFailed as failure:  # the others go all the same
            failures.append(failure)

    async with asyncio.TaskGroup() as tasks:
        for name in names:
            tasks.create_task(retire(name))
    if failures:
        raise failures[0]


# -- for the life of the daemon --------------------------------------------------------------------------------------------


async def keep_current(services: Services, asked: asyncio.Event) -> None:
    """Reload whenever *asked* is set, and where config_watch_interval says so whenever a file has changed; until cancelled.

    What goes wrong is logged; the daemon goes on as it was.
    """
    interval = services.settings.server.config_watch_interval
    moving = tried = services.configuration.looked
    while True:
        was_asked = await within(interval or FOR_EVER, asked.wait())
        asked.clear()
        sources = services.configuration.sources
        found = await asyncio.to_thread(sources.look) if sources else ()
        is_settled = found == moving  # a file that still changes is still being written
        moving = found
        if was_asked or (is_settled and found not in (services.configuration.looked, tried)):
            tried = found
            await _try(services)


async def _try(services: Services) -> None:
    try:
        await reload(services)
    except BadConfiguration as error:
        log.error("the configuration cannot be used, and everything stays as it is:")
        for problem in error.problems:
            log.error("  %s", problem)
    except LlamactlError as error:
        log.error("the configuration was not read again: %s", error)
    except Exception:  # a defect of ours, met in somebody's file, must not end what runs
        log.exception("the configuration was not read again")
