"""The command line as a user runs it: real `llamactl` processes, a real daemon, and the stub as `llama-server` on its PATH.

`llamactl("ps")` gives what was said: exit code, stdout, stderr. All tests share one daemon, which is emptied after each.
`--env STUBD=...` makes a stub misbehave, `MARK` in its environment lets us look for what is left of it.
"""

from __future__ import annotations

import http.server
import importlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
from rich.console import Console

from llamactl_py import __version__
from llamactl_py.cli import render
from llamactl_py.cli.main import COMMANDS, SUMMARIES, cli
from llamactl_py.client import Client, Refused
from tests.support.commands import PROGRAM, Llamactl, Said, run, stub_on_path, surroundings, talking
from tests.support.daemons import Daemon, daemon, of_tree, wait_for
from tests.support.house import STUB

COUNTED = "one two three four five six seven eight nine ten"
SERVER = ("llama-server", "-m", "/dev/null")


def result(said: Said) -> tuple[int, str]:
    """Without stderr, which has what a command waited for where that took longer than a second."""
    return said.code, said.out


def named(rows: list[dict[str, Any]]) -> list[str]:
    return [row["name"] for row in rows]


# ---- ps


def test_ps_without_instances_says_how_to_make_one_and_prints_nothing(llamactl: Llamactl) -> None:
    said = llamactl("ps")
    assert (said.code, said.out) == (0, "")
    assert "llamactl create NAME -- " in said.err
    assert json.loads(llamactl("ps", "--json").out) == []


def test_ps_shows_a_line_for_each_instance_and_never_folds_it_in_a_pipe(served: Daemon, llamactl: Llamactl) -> None:
    llamactl("create", "first", "--", *SERVER)
    llamactl("create", "second", "--", "llama-server", "-m", f"/no/{'such/' * 40}model.gguf")
    assert llamactl("start", "first", "second").code == 1
    header, first, second = llamactl("ps").out.splitlines()
    assert header.split() == ["NAME", "STATE", "SINCE", "BACKEND", "PORT", "PID", "IN", "FLIGHT", "RESTARTS", "WHY"]
    up = served.client.instance("first")
    assert first.split()[:2] + first.split()[3:] == ["first", "ready", "llama_cpp", str(up["port"]), str(up["pid"]), "0", "0"]
    assert second.split()[:2] == ["second", "failed"]
    assert "such/model.gguf' does not exist" in second


@pytest.mark.parametrize("columns", [80, 60, 46])
def test_ps_never_cuts_what_matters_however_narrow_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = Console(file=screen, width=columns, force_terminal=True, color_system=None, soft_wrap=True)
    monkeypatch.setattr(render, "out", console)
    why = "llama-server exited with code 1 before it was ready: error: invalid argument: --no-such-flag [and] more"
    row = {"since": 0, "options": {"backend_type": "llama_cpp_python"}, "in_flight": 0, "restarts": 0}
    render.instances(
        [
            {**row, "name": "qwen3-30b-a3b-instruct", "state": "ready", "port": 8000, "pid": 1234567},
            {**row, "name": "bad", "state": "failed", "reason": why},
        ]
    )
    header, first, second, *reason = re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue()).splitlines()
    assert max(map(len, (header, first, second, *reason))) <= columns
    assert {"NAME", "STATE", "PORT", "PID"} <= set(header.split())
    assert {"qwen3-30b-a3b-instruct", "ready", "8000", "1234567"} <= set(first.split())
    assert {"bad", "failed"} <= set(second.split())
    assert "".join(reason).split() == why.split()
    assert all(line.startswith("  ") for line in reason)


def test_ps_and_keys_leave_no_blanks_at_the_end_of_a_line_in_a_pipe(llamactl: Llamactl) -> None:
    llamactl("create", "a", "--", *SERVER)
    llamactl("keys", "create", "k")
    for words in (("ps",), ("keys", "list")):
        lines = llamactl(*words).out.splitlines()
        assert len(lines) == 2
        assert lines == [line.rstrip() for line in lines]


def test_ps_json_is_what_the_api_says(served: Daemon, llamactl: Llamactl) -> None:
    llamactl("create", "a", "--", *SERVER)
    assert json.loads(llamactl("ps", "--json").out) == served.client.instances()


# ---- create

MADE = {"model": "/dev/null", "ctx_size": 512}


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("a", "--", *SERVER, "-c", "512"), id="several words"),
        pytest.param(("a", "llama-server -m '/dev/null' -c 512"), id="one quoted word"),
        pytest.param(("a", "--", "llama-server -m /dev/null \\\n  -c 512 # comment"), id="one quoted word with lines"),
        pytest.param(("a", *SERVER, "-c", "512"), id="without dashes"),
    ],
)
def test_create_reads_the_command_of_the_server(served: Daemon, llamactl: Llamactl, words: tuple[str, ...]) -> None:
    said = llamactl("create", *words)
    assert (said.code, said.out, said.err) == (0, "a is stopped\n", "")
    options = served.client.instance("a")["options"]
    assert (options["backend_type"], options["backend_options"]) == ("llama_cpp", MADE)


def test_words_that_a_shell_has_split_already_are_not_split_again(served: Daemon, llamactl: Llamactl) -> None:
    assert llamactl("create", "a", "--", "llama-server", "-m", "/models/it's a $model.gguf").code == 0
    assert served.client.instance("a")["options"]["backend_options"] == {"model": "/models/it's a $model.gguf"}


def test_create_runs_any_command_when_it_is_told_so(served: Daemon, llamactl: Llamactl) -> None:
    stub = (sys.executable, "-S", "-E", str(STUB), "--host", "${HOST}", "--port=${PORT}", "-m", "/dev/null")
    said = llamactl("create", "a", "--backend", "custom", "--start", "--", *stub)
    assert (said.code, said.out) == (0, "a is ready\n")
    assert served.client.instance("a")["options"]["backend_options"] == {"command": list(stub)}


