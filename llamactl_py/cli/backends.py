"""Kinds of servers: which are installed where the daemon runs, in which version, and what they take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llamactl_py.cli import complete, say
from llamactl_py.cli.main import Connection, json_option
from llamactl_py.ground.importing import lazily

if TYPE_CHECKING:
    from llamactl_py.cli import render
else:
    render = lazily("llamactl_py.cli.render")


@click.command(short_help="Show which servers are installed, and what they take.")
@click.argument("kind", metavar="[TYPE]", required=False, shell_complete=complete.backends)
@click.option("--refresh", is_flag=True, help="With TYPE: ask its program again.")
@json_option
@click.pass_obj
def backends(connection: Connection, kind: str | None, refresh: bool, as_json: bool) -> None:
    """Show which servers are installed, in which version, where, and how to install those that are not.

    With TYPE (llama-cpp, mlx, vllm, ...) also how the installed version differs from the one whose options are described. Its
    program is asked for that the first time, which takes vLLM 15 seconds or more.
    """
    client = connection.client()
    if kind is None:
        if refresh:
            raise click.UsageError("--refresh needs a TYPE")
        found = client.backends()
        say.as_json(found) if as_json else render.backends(found)
        return
    with render.spinner(f"asking {kind} what it takes"):
        one = client.backend(kind, refresh=refresh)
    say.as_json(one) if as_json else render.backend(one)
