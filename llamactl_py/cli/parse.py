"""`llamactl parse`: a command line understood, and nothing done."""

from __future__ import annotations

import sys

import click

from llamactl_py.cli import complete, say
from llamactl_py.cli.main import Connection, json_option


class QuotedOrLast(click.Command):
    """Our options stand before the server's command; also behind it where that is one quoted word, or stands behind --."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        first = next((word for word in args if " " in word or word == "-" or not word.startswith("-")), "")
        ctx.allow_interspersed_args = "--" in args or first == "-" or any(blank in first for blank in " \n")
        return super().parse_args(ctx, args)


@click.command(cls=QuotedOrLast, short_help="Show the options that a server's command line comes to.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, shell_complete=complete.files)
@click.option(
    "--backend",
    "backend_type",
    metavar="TYPE",
    help="Kind of server, where the command does not tell.",
    shell_complete=complete.backends,
)
@json_option
@click.pass_obj
def parse(connection: Connection, command: tuple[str, ...], backend_type: str | None, as_json: bool) -> None:
    """Show the options that the command line of a server comes to, as YAML: as they stand in a configuration file.

    \b
      llamactl parse "llama-server -m qwen3-8b.gguf -c 8192 -ngl 99"
      llamactl parse -- vllm serve Qwen/Qwen3-32B --max-model-len 8192
      llamactl parse - < start.sh
    What is odd about it is told on stderr. Nothing is made: that is llamactl create.
    """
    words: str | tuple[str, ...] = command[0] if len(command) == 1 else command
    if words == "-":
        words = sys.stdin.read()
    found = connection.client().parse_command(words, backend_type)
    if as_json:
        say.as_json(found)
        return
    say.warnings(found.pop("warnings", []))
    click.echo(say.yaml(found), nl=False)
