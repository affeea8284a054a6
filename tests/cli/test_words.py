"""The first word of a command line: ours, those that people bring from other programs, and those that nobody knows."""

from __future__ import annotations

import pytest

from llamactl_py import __version__
from llamactl_py.cli.main import ALIASES, COMMANDS
from tests.support.commands import Said, run


@pytest.mark.parametrize("word", ALIASES)
def test_a_word_of_other_programs_leads_to_our_command_and_is_not_in_the_help(word: str) -> None:
    assert word not in COMMANDS
    assert run(word, "--help") == run(ALIASES[word], "--help")
    assert f"  {word} " not in run("--help").out


def test_help_is_a_command_too() -> None:
    assert run("help") == run("--help")
    assert run("help", "keys", "create") == run("keys", "create", "--help")
    assert run("help").code == 0


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version_is_told_without_a_daemon(flag: str) -> None:
    assert run(flag) == Said(0, f"llamactl {__version__}\n", "")


def test_an_unknown_word_is_told_with_the_nearest_and_where_all_stand() -> None:
    said = run("strat")
    assert (said.code, said.out) == (2, "")
    assert said.err == "Error: there is no command 'strat' (did you mean 'start'?). Try 'llamactl --help'.\n"
    assert run("frobnicate").err == "Error: there is no command 'frobnicate'. Try 'llamactl --help'.\n"