@pytest.mark.parametrize("name_first", [False, True])
def test_options_of_create_stand_on_either_side_of_the_name(served: Daemon, llamactl: Llamactl, name_first: bool) -> None:
    given = ("--idle-timeout", "90s", "--no-on-demand", "--alias", "gpt-4", "--alias", "x/y", "--group", "g")
    words = ("a", *given) if name_first else (*given, "a")
    assert llamactl("create", *words, "--env", "A=1", "--env", "B=x=y", "--", *SERVER, "--alias", "its-own").code == 0
    options = served.client.instance("a")["options"]
    assert (options["idle_timeout"], options["on_demand_start"], options["group"]) == ("90s", False, "g")
    assert options["aliases"] == ["gpt-4", "x/y"]
    assert options["environment"] == {"A": "1", "B": "x=y"}
    assert options["backend_options"]["alias"] == "its-own"


def test_variables_of_the_command_and_of_env_are_put_together(served: Daemon, llamactl: Llamactl) -> None:
    assert llamactl("create", "a", "--env", "A=2", "--", "A=1", "B=1", *SERVER).code == 0
    assert served.client.instance("a")["options"]["environment"] == {"A": "2", "B": "1"}


def test_what_create_leaves_out_is_told_on_stderr(served: Daemon, llamactl: Llamactl) -> None:
    said = llamactl("create", "a", "--", *SERVER, "--port", "1", "--api-key", "canary-in-argv")
    assert (said.code, said.out) == (0, "a is stopped\n")
    assert [line.split()[:2] for line in said.err.splitlines()] == [["warning:", "--port"], ["warning:", "--api-key"]]
    assert served.client.instance("a")["options"]["backend_options"] == {"model": "/dev/null"}


def test_the_same_warning_is_told_once_and_an_unknown_flag_with_the_nearest(served: Daemon, llamactl: Llamactl) -> None:
    said = llamactl("create", "a", "--", *SERVER, "--agent", "--ctx-sise", "5")
    assert [line.split()[1] for line in said.err.splitlines()] == ["--ctx-sise", "--agent"]
    assert "is not known to llama-server; it is passed on as it is (did you mean --ctx-size?)" in said.err
    assert served.client.instance("a")["options"]["backend_options"]["extra_args"] == ["--ctx-sise", "5"]


