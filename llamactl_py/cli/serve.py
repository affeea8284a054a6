"""`llamactl serve` and `llamactl version`."""

from __future__ import annotations

import asyncio
import logging
import platform
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import click

from llamactl_py import __version__
from llamactl_py.cli.main import Connection
from llamactl_py.cli.sources import reads_configuration
from llamactl_py.ground.memory import hold

if TYPE_CHECKING:
    from llamactl_py.config.load import Sources


@click.command(short_help="Run the daemon.")
@reads_configuration
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What is logged.",
)
def serve(connection: Connection, sources: Sources, log_level: str) -> None:
    """Run the daemon.

    It runs in the foreground until Ctrl-C or SIGTERM: then requests in flight may finish, every instance is stopped, and
    nothing of it is left. A second Ctrl-C ends everything at once.
    """
    hold()
    from llamactl_py.config.door import is_loopback
    from llamactl_py.config.load import load
    from llamactl_py.daemon import Running, raise_file_limit
    from llamactl_py.daemon import serve as run

    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)-7s %(message)s")
    # It tells each malformed request as an error with a traceback. What goes wrong in our handlers we tell ourselves.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    configuration = load(sources)
    settings = configuration.settings
    for warning in configuration.warnings:
        logging.getLogger("llamactl").warning("%s", warning)
    raise_file_limit()

    def started(daemon: Running) -> None:
        if daemon.key_is_new:
            # To a person, once; never into a log that others keep and read.
            told = f":\n  {daemon.management_key}" if sys.stderr.isatty() else "."
            click.echo(f"The management key was made. It is kept in {daemon.key_file}, readable by you alone{told}", err=True)
        url, listens_on = daemon.url, settings.server.host
        where = click.style(url, bold=True)
        if not is_loopback(listens_on):
            address = f"[{listens_on}]" if ":" in listens_on else listens_on
            where = f"{address}:{daemon.url.rpartition(':')[2]}, reachable from other machines; here {where}"
        click.echo(f"llamactl {__version__} listens on {where} (OpenAI API: {url}/v1). Ctrl-C stops it.", err=True)
        if not settings.auth.require_management_auth:
            warning = click.style("warning:", fg="yellow")
            click.echo(
                f"{warning} management needs no key (auth.require_management_auth is false): "
                "every program of this machine may run commands as this user",
                err=True,
            )

    run_loop(lambda: run(configuration, started))


def run_loop(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run *main* on uvloop where there is one, else on asyncio's own loop."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())


@click.command(short_help="Show the version of this command, and of the daemon if one answers.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def version(connection: Connection, as_json: bool) -> None:
    """Show the version of this command, and of the daemon if one answers."""
    from llamactl_py.client import Refused, Unreachable

    try:
        daemon = connection.client().version().partition("\n")[0].removeprefix("Version: ")
    except (Unreachable, Refused):
        daemon = None
    if as_json:
        from llamactl_py.cli import say

        say.as_json({"version": __version__, "python": platform.python_version(), "daemon": daemon})
        return
    click.echo(f"llamactl {__version__} (Python {platform.python_version()})")
    click.echo(f"daemon {daemon}" if daemon else "no daemon answers")
