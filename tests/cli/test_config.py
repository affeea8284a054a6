"""`llamactl config` as a user runs it: real commands, in a folder of their own; `reload` speaks to a real daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.support.commands import Said, surroundings
from tests.support.daemons import daemon

PROGRAM = (sys.executable, "-m", "llamactl_py")
ROOT = Path(__file__).parent.parent.parent


def run(folder: Path, *words: str, **environment: str) -> Said:
    """In *folder*, where no file of this machine is found."""
    found = {"XDG_CONFIG_HOME": str(folder / "none"), "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(
        (*PROGRAM, *words), cwd=folder, env=surroundings(**found), capture_output=True, text=True, timeout=60, check=False
    )
    return Said(done.returncode, done.stdout, done.stderr)


def as_json(folder: Path, *words: str, **environment: str) -> Any:
    return json.loads(run(folder, *words, "--json", **environment).out)


# ---- check


def test_check_says_that_a_file_is_good_and_what_is_odd_about_it(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("nodes: {a: {address: x}}\ndeclared_instances: {a: llama-server -m /a --port 9}\n")
    said = run(tmp_path, "config", "check", "c.yaml")
    assert (said.code, said.out) == (0, f"{tmp_path}/c.yaml is good; it declares 1 instance\n")
    assert f"warning: {tmp_path}/c.yaml:1: nodes is not used: there are no remote nodes\n" in said.err
    assert f"warning: {tmp_path}/c.yaml:2: a: " in said.err


@pytest.mark.parametrize("flags", [["c.yaml"], ["--config", "c.yaml"]])
def test_check_tells_every_mistake_on_a_line_of_its_own(tmp_path: Path, flags: list[str]) -> None:
    (tmp_path / "c.yaml").write_text("sever: 1\nserver:\n  host: ${NOT_SET}\n  body_timeout: x\n")
    (tmp_path / ".env").write_text("LLAMACTL_PROT=1\n")
    said = run(tmp_path, "config", "check", *flags, LLAMACTL_MAX_INSTANCES="many")
    assert (said.code, said.out) == (2, "")
    lines = said.err.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    assert len(lines) == 5
    for where in (".env:1: LLAMACTL_PROT", "c.yaml:1: sever", "c.yaml:3: server.host", "c.yaml:4: server.body_timeout"):
        assert any(f"{tmp_path}/{where}" in line for line in lines), where
    told = as_json(tmp_path, "config", "check", *flags)
    assert (told["ok"], told["file"], len(told["problems"])) == (False, f"{tmp_path}/c.yaml", 4)


def test_check_looks_into_declared_instances(tmp_path: Path) -> None:
    (tmp_path / "llamactl.yaml").write_text("declared_instances:\n  a: notepad\n  b: {backend_type: vllm, group: '/'}\n")
    said = run(tmp_path, "config", "check")
    assert said.code == 2
    assert "llamactl.yaml:2: declared_instances.a.command: 'notepad' is no server program" in said.err
    assert "llamactl.yaml:3: declared_instances.b.group: " in said.err


def test_check_without_a_file_checks_what_is_said_elsewhere(tmp_path: Path) -> None:
    assert run(tmp_path, "config", "check").code == 0
    assert run(tmp_path, "config", "check", "--port", "70000").code == 2
    assert run(tmp_path, "config", "check", LLAMACTL_PORT="x").code == 2
    assert run(tmp_path, "config", "check", "none.yaml").code == 2


# ---- show


def test_show_tells_every_setting_with_who_says_it_and_no_secret(tmp_path: Path) -> None:
    (tmp_path / "llamactl.yaml").write_text(
        "server: {host: '::1'}\nauth:\n  management_keys: [canary-0123456789]\n"
        "declared_instances:\n  a: {command: llama-server --api-key canary, environment: {T_TOKEN: canary}}\n"
    )
    (tmp_path / ".env").write_text("LLAMACTL_BODY_TIMEOUT=9\n")
    words = ("--data-dir", "/x", "config", "show", "--port", "9")
    said = run(tmp_path, *words, LLAMACTL_MAX_INSTANCES="4", LLAMACTL_VLLM_ENV="HF_TOKEN=canary")
    assert (said.code, said.err) == (0, "")
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in said.out.splitlines()}
    for name, value, origin in (
        ("server.host", "::1", f"{tmp_path}/llamactl.yaml:1"),
        ("server.port", "9", "--port"),
        ("server.body_timeout", "9", f"{tmp_path}/.env:1: LLAMACTL_BODY_TIMEOUT"),
        ("server.keepalive_timeout", "75", "default"),
        ("data_dir", "/x", "--data-dir"),
        ("instances.max_instances", "4", "LLAMACTL_MAX_INSTANCES"),
        ("auth.management_keys", '["********"]', f"{tmp_path}/llamactl.yaml:3"),
        ("declared_instances.a", "llama_cpp", f"{tmp_path}/llamactl.yaml:5"),
    ):
        assert rows[name].startswith(value), name
        assert rows[name].endswith(origin), name
    told = run(tmp_path, *words, "--json", LLAMACTL_VLLM_ENV="HF_TOKEN=canary")
    assert "canary" not in said.out + told.out
    shown = json.loads(told.out)
    assert shown["settings"]["server.host"] == {"value": "::1", "source": "file", "where": f"{tmp_path}/llamactl.yaml:1"}
    assert shown["settings"]["server.connect_timeout"] == {"value": 5, "source": "default", "where": ""}
    assert shown["declared_instances"]["a"]["options"]["environment"] == {"T_TOKEN": "********"}


def test_the_data_directory_of_the_environment_is_no_flag(tmp_path: Path) -> None:
    shown = as_json(tmp_path, "config", "show", LLAMACTL_DATA_DIRECTORY="/x")
    assert shown["settings"]["data_dir"] == {"value": "/x", "source": "environment", "where": "LLAMACTL_DATA_DIRECTORY"}


def test_show_of_a_broken_file_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "llamactl.yaml").write_text("sever: 1")
    said = run(tmp_path, "config", "show")
    assert (said.code, said.out) == (2, "")
    assert "unknown key (did you mean 'server'?)" in said.err


# ---- path


def test_path_shows_where_was_looked_and_what_is_read(tmp_path: Path) -> None:
    own = tmp_path / "none" / "llamactl" / "config.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("")
    shown = as_json(tmp_path, "config", "path")
    assert (shown["file"], shown["dotenv"]) == (str(own), str(own.with_name(".env")))
    assert shown["places"][0] == {"path": f"{tmp_path}/llamactl.yaml", "state": "not there"}
    (tmp_path / "llamactl.yaml").write_text("")
    (tmp_path / ".env").write_text("")
    said = run(tmp_path, "config", "path")
    lines = [line.split(maxsplit=1) for line in said.out.splitlines()]
    assert [f"{tmp_path}/llamactl.yaml", "read"] in lines
    assert [str(own), "not read"] in lines
    assert [f"{tmp_path}/.env", "read"] in lines
    named = as_json(tmp_path, "config", "path", LLAMACTL_CONFIG_PATH="/no/such.yaml")
    assert named["places"] == [
        {"path": "/no/such.yaml", "state": "not there"},
        {"path": "/no/.env", "state": "not there"},
    ]


# ---- schema


def test_schema_prints_the_committed_schema(tmp_path: Path) -> None:
    printed = json.loads(run(tmp_path, "config", "schema").out)
    assert printed == json.loads((ROOT / "apidocs" / "config.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(printed)


# ---- reload


def test_reload_tells_what_was_done_and_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("declared_instances: {a: llama-server -m /a, b: llama-server -m /b}\n")
    with daemon(tmp_path, "--config", str(file)) as running:
        words = ("--data-dir", str(running.data), "config", "reload")
        assert run(tmp_path, *words).out == "nothing has changed\n"
        file.write_text(
            "server: {max_body_size: 5000, allowed_hosts: [x]}\n"
            "declared_instances: {a: llama-server -m /new, c: llama-server -m /c}\nnodes: {x: {}}\n"
        )
        said = run(tmp_path, *words)
        assert said.code == 0
        assert said.out.splitlines() == [
            "applied server.allowed_hosts",
            "added c",
            "changed a",
            "removed b",
            "server.max_body_size has changed and waits for a restart of the daemon",
        ]
        assert "nodes is not used" in said.err
        assert json.loads(run(tmp_path, *words, "--json").out)["needs_restart"] == ["server.max_body_size"]
        file.write_text("sever: 1\n")
        said = run(tmp_path, *words)
        assert (said.code, said.out) == (4, "")
        assert f"{file}:1: sever: unknown key" in said.err
        assert running.client.config()["declared_instances"] == {"a": f"{file}:2", "c": f"{file}:2"}


def test_serve_tells_what_is_not_used_and_refuses_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("nodes: {x: {}}\n")
    with daemon(tmp_path, environment={"LLAMACTL_CONFIG_PATH": str(file)}) as running:
        assert f"{file}:1: nodes is not used" in running.log
    file.write_text("declared_instances: {a: notepad}\n")
    said = run(tmp_path, "serve", "--port", "0", "--data-dir", str(tmp_path / "data"), "--config", os.fspath(file))
    assert said.code == 2
    assert said.err.startswith(f"llamactl: {file}:1: declared_instances.a.command: ")
