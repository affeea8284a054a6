"""Options in an editor, again and again until the daemon takes them; what was typed is never lost."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import yaml

from llamactl_py.cli import say
from llamactl_py.client import Client, Refused, Unreachable

HEAD = """\
# Options of the instance {name}. Save and close to apply them; without a change, or empty, nothing happens.
# What is left out takes its default. ******** stands for a secret, and leaves it as it is.
"""
ERROR = "# error: "
CHANGED = 412


class _Kept(Exception):
    """It is given up; the text stays."""


def edited(client: Client, instance: Mapping[str, Any]) -> dict[str, Any] | None:
    """*instance* with the options of an editor, as the daemon then tells it; None without a change.

    Raises ClickException, Unreachable and KeyboardInterrupt; then the text is kept, if it says anything new, and the file told.
    """
    name = instance["name"]
    command = _editor()
    handle, path = tempfile.mkstemp(prefix=f"llamactl-{name}-", suffix=".yaml")  # readable by us alone: it may get secrets
    os.close(handle)
    file = Path(path)
    original = HEAD.format(name=name) + say.yaml(instance["options"])
    try:
        file.write_text(original)
        changed = _until_it_fits(client, name, instance["revision"], command, file)
    except _Kept as given_up:
        raise click.ClickException(f"{given_up}; {_keep(file, original)}") from None
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror or error}") from None
    except (Unreachable, Refused) as error:
        raise type(error)(*_told(error, _keep(file, original))) from None
    except KeyboardInterrupt:
        say.err(_keep(file, original))
        raise
    file.unlink()
    return changed


def _told(error: Exception, kept: str) -> tuple[Any, ...]:
    if isinstance(error, Refused):
        return error.status, error.code, f"{error}; {kept}"
    return (f"{error}; {kept}",)


def _keep(file: Path, original: str) -> str:
    """Say where the text is; what has nothing new is taken away."""
    if _without_errors(file.read_text(errors="replace")) == original:
        file.unlink()
        return "nothing was changed"
    return f"nothing was changed, and your text is kept in {file}"


def _until_it_fits(client: Client, name: str, revision: str, command: list[str], file: Path) -> dict[str, Any] | None:
    while True:
        before = file.read_text()
        _run(command, file)
        text = file.read_text(errors="replace")
        if not any(line.strip() and not line.startswith("#") for line in text.splitlines()):
            return None
        if text == before:
            if before.startswith(ERROR):
                raise _Kept("given up")
            return None
        try:
            return client.replace(name, _options(_without_errors(text)), revision=revision)
        except ValueError as error:
            problem = str(error)
        except Refused as error:
            if error.status in (401, 403, 404):
                raise
            problem = str(error)
            if error.status == CHANGED:
                problem, revision = _theirs(client, name)
        file.write_text(_commented(problem) + _without_errors(text))
        say.complaint(problem.partition("\n")[0])


def _run(command: list[str], file: Path) -> None:
    """Raises _Kept when the editor cannot be started, or says that it failed."""
    try:
        code = subprocess.run([*command, str(file)], check=False).returncode
    except OSError as error:
        raise _Kept(f"the editor {command[0]!r} cannot be started: {(error.strerror or str(error)).lower()}") from None
    if code:
        raise _Kept(f"the editor {command[0]!r} ended with code {code}")


def _options(text: str) -> dict[str, Any]:
    """Raises ValueError."""
    try:
        found = yaml.safe_load(text)
        json.dumps(found)
    except TypeError as error:
        raise ValueError(f"{error}: write dates in quotes") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f"line {mark.line + 2}: " if mark else ""  # the next time one line more stands above it: this one
        raise ValueError(f"{at}this is not YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(found, dict):
        raise ValueError("options by name are expected, as in  idle_timeout: 15m")  # noqa: TRY004 our caller tells all as one
    return found


def _theirs(client: Client, name: str) -> tuple[str, str]:
    """What to say when somebody else was faster, and the revision that the next try is then about."""
    now = client.instance(name)
    said = "somebody changed it meanwhile; take these lines away and save, and your text replaces what it is now:\n"
    return said + say.yaml(now["options"]), now["revision"]


def _commented(problem: str) -> str:
    return "".join(f"{ERROR}{line}\n" for line in problem.rstrip().splitlines())


def _without_errors(text: str) -> str:
    """*text* without what we wrote above it."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(ERROR))


def _editor() -> list[str]:
    """The words of the editor's command. Raises UsageError."""
    for variable in ("VISUAL", "EDITOR"):
        if text := os.environ.get(variable, "").strip():
            try:
                return shlex.split(text)
            except ValueError as error:
                raise click.UsageError(f"{variable} {text!r} is no command: {str(error).lower()}") from None
    found = next((name for name in ("sensible-editor", "nano", "vi") if shutil.which(name)), None)
    if found is None or not say.is_watched(sys.stdin):
        raise click.UsageError("no editor: set VISUAL or EDITOR, or change options by name with --set and --unset")
    return [found]