def test_a_relative_model_that_is_here_is_made_absolute(
    served: Daemon, llamactl: Llamactl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.gguf").touch()
    monkeypatch.chdir(tmp_path)
    said = llamactl("create", "a", "--", "llama-server", "-m", "tiny.gguf")
    assert said.err.startswith(f"warning: the model tiny.gguf was made {tmp_path}/tiny.gguf: ")
    assert served.client.instance("a")["options"]["backend_options"] == {"model": f"{tmp_path}/tiny.gguf"}


def test_a_relative_model_that_is_not_here_is_kept_and_doubted_unless_it_may_be_a_repositorys(
    served: Daemon, llamactl: Llamactl
) -> None:
    said = llamactl("create", "a", "--", "llama-server", "-m", "no-such.gguf")
    assert said.err.startswith(
        "warning: the model no-such.gguf is not here, and is relative to the directory in which the daemon"
    )
    assert llamactl("create", "b", "--", "vllm", "serve", "Qwen/Qwen3-32B") == Said(0, "b is stopped\n", "")
    models = [row["options"]["backend_options"]["model"] for row in served.client.instances()]
    assert models == ["no-such.gguf", "Qwen/Qwen3-32B"]


@pytest.mark.parametrize(
    "words", [("create", "a", "--start", "--", *SERVER), ("start", "a"), ("restart", "a")], ids=lambda w: w[0]
)
def test_ctrl_c_while_it_starts_says_that_it_goes_on_and_how_to_end_it(
    served: Daemon, llamactl: Llamactl, words: tuple[str, ...]
) -> None:
    hangs = ("--env", "STUBD=never-ready")
    if words[0] == "create":
        words = (*words[:2], *hangs, *words[2:])
    else:
        llamactl("create", "a", *hangs, "--", *SERVER)
    command = (*PROGRAM, "--data-dir", str(served.data), *words)
    with subprocess.Popen(command, env=surroundings(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
        wait_for(lambda: any(row["state"] == "starting" for row in served.client.instances()), 10)
        waiting.send_signal(signal.SIGINT)
        out, err = waiting.communicate(timeout=20)
    assert (waiting.returncode, out) == (130, "")
    assert err.endswith("a is still starting; llamactl stop a ends it\n")  # before it may stand what it waited for
    assert served.client.instance("a")["state"] == "starting"


def test_create_start_waits_until_it_is_ready(llamactl: Llamactl) -> None:
    said = llamactl("create", "a", "--start", "--env", "STUBD=load-time=0.3", "--", *SERVER)
    assert (said.code, said.out) == (0, "a is ready\n")


def test_create_start_of_what_cannot_start_says_why_and_ends_with_1(llamactl: Llamactl) -> None:
    said = llamactl("create", "a", "--start", "--", "llama-server", "-m", "/no/such.gguf")
    assert said.code == 1
    assert said.out.startswith("a is failed: model '/no/such.gguf' does not exist")


def test_create_json_prints_the_instance(served: Daemon, llamactl: Llamactl) -> None:
    made = json.loads(llamactl("create", "a", "--json", "--", *SERVER).out)
    assert made == served.client.instance("a")


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        pytest.param(("a", "--", *SERVER, "-c", "abc"), 4, "ctx_size: takes a whole number, got 'abc'", id="bad flag value"),
        pytest.param(("a", "--", "frobnicate", "-x"), 4, "'frobnicate' is no server program", id="unknown program"),
        pytest.param(
            ("a", "--idle-timeout", "soon", "--", *SERVER), 4, "idle_timeout: 'soon' is not a duration", id="bad option value"
        ),
        pytest.param(("-a", "--", *SERVER), 2, "-a", id="name like an option"),
        pytest.param(("..", "--", *SERVER), 4, "'..' is not usable", id="unusable name"),
        pytest.param(("a",), 2, "llamactl create NAME -- llama-server -m MODEL.gguf", id="no command"),
        pytest.param(("a", "--"), 2, "llamactl create NAME -- llama-server -m MODEL.gguf", id="nothing behind the dashes"),
        pytest.param(("a", "--env", "FOO", "--", *SERVER), 2, "'FOO' is not NAME=VALUE", id="bad variable"),
        pytest.param(
            ("a", "--strat", "--", *SERVER),
            2,
            "--strat is no option of llamactl create (did you mean '--start'?)",
            id="unknown option",
        ),
        pytest.param((), 2, "NAME", id="nothing at all"),
        pytest.param(("my model", "--", *SERVER), 4, "'my model' is not usable", id="a name with a blank"),
        pytest.param(("my model", *SERVER[:1]), 4, "'my model' is not usable", id="a name with a blank, and no dashes"),
        pytest.param(("a", "--", *SERVER[1:]), 2, "or name it with --backend", id="options alone, and no backend"),
        pytest.param(("--start", "--", *SERVER), 2, "NAME is missing before the command", id="no name"),
        pytest.param(("--", "vllm", "serve", "x/y"), 2, "NAME is missing before the command", id="no name, and a sub-command"),
        pytest.param(SERVER, 2, "NAME is missing before the command", id="no name and no dashes"),
        pytest.param((" ".join(SERVER),), 2, "NAME is missing before the command", id="no name and one quoted word"),
        pytest.param(
            ("a", "--ngl", "99", "--", *SERVER),
            2,
            "--ngl is no option of llamactl create; flags of the server go after --",
            id="the server's flag",
        ),
        pytest.param(
            ("a", "-ngl", "99", "--", *SERVER),
            2,
            "-ngl is no option of llamactl create; flags of the server go after --",
            id="a short one",
        ),
        pytest.param(("a", "--", "ollama", "serve"), 4, "'ollama' is no server program that is known here; known", id="ollama"),
        pytest.param(("a", "--", "ollama", "serve"), 4, "; --backend custom runs any other program", id="and what to do"),
        pytest.param(
            ("a", "--backend", "lama", "--", "x"), 4, "known are llama-cpp (llama_cpp), llama-cpp-python", id="no such backend"
        ),
    ],
)
def test_a_create_that_cannot_be_makes_nothing_and_says_why(
    served: Daemon, llamactl: Llamactl, words: tuple[str, ...], code: int, complaint: str
) -> None:
    said = llamactl("create", *words)
    assert (said.code, said.out) == (code, "")
    assert complaint in said.err
    assert "Traceback" not in said.err
    assert served.client.instances() == []


def test_the_options_of_a_server_alone_make_an_instance_of_the_backend_that_is_named(served: Daemon, llamactl: Llamactl) -> None:
    assert llamactl("create", "a", "--backend", "llama-cpp", "--", "-m", "/dev/null", "-c", "100").code == 0
    options = served.client.instance("a")["options"]
    assert (options["backend_type"], options["backend_options"]) == ("llama_cpp", {"model": "/dev/null", "ctx_size": 100})


def test_a_name_is_given_once(llamactl: Llamactl) -> None:
    assert llamactl("create", "a", "--", *SERVER).code == 0
    for words, complaint in (
        (("a",), "an instance named 'a' exists already; choose another name, or change that one with `llamactl edit` (PATCH)"),
        (("A",), "the name 'A' is taken by instance 'a': they differ in case only; choose another"),
        (("b", "--alias", "a"), "the alias 'a' is taken by instance 'a': that is its name; choose another"),
    ):
        said = llamactl("create", *words, "--", *SERVER)
        assert (said.code, said.out) == (4, "")
        assert complaint in said.err


# ---- start, stop, restart, rm


def test_several_instances_are_started_restarted_stopped_and_deleted(served: Daemon, llamactl: Llamactl) -> None:
    for name in ("a", "b"):
        llamactl("create", name, "--env", "STUBD=load-time=0.2", "--", *SERVER)
    assert result(llamactl("start", "a", "b")) == (0, "a is ready\nb is ready\n")
    before = {name: served.client.instance(name)["pid"] for name in ("a", "b")}
    assert result(llamactl("restart", "a", "b")) == (0, "a is ready\nb is ready\n")
    assert all(served.client.instance(name)["pid"] not in (None, pid) for name, pid in before.items())
    assert result(llamactl("start", "a")) == (0, "a is ready\n")
    assert result(llamactl("stop", "a", "b")) == (0, "a is stopped\nb is stopped\n")
    assert llamactl("rm", "--yes", "a", "b") == Said(0, "a is deleted\nb is deleted\n", "")
    assert served.client.instances() == []


@pytest.mark.parametrize("command", ["start", "stop", "restart"])
def test_one_unknown_name_does_not_keep_the_others_from_it(served: Daemon, llamactl: Llamactl, command: str) -> None:
    llamactl("create", "alpha", "--", *SERVER)
    said = llamactl(command, "alhpa", "alpha")
    assert said.code == 4
    *_, refusal, total = said.err.splitlines()  # before them may stand what it waited for
    assert refusal == "llamactl: there is no instance named 'alhpa' (did you mean 'alpha'?)"
    assert total == f"llamactl: {command}: 1 of 2 done; not alhpa"
    assert said.out == f"alpha is {'stopped' if command == 'stop' else 'ready'}\n"


def test_one_that_does_not_come_up_ends_start_with_1_and_says_why(llamactl: Llamactl) -> None:
    llamactl("create", "bad", "--env", "STUBD=exit-code=7 last-words=boom:error", "--", *SERVER)
    llamactl("create", "good", "--", *SERVER)
    said = llamactl("start", "bad", "good")
    assert said.code == 1
    bad, good = said.out.splitlines()
    assert bad.startswith("bad is backoff: ")
    assert "exited with code 7 before it was ready: boom:error" in bad
    assert good == "good is ready"
    assert said.err.endswith("llamactl: start: 1 of 2 done; not bad\n")
    assert llamactl("start", "bad", "nobody").code == 4


def test_start_no_wait_does_not_wait(llamactl: Llamactl) -> None:
    llamactl("create", "a", "--env", "STUBD=never-ready", "--", *SERVER)
    assert llamactl("start", "--no-wait", "a") == Said(0, "a is starting\n", "")
    assert result(llamactl("stop", "a")) == (0, "a is stopped\n")


def test_start_json_lists_what_was_started(served: Daemon, llamactl: Llamactl) -> None:
    for name in ("a", "b"):
        llamactl("create", name, "--", *SERVER)
    said = llamactl("start", "--json", "a", "b")
    assert [(row["name"], row["state"]) for row in json.loads(said.out)] == [("a", "ready"), ("b", "ready")]


def test_rm_refuses_what_is_up_unless_forced_and_takes_the_log_along(served: Daemon, llamactl: Llamactl) -> None:
    llamactl("create", "a", "--start", "--", *SERVER)
    log = served.data / "logs" / "a.log"
    assert log.exists()
    refused = llamactl("rm", "--yes", "a", "nobody")
    assert (refused.code, refused.out) == (4, "")
    assert [line.split(":")[0] for line in refused.err.splitlines()] == ["llamactl"] * 3
    assert "a' is ready; stop it first, or: llamactl rm -f a\n" in refused.err
    assert llamactl("rm", "-f", "a") == Said(0, "a is deleted\n", "")
    assert not log.exists()


# ---- logs


def test_logs_shows_the_last_lines(llamactl: Llamactl) -> None:
    llamactl("create", "a", "--start", "--env", "STUBD=spew-total=3000", "--", *SERVER)
    llamactl("stop", "a")
    lines = llamactl("logs", "a").out.splitlines()
    assert lines[0].startswith("=== Instance a started at ")
    assert lines[-1].startswith("=== Instance a ")
    assert llamactl("logs", "-n", "3", "a").out.splitlines() == lines[-3:]
    assert llamactl("logs", "--tail", "3", "a").out.splitlines() == lines[-3:]
    assert llamactl("logs", "-n", "0", "a").code == 2


def test_logs_of_one_that_never_ran_are_empty_for_a_reason_and_of_nobody_an_error(llamactl: Llamactl) -> None:
    llamactl("create", "a", "--", "llama-server", "-m", "/no/such.gguf")
    assert llamactl("logs", "a") == Said(0, "", "the log of a is empty; it is stopped: nothing was written yet\n")
    llamactl("start", "a")
    said = llamactl("logs", "a")
    assert (said.code, said.out) == (0, "")
    assert said.err.startswith("the log of a is empty; it is failed: model '/no/such.gguf' does not exist")
    assert llamactl("logs", "b").code == 4


def test_logs_follow_goes_on_with_what_is_written_and_ends_with_ctrl_c(served: Daemon, llamactl: Llamactl) -> None:
    llamactl("create", "a", "--start", "--", *SERVER)
    with talking("--data-dir", str(served.data), "logs", "-f", "a") as following:
        assert following.until("=== Instance a started at ")
        llamactl("stop", "a")
        assert following.until("exited with code 0")
        llamactl("start", "a")
        assert following.until("=== Instance a started at ")
        following.process.send_signal(signal.SIGINT)
        assert following.process.wait(10) == 130


def test_logs_follow_ends_with_the_instance(served: Daemon, llamactl: Llamactl) -> None:
    llamactl("create", "a", "--start", "--", *SERVER)
    with talking("--data-dir", str(served.data), "logs", "-f", "a", stderr=subprocess.STDOUT) as following:
        assert following.until("=== Instance a started at ")
        llamactl("rm", "-f", "a")
        assert following.until("a was deleted") == "llamactl: a was deleted, and its log with it\n"
        assert following.until("") == ""
        assert following.process.wait(10) == 0


def test_logs_follow_ends_with_the_daemon(tmp_path: Path) -> None:
    with daemon(tmp_path, environment={"PATH": stub_on_path(tmp_path)}) as running:
        running.create("a", " ".join(SERVER))
        running.client.start("a")
        with talking("--data-dir", str(running.data), "logs", "-f", "a", stderr=subprocess.STDOUT) as following:
            assert following.until("=== Instance a started at ")
            running.process.kill()
            last = following.until("llamactl: ")
            assert last == f"llamactl: the daemon at {running.client.url} has ended, and the log of a with it\n"
            assert following.process.wait(10) == 3


# ---- keys, version


def test_a_key_is_printed_alone_works_is_listed_without_itself_and_revoked(served: Daemon, llamactl: Llamactl) -> None:
    made = llamactl("keys", "create", "my notebook")
    key = made.out.strip()
    assert (made.code, made.out) == (0, f"{key}\n")
    assert key.startswith("llamactl-")
    llamactl("create", "a", "--", *SERVER)
    user = Client(served.client.url, key)
    assert "".join(user.chat("a", [{"role": "user", "content": "hi"}], max_tokens=3)).split() == ["one", "two", "three"]
    listed = llamactl("keys", "list")
    assert key not in listed.out
    header, row = listed.out.splitlines()
    assert re.split(r"  +", header) == ["ID", "NAME", "KEY", "OPENS", "EXPIRES", "LAST USED", "CREATED"]
    number, *rest = re.split(r"  +", row)
    assert rest[:4] == ["my notebook", f"{key[:13]}...", "all instances", "never"]
    assert all(re.fullmatch(r"\d+s ago", cell) for cell in rest[4:])
    assert json.loads(llamactl("keys", "list", "--json").out) == served.client.keys()
    assert llamactl("keys", "revoke", number) == Said(0, f"key {number} is revoked\n", "")
    with pytest.raises(Refused):
        list(user.chat("a", []))
    assert llamactl("keys", "revoke", number).code == 4


def test_a_key_is_meant_by_its_name_where_no_other_has_it(served: Daemon, llamactl: Llamactl) -> None:
    for name in ("guest", "notebook", "twin", "twin"):
        llamactl("keys", "create", name)
    ids = {key["name"]: key["id"] for key in served.client.keys()}  # noqa: SIM118 keys of the API
    assert json.loads(llamactl("keys", "show", "guest", "--json").out)["id"] == ids["guest"]
    assert json.loads(llamactl("keys", "edit", "guest", "--name", "friend", "--json").out)["id"] == ids["guest"]
    said = llamactl("keys", "revoke", "friend", "twin")
    assert (said.code, said.out) == (2, "")
    assert "2 keys are named 'twin'; give the number of the one that is meant: " in said.err
    said = llamactl("keys", "revoke", "friend", "notebok")
    assert (said.code, said.out) == (4, "")
    assert said.err == ("llamactl: there is no key named 'notebok' (did you mean 'notebook'?); llamactl keys list shows them\n")
    assert len(served.client.keys()) == 4
    said = llamactl("keys", "revoke", "friend", "9999", "notebook", str(ids["guest"]))
    assert (said.code, said.out) == (4, f"key {ids['guest']} is revoked\nkey {ids['notebook']} is revoked\n")
    assert said.err == "llamactl: there is no key with id 9999\n"
    left = served.client.keys()
    assert [key["name"] for key in left] == ["twin", "twin"]
    twin = str(ids["twin"])
    assert json.loads(llamactl("keys", "revoke", "--json", twin).out) == [{"id": ids["twin"], "http_status": 204}]


def test_a_key_is_made_for_some_instances_shown_and_edited(served: Daemon, llamactl: Llamactl) -> None:
    llamactl("create", "a", "--", *SERVER)
    llamactl("create", "b", "--group", "small", "--", *SERVER)
    limits = ("--instance", "a", "--group", "small", "--no-start", "--no-evict", "--expires", "30d")
    made = json.loads(llamactl("keys", "create", "guest", *limits, "--json").out)
    assert (made["instances"], made["groups"], made["may_start"], made["may_evict"]) == (["a"], ["small"], False, False)
    assert made["expires_at"] == pytest.approx(made["created_at"] + 30 * 86400, abs=30)
    number = str(made.pop("id"))
    assert [row["instance_name"] for row in served.client.key_permissions(int(number))] == ["a", "b"]
    said = llamactl("keys", "show", number).out
    assert re.search(r"^opens +a, group small \(may not start or evict\)$", said, re.MULTILINE)
    assert re.search(r"^last used +never$", said, re.MULTILINE)
    assert made["key"] not in said
    assert json.loads(llamactl("keys", "show", number, "--json").out) == served.client.key(int(number))
    said = llamactl("keys", "edit", number, "--name", "friend", "--all", "--start", "--expires", "never").out
    assert re.search(r"^opens +all instances \(may not evict\)$", said, re.MULTILINE)
    changed = json.loads(llamactl("keys", "edit", number, "--instance", "b", "--expires", "2100-01-31", "--json").out)
    assert (changed["name"], changed["instances"], changed["groups"]) == ("friend", ["b"], [])
    assert changed["expires_at"] // (365.25 * 86400) == 130
    assert "in 2" in llamactl("keys", "list").out


@pytest.mark.parametrize(("scope", "opens"), [("read", "management, to look at"), ("management", "everything")])
def test_a_key_for_management_is_made_and_works(served: Daemon, llamactl: Llamactl, scope: str, opens: str) -> None:
    key = llamactl("keys", "create", "k", "--scope", scope).out.strip()
    assert opens in llamactl("keys", "list").out
    assert llamactl("ps", LLAMACTL_API_KEY=key).code == 0
    said = llamactl("create", "a", "--", *SERVER, LLAMACTL_API_KEY=key)
    assert (said.code, "is a read-only key" in said.err) == ((4, True) if scope == "read" else (0, False))


def test_the_short_names_of_commands_for_keys_still_work(llamactl: Llamactl) -> None:
    llamactl("keys", "create", "k")
    number = json.loads(llamactl("keys", "ls", "--json").out)[0]["id"]
    assert llamactl("keys", "rm", str(number)).out == f"key {number} is revoked\n"


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("create", "k", "--expires", "soon"), 2, "'soon' is no moment; write 30d"),
        (("create", "k", "--expires", "30"), 2, "'30' is no moment"),
        (("create", "k", "--expires", "2001-01-01"), 2, "'2001-01-01' has passed already; give a moment to come"),
        (("create", "k", "--scope", "root"), 2, "'root' is not one of 'inference', 'read', 'management'"),
        (("create", "k", "--instance", "none"), 4, "instances.0: there is no instance named 'none'"),
        (("create", "k", "--scope", "read", "--no-start"), 4, "may_start: limits inference keys"),
        (("create", ""), 4, "name: "),
        (("edit", "1"), 2, "nothing to change; give --name"),
        (("edit", "99", "--name", "x"), 4, "there is no key with id 99"),
        (("show", "99"), 4, "there is no key with id 99"),
        (("show",), 2, "Missing argument 'KEY'"),
    ],
)
def test_mistakes_with_keys_are_told(llamactl: Llamactl, words: tuple[str, ...], code: int, told: str) -> None:
    said = llamactl("keys", *words)
    assert (said.code, said.out) == (code, "")
    assert told in said.err


