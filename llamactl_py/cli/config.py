"""The configuration: check it, show it, find it, describe it, and have the daemon read it again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llamactl_py.cli import say
from llamactl_py.cli.main import Connection, json_option
from llamactl_py.cli.sources import reads_configuration, with_file
from llamactl_py.ground.importing import lazily

if TYPE_CHECKING:
    from llamactl_py.cli import render
    from llamactl_py.config.load import Sources
else:
    render = lazily("llamactl_py.cli.render")

FILE = click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))


@click.group(short_help="Check, show, find and reload the configuration.")
def config() -> None:
    """Check, show, find and reload the configuration."""


@config.command()
@FILE
@reads_configuration
@json_option
def check(connection: Connection, file: Path | None, sources: Sources, as_json: bool) -> None:
    """Check FILE, or the configuration that llamactl serve would read here, and tell every mistake at once.

    Exit code 0 when a daemon can run with it, else 2. Names are not compared with instances made through the API, which only
    the daemon knows.
    """
    from llamactl_py.config.load import load
    from llamactl_py.ground.errors import BadConfiguration, Problem
    from llamactl_py.instances.declared import read_declared

    sources = with_file(sources, file)
    warnings: list[str] = []
    problems: tuple[Problem, ...] = ()
    count = 0
    try:
        found = load(sources)
        warnings += found.warnings
        declared = read_declared(found)
        count = len(declared)
        warnings += [f"{one.where}: {one.name}: {warning}" for one in declared for warning in one.warnings]
    except BadConfiguration as error:
        problems = error.problems
    name = _text(sources.find())
    if as_json:
        told = [{"where": problem.where, "problem": problem.what} for problem in problems]
        say.as_json({"ok": not problems, "file": name, "problems": told, "warnings": warnings})
    else:
        say.warnings(warnings)
        for problem in problems:
            click.echo(f"{say.coloured('error:', 'red', sys.stderr)} {say.safe(str(problem))}", err=True)
        if not problems:
            what = name or "what is said without a configuration file"
            say.out(f"{what} is good; it declares {count} instance{'' if count == 1 else 's'}")
    sys.exit(2 if problems else 0)


@config.command()
@FILE
@reads_configuration
@json_option
def show(connection: Connection, file: Path | None, sources: Sources, as_json: bool) -> None:
    """Show every setting that llamactl serve would run with here, and who says it.

    A setting comes from its default, .env, a line of FILE, a variable of the environment, or a flag. Secrets are masked.
    """
    from llamactl_py.config import shown
    from llamactl_py.config.load import load
    from llamactl_py.instances.declared import read_declared

    found = load(with_file(sources, file))
    entries = shown.entries(found)
    declared = read_declared(found)
    if as_json:
        settings = {one.name: {"value": one.value, "source": one.origin.source, "where": one.origin.where} for one in entries}
        instances = {one.name: {"where": one.where, "options": one.options.public()} for one in declared}
        files = {"file": _text(found.file), "dotenv": _text(found.dotenv)}
        say.as_json({**files, "settings": settings, "declared_instances": instances, "warnings": list(found.warnings)})
        return
    say.warnings(found.warnings)
    rows = [(one.name, render.plain(one.value), str(one.origin)) for one in entries]
    rows += [(f"declared_instances.{one.name}", one.options.backend_type, one.where) for one in declared]
    render.settings(rows)


@config.command()
@reads_configuration
@json_option
def path(connection: Connection, sources: Sources, as_json: bool) -> None:
    """Show where the configuration is looked for, and what is read."""
    from llamactl_py.config.paths import config_files

    found, dotenv = sources.find(), sources.dotenv().absolute()
    looked = [place.absolute() for place in config_files(sources.environ)]
    places = looked if found in looked or not found else [found]
    rows = [(str(place), "not there" if not place.exists() else "read" if place == found else "not read") for place in places]
    rows.append((str(dotenv), "read" if dotenv.exists() else "not there"))
    if as_json:
        say.as_json(
            {
                "file": _text(found),
                "dotenv": str(dotenv),
                "places": [dict(zip(("path", "state"), row, strict=True)) for row in rows],
            }
        )
    else:
        render.places(rows)


@config.command()
@click.option("--json", is_flag=True, expose_value=False, help="It always is JSON.")
def schema() -> None:
    """Print the JSON Schema of the configuration file, for editors.

    \b
    Most editors read the first line of a YAML file for it:
      # yaml-language-server: $schema=config.schema.json
    """
    from llamactl_py.instances.schema import schema as document

    say.as_json(document())


@config.command()
@json_option
@click.pass_obj
def reload(connection: Connection, as_json: bool) -> None:
    """Have the daemon read its configuration again, and act on the difference.

    What did not change keeps running. A file with mistakes changes nothing.
    """
    with render.spinner("reading the configuration again"):
        done: dict[str, Any] = connection.client().reload_config()
    if as_json:
        say.as_json(done)
        return
    say.warnings(done["warnings"])
    for what in ("applied", "added", "changed", "restarted", "removed"):
        for name in done[what]:
            say.out(f"{what} {name}")
    for name in done["needs_restart"]:
        click.echo(say.coloured(f"{name} has changed and waits for a restart of the daemon", "yellow"))
    if not any(done[what] for what in ("applied", "added", "changed", "removed", "needs_restart")):
        say.out("nothing has changed")


def _text(file: Path | None) -> str | None:
    return str(file) if file else None
