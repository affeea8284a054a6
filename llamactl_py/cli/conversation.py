"""A conversation at the keyboard: lines, answers, and the commands that begin with a slash."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click

from llamactl_py.cli import say
from llamactl_py.cli.answer import Answer
from llamactl_py.client import Client, Refused, Unreachable
from llamactl_py.ground.errors import nearest


class Conversation:
    """What was said is kept for as long as it lasts, and nowhere else."""

    def __init__(self, client: Client, name: str, system: str | None, parameters: dict[str, Any]) -> None:
        self._client, self._name, self._parameters = client, name, parameters
        self._system = system or ""
        self._said: list[dict[str, str]] = []
        self._commands: dict[str, tuple[Callable[[str], None], str]] = {
            "/help": (self._help, "tell this"),
            "/reset": (self._reset, "begin anew; the system text stays"),
            "/system": (self._set_system, "say what the model is to be: /system TEXT; without TEXT, show it"),
            "/retry": (self._retry, "have the last question answered again"),
            "/exit": (self._exit, "end; so do /quit and Ctrl-D"),
        }

    def run(self) -> None:
        """Until its end."""
        with suppress(ImportError):
            import readline  # noqa: F401 from now on input() can edit its line, and go back to older ones
        say.err(f"Talking to {self._name}. /help tells the commands; Ctrl-C ends an answer, Ctrl-D the conversation.")
        while True:
            try:
                line = self._read()
            except EOFError:
                say.err("")
                return
            except KeyboardInterrupt:
                say.err("")
                continue
            if line.startswith("/") and not line.startswith("//"):
                if not self._obey(line):
                    return
            elif line.strip():
                self._said.append({"role": "user", "content": line.removeprefix("/") if line.startswith("//") else line})
                self._answer()

    def _read(self) -> str:
        """A line, or several where a backslash ends all but the last."""
        lines = [input("> ")]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(input(". "))
        return "\n".join(lines)

    def _obey(self, line: str) -> bool:
        """False at the end."""
        word, _, rest = line.partition(" ")
        word = {"/quit": "/exit", "/?": "/help"}.get(word, word)
        found = self._commands.get(word)
        if found is None:
            hint = nearest(word, self._commands)
            say.err(f"there is no command {word}{hint}; /help tells all, and // begins a line that is none")
            return True
        try:
            found[0](rest.strip())
        except EOFError:
            return False
        return True

    def _answer(self) -> None:
        system = [{"role": "system", "content": self._system}] if self._system else []
        answer = Answer()
        problem = ""
        try:
            answer.show(self._client, self._name, [*system, *self._said], self._parameters)
        except KeyboardInterrupt:
            problem = "interrupted"
        except (Refused, Unreachable) as error:
            problem = say.in_our_words(str(error))
        answer.end()
        if problem:
            click.echo(say.coloured(problem, "yellow" if problem == "interrupted" else "red", sys.stderr), err=True)
        if answer.text:
            self._said.append({"role": "assistant", "content": answer.text})
        elif problem:
            self._said.pop()  # nobody heard it

    # -- commands ---------------------------------------------------------------------------------------------------------

    def _help(self, _: str) -> None:
        for word, (_command, meaning) in self._commands.items():
            say.err(f"  {word:<8} {meaning}")
        say.err("  A backslash at the end of a line goes on with the next one.")

    def _reset(self, _: str) -> None:
        self._said.clear()
        say.err("what was said is forgotten")

    def _set_system(self, text: str) -> None:
        self._system = text or self._system
        say.err(f"system: {self._system or 'nothing'}")

    def _retry(self, _: str) -> None:
        if self._said and self._said[-1]["role"] == "assistant":
            self._said.pop()
        if self._said:
            self._answer()
        else:
            say.err("nothing was asked yet")

    def _exit(self, _: str) -> None:
        raise EOFError
