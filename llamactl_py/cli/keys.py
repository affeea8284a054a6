"""Keys: make, list, show, edit, revoke."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llamactl_py.cli import complete, say
from llamactl_py.cli.main import Connection, json_option
from llamactl_py.client import Client, Refused
from llamactl_py.ground.errors import nearest
from llamactl_py.ground.importing import lazily

if TYPE_CHECKING:
    from llamactl_py.cli import render
else:
    render = lazily("llamactl_py.cli.render")

NEVER = "never"
SHORT = {"ls": "list", "rm": "revoke"}

Command = TypeVar("Command", bound=Callable[..., Any])


def moment(ctx: click.Context, param: click.Parameter, value: str | None) -> int | str | None:
    """'30d', '12h': so long from now; '2027-01-31', '2027-01-31 18:00': on that day, or then, in this machine's time zone.

    Gives Unix seconds, or NEVER.
    """
    from llamactl_py.ground import durations

    if value is None or value == NEVER:
        return value
    try:
        then = datetime.fromisoformat(value).astimezone()
    except (ValueError, OverflowError):  # then it is no date
        pass
    else:
        if then <= datetime.now(UTC):
            raise click.BadParameter(f"{value!r} has passed already; give a moment to come", ctx, param)
        return int(then.timestamp())
    try:
        if value.strip().isdigit():
            raise ValueError("a number without a unit could be anything")
        return int(datetime.now(UTC).timestamp() + durations.parse(value, 1.0))
    except ValueError:
        said = f"{value!r} is no moment; write 30d, 12h, 2027-01-31, '2027-01-31 18:00' or {NEVER}"
        raise click.BadParameter(said, ctx, param) from None


class WithShortNames(click.Group):
    """Knows `ls` and `rm`, too."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, SHORT.get(cmd_name, cmd_name))


key_argument = click.argument("word", metavar="KEY", shell_complete=complete.keys)


def numbers(client: Client, words: Sequence[str]) -> list[int]:
    """The numbers of the keys that *words* mean: each a number, or a name that one key has. Raises UsageError and Refused."""
    known = client.keys() if any(not word.isdecimal() for word in words) else []
    return list(dict.fromkeys(int(word) if word.isdecimal() else _number(word, known) for word in words))


def _number(name: str, known: Sequence[Mapping[str, Any]]) -> int:
    found = [str(key["id"]) for key in known if key["name"] == name]
    if not found:
        hint = nearest(name, [key["name"] for key in known])
        raise Refused(404, "not_found", f"there is no key named {name!r}{hint}; llamactl keys list shows them")
    if len(found) > 1:
        raise click.UsageError(
            f"{len(found)} keys are named {name!r}; give the number of the one that is meant: {', '.join(found)}"
        )
    return int(found[0])


def limits(command: Command) -> Command:
    """The options that say what an inference key may do."""
    options = (
        click.option(
            "--expires", callback=moment, metavar="WHEN", help=f"How long it is valid: 30d, 12h, 2027-01-31 or {NEVER}."
        ),
        click.option(
            "--instance",
            "instances",
            multiple=True,
            metavar="NAME",
            shell_complete=complete.instances,
            help="An instance it may use; may be repeated.",
        ),
        click.option(
            "--group",
            "groups",
            multiple=True,
            metavar="NAME",
            shell_complete=complete.groups,
            help="It may use whoever is in it; may be repeated.",
        ),
        click.option("--start/--no-start", "may_start", default=None, help="May its requests start an instance that is down?"),
        click.option("--evict/--no-evict", "may_evict", default=None, help="May that stop an idle one to have room?"),
    )
    for option in reversed(options):
        command = option(command)
    return command


def given(**fields: Any) -> dict[str, Any]:
    """As the API takes them, without those that were not given."""
    fields = {field: list(value) if isinstance(value, tuple) else value for field, value in fields.items()}
    if expires := fields.pop("expires", None):
        fields["expires_at"] = None if expires == NEVER else expires
    return {field: value for field, value in fields.items() if field == "expires_at" or value not in (None, [])}


@click.group(cls=WithShortNames, short_help="Make, list, edit and revoke keys.")
def keys() -> None:
    """Make, list, edit and revoke keys. `ls` and `rm` are short for list and revoke."""


@keys.command(name="list")
@json_option
@click.pass_obj
def list_keys(connection: Connection, as_json: bool) -> None:
    """List the keys, newest first."""
    found = connection.client().keys()
    if as_json:
        say.as_json(found)
    else:
        render.keys(found)


@keys.command(name="show")
@key_argument
@json_option
@click.pass_obj
def show_key(connection: Connection, word: str, as_json: bool) -> None:
    """Show all that there is to know of KEY, a number or a name that no other has, but for the key itself."""
    client = connection.client()
    shown(client.key(numbers(client, [word])[0]), as_json)


@keys.command(name="create")
@click.argument("name")
@click.option(
    "--scope",
    type=click.Choice(["inference", "read", "management"]),
    default="inference",
    show_default=True,
    help="What it opens: models, management to look at, or everything.",
)
@limits
@json_option
@click.pass_obj
def create_key(connection: Connection, /, name: str, scope: str, as_json: bool, **fields: Any) -> None:
    """Make a key NAME and show it, this once. Without --instance and --group it is for all instances."""
    made = connection.client().create_key(name, **given(scope=scope, **fields))
    if as_json:
        say.as_json(made)
    else:
        say.err(f"key {made['id']} ({name}), shown once:")
        click.echo(made["key"])


@keys.command(name="edit")
@key_argument
@click.option("--name", help="Its new name.")
@click.option("--all", "for_all", is_flag=True, help="For all instances, instead of some.")
@limits
@json_option
@click.pass_obj
def edit_key(connection: Connection, /, word: str, for_all: bool, as_json: bool, **fields: Any) -> None:
    """Change KEY, a number or a name that no other has, from its next request on.

    What is not given stays; --instance replaces all instances that it had, and --group all groups.
    """
    changes = given(permission_mode="allow_all" if for_all else None, **fields)
    if not changes:
        raise click.UsageError("nothing to change; give --name, --expires, --instance, --group, --all, --start or --evict")
    client = connection.client()
    shown(client.edit_key(numbers(client, [word])[0], **changes), as_json)


@keys.command(name="revoke")
@click.argument("words", nargs=-1, required=True, metavar="KEY...", shell_complete=complete.keys)
@json_option
@click.pass_obj
def revoke_keys(connection: Connection, words: tuple[str, ...], as_json: bool) -> None:
    """Revoke each KEY, a number or a name that no other has, at once.

    Where one of the names is that of no key, or of several, none is revoked.
    """
    client = connection.client()
    results = [_revoke(client, id_) for id_ in numbers(client, words)]
    say.results(results, lambda result: f"key {result['id']} is revoked", json=as_json)
    sys.exit(4 if any("error" in result for result in results) else 0)


def _revoke(client: Client, id_: int) -> dict[str, Any]:
    """Revoke it; what became of it, as `llamactl rm` tells it of instances."""
    try:
        client.delete_key(id_)
    except Refused as error:
        return {"id": id_, "http_status": error.status, "error": error.code, "details": str(error)}
    return {"id": id_, "http_status": 204}


def shown(key: dict[str, Any], as_json: bool) -> None:
    if as_json:
        say.as_json(key)
    else:
        render.key(key)
