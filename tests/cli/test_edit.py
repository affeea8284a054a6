"""`llamactl edit`: by name, and in an editor. The editor is a shell script: it finds the text as `$1`, and how often it was
called as `$COUNT`; what it saw of it is kept beside the test as `seen.1`, `seen.2`, ...
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import PROGRAM, Llamactl, Said, run, stub_on_path
from tests.support.daemons import Daemon, daemon

SERVER = ("llama-server", "-m", "/dev/null")
Edit = Callable[..., Said]


@pytest.fixture
def edit(served: Daemon, llamactl: Llamactl, tmp_path: Path) -> Edit:
    """Runs `llamactl edit a` with an editor that does what a script says; its files lie in `temporary`."""
    llamactl("create", "a", "--env", "HF_TOKEN=canary-token", "--", *SERVER)
    (tmp_path / "temporary").mkdir()

    def run_with(script: str, *words: str) -> Said:
        editor = tmp_path / "editor"
        count = f"COUNT=$(($(cat {tmp_path}/count 2>/dev/null || echo 0) + 1)); echo $COUNT > {tmp_path}/count"
        llamactl_here = f'llamactl() {{ {" ".join(PROGRAM)} --data-dir {served.data} "$@"; }}'
        editor.write_text(f'#!/bin/sh\n{count}\n{llamactl_here}\ncp "$1" {tmp_path}/seen.$COUNT\n{script}\n')
        editor.chmod(0o755)
        return llamactl("edit", "a", *words, EDITOR=str(editor), VISUAL="", TMPDIR=str(tmp_path / "temporary"))

    return run_with


def options(served: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = served.client.instance("a")["options"]
    return found


def kept(said: Said) -> Path:
    found = re.search(r"your text is kept in (\S+)", said.err)
    assert found, said
    return Path(found[1])


# ---- by name


def test_options_are_set_and_unset_by_name(served: Daemon, llamactl: Llamactl) -> None:
    llamactl("create", "a", "--group", "g", "--", *SERVER, "-ngl", "3")
    said = llamactl(
        "edit", "a", "--set", "idle_timeout=90s", "--set", "backend_options.ctx_size=512", "--set", "on_demand_start=false",
        "--set", "aliases=[x, 'y z']", "--set", "environment.N=1", "--unset", "group", "--unset", "backend_options.gpu_layers",
    )  # fmt: skip
    assert (said.code, said.out, said.err) == (0, "a is changed, and stopped\n", "")
    now = options(served)
    assert now["backend_options"] == {"model": "/dev/null", "ctx_size": 512}
    assert (now["idle_timeout"], now["on_demand_start"], now["aliases"]) == ("90s", False, ["x", "y z"])
    assert now["environment"]["N"] == "1"
    assert "group" not in now


def test_a_secret_comes_from_a_file_or_stdin(served: Daemon, llamactl: Llamactl, tmp_path: Path) -> None:
    llamactl("create", "a", "--", *SERVER)
    (tmp_path / "token").write_text("canary\n")
    assert llamactl("edit", "a", "--set-from", f"environment.HF_TOKEN={tmp_path / 'token'}").code == 0
    assert options(served)["environment"] == {"HF_TOKEN": "********"}
    said = llamactl("edit", "a", "--set-from", f"environment.HF_TOKEN={tmp_path / 'none'}")
    assert (said.code, "cannot be read: No such file" in said.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--set", "group"), 2, "--set 'group' is not NAME=VALUE"),
        (("--set", "=x"), 2, "is not NAME=VALUE"),
        (("--set", "aliases=[x"), 2, "is neither JSON nor a list or mapping of YAML"),
        (("--set", "group=a", "--unset", "group"), 2, "group is changed twice"),
        (("--set", "docker=1", "--set", "docker.image=x"), 2, "docker.image cannot be changed together with docker as a whole"),
        (("--set", "gruop=x"), 4, "did you mean 'group'?"),
        (("--set", "backend_options.ctx_size=many"), 4, "ctx_size: takes a whole number, got 'many'"),
        (("--set", "idle_timeout=soon"), 4, "'soon' is not a duration"),
    ],
)
def test_what_cannot_be_set_is_told_and_changes_nothing(
    served: Daemon, llamactl: Llamactl, words: tuple[str, ...], code: int, told: str
) -> None:
    llamactl("create", "a", "--", *SERVER)
    before = options(served)
    said = llamactl("edit", "a", *words)
    assert (said.code, said.out) == (code, "")
    assert told in said.err
    assert options(served) == before


def test_one_that_is_up_keeps_its_options_until_a_restart(served: Daemon, llamactl: Llamactl) -> None:
    llamactl("create", "a", "--start", "--", *SERVER)
    said = llamactl("edit", "a", "--set", "backend_options.ctx_size=512")
    assert said.err == "it runs with the options of before until: llamactl restart a\n"
    before = served.client.instance("a")["pid"]
    changed = json.loads(llamactl("edit", "a", "--set", "backend_options.ctx_size=1024", "--restart", "--json").out)
    assert (changed["state"], changed["restart_required"]) == ("ready", False)
    assert changed["pid"] != before


# ---- in an editor


def test_what_an_editor_leaves_is_applied_and_no_file_stays(served: Daemon, edit: Edit, tmp_path: Path) -> None:
    said = edit("sed -i 's/^idle_timeout: .*/idle_timeout: 2h/' \"$1\"")
    assert (said.code, said.out, said.err) == (0, "a is changed, and stopped\n", "")
    assert options(served)["idle_timeout"] == 120
    seen = (tmp_path / "seen.1").read_text()
    assert seen.startswith("# Options of the instance a.")
    assert "canary-token" not in seen
    assert served.client.command("a")["environment"]["HF_TOKEN"] == "********"
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("script", [":", ': > "$1"', "sed -i '/^[^#]/d' \"$1\""], ids=["as it was", "empty", "comments alone"])
def test_without_a_change_nothing_happens(served: Daemon, edit: Edit, tmp_path: Path, script: str) -> None:
    before = served.client.instance("a")["revision"]
    assert edit(script) == Said(0, "", "nothing was changed\n")
    assert list((tmp_path / "temporary").iterdir()) == []
    assert served.client.instance("a")["revision"] == before


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("ctx: [1", r"line \d+: this is not YAML: "),
        ("idle_timeout: soon", "'soon' is not a duration"),
        ("gruop: x", r"did you mean 'group'\?"),
        ("group: 2024-01-01", "write dates in quotes"),
    ],
)
def test_a_mistake_comes_back_with_the_reason_above_it(served: Daemon, edit: Edit, tmp_path: Path, bad: str, told: str) -> None:
    script = f"""
    case $COUNT in
        1) sed -i '/^idle_timeout/d' "$1"; echo '{bad}' >> "$1";;
        2) sed -i '$d' "$1"; echo 'group: mended' >> "$1";;
    esac"""
    said = edit(script)
    assert (said.code, said.out) == (0, "a is changed, and stopped\n"), said
    second = (tmp_path / "seen.2").read_text()
    assert re.match(f"# error: .*{told}", second)
    assert second.rstrip().endswith(bad)
    if "line" in told:
        number = int(re.findall(r"line (\d+)", second)[0])
        assert abs(number - len(second.splitlines())) <= 1
    assert options(served)["group"] == "mended"


def test_who_gives_up_finds_the_text_in_a_file_of_his_own(served: Daemon, edit: Edit) -> None:
    before = served.client.instance("a")["revision"]
    said = edit('[ $COUNT = 1 ] && echo "group: not/good" >> "$1"; exit 0')
    assert (said.code, said.out) == (1, "")
    file = kept(said)
    assert file.read_text().startswith("# error: group: ")
    assert "group: not/good" in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert served.client.instance("a")["revision"] == before


def test_what_somebody_else_changed_meanwhile_is_shown_before_it_is_replaced(served: Daemon, edit: Edit, tmp_path: Path) -> None:
    script = """
    echo "group: mine$COUNT" > "$1.new"; sed '/^group:/d; /^# error/d' "$1" >> "$1.new"; mv "$1.new" "$1"
    [ $COUNT = 1 ] && llamactl edit a --set group=theirs
    exit 0"""
    said = edit(script)
    assert said.code == 0
    assert "somebody changed it meanwhile" in said.err
    second = (tmp_path / "seen.2").read_text()
    assert "# error: group: theirs" in second
    assert "group: mine1" in second
    assert options(served)["group"] == "mine2"


def test_what_somebody_else_changed_is_not_replaced_by_who_only_closes_the_editor(served: Daemon, edit: Edit) -> None:
    said = edit('[ $COUNT = 1 ] && echo "group: mine" >> "$1" && llamactl edit a --set group=theirs; exit 0')
    assert said.code == 1
    assert kept(said).read_text().endswith("group: mine\n")
    assert options(served)["group"] == "theirs"


def test_an_editor_that_fails_loses_nothing(edit: Edit, llamactl: Llamactl) -> None:
    said = edit('echo "group: g" >> "$1"; exit 3')
    assert said.code == 1
    assert "ended with code 3; nothing was changed" in said.err
    assert kept(said).read_text().endswith("group: g\n")
    assert "nothing was changed\n" in edit("exit 3").err
    said = llamactl("edit", "a", EDITOR="/no/such-editor", VISUAL="")
    assert (said.code, "cannot be started: no such file" in said.err) == (1, True)


def test_where_there_is_no_editor_and_nobody_to_use_one_the_other_way_is_told(llamactl: Llamactl) -> None:
    llamactl("create", "a", "--", *SERVER)
    for environment in ({"EDITOR": "", "VISUAL": ""}, {"VISUAL": "'open quote"}):
        said = llamactl("edit", "a", **environment)
        assert (said.code, said.out) == (2, "")
        assert "VISUAL" in said.err


def test_a_daemon_that_ends_meanwhile_loses_nothing(tmp_path: Path) -> None:
    with daemon(tmp_path, environment={"PATH": stub_on_path(tmp_path)}) as running:
        running.create("a", " ".join(SERVER))
        editor = tmp_path / "editor"
        editor.write_text(f'#!/bin/sh\necho "group: g" >> "$1"; kill -9 {running.process.pid}; sleep 0.2\n')
        editor.chmod(0o755)
        said = run("--data-dir", str(running.data), "edit", "a", EDITOR=str(editor), VISUAL="", TMPDIR=str(tmp_path))
    assert said.code == 3
    assert kept(said).read_text().endswith("group: g\n")


def test_one_that_the_configuration_declares_is_changed_there(tmp_path: Path) -> None:
    config = tmp_path / "llamactl.yaml"
    config.write_text("declared_instances:\n  d: {backend_type: llama_cpp, backend_options: {model: /dev/null}}\n")
    with daemon(tmp_path, "--config", str(config)) as running:
        for words in ((), ("--set", "group=g")):
            said = run("--data-dir", str(running.data), "edit", "d", *words, EDITOR="false", VISUAL="")
            assert (said.code, said.out) == (4, "")
            assert str(config) in said.err
            assert "llamactl config reload" in said.err
