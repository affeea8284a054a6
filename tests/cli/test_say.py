"""What reaches the terminal: nothing that another program wrote may steer it. And what a command has to load to say it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from llamactl_py.cli import render, say
from tests.support.commands import surroundings


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("qwen é 中 👩‍👩‍👧", "qwen é 中 👩‍👩‍👧"),
        ("two\n\tlines", "two\n\tlines"),
        ("\x1b[2J\x07\x00\r\x7f", "\\x1b[2J\\x07\\x00\\x0d\\x7f"),
        ("\x9b31m\u202eabc\u2066", "\\x9b31m\\u202eabc\\u2066"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_could_steer_a_terminal_is_made_visible(text: str, shown: str) -> None:
    assert say.safe(text) == shown
    assert render.escape(f"[bold]{text}").startswith("\\[bold]")


def test_json_stays_the_same_json_and_is_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"name": "\x9b2J\u202e\x1b\ud800 é"}
    for on_one_line in (False, True):
        say.as_json(value, on_one_line=on_one_line)
        told = capsys.readouterr().out
        assert json.loads(told) == value
        assert say.safe(told) == told
        assert (told.count("\n") == 1) is on_one_line


def test_yaml_stays_the_same_yaml_and_is_harmless() -> None:
    import yaml

    for text in ("é", "a\u202eb", "\x1b[2J", "plain"):
        told = say.yaml({"b": text, "a": 1})
        assert yaml.safe_load(told) == {"b": text, "a": 1}
        assert say.safe(told) == told
        assert told.startswith("b")


def loaded(*words: str) -> set[str]:
    """The modules that a command has loaded when it ends."""
    program = (
        "import sys, atexit; from llamactl_py.cli.main import main; sys.argv = ['llamactl', *sys.argv[1:]];"
        "atexit.register(lambda: print('\\n' + ' '.join(sys.modules), file=sys.stderr)); main()"
    )
    done = subprocess.run(
        (sys.executable, "-c", program, *words), env=surroundings(), capture_output=True, text=True, timeout=30, check=False
    )
    return set(done.stderr.splitlines()[-1].split())


def test_the_daemon_does_not_load_what_the_other_commands_need() -> None:
    ours = {name for name in loaded("serve", "--help") if name.startswith("llamactl_py.cli.")}
    assert ours == {"llamactl_py.cli.main", "llamactl_py.cli.serve", "llamactl_py.cli.sources"}


def test_the_version_is_told_before_anything_else_is_loaded() -> None:
    assert {name for name in loaded("--version") if name.startswith("llamactl_py.cli.")} == {"llamactl_py.cli.main"}


@pytest.mark.parametrize(
    "words",
    [("ps", "--json"), ("start", "a"), ("keys", "list", "--json"), ("logs", "a"), ("edit", "a", "--set", "x=y")],
    ids=" ".join,
)
def test_a_command_that_draws_nothing_loads_little(words: tuple[str, ...], tmp_path: object) -> None:
    heavy = {"aiohttp", "rich.console", "yaml", "asyncio"}
    assert loaded("--data-dir", str(tmp_path), *words) & heavy == set()
