"""The `llamactl` command: finds the daemon, turns errors into one line and an exit code, and loads only what is asked for.

Exit codes: 0 done; 1 it did not work, the message says why; 2 the command line or the configuration is wrong;
3 no daemon answers; 4 the daemon refused; 130 interrupted. Output that nobody reads any more (`llamactl ps | head -1`) ends a
command silently with 1, as click and rich have it.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from llamactl_py import __version__
from llamactl_py.ground.importing import quickly

with quickly():
    import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from llamactl_py.client import Client

COMMANDS = {
    "serve": "llamactl_py.cli.serve:serve",
    "demo": "llamactl_py.cli.demo:demo",
    "version": "llamactl_py.cli.serve:version",
    "ps": "llamactl_py.cli.ps:ps",
    "top": "llamactl_py.cli.top:top",
    "show": "llamactl_py.cli.show:show",
    "create": "llamactl_py.cli.create:create",
    "edit": "llamactl_py.cli.edit:edit",
    "start": "llamactl_py.cli.several:start",
    "stop": "llamactl_py.cli.several:stop",
    "restart": "llamactl_py.cli.several:restart",
    "rm": "llamactl_py.cli.several:rm",
    "logs": "llamactl_py.cli.logs:logs",
    "chat": "llamactl_py.cli.chat:chat",
    "command": "llamactl_py.cli.show:command",
    "parse": "llamactl_py.cli.parse:parse",
    "keys": "llamactl_py.cli.keys:keys",
    "backends": "llamactl_py.cli.backends:backends",
    "config": "llamactl_py.cli.config:config",
    "import": "llamactl_py.cli.importing:import_",
    "completion": "llamactl_py.cli.completion:completion",
}

SUMMARIES = {
    "serve": "Run the daemon.",
    "demo": "See it work: a tiny model, a real backend, a streamed answer.",
    "version": "Show the version of this command, and of the daemon if one answers.",
    "ps": "List the instances.",
    "top": "Show what the instances take and do.",
    "show": "Show all of one instance.",
    "create": "Create an instance from the command line of its server.",
    "edit": "Change the options of an instance, in an editor or by name.",
    "start": "Start instances and wait until they are ready.",
    "stop": "Stop instances.",
    "restart": "Restart instances and wait until they are ready.",
    "rm": "Delete instances and their logs.",
    "logs": "Show the logs of instances.",
    "chat": "Talk to a model.",
    "command": "Show the exact command that a start would run.",
    "parse": "Show the options that a server's command line comes to.",
    "keys": "Make, list, edit and revoke keys.",
    "backends": "Show which servers are installed, and what they take.",
    "config": "Check, show, find and reload the configuration.",
    "import": "Turn a file of llama-swap or llamactl into one of ours.",
    "completion": "Print what a shell needs to complete our words.",
}
"""Here as well as in the commands' own help (a test compares), so that `llamactl --help` need not import them all."""

ALIASES = {"ls": "ps", "list": "ps", "status": "ps", "delete": "rm", "remove": "rm", "run": "chat"}
"""What those who come from other programs type first; told in the guide, and neither in the help nor behind Tab."""


