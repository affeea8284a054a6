"""start, stop, restart and rm of several instances: `llamactl("stop", "--all")` gives exit code, stdout and stderr.

`term-delay` has a stub take its time to stop, `never-ready` to start. `at_terminal` runs a command where somebody watches.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.commands import PROGRAM, Llamactl, stub_on_path, surroundings
from tests.support.daemons import Daemon, daemon, wait_for
from tests.support.terminal import terminal

SERVER = ("llama-server", "-m", "/dev/null")


@pytest.fixture
def made(served: Daemon, llamactl: Llamactl) -> Callable[..., None]:
    """Makes instances: their names, and what is the same for all."""

    def make(*names: str, group: str = "", stubd: str = "") -> None:
        options = (("--group", group) if group else ()) + (("--env", f"STUBD={stubd}") if stubd else ())
        for name in names:
            assert llamactl("create", name, *options, "--", *SERVER).code == 0

    return make


def states(served: Daemon) -> dict[str, str]:
    return {row["name"]: row["state"] for row in served.client.instances()}


def test_a_group_or_all_are_started_restarted_and_stopped(served: Daemon, llamactl: Llamactl, made: Callable[..., None]) -> None:
    made("a", "b", group="g")
    made("c")
    assert llamactl("start", "--group", "g").out == "a is ready\nb is ready\n"
    assert states(served) == {"a": "ready", "b": "ready", "c": "stopped"}
    assert llamactl("restart", "--all").out == "a is ready\nb is ready\nc is ready\n"
    assert llamactl("stop", "--group", "g").out == "a is stopped\nb is stopped\n"
    assert json.loads(llamactl("stop", "--all", "--json").out) == served.client.instances()
    assert set(states(served).values()) == {"stopped"}


@pytest.mark.parametrize("command", ["start", "stop", "restart", "rm"])
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "which? Give names, --group NAME, or --all"),
        (("a", "--all"), "NAME and --all exclude each other"),
        (("--all", "--group", "g"), "--group and --all exclude each other"),
    ],
)
def test_which_instances_is_said_in_one_way(llamactl: Llamactl, command: str, words: tuple[str, ...], told: str) -> None:
    said = llamactl(command, *words)
    assert (said.code, said.out) == (2, "")
    assert told in said.err


@pytest.mark.parametrize("command", ["start", "stop", "restart", "rm"])
def test_who_writes_all_for_a_name_is_told_how_all_is_written(llamactl: Llamactl, command: str) -> None:
    said = llamactl(command, "all")
    assert (said.code, said.err) == (4, "llamactl: there is no instance named 'all'; every instance is meant with --all\n")


def test_an_empty_group_is_a_mistake_and_all_of_nothing_is_none(llamactl: Llamactl) -> None:
    said = llamactl("stop", "--group", "g")
    assert (said.code, said.err) == (4, "llamactl: no instance is in a group named 'g'\n")
    assert (llamactl("stop", "--all").code, llamactl("rm", "--all").err) == (0, "there are no instances\n")


def test_stop_no_wait_leaves_while_it_stops_and_it_stops_all_the_same(
    served: Daemon, llamactl: Llamactl, made: Callable[..., None]
) -> None:
    made("a", stubd="term-delay=4")
    llamactl("start", "a")
    assert llamactl("stop", "--no-wait", "a").out == "a is stopping\n"
    assert served.until("a", "stopped")["last_exit"]["code"] == 0


def test_who_does_not_want_to_wait_longer_is_told_how_it_stands(
    served: Daemon, llamactl: Llamactl, made: Callable[..., None]
) -> None:
    made("slow", stubd="never-ready")
    made("quick")
    said = llamactl("start", "slow", "quick", "--timeout", "3s")
    assert said.code == 1
    assert sorted(said.out.splitlines()) == ["quick is ready", "slow is starting"]
    progress, late, total = said.err.splitlines()[0], *said.err.splitlines()[-2:]
    assert "slow is starting" in progress
    assert late.startswith("llamactl: slow is still starting, and the time to wait is over")
    assert total == "llamactl: start: 1 of 2 done; not slow"
    assert states(served)["slow"] == "starting"


def test_a_stop_that_takes_longer_than_wanted_goes_on(served: Daemon, llamactl: Llamactl, made: Callable[..., None]) -> None:
    made("a", stubd="term-delay=2")
    llamactl("start", "a")
    said = llamactl("stop", "a", "--timeout", "0.2s")
    assert (said.code, said.out) == (1, "a is stopping\n")
    served.until("a", "stopped")


@pytest.mark.parametrize("time", ["soon", "-1s", "nan"])
def test_a_time_to_wait_that_is_none_is_refused(llamactl: Llamactl, time: str) -> None:
    said = llamactl("start", "a", f"--timeout={time}")
    assert (said.code, said.out) == (2, "")
    assert f"{time!r} is no length of time; write 90s or 5m" in said.err


@pytest.mark.parametrize(("ending", "code"), [("stop", 1), ("delete", 4)])
def test_one_that_somebody_else_ends_is_not_waited_for(
    served: Daemon, llamactl: Llamactl, made: Callable[..., None], ending: str, code: int
) -> None:
    made("a", stubd="never-ready")
    command = (*PROGRAM, "--data-dir", str(served.data), "start", "a")
    with subprocess.Popen(command, env=surroundings(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
        wait_for(lambda: states(served) == {"a": "starting"}, 10)
        served.client.stop("a") if ending == "stop" else served.client.delete("a", force=True)
        out, err = waiting.communicate(timeout=20)
    assert waiting.returncode in (code, 1), (out, err)  # one that is deleted may be seen stopped first
    assert "a is stopped" in out or "'a' was deleted meanwhile" in err


def test_somebody_who_watches_sees_what_is_waited_for(served: Daemon, made: Callable[..., None]) -> None:
    made("a", stubd="never-ready")
    with terminal("--data-dir", str(served.data), "start", "a") as screen:
        screen.until("start: a is starting (")
        served.client.stop("a")
        screen.until("a is stopped")
        assert screen.end() == 1


# ---- rm


def test_rm_of_several_is_refused_where_nobody_can_be_asked(
    served: Daemon, llamactl: Llamactl, made: Callable[..., None]
) -> None:
    made("a", "b", group="g")
    for words in (("a", "b"), ("--all",), ("--group", "g")):
        said = llamactl("rm", *words)
        assert (said.code, said.out) == (2, "")
        assert "2 instances would be deleted, and nobody can be asked: add --yes" in said.err
    assert list(states(served)) == ["a", "b"]
    assert llamactl("rm", "a").out == "a is deleted\n"
    assert llamactl("rm", "--all", "--yes").out == "b is deleted\n"


def test_rm_of_several_asks_at_a_terminal(served: Daemon, made: Callable[..., None]) -> None:
    made("a", "b")
    for answer, code in (("n", 1), ("y", 0)):
        with terminal("--data-dir", str(served.data), "rm", "--all") as screen:
            screen.until("Delete a, b, and the logs? [y/N]")
            assert len(states(served)) == 2
            screen.type(f"{answer}\r")
            screen.until("nothing was deleted" if code else "b is deleted")
            assert screen.end() == code
    assert states(served) == {}


def test_rm_json_tells_what_became_of_each(llamactl: Llamactl, made: Callable[..., None]) -> None:
    made("a", "b")
    llamactl("start", "a")
    said = llamactl("rm", "--yes", "--json", "a", "b", "c")
    results = json.loads(said.out)
    assert said.code == 4
    assert [(one["name"], one["http_status"], one.get("error")) for one in results] == [
        ("a", 409, "conflict"),
        ("b", 204, None),
        ("c", 404, "not_found"),
    ]
    assert json.loads(llamactl("rm", "-f", "--json", "a").out) == [{"name": "a", "http_status": 204}]


def test_rm_force_leaves_alone_what_the_configuration_declares(tmp_path: Path) -> None:
    config = tmp_path / "llamactl.yaml"
    config.write_text("declared_instances:\n  d: {backend_type: llama_cpp, backend_options: {model: /dev/null}}\n")
    with daemon(tmp_path, "--config", str(config), environment={"PATH": stub_on_path(tmp_path)}) as running:
        running.create("a", " ".join(SERVER))
        running.client.act_on_several("start")
        before = running.until("d", "ready")["pid"]
        done = subprocess.run(
            (*PROGRAM, "--data-dir", str(running.data), "rm", "-f", "-y", "--all"),
            env=surroundings(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (4, "a is deleted\n")
        assert "is declared in the configuration file" in done.stderr
        assert (running.client.instance("d")["state"], running.client.instance("d")["pid"]) == ("ready", before)
