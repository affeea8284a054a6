"""What people do with instances every day: ps, create, start, stop, restart, rm, logs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.markup import escape

from llamactl_py.cli import render
from llamactl_py.cli.main import Connection
from llamactl_py.client import BrokenOff, Client, Refused, Unreachable
from llamactl_py.ground.errors import nearest

POLL = 0.1
DOWNLOADS = ("hf_repo", "docker_repo", "model_url", "hf_model_repo_id")
"""Options that say where the model comes from; its path is then that of a file to come, or one in a repository."""

json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")
names_argument = click.argument("names", nargs=-1, required=True, metavar="NAME...")


@click.command(short_help="List the instances.")
@json_option
@click.pass_obj
def ps(connection: Connection, as_json: bool) -> None:
    """List the instances."""
    found = connection.client().instances()
    if as_json:
        render.as_json(found)
    else:
        render.instances(found)


NO_NAME = "NAME is missing before the command, as in: llamactl create NAME -- llama-server -m MODEL.gguf"
HAS_DASHES = "llamactl.has_dashes"
"""Where a context keeps whether a -- told the name from the command."""


class CommandAfterDashes(click.Command):
    """What follows -- is another program's; before it our own options may stand in any order. Without a -- the second word
    begins the other program's command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.allow_interspersed_args = "--" in args
        ctx.ignore_unknown_options = "--" not in args
        ctx.meta[HAS_DASHES] = "--" in args
        if "--" in args:
            self._check(ctx, args[: args.index("--")])
        return super().parse_args(ctx, args)

    def _check(self, ctx: click.Context, ours: list[str]) -> None:
        """Refuse what only looks like a mistake of ours: a NAME that is missing, and flags of the server among our own."""
        try:
            given, _, _ = self.make_parser(ctx).parse_args(list(ours))
        except click.NoSuchOption as error:
            if any(error.option_name in parameter.opts for parameter in ctx.find_root().command.params):
                raise  # it is told that those stand before the command
            word = next((word for word in ours if word.startswith(error.option_name)), error.option_name)
            options = [spelling[2:] for parameter in self.params for spelling in parameter.opts if spelling.startswith("--")]
            hint = nearest(word.lstrip("-"), options).replace("mean '", "mean '--")
            raise click.UsageError(
                f"{word} is no option of llamactl create{hint}; flags of the server go after --, behind its name", ctx
            ) from None
        if not isinstance(given.get("name"), str) and not given.get("help"):
            raise click.UsageError(NO_NAME, ctx)


