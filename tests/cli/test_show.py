"""show, command and parse: what they print is what the API says, for people and for programs."""

from __future__ import annotations

import json
import shlex
import subprocess

import pytest
import yaml

from tests.support.commands import PROGRAM, Llamactl, surroundings
from tests.support.daemons import Daemon

SERVER = ("llama-server", "-m", "/dev/null")


def test_show_tells_all_of_an_instance_and_its_options_as_yaml(served: Daemon, llamactl: Llamactl) -> None:
    llamactl("create", "a", "--group", "g", "--start", "--env", "HF_TOKEN=canary", "--", *SERVER, "-c", "512")
    said = llamactl("show", "a")
    assert said.code == 0
    facts, _, text = said.out.partition("\noptions:\n")
    told = {label: value for label, _, value in (line.partition("  ") for line in facts.splitlines())}
    now = served.client.instance("a")
    assert told["state"].strip().startswith("ready, for ")
    assert f"{now['pid']}, port {now['port']}" in told["process"]
    assert "MiB of memory" in told["takes"]
    assert yaml.safe_load(text) == now["options"]
    assert "canary" not in said.out
    assert json.loads(llamactl("show", "a", "--json").out)["usage"]["processes"] == 1


def test_show_tells_how_the_last_one_ended_and_what_waits_for_a_restart(llamactl: Llamactl) -> None:
    llamactl("create", "bad", "--env", "STUBD=exit-code=7", "--", *SERVER)
    llamactl("edit", "bad", "--set", "max_restarts=0")
    llamactl("start", "bad")
    said = llamactl("show", "bad").out
    assert "last end  exited with code 7" in said
    assert "why       " in said
    assert llamactl("show", "nobody").code == 4


def test_command_prints_a_line_that_runs_as_it_is_pasted(served: Daemon, llamactl: Llamactl) -> None:
    llamactl("create", "a", "--env", "STUBD=exit-code=5", "--", "llama-server", "-m", "/dev/null", "--alias", "it's")
    said = llamactl("command", "a")
    found = served.client.command("a")
    assert (said.code, said.out) == (0, found["shell"] + "\n")
    assert [word for word in shlex.split(said.out.replace("\\\n", " ")) if word in found["argv"]] == found["argv"]
    assert subprocess.run(("sh", "-c", said.out), env=surroundings(), check=False, capture_output=True).returncode == 5
    assert f"log:        {served.data / 'logs' / 'a.log'}\n" in said.err
    assert "variables:  " in said.err
    assert "STUBD" in said.err
    assert json.loads(llamactl("command", "a", "--json").out) == served.client.command("a")


def test_command_tries_other_options_and_stores_nothing(served: Daemon, llamactl: Llamactl) -> None:
    llamactl("create", "a", "--", *SERVER, "-ngl", "1")
    before = served.client.instance("a")["revision"]
    said = llamactl("command", "a", "--set", "backend_options.ctx_size=99", "--unset", "backend_options.gpu_layers")
    assert (said.code, "--ctx-size 99" in said.out, "--gpu-layers" in said.out) == (0, True, False)
    refused = llamactl("command", "a", "--set", "backend_options.ctx_size=many")
    assert (refused.code, refused.out) == (4, "")
    assert served.client.instance("a")["revision"] == before


def test_command_of_what_would_not_start_ends_with_1_and_says_why(llamactl: Llamactl) -> None:
    llamactl("create", "a", "--", "llama-server", "-m", "/no/such.gguf")
    said = llamactl("command", "a")
    assert said.code == 1
    assert "--model /no/such.gguf" in said.out
    assert "llamactl: a start would fail: model '/no/such.gguf' does not exist" in said.err


@pytest.mark.parametrize(
    "words",
    [
        ("llama-server -m 'my model.gguf' -c 5 --frobnicate",),
        ("--", "llama-server", "-m", "my model.gguf", "-c", "5", "--frobnicate"),
        ("llama-server", "-m", "my model.gguf", "-c", "5", "--frobnicate"),
        ("--backend", "llama-cpp", "--", "-m", "my model.gguf", "-c", "5", "--frobnicate"),
    ],
)
def test_parse_prints_options_as_yaml_and_tells_what_is_odd(llamactl: Llamactl, words: tuple[str, ...]) -> None:
    said = llamactl("parse", *words)
    assert said.code == 0
    assert yaml.safe_load(said.out) == {
        "backend_type": "llama_cpp",
        "backend_options": {"model": "my model.gguf", "ctx_size": 5, "extra_args": ["--frobnicate"]},
    }
    assert said.err.startswith("warning: --frobnicate is not known to llama-server")


def test_parse_takes_our_options_behind_a_quoted_command_and_the_command_from_stdin(served: Daemon, llamactl: Llamactl) -> None:
    line = "vllm serve Qwen/Qwen3-32B --max-model-len 8192"
    assert json.loads(llamactl("parse", line, "--json").out) == served.client.parse_command(line)
    done = subprocess.run(
        (*PROGRAM, "--data-dir", str(served.data), "parse", "-", "--json"),
        input=line,
        env=surroundings(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.loads(done.stdout) == served.client.parse_command(line)


def test_parse_of_what_is_no_command_shows_where(llamactl: Llamactl) -> None:
    said = llamactl("parse", "llama-server -m 'x")
    assert (said.code, said.out) == (4, "")
    assert "column" in said.err or "^" in said.err
    assert llamactl("parse").code == 2