def test_version_tells_ours_and_the_daemons(llamactl: Llamactl, tmp_path: Path) -> None:
    assert llamactl("version").out.splitlines() == [
        f"llamactl {__version__} (Python {sys.version.split()[0]})",
        f"daemon {__version__}",
    ]
    assert json.loads(llamactl("version", "--json").out)["daemon"] == __version__
    alone = run("--data-dir", str(tmp_path), "version")
    assert (alone.code, alone.out.splitlines()[1]) == (0, "no daemon answers")
    assert json.loads(run("--data-dir", str(tmp_path), "version", "--json").out)["daemon"] is None


# ---- help


def test_an_unknown_command_is_answered_with_the_nearest() -> None:
    said = run("strat", "a")
    assert (said.code, said.out) == (2, "")
    assert "there is no command 'strat' (did you mean 'start'?)" in said.err


def test_help_lists_every_command_with_its_own_summary() -> None:
    text = " ".join(run("--help", COLUMNS="200").out.split())
    for name, place in COMMANDS.items():
        module, _, attribute = place.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        assert command.name == name
        assert SUMMARIES[name] == command.short_help
        assert f"{name} {SUMMARIES[name]}" in text
    assert list(SUMMARIES) == list(COMMANDS)


@pytest.mark.parametrize("words", [(name, "--help") for name in COMMANDS], ids=lambda words: words[0])
def test_every_command_explains_itself(words: tuple[str, str]) -> None:
    said = run(*words)
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(f"Usage: python -m llamactl_py {words[0]} ") or said.out.startswith(f"Usage: llamactl {words[0]} ")


