"""`llamactl chat`: a question and its answer, or a conversation."""

from __future__ import annotations

import sys
from typing import Any

import click

from llamactl_py.cli import complete, say
from llamactl_py.cli.main import Connection, json_option
from llamactl_py.client import Client

Messages = list[dict[str, str]]


@click.command(short_help="Talk to a model.")
@click.argument("name", shell_complete=complete.models)
@click.argument("prompt", nargs=-1, metavar="[PROMPT]...")
@click.option("--system", metavar="TEXT", help="What the model is told to be.")
@click.option("--max-tokens", type=click.IntRange(1), help="End an answer after so many tokens.")
@click.option("--temperature", type=click.FloatRange(0), help="0 takes the likeliest word each time.")
@json_option
@click.pass_obj
def chat(
    connection: Connection,
    name: str,
    prompt: tuple[str, ...],
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
    as_json: bool,
) -> None:
    """Talk to the model NAME: an instance, or one of its aliases. It is started if it has to be.

    \b
      llamactl chat qwen                                # a conversation; /help tells its commands, Ctrl-D ends it
      llamactl chat qwen "Why is the sky blue?"         # one question
      git diff | llamactl chat qwen "Review this:" -    # - stands for what stdin has; alone it need not be written
    Ctrl-C ends an answer; what has come of it stays in the conversation. --json gives the whole answer as the server gave it.
    """
    parameters = {"max_tokens": max_tokens, "temperature": temperature}
    given = {key: value for key, value in parameters.items() if value is not None}
    client = connection.client()
    text = _question(prompt)
    if text is None:
        if as_json:
            raise click.UsageError("--json needs a question, as in: llamactl chat NAME --json 'Why is the sky blue?'")
        from llamactl_py.cli.conversation import Conversation

        Conversation(client, name, system, given).run()
        return
    messages = [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": text}]
    _once(client, name, messages, given, as_json)


def _once(client: Client, name: str, messages: Messages, parameters: dict[str, Any], as_json: bool) -> None:
    from llamactl_py.cli.answer import Answer

    if as_json:
        say.as_json(client.complete(name, messages, **parameters))
        return
    answer = Answer()
    try:
        answer.show(client, name, messages, parameters)
    finally:
        answer.end()


def _question(prompt: tuple[str, ...]) -> str | None:
    """What is asked; None for a conversation. Raises UsageError for a question without a word."""
    is_piped = not say.is_watched(sys.stdin)
    if not prompt and not is_piped:
        return None
    words, reads = (list(prompt[:-1]), True) if prompt[-1:] == ("-",) else (list(prompt), not prompt)
    parts = [" ".join(words), sys.stdin.read() if reads else ""]
    text = "\n\n".join(part.strip("\n") for part in parts if part.strip())
    if not text:
        raise click.UsageError("there is no question: stdin is empty" if reads else "the question is empty")
    return text
