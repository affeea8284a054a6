"""`llamactl edit`: options changed in an editor, or by name."""

from __future__ import annotations

import sys
from typing import Any

import click

from llamactl_py.cli import complete, say
from llamactl_py.cli.acting import act
from llamactl_py.cli.changes import changes, patch
from llamactl_py.cli.main import Connection, json_option
from llamactl_py.client import Client, Refused


@click.command(short_help="Change the options of an instance, in an editor or by name.")
@click.argument("name", shell_complete=complete.instances)
@changes
@click.option("--restart", is_flag=True, help="Restart it afterwards, if it is up and needs that, and wait until it is ready.")
@json_option
@click.pass_obj
def edit(
    connection: Connection,
    name: str,
    set_: tuple[str, ...],
    set_from: tuple[str, ...],
    unset: tuple[str, ...],
    restart: bool,
    as_json: bool,
) -> None:
    """Change the options of an instance: with --set and --unset, or else in $VISUAL or $EDITOR, as YAML.

    \b
      llamactl edit qwen
      llamactl edit qwen --set idle_timeout=1h --set backend_options.ctx_size=16384 --unset group
    In the editor nothing is lost: what cannot be applied comes back with the reason above it; close it unchanged to give up,
    and the text is kept in a file. What others changed meanwhile is not overwritten unseen.
    """
    client = connection.client()
    wanted = patch(set_, set_from, unset)
    instance = client.patch(name, wanted) if wanted else _in_editor(client, name)
    if instance is None:
        say.err("nothing was changed")
        return
    say.warnings(instance.pop("warnings", []))
    code = 0
    if restart and instance["restart_required"]:
        done = act(client, "restart", [name])
        done.tell_refusals()
        instance, code = done.rows.get(name, instance), done.code
    if as_json:
        say.as_json(instance)
    else:
        _tell(instance)
    sys.exit(code)


def _in_editor(client: Client, name: str) -> dict[str, Any] | None:
    """The changed instance; None when nothing was changed. Raises Refused for one that the configuration file declares."""
    from llamactl_py.cli.editor import edited

    instance = client.instance(name)
    if instance["declared"]:
        remedy = f"edit {instance['declared_at']}, then reload the configuration: llamactl config reload"
        raise Refused(409, "declared", f"instance {name!r} is declared in the configuration file; {remedy}")
    return edited(client, instance)


def _tell(instance: dict[str, Any]) -> None:
    say.out(f"{instance['name']} is changed, and {instance['state']}")
    if instance["restart_required"]:
        say.err(f"it runs with the options of before until: llamactl restart {instance['name']}")
