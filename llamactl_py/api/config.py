"""The configuration: what is in force and who said it, and reading it again."""

from __future__ import annotations

from typing import Annotated, Any

from aiohttp import web

from llamactl_py import __version__
from llamactl_py.api.route import Route, View
from llamactl_py.auth.policy import Access
from llamactl_py.config import shown
from llamactl_py.config.changes import adopt
from llamactl_py.ground import errors
from llamactl_py.ground.errors import BadConfiguration, Invalid
from llamactl_py.ground.fields import about
from llamactl_py.reload import reload
from llamactl_py.services import Services


class ConfigView(View, kw_only=True):
    """The settings in force, section by section as in the file, and where they come from. Secrets are masked."""

    server: dict[str, Any]
    data_dir: str
    backends: dict[str, Any]
    instances: dict[str, Any]
    auth: dict[str, Any]
    version: Annotated[str, about("llamactl's version.")]
    file: Annotated[str | None, about("The configuration file that was read.")] = None
    dotenv: Annotated[str | None, about("The .env file that was read.")] = None
    origins: Annotated[
        dict[str, str], about("Who says each setting that is not a default, by dotted name: FILE:LINE, a variable, or a flag.")
    ]
    declared_instances: Annotated[dict[str, str], about("Instances that the file declares, and FILE:LINE of each.")]
    needs_restart: Annotated[list[str], about("Settings that were changed and wait for a restart of the daemon.")]
    warnings: Annotated[list[str], about("What was left out, and what replaces it.")]


class ReloadView(View, kw_only=True):
    """What reading the configuration again has changed."""

    file: Annotated[str | None, about("The configuration file that was read.")] = None
    applied: Annotated[list[str], about("Settings whose new value is in force.")]
    needs_restart: Annotated[list[str], about("Settings whose new value waits for a restart of the daemon.")]
    added: Annotated[list[str], about("Declared instances that are new.")]
    changed: Annotated[list[str], about("Declared instances with other options than before.")]
    restarted: Annotated[list[str], about("Those of them that were up, and whose process has to change: they restart now.")]
    removed: Annotated[list[str], about("Instances that are not declared any more; they were stopped and are gone.")]
    warnings: Annotated[list[str], about("What was left out, and what is odd about options.")]


async def get_config(services: Services, request: web.Request) -> ConfigView:
    """Show the settings in force.

    With where each of them is said. Keys, tokens and passwords are masked.
    """
    configuration = services.configuration
    return ConfigView(
        **shown.tree(services.settings),
        version=__version__,
        file=str(configuration.file) if configuration.file else None,
        dotenv=str(configuration.dotenv) if configuration.dotenv else None,
        origins={one.name: str(one.origin) for one in shown.entries(configuration) if one.origin.source != "default"},
        declared_instances={instance.name: instance.declared_at for instance in services.fleet if instance.declared_at},
        needs_restart=list(adopt(services.settings, configuration.settings).needs_restart),
        warnings=list(configuration.warnings),
    )


async def reload_config(services: Services, request: web.Request) -> ReloadView:
    """Read the configuration again and act on the difference.

    What did not change keeps running. A declared instance that is new is added, one that has changed restarts if it was up, one
    that is gone is stopped first; the answer comes when that is done. Settings that a running daemon cannot take over are named.
    Anything wrong changes nothing, and is told with file and line. SIGHUP does the same.
    """
    try:
        done = await reload(services)
    except BadConfiguration as error:
        raise Invalid(error.problems) from None
    return ReloadView(
        file=str(done.configuration.file) if done.configuration.file else None,
        applied=list(done.adopted.applied),
        needs_restart=list(done.adopted.needs_restart),
        added=[one.name for one in done.difference.added],
        changed=[one.name for one in done.difference.changed],
        restarted=list(done.restarted),
        removed=list(done.difference.removed),
        warnings=list(done.warnings),
    )


ROUTES = (
    Route("GET", "/api/v1/config", get_config, Access.READ, "config", returns=ConfigView),
    Route(
        "POST", "/api/v1/config/reload", reload_config, Access.MANAGEMENT, "config", returns=ReloadView,
        raises=(errors.Invalid, errors.ShuttingDown, errors.StorageFailed),
    ),
)  # fmt: skip
