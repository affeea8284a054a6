"""ps: some of the instances, and what changes, as it changes. `talking` runs on, `terminal` looks at its screen; the rest is in
test_cli.py.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.support.commands import Llamactl, stub_on_path, talking
from tests.support.daemons import Daemon, daemon
from tests.support.terminal import CTRL_C, terminal

SERVER = ("llama-server", "-m", "/dev/null")


@pytest.fixture
def two(llamactl: Llamactl) -> None:
    llamactl("create", "a", "--group", "g", "--", *SERVER)
    llamactl("create", "b", "--", *SERVER)


def test_ps_shows_those_of_a_group_or_a_state(served: Daemon, llamactl: Llamactl, two: None) -> None:
    served.client.start("b")
    served.until("b", "ready")
    assert json.loads(llamactl("ps", "--group", "g", "--json").out)[0]["name"] == "a"
    (line,) = llamactl("ps", "--status", "running,failed").out.splitlines()[1:]
    assert line.split()[:2] == ["b", "ready"]
    nobody = llamactl("ps", "--group", "h")
    assert (nobody.code, nobody.out, nobody.err) == (0, "", "no instance is like that: group h\n")
    wrong = llamactl("ps", "--status", "redy")
    assert (wrong.code, "did you mean 'ready'?" in wrong.err) == (4, True)


def test_ps_watch_prints_a_table_for_each_change_where_a_program_reads(served: Daemon, two: None) -> None:
    with talking("--data-dir", str(served.data), "ps", "-w") as watching:
        assert watching.until("b     stopped")
        served.client.start("a")
        assert watching.until("a     ready")
        served.client.delete("b")
        served.client.stop("a")
        assert watching.until("a     stopped")
        watching.process.send_signal(signal.SIGINT)
        assert watching.process.wait(10) == 130


def test_ps_watch_json_is_a_list_on_each_line(served: Daemon, two: None) -> None:
    with talking("--data-dir", str(served.data), "ps", "-w", "--json", "--group", "g") as watching:
        assert watching.process.stdout
        assert [row["name"] for row in json.loads(next(watching.process.stdout))] == ["a"]
        served.client.start("a")
        states = (json.loads(line)[0]["state"] for line in watching.process.stdout)
        assert next(state for state in states if state == "ready")


def test_ps_watch_on_a_terminal_draws_the_list_anew(served: Daemon, two: None) -> None:
    with terminal("--data-dir", str(served.data), "ps", "-w") as screen:
        screen.until("b     stopped")
        served.client.start("a")
        screen.until("a     ready")
        served.client.delete("b")
        screen.until("a     ready")
        screen.type(CTRL_C)
        assert screen.end() == 130


def test_ps_watch_ends_with_the_daemon(tmp_path: Path) -> None:
    with daemon(tmp_path, environment={"PATH": stub_on_path(tmp_path)}) as running:
        running.create("a", " ".join(SERVER))
        with talking("--data-dir", str(running.data), "ps", "-w", stderr=-2) as watching:
            assert watching.until("a     stopped")
            running.process.terminate()
            assert watching.until("llamactl: ").startswith(f"llamactl: the daemon at {running.client.url}")
            assert watching.process.wait(10) == 3
