"""What a shell is offered behind Tab: names that the daemon knows. Never an error, and never more than a moment's wait."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from llamactl_py.client import Client

PATIENCE = 0.7
"""Seconds for which a person at the keyboard waits for a daemon that is busy, or far away."""

STATES = ("backoff", "failed", "ready", "starting", "stopped", "stopping")

_HARMLESS = re.compile(r"[\w./:@+][\w./:@+-]*")
"""Shells put words into the line as they are: an alias that any text can be must not become a part of a command,
nor an option of it."""

Completer = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]


def _asks(find: Callable[[Client], Iterable[tuple[str, str]]]) -> Completer:
    """A completion with what *find* gives: words, each with a help."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        given = ctx.params.get(param.name or "") or ()
        before = given if isinstance(given, tuple) else ()  # `llamactl stop a a` is nobody's wish
        try:
            found = list(find(_client(ctx)))
        except Exception:  # noqa: BLE001 no daemon, no key, ...: whoever presses Tab is not to read about it
            return []
        wanted = [(word, hint) for word, hint in found if word.startswith(incomplete) and word not in before]
        return [CompletionItem(word, help=hint) for word, hint in wanted if _HARMLESS.fullmatch(word)]

    return complete


def _client(ctx: click.Context) -> Client:
    """The group's own function has not run: only its options were read."""
    from llamactl_py.cli.main import Connection

    given = ctx.find_root().params
    return Connection(given.get("url"), given.get("key_file"), given.get("data_dir")).client(timeout=PATIENCE)


def _instances(client: Client) -> Iterator[tuple[str, str]]:
    return ((row["name"], row["state"]) for row in client.instances())


def _models(client: Client) -> Iterator[tuple[str, str]]:
    for row in client.instances():
        yield row["name"], row["state"]
        yield from ((alias, row["name"]) for alias in row["options"].get("aliases", ()))


def _groups(client: Client) -> Iterator[tuple[str, str]]:
    names = [row["options"].get("group", "") for row in client.instances()]
    return ((name, f"{names.count(name)} instances") for name in dict.fromkeys(names) if name)


def _backends(client: Client) -> Iterator[tuple[str, str]]:
    return ((row["slug"], row["title"]) for row in client.backends())


def _keys(client: Client) -> Iterator[tuple[str, str]]:
    rows = client.keys()
    names = [row["name"] for row in rows]
    for row in rows:
        yield str(row["id"]), row["name"]
        if names.count(row["name"]) == 1 and not row["name"].isdecimal():
            yield row["name"], str(row["id"])


instances = _asks(_instances)
models = _asks(_models)
groups = _asks(_groups)
backends = _asks(_backends)
keys = _asks(_keys)


def states(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The last of several states, with commas between; no daemon is needed for that."""
    from click.shell_completion import CompletionItem

    before, comma, last = incomplete.rpartition(",")
    given = before.split(",")
    return [CompletionItem(f"{before}{comma}{word}") for word in STATES if word.startswith(last) and word not in given]


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """Leave it to the shell, which knows the files here."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]
