"""Completion: a real bash at a terminal, and for the other shells the questions that their scripts ask."""

from __future__ import annotations

import shlex
import shutil
import socket
from pathlib import Path

import pytest

from llamactl_py.cli.complete import STATES
from llamactl_py.instances.state import State
from tests.support.commands import PROGRAM, Llamactl, Said, run
from tests.support.daemons import Daemon
from tests.support.terminal import TAB, terminal

SERVER = ("llama-server", "-m", "/dev/null")


def offered(*words: str, **environment: str) -> list[str]:
    """What bash would offer for the last of *words*."""
    said = run(
        **{
            "_LLAMACTL_COMPLETE": "bash_complete",
            "COMP_WORDS": shlex.join(("llamactl", *words)),
            "COMP_CWORD": str(len(words)),
            **environment,
        }
    )
    assert (said.code, said.err) == (0, "")
    return [line.split(",", 1)[1] for line in said.out.split()]


@pytest.fixture
def data(served: Daemon, llamactl: Llamactl) -> str:
    llamactl("create", "qwen", "--group", "large", "--alias", "gpt-4", "--alias", "$(touch x) y", "--", *SERVER)
    llamactl("create", "qwq", "--", *SERVER)
    llamactl("keys", "create", "notebook")
    return str(served.data)


@pytest.mark.parametrize("command", ["start", "stop", "restart", "rm", "logs", "show", "edit", "command"])
def test_names_of_instances_are_offered(data: str, command: str) -> None:
    assert offered("--data-dir", data, command, "qw") == ["qwen", "qwq"]
    assert offered(command, "qwe", LLAMACTL_DATA_DIRECTORY=data) == ["qwen"]


def test_a_name_that_stands_there_already_is_not_offered_again(data: str) -> None:
    assert offered("--data-dir", data, "start", "qwen", "") == ["qwq"]


def test_what_else_the_daemon_knows_is_offered_where_it_belongs(served: Daemon, data: str) -> None:
    root = ("--data-dir", data)
    assert offered(*root, "chat", "") == ["qwen", "gpt-4", "qwq"]  # the other alias would be a command of the shell
    assert offered(*root, "stop", "--group", "") == ["large"]
    assert offered(*root, "ps", "--group", "l") == ["large"]
    assert "vllm" in offered(*root, "backends", "v")
    assert offered(*root, "keys", "revoke", "") == [str(served.client.keys()[0]["id"]), "notebook"]
    assert offered(*root, "keys", "create", "k", "--instance", "qwe") == ["qwen"]


def test_commands_and_options_are_offered_without_a_daemon(tmp_path: Path) -> None:
    assert offered("st") == ["start", "stop"]
    assert offered("keys", "r") == ["revoke"]
    assert "--follow" in offered("logs", "--f")
    assert offered("completion", "") == ["bash", "zsh", "fish"]
    assert "--data-dir" in offered("--d")
    assert offered("--data-dir", str(tmp_path), "start", "") == []


def test_states_are_offered_one_after_the_other() -> None:
    assert offered("ps", "--status", "") == list(STATES) == sorted(State)
    assert offered("ps", "--status", "ready,st") == ["ready,starting", "ready,stopped", "ready,stopping"]
    assert offered("ps", "--status", "stopped,stop") == ["stopped,stopping"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense", "http://[::1"])
def test_a_daemon_that_is_away_is_passed_over_in_silence(url: str) -> None:
    assert offered("--url", url, "start", "") == []


def test_a_daemon_that_does_not_answer_and_a_wrong_key_are_too(data: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert offered("--url", f"http://127.0.0.1:{listener.getsockname()[1]}", "start", "") == []
    assert offered("--data-dir", data, "start", "", LLAMACTL_API_KEY="wrong") == []


def test_bash_completes_at_a_terminal(data: str, tmp_path: Path) -> None:
    program = tmp_path / "llamactl"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(PROGRAM)} "$@"\n')
    program.chmod(0o755)
    bash = shutil.which("bash")
    assert bash
    with terminal(
        program=(bash, "--norc", "--noprofile", "-i"),
        PATH=f"{tmp_path}:/usr/bin:/bin",
        PS1="ready:",
        LLAMACTL_DATA_DIRECTORY=data,
        INPUTRC="/dev/null",
    ) as screen:
        screen.until("ready:")
        screen.type('eval "$(llamactl completion bash)"; echo loa""ded\r')
        screen.until("loaded")
        screen.until("ready:")
        screen.type(f"llamactl sho{TAB}")
        screen.until("llamactl show ")
        screen.type(f"qwe{TAB}")
        screen.until("qwen ")
        screen.type("\r")
        screen.until("state     stopped")
        screen.type("exit\r")
        assert screen.end() == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script_that_asks_us(shell: str) -> None:
    said = run("completion", shell)
    assert (said.code, said.err) == (0, "")
    assert f"_LLAMACTL_COMPLETE={shell}_complete" in said.out
    environment = {"COMP_WORDS": "llamactl sto", "COMP_CWORD": "sto" if shell == "fish" else "1"}
    answer = run(**{"_LLAMACTL_COMPLETE": f"{shell}_complete", **environment})
    assert (answer.code, "stop" in answer.out) == (0, True)
    assert run("completion", "tcsh") == Said(2, "", run("completion", "tcsh").err)