@click.command(cls=CommandAfterDashes, short_help="Create an instance from the command line of its server.")
@click.argument("name")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--start", "start_now", is_flag=True, help="Start it, and wait until it is ready.")
@click.option("--idle-timeout", help="Stop it after so long without a request: minutes, or '90s', '2h'; 0 means never.")
@click.option("--no-on-demand", is_flag=True, help="Do not start it on its first request.")
@click.option("--alias", "aliases", multiple=True, help="A further model name that it answers to; may be repeated.")
@click.option("--backend", "backend_type", help="Kind of server, where the command does not tell; 'custom' runs any command.")
@click.option("--group", help="Name of the group that it belongs to.")
@click.option(
    "--env", "environment", multiple=True, metavar="NAME=VALUE", help="An environment variable for it; may be repeated."
)
@click.option("--unix-socket", is_flag=True, help="Reach it over a Unix socket instead of a port (llama.cpp, vLLM).")
@json_option
@click.pass_obj
def create(
    connection: Connection,
    name: str,
    command: tuple[str, ...],
    start_now: bool,
    idle_timeout: str | None,
    no_on_demand: bool,
    aliases: tuple[str, ...],
    backend_type: str | None,
    group: str | None,
    environment: tuple[str, ...],
    unix_socket: bool,
    as_json: bool,
) -> None:
    """Create an instance NAME from the command line of its server.

    \b
    Options of llamactl stand before the --, the command after it:
      llamactl create qwen -- llama-server -m qwen3-8b.gguf -c 8192 -ngl 99
      llamactl create big --idle-timeout 1h -- vllm serve Qwen/Qwen3-32B
      llamactl create own --backend custom -- ./my-server --port '${PORT}'
    Host, port and API key are the daemon's business and are left out of the command.
    """
    has_dashes = bool(click.get_current_context().meta.get(HAS_DASHES))
    if not has_dashes and ((" " in name and not command) or (command and command[0].startswith("-"))):
        # The first word of the command was taken for the name.
        raise click.UsageError(NO_NAME)
    if not command:
        raise click.UsageError(
            "the command of the server is missing; write it after --, as in: llamactl create NAME -- llama-server -m MODEL.gguf"
        )
    if len(command) > 1 and command[0].startswith("-") and not backend_type:
        raise click.UsageError(
            f"the command begins with the option {command[0]}: write the server's program before it, or name it with --backend"
        )
    client = connection.client()
    # One word that holds blanks is a whole command line in quotes; several words went through a shell already.
    parsed = client.parse_command(command[0] if len(command) == 1 else command, backend_type)
    warnings = parsed.pop("warnings", [])
    if connection.is_here:
        warnings += _settle_model(parsed)
    options = {
        **parsed,
        "environment": {**parsed.get("environment", {}), **dict(_variable(text) for text in environment)},
        "idle_timeout": idle_timeout,
        "on_demand_start": False if no_on_demand else None,
        "aliases": list(aliases),
        "group": group,
        "unix_socket": unix_socket or None,
    }
    instance = client.create(name, {key: value for key, value in options.items() if value not in (None, {}, [])})
    render.warnings(list(dict.fromkeys([*warnings, *instance.pop("warnings", [])])))
    if start_now:
        instance = _start_and_wait(client, name, client.start)
    if as_json:
        render.as_json(instance)
    else:
        render.outcome(instance)
    if _is_down_by_fault(instance):
        sys.exit(1)


@click.command(short_help="Start instances and wait until they are ready.")
@names_argument
@click.option("--no-wait", is_flag=True, help="Do not wait until they are ready.")
@json_option
@click.pass_obj
def start(connection: Connection, names: tuple[str, ...], no_wait: bool, as_json: bool) -> None:
    """Start instances and wait until they are ready."""
    client = connection.client()
    _each(names, as_json, lambda name: client.start(name) if no_wait else _start_and_wait(client, name, client.start))


@click.command(short_help="Stop instances.")
@names_argument
@json_option
@click.pass_obj
def stop(connection: Connection, names: tuple[str, ...], as_json: bool) -> None:
    """Stop instances.

    Requests in flight may finish first. Returns when no process of them is left.
    """
    client = connection.client()

    def act(name: str) -> dict[str, Any]:
        with render.spinner(f"{name}: stopping"):
            return client.stop(name)

    _each(names, as_json, act)


@click.command(short_help="Restart instances and wait until they are ready.")
@names_argument
@click.option("--no-wait", is_flag=True, help="Do not wait until they are ready.")
@json_option
@click.pass_obj
def restart(connection: Connection, names: tuple[str, ...], no_wait: bool, as_json: bool) -> None:
    """Restart instances, with their newest options, and wait until they are ready."""
    client = connection.client()
    _each(names, as_json, lambda name: client.restart(name) if no_wait else _start_and_wait(client, name, client.restart))


@click.command(short_help="Delete instances and their logs.")
@names_argument
@click.option("-f", "--force", is_flag=True, help="Stop those that are up first.")
@click.pass_obj
def rm(connection: Connection, names: tuple[str, ...], force: bool) -> None:
    """Delete instances and their logs."""
    client = connection.client()
    failed = False
    for name in names:
        try:
            client.delete(name, force=force)
        except Refused as error:
            failed = True
            said = str(error).removesuffix(", or delete it with force")
            remedy = f", or: llamactl rm -f {name}" if error.status == 409 else ""
            render.err.print(f"llamactl: {escape(said + remedy)}")
        else:
            render.out.print(f"{escape(name)} is deleted")
    if failed:
        sys.exit(4)