class LazyGroup(click.Group):
    """Imports a command when it is called: `llamactl ps` need not wait for what `llamactl serve` needs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name].partition(":")
        with quickly():
            command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        words = [CompletionItem(name, help=text) for name, text in SUMMARIES.items() if name.startswith(incomplete)]
        return [*words, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(SUMMARIES.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        args = self._in_our_words(ctx, args)
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from llamactl_py.ground.errors import nearest

            hint = nearest(args[0], COMMANDS)
            raise click.UsageError(f"there is no command {args[0]!r}{hint}. Try 'llamactl --help'.")
        return super().resolve_command(ctx, args)

    def _in_our_words(self, ctx: click.Context, args: list[str]) -> list[str]:
        """`ls` as `ps`, `help start` as `start --help`; `help` alone shows it, and ends the command."""
        if args[:1] == ["help"]:
            if len(args) == 1 or args[1].startswith("-"):
                click.echo(ctx.get_help())
                ctx.exit()
            args = [*args[1:], "--help"]
        return [ALIASES.get(word, word) for word in args[:1]] + args[1:]


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--url", envvar="LLAMACTL_URL", help="Address of the daemon. [default: the one of the data directory]")
@click.option(
    "--key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with the key. [default: LLAMACTL_API_KEY, or the data directory's]",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="LLAMACTL_DATA_DIRECTORY",
    help="Data directory of the daemon.",
)
@click.version_option(
    __version__, "-V", "--version", prog_name="llamactl", message="%(prog)s %(version)s", help="Show the version of this command."
)
@click.pass_context
def cli(ctx: click.Context, url: str | None, key_file: Path | None, data_dir: Path | None) -> None:
    """One daemon that runs all your local LLM servers and gives them one OpenAI-compatible door."""
    ctx.obj = Connection(url, key_file, data_dir)


json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")


class Connection:
    """Where the daemon is and with which key: from flags, else from the environment, else from the data directory."""

    def __init__(self, url: str | None, key_file: Path | None, data_dir: Path | None) -> None:
        self._url, self._key_file, self.data_dir = url, key_file, data_dir
        self.is_here = False
        """Does the daemon run on this machine, as far as its address tells? Known once there is a client."""

    def client(self, timeout: float = 300.0) -> Client:
        """A client of it, which waits so many seconds for an answer. Raises UsageError for a URL that is none, and Unreachable
        when no address is known."""
        from llamactl_py.client import BadAddress, Client, Unreachable, address
        from llamactl_py.config import paths

        data_dir = Path(os.path.expanduser(self.data_dir or paths.default_data_dir()))  # noqa: PTH111 Path's raises on ~nobody
        own_url = _read(data_dir / paths.ADDRESS)
        try:
            url = address(self._url) if self._url else own_url
        except BadAddress as error:
            raise click.UsageError(f"--url (or LLAMACTL_URL): {error}") from None
        if not url:
            raise Unreachable(
                f"no daemon is running on {data_dir}; start one with `llamactl serve`, or give its address with --url"
            )
        self.is_here = url == own_url or _is_this_machine(url)
        key, place = (_read_key(self._key_file), f"--key-file {self._key_file}") if self._key_file else (None, "")
        if not key and (key := os.environ.get("LLAMACTL_API_KEY")):
            place = "LLAMACTL_API_KEY"
        # The key in the data directory is for the daemon there: no other machine is to be shown it.
        if not key and self.is_here and (key := _read(data_dir / paths.MANAGEMENT_KEY)):
            place = str(data_dir / paths.MANAGEMENT_KEY)
        said = f"the key from {place} is none that this daemon accepts" if key else "give one with --key-file or LLAMACTL_API_KEY"
        return Client(url, key, timeout, key_source=said)


def _read(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except OSError:
        return None


def _is_this_machine(url: str) -> bool:
    try:
        return urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost")
    except ValueError:
        return False


def _read_key(file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"--key-file {file} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def main() -> None:
    """The console script."""
    with quickly():
        from llamactl_py.ground.errors import BadConfiguration, DaemonRefused

    _open_what_is_closed()
    try:
        code = cli.main(standalone_mode=False, complete_var="_LLAMACTL_COMPLETE")
    except click.ClickException as error:
        if isinstance(error, click.NoSuchOption) and error.ctx and _is_for_the_group(error):
            error = click.UsageError(
                f"{error.option_name} stands before the command: llamactl {error.option_name} ...", error.ctx
            )
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except DaemonRefused as error:
        _complain(error)
        code = 2 if isinstance(error, BadConfiguration) else 1
    except Exception as error:
        code = _told(error)
        if code is None:
            raise
    sys.exit(code or 0)


def _complain(error: Exception) -> None:
    from llamactl_py.cli import say

    say.complaint(str(error))


def _is_for_the_group(error: click.NoSuchOption) -> bool:
    return any(error.option_name in option.opts for option in cli.params)


def _open_what_is_closed() -> None:
    """Started with stdout or stderr closed, we write to nowhere; and no file of ours gets their numbers."""
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(spare, True)
    os.close(spare)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 it stays open for as long as we live


def _told(error: Exception) -> int | None:
    """Say what an error of the client means; its exit code, or None when it is none of these."""
    from llamactl_py.client import Refused, Unreachable

    if not isinstance(error, Refused | Unreachable):
        return None
    _complain(error)
    return 3 if isinstance(error, Unreachable) else 4
