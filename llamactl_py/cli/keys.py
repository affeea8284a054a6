"""Inference keys: make, list, revoke."""

from __future__ import annotations

import click
from rich.markup import escape

from llamactl_py.cli import render
from llamactl_py.cli.main import Connection


@click.group(short_help="Make, list and revoke inference keys.")
def keys() -> None:
    """Make, list and revoke inference keys."""


@keys.command(name="ls")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def list_keys(connection: Connection, as_json: bool) -> None:
    """List the inference keys."""
    found = connection.client().keys()
    if as_json:
        render.as_json(found)
    else:
        render.keys(found)


@keys.command(name="create")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def create_key(connection: Connection, name: str, as_json: bool) -> None:
    """Make an inference key NAME and show it, this once."""
    made = connection.client().create_key(name)
    if as_json:
        render.as_json(made)
    else:
        render.err.print(f"key {made['id']} ({escape(name)}), shown once:")
        click.echo(made["key"])


@keys.command(name="rm")
@click.argument("id_", metavar="ID", type=int)
@click.pass_obj
def remove_key(connection: Connection, id_: int) -> None:
    """Revoke the inference key with number ID, at once."""
    connection.client().delete_key(id_)
    render.out.print(f"key {id_} is revoked")