@click.command(short_help="Show the log of an instance.")
@click.argument("name")
@click.option(
    "-n", "--lines", type=click.IntRange(1, 1_000_000), default=100, show_default=True, help="How many lines from the end."
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@click.pass_obj
def logs(connection: Connection, name: str, lines: int, follow: bool) -> None:
    """Show the log of an instance."""
    stdout = sys.stdout.buffer
    last = b"\n"
    client = connection.client()
    broke_off = None
    try:
        for part in client.logs(name, lines, follow=follow):
            stdout.write(part)
            stdout.flush()
            last = part[-1:]
    except BrokenOff as error:
        broke_off = error
    if last != b"\n":
        stdout.write(b"\n")
        stdout.flush()
    if follow:
        _say_why_it_ended(client, name)
    if broke_off:
        raise broke_off


def _say_why_it_ended(client: Client, name: str) -> None:
    """A log that is followed ends with its instance, or with the daemon. Raises Unreachable for the second."""
    try:
        client.instance(name)
    except Unreachable:
        raise Unreachable(f"the daemon at {client.url} has ended, and the log of {name} with it") from None
    except Refused as error:
        if error.status != 404:
            raise
        render.err.print(f"llamactl: {escape(name)} was deleted, and its log with it")
        sys.exit(0)


def _each(names: tuple[str, ...], as_json: bool, act: Callable[[str], dict[str, Any]]) -> None:
    """Do *act* for every name, going on after a refusal; exit code 1 when an instance did not come up, 4 after a refusal."""
    done: list[dict[str, Any]] = []
    code = 0
    for name in names:
        try:
            instance = act(name)
        except Refused as error:
            code = 4
            render.err.print(f"llamactl: {escape(str(error))}")
            continue
        done.append(instance)
        if _is_down_by_fault(instance):
            code = code or 1
        if not as_json:
            render.outcome(instance)
    if as_json:
        render.as_json(done)
    if code:
        sys.exit(code)


def _is_down_by_fault(instance: dict[str, Any]) -> bool:
    return instance["state"] in ("failed", "backoff")


def _start_and_wait(client: Client, name: str, act: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """Start or restart it, and watch until it is ready, at rest, or waits for its next try after a failed one."""
    with render.spinner(f"{name}: starting") as tell:
        begun = time.monotonic()
        old_pid = client.instance(name).get("pid") if act == client.restart else None
        try:
            instance = act(name)
            while instance["state"] not in ("ready", "failed", "stopped") or (old_pid and instance.get("pid") == old_pid):
                if instance["state"] == "backoff":
                    break
                tell(f"{name}: {instance['state']} ({time.monotonic() - begun:.0f} s)")
                time.sleep(POLL)
                instance = client.instance(name)
        except KeyboardInterrupt:
            interrupted = True
        else:
            interrupted = False
    if interrupted:
        _say_how_it_was_left(client, name)
        sys.exit(130)
    return instance


def _say_how_it_was_left(client: Client, name: str) -> None:
    """After Ctrl-C: we no longer wait, and the daemon goes on."""
    try:
        state = client.instance(name)["state"]
    except (Refused, Unreachable):
        return
    said = f"is {state}" if state in ("ready", "stopped", "failed") else f"is still starting; llamactl stop {name} ends it"
    render.err.print(f"{escape(name)} {escape(said)}")


def _settle_model(parsed: dict[str, Any]) -> list[str]:
    """Make a relative path of a model absolute where there is such a file here: the daemon runs in another directory.

    Gives what to tell about it. A name that is no file may be one of a repository, and is only doubted where a file is meant.
    """
    options = parsed.get("backend_options", {})
    model = None if parsed.get("docker") else options.get("model")  # in a container, paths are its own
    if not isinstance(model, str) or not model or Path(model).is_absolute() or any(word in options for word in DOWNLOADS):
        return []
    found = Path.cwd() / model
    if found.exists():
        options["model"] = str(found.resolve() if ".." in found.parts else found)
        return [f"the model {model} was made {options['model']}: the daemon runs in a directory of its own"]
    if model.startswith(("./", "../")) or model.endswith(".gguf"):
        return [f"the model {model} is not here, and is relative to the directory in which the daemon was started"]
    return []


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"--env {text!r} is not NAME=VALUE")
    return name, value
