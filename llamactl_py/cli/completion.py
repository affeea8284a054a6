"""`llamactl completion`: what a shell needs to complete our words. click has the machinery; names come from the daemon."""

from __future__ import annotations

import click

VARIABLE = "_LLAMACTL_COMPLETE"
"""Where click looks for a shell's question, after the name of the program."""


@click.command(short_help="Print what a shell needs to complete our words.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that has a shell complete our commands and options, and names of instances, groups, backends and keys,
    which it asks a running daemon for.

    \b
      eval "$(llamactl completion bash)"                                        # in ~/.bashrc
      eval "$(llamactl completion zsh)"                                         # in ~/.zshrc, after compinit
      llamactl completion fish > ~/.config/fish/completions/llamactl.fish
    """
    from click.shell_completion import ShellComplete, get_completion_class

    from llamactl_py.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None
    # Not the class' own `source`: for bash it would run one, to see whether it is new enough.
    click.echo(ShellComplete.source(kind(cli, {}, "llamactl", VARIABLE)))