def leaves(command: click.Command = cli, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that is no group."""
    if not isinstance(command, click.Group):
        yield words, command
        return
    for name in command.list_commands(click.Context(command)):
        below = command.get_command(click.Context(command), name)
        assert below
        yield from leaves(below, (*words, name))


def test_every_command_that_tells_something_tells_it_programs_too() -> None:
    without = {words for words, command in leaves() if not any("--json" in parameter.opts for parameter in command.params)}
    assert without == {("serve",), ("demo",), ("completion",)}


# ---- who is asked, and with which key

ASKING = [
    ("ps",),
    ("create", "a", "--", *SERVER),
    ("start", "a"),
    ("stop", "a"),
    ("restart", "a"),
    ("rm", "a"),
    ("logs", "a"),
    ("logs", "a", "b"),
    ("ps", "-w"),
    ("top",),
    ("show", "a"),
    ("command", "a"),
    ("edit", "a", "--set", "group=g"),
    ("chat", "a", "Hello"),
    ("parse", "llama-server -m x"),
    ("keys", "list"),
    ("keys", "show", "1"),
    ("keys", "create", "k"),
    ("keys", "edit", "1", "--name", "k"),
    ("keys", "revoke", "1"),
]


@pytest.mark.parametrize("words", ASKING, ids=" ".join)
def test_without_a_daemon_every_command_ends_with_3_and_one_line(words: tuple[str, ...], tmp_path: Path) -> None:
    said = run("--data-dir", str(tmp_path), *words)
    assert (said.code, said.out) == (3, "")
    assert (
        said.err
        == f"llamactl: no daemon is running on {tmp_path}; start one with `llamactl serve`, or give its address with --url\n"
    )


@pytest.mark.parametrize("url", ["nonsense", "a:b:1", "ftp://127.0.0.1", "http://", "http://127.0.0.1:port", "http://[::1"])
def test_a_url_that_is_none_ends_with_2_and_says_how_to_write_it(url: str, tmp_path: Path) -> None:
    for said in (run("--url", url, "ps"), run("--data-dir", str(tmp_path), "ps", LLAMACTL_URL=url), run("--url", url, "version")):
        assert (said.code, said.out) == (2, "")
        told = f"{url!r} is not an address of a daemon; write it like http://127.0.0.1:8080 or 127.0.0.1:8080\n"
        assert said.err.endswith(f"--url (or LLAMACTL_URL): {told}")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "127.0.0.1:1", "localhost:1/", "[::1]:1"])
def test_an_address_at_which_no_daemon_is_ends_with_3_and_one_line(url: str, tmp_path: Path) -> None:
    said = run("--data-dir", str(tmp_path), "--url", url, "ps")
    assert (said.code, said.out, said.err.count("\n")) == (3, "", 1)
    assert url.removesuffix("/") in said.err


def test_a_daemon_that_was_killed_is_told_from_one_that_answers(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        running.process.kill()
        running.process.wait()
        said = run("--data-dir", str(running.data), "ps")
    assert (said.code, said.err.count("\n")) == (3, 1)
    assert "no daemon answers at http://127.0.0.1:" in said.err


def test_the_daemon_is_found_by_each_of_the_ways_that_are_documented(served: Daemon, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(f"{served.key}\n")
    url, data, elsewhere = served.client.url, str(served.data), str(tmp_path)
    for words, environment in (
        (("--data-dir", data), {}),
        ((), {"LLAMACTL_DATA_DIRECTORY": data}),
        (("--url", url, "--key-file", str(key_file), "--data-dir", elsewhere), {}),
        ((), {"LLAMACTL_URL": url, "LLAMACTL_API_KEY": served.key, "LLAMACTL_DATA_DIRECTORY": elsewhere}),
        (("--url", f"{url}/", "--data-dir", data), {}),
        (("--url", url.removeprefix("http://"), "--data-dir", data), {}),
        (("--data-dir", data), {"LLAMACTL_DATA_DIRECTORY": elsewhere}),
        (("--key-file", str(key_file), "--data-dir", data), {"LLAMACTL_API_KEY": "wrong"}),
    ):
        assert run(*words, "ps", "--json", **environment) == Said(0, "[]\n", ""), (words, environment)


def test_a_wrong_key_or_none_is_told_from_no_daemon(served: Daemon, tmp_path: Path) -> None:
    for said in (
        run("--data-dir", str(served.data), "ps", LLAMACTL_API_KEY="wrong"),
        run("--url", served.client.url, "--data-dir", str(tmp_path), "ps"),
        run("--data-dir", str(served.data), "ps", LLAMACTL_API_KEY=served.client.create_key("inference")["key"]),
    ):
        assert (said.code, said.out, said.err.count("\n")) == (4, "", 1)
        assert "management key" in said.err


def test_a_key_that_is_not_known_is_told_by_where_it_came_from(served: Daemon, tmp_path: Path) -> None:
    key_file = tmp_path / "management.key"
    key_file.write_text("wrong\n")
    elsewhere = ("--url", served.client.url, "--data-dir", str(tmp_path))
    for place, said in (
        (f"--key-file {key_file}", run("--data-dir", str(served.data), "--key-file", str(key_file), "ps")),
        ("LLAMACTL_API_KEY", run("--data-dir", str(served.data), "ps", LLAMACTL_API_KEY="wrong")),
        (str(key_file), run(*elsewhere, "ps")),
    ):
        assert said == Said(
            4,
            "",
            "llamactl: this route needs a management key, or a read-only one; "
            f"the key from {place} is none that this daemon accepts\n",
        )
    key_file.unlink()
    assert run(*elsewhere, "ps").err.endswith("; give one with --key-file or LLAMACTL_API_KEY\n")


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (30 * 86400 - 1, "30d"), (47 * 3600, "1d"), (86400 - 1, "1d"), (3600 - 1, "1h"), (7200 - 90, "1h"), (7200 - 1, "2h"),
        (59.9, "1m"), (30, "30s"), (0.2, "0s"),
    ],
)  # fmt: skip
def test_time_left_is_never_told_as_much_more_than_it_is(seconds: float, told: str) -> None:
    assert render.time_left(seconds) == told


def test_a_key_that_has_expired_is_told_with_the_moment(served: Daemon) -> None:
    key = served.client.create_key("short", scope="management", expires_at=int(time.time()) + 1)["key"]
    wait_for(lambda: run("--data-dir", str(served.data), "ps", LLAMACTL_API_KEY=key).code == 4, 10)
    said = run("--data-dir", str(served.data), "ps", LLAMACTL_API_KEY=key).err
    assert re.search(r"; key 'short' has expired at \S+Z: the key from LLAMACTL_API_KEY is none that this daemon accepts$", said)


@pytest.mark.parametrize("option", ["--url", "--key-file"])
def test_an_option_that_stands_before_the_command_is_told_so_behind_it(option: str) -> None:
    for words in (("ps", option, "x"), ("create", "a", option, "x", "--", *SERVER)):
        said = run(*words)
        assert (said.code, said.out) == (2, "")
        assert f"{option} stands before the command: llamactl {option} ..." in said.err


@pytest.mark.parametrize(
    ("answer", "told"), [(b"", "it closed the connection without an answer"), (b"SSH-2.0\r\n", "does not speak HTTP")]
)
def test_what_answers_and_is_no_daemon_is_told_in_plain_words(answer: bytes, told: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_once() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        answering = threading.Thread(target=answer_once)
        answering.start()
        said = run("--data-dir", str(tmp_path), "--url", f"http://127.0.0.1:{listener.getsockname()[1]}", "ps")
        answering.join()
    assert (said.code, said.err.count("\n")) == (3, 1)
    assert told in said.err


def test_an_answer_that_breaks_off_is_told_in_plain_words(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def break_off() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n[")

        answering = threading.Thread(target=break_off)
        answering.start()
        said = run("--data-dir", str(tmp_path), "--url", f"http://127.0.0.1:{listener.getsockname()[1]}", "ps")
        answering.join()
    assert (said.code, said.err.count("\n")) == (3, 1)
    assert "broke off in the middle of its answer" in said.err


def test_a_key_file_that_cannot_be_read_is_said_and_nothing_is_asked(served: Daemon, tmp_path: Path) -> None:
    said = run("--data-dir", str(served.data), "--key-file", str(tmp_path / "none"), "ps")
    assert (said.code, said.out) == (2, "")
    assert f"--key-file {tmp_path / 'none'} cannot be read: No such file or directory" in said.err


def test_the_key_of_the_data_directory_is_not_sent_to_other_machines(served: Daemon) -> None:
    """127.0.0.2 stands for another machine: it is no address of the daemon."""
    sent: list[str | None] = []

    class Stranger(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent.append(self.headers.get("Authorization"))
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            return

    with http.server.HTTPServer(("127.0.0.2", 0), Stranger) as server:
        answering = threading.Thread(target=server.serve_forever)
        answering.start()
        url = f"http://127.0.0.2:{server.server_port}"
        assert run("--data-dir", str(served.data), "--url", url, "ps").code == 4
        assert run("--data-dir", str(served.data), "--url", url, "ps", LLAMACTL_API_KEY="given").code == 4
        server.shutdown()
        answering.join()
    assert sent == [None, "Bearer given"]


# ---- serve


@contextmanager
def serving(data: Path, *words: str, closed: str = "", **environment: str) -> Iterator[subprocess.Popen[str]]:
    """`llamactl serve` that answers; *closed* is for a shell, such as `>&-`. Killed at the end of the block."""
    line = f'exec "$@" {closed}'
    command = ("bash", "-c", line, "bash", *PROGRAM, "serve", "--port", "0", "--data-dir", str(data), *words)
    with subprocess.Popen(
        command, env=surroundings(**environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_for(lambda: (data / "address").exists() or process.poll() is not None, 20)
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_serve_runs_with_its_streams_closed(tmp_path: Path, closed: str) -> None:
    with serving(tmp_path, closed=closed) as process:
        assert run("--data-dir", str(tmp_path), "ps", "--json").out == "[]\n"
        process.terminate()
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in out + err


def test_serve_says_that_other_machines_reach_it(tmp_path: Path) -> None:
    with serving(tmp_path, "--host", "0.0.0.0") as process:
        url = (tmp_path / "address").read_text().strip()
        process.terminate()
        _, err = process.communicate(timeout=20)
    port = url.rpartition(":")[2]
    assert f" listens on 0.0.0.0:{port}, reachable from other machines; here {url} (OpenAI API: {url}/v1)." in err
    assert url == f"http://127.0.0.1:{port}"


def test_serve_without_management_keys_says_who_may_do_what(tmp_path: Path) -> None:
    config = tmp_path / "open.yaml"
    config.write_text("auth: {require_management_auth: false}\n")
    with serving(tmp_path / "data", "--config", str(config)) as process:
        process.terminate()
        _, err = process.communicate(timeout=20)
    (line,) = (line for line in err.splitlines() if line.startswith("warning:"))
    assert "every program of this machine may run commands" in line


# ---- output that nobody reads


@pytest.mark.parametrize("words", [("ps",), ("ps", "--json"), ("logs", "a"), ("--help",), ("version",)], ids=" ".join)
def test_a_reader_who_leaves_is_no_error_to_talk_about(served: Daemon, llamactl: Llamactl, words: tuple[str, ...]) -> None:
    llamactl("create", "a", "--start", "--", *SERVER)
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            (*PROGRAM, "--data-dir", str(served.data), *words),
            env=surroundings(),
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_the_head_of_a_long_log_can_be_taken(served: Daemon, llamactl: Llamactl) -> None:
    llamactl("create", "a", "--start", "--env", "STUBD=spew-total=1000000", "--", *SERVER)
    log = served.data / "logs" / "a.log"
    wait_for(lambda: log.stat().st_size > 1_000_000, 20)
    line = f"{' '.join(PROGRAM)} --data-dir {served.data} logs -n 1000000 a | head -1"
    done = subprocess.run(("bash", "-c", line), env=surroundings(), capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.startswith("=== Instance a started at ")
    assert done.stderr == ""


# ---- demo


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """Where a demo may write; afterwards it has to be empty."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def demo_surroundings(scratch: Path, path: str) -> dict[str, str]:
    return {"TMPDIR": str(scratch), "PATH": path}


def nothing_is_left(scratch: Path) -> None:
    assert list(scratch.iterdir()) == []
    assert of_tree(str(scratch)) == []


@pytest.mark.real
def test_the_demo_shows_a_real_server_at_work_and_leaves_nothing(scratch: Path, llama_server: Path) -> None:
    said = run("demo", "--once", **demo_surroundings(scratch, f"{llama_server.parent}{os.pathsep}/usr/bin{os.pathsep}/bin"))
    assert (said.code, said.err) == (0, "")
    assert f"tiny> {COUNTED} {COUNTED}\n" in said.out
    states = [line.split()[1] for line in said.out.splitlines() if line.startswith("tiny ")]
    assert states == ["stopped", "ready"]
    assert "llamactl create tiny -- llama-server --model " in said.out
    assert "curl -N http://127.0.0.1:" in said.out
    nothing_is_left(scratch)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_demo_stays_up_until_it_is_ended_and_leaves_nothing(tmp_path: Path, scratch: Path, number: signal.Signals) -> None:
    with talking("demo", **demo_surroundings(scratch, stub_on_path(tmp_path))) as demo:
        url = demo.until("A daemon listens on").split()[5].rstrip(".")
        assert COUNTED in demo.until("tiny> ")
        command = demo.until("Authorization")
        assert demo.until("Ctrl-C")
        key = command.split("Bearer ")[1].split("'")[0]
        words = Client(url, key).chat("tiny", [{"role": "user", "content": "Count."}], max_tokens=3)
        assert "".join(words).split() == ["one", "two", "three"]
        demo.process.send_signal(number)
        assert demo.process.wait(20) == 0
    nothing_is_left(scratch)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_demo_that_is_interrupted_while_its_server_loads_leaves_nothing(
    tmp_path: Path, scratch: Path, number: signal.Signals
) -> None:
    with talking("demo", **demo_surroundings(scratch, stub_on_path(tmp_path, "never-ready ignore-term"))) as demo:
        assert demo.until("user>")
        wait_for(lambda: any("tiny.gguf" in command_line(pid) for pid in of_tree("stubd.py")), 10)
        demo.process.send_signal(number)
        (log,) = scratch.glob("llamactl-demo-*/daemon.log")
        wait_for(lambda: "shutting down" in log.read_text(), 10)
        demo.process.send_signal(number)  # the server would take its ten seconds: an impatient user does not
        assert demo.process.wait(25) == 130
    nothing_is_left(scratch)


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_a_demo_without_any_server_says_what_to_install(scratch: Path) -> None:
    """Such a machine is made by an interpreter that lies elsewhere, an empty PATH, and modules that cannot be found."""
    program = (
        "import sys; sys.executable = '/nowhere/bin/python'; sys.argv = ['llamactl', 'demo', '--once'];"
        "sys.modules['llama_cpp'] = None; from llamactl_py.cli.main import main; main()"
    )
    done = subprocess.run(
        (sys.executable, "-c", program),
        env=surroundings(**demo_surroundings(scratch, str(scratch))),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "no backend found" in done.stderr
    assert "from a checkout: pip install '.[mlx,demo]'" in done.stderr
    assert done.stderr.count("\n") == 1
    nothing_is_left(scratch)


# ---- sockets and backends


def test_an_instance_may_be_made_with_a_socket_which_is_shown_in_place_of_its_port(served: Daemon, llamactl: Llamactl) -> None:
    assert llamactl("create", "a", "--unix-socket", "--start", "--", *SERVER).code == 0
    assert served.client.instance("a")["socket"] == str(served.data / "sockets" / "a.sock")
    assert " socket " in llamactl("ps").out


def test_backends_are_shown_with_what_is_found_and_how_to_get_the_rest(shared: Daemon, llamactl: Llamactl) -> None:
    said = llamactl("backends")
    assert said.code == 0
    header, *lines = said.out.splitlines()
    assert header.split()[:4] == ["TYPE", "FOUND", "VERSION", "PATH"]
    (llama,) = [line for line in lines if line.startswith("llama-cpp ")]
    assert llama.split()[1] == "yes"
    assert "1.0-stub (build 1, commit 0123abc)" in llama
    assert str(shared.folder / "bin" / "llama-server") in llama
    assert json.loads(llamactl("backends", "--json").out) == shared.client.backends()
    for row in shared.client.backends():
        assert row["found"] or f"{row['slug']}: {row['install']}" in said.out


def test_one_backend_is_shown_with_what_is_known_of_it(llamactl: Llamactl) -> None:
    said = llamactl("backends", "llama-cpp")
    assert said.code == 0
    assert "version: 1.0-stub" in said.out
    assert "gave a help that is not that of llama.cpp" in said.out
    assert json.loads(llamactl("backends", "llama_cpp", "--json", "--refresh").out)["help_is_read"] is False
    absent = next(row for row in json.loads(llamactl("backends", "--json").out) if row.get("searched"))
    missing = llamactl("backends", absent["slug"])
    assert missing.code == 0
    assert "not found" in missing.out
    assert "looked for in: " in missing.out


def test_an_unknown_backend_is_refused_with_the_nearest_name(llamactl: Llamactl) -> None:
    said = llamactl("backends", "vlm")
    assert (said.code, said.out) == (4, "")
    assert "did you mean 'vllm'?" in said.err
    assert llamactl("backends", "--refresh").code == 2
