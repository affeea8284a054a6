"""`llamactl create`: an instance from the command line of its server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from llamactl_py.cli import complete, say
from llamactl_py.cli.acting import act
from llamactl_py.cli.main import Connection, json_option
from llamactl_py.ground.errors import nearest

DOWNLOADS = ("hf_repo", "docker_repo", "model_url", "hf_model_repo_id")
"""Options that say where the model comes from; its path is then that of a file to come, or one in a repository."""

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
@click.argument("command", nargs=-1, type=click.UNPROCESSED, shell_complete=complete.files)
@click.option("--start", "start_now", is_flag=True, help="Start it, and wait until it is ready.")
@click.option("--idle-timeout", help="Stop it after so long without a request: minutes, or '90s', '2h'; 0 means never.")
@click.option("--no-on-demand", is_flag=True, help="Do not start it on its first request.")
@click.option("--alias", "aliases", multiple=True, help="A further model name that it answers to; may be repeated.")
@click.option(
    "--backend",
    "backend_type",
    help="Kind of server, where the command does not tell; 'custom' runs any command.",
    shell_complete=complete.backends,
)
@click.option("--group", help="Name of the group that it belongs to.", shell_complete=complete.groups)
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
    _refuse_odd_words(name, command, backend_type)
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
    say.warnings(list(dict.fromkeys([*warnings, *instance.pop("warnings", [])])))
    if start_now:
        done = act(client, "start", [name])
        done.tell_refusals()
        instance = done.rows.get(name, instance)
    if as_json:
        say.as_json(instance)
    else:
        say.outcome(instance)
    if start_now and done.code:
        sys.exit(done.code)


def _refuse_odd_words(name: str, command: tuple[str, ...], backend_type: str | None) -> None:
    """Raises UsageError where the words cannot be a name, and the command of a server."""
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
