"""`llamactl logs` of several instances, for programs, and at a terminal; the rest is in test_cli.py."""

from __future__ import annotations

import json
import signal

import pytest

from llamactl_py.cli.logs import harmless
from tests.support.commands import Llamactl, talking
from tests.support.daemons import Daemon
from tests.support.terminal import terminal

SERVER = ("llama-server", "-m", "/dev/null")


@pytest.fixture
def two(llamactl: Llamactl) -> None:
    for name in ("a", "long"):
        llamactl("create", name, "--start", "--", *SERVER)


def test_several_logs_are_shown_one_after_the_other_with_names(llamactl: Llamactl, two: None) -> None:
    said = llamactl("logs", "a", "long", "-n", "2")
    assert [line.split(" | ")[0] for line in said.out.splitlines()] == ["a   ", "a   ", "long", "long"]
    assert [line.split(" | ")[1].split()[2] for line in said.out.splitlines()[::2]] == ["a", "long"]


def test_one_that_is_not_there_does_not_keep_the_others_from_being_shown(llamactl: Llamactl, two: None) -> None:
    said = llamactl("logs", "a", "nobody", "long", "-n", "1")
    assert (said.code, len(said.out.splitlines())) == (4, 2)
    assert said.err == "llamactl: there is no instance named 'nobody'\n"


def test_json_gives_each_line_with_its_instance(llamactl: Llamactl, two: None) -> None:
    plain = llamactl("logs", "a").out.splitlines()
    lines = [json.loads(line) for line in llamactl("logs", "a", "--json").out.splitlines()]
    assert lines == [{"name": "a", "line": line} for line in plain]


def test_several_logs_are_followed_at_once_until_their_instances_are_gone(served: Daemon, llamactl: Llamactl, two: None) -> None:
    with talking("--data-dir", str(served.data), "logs", "-f", "-n", "1", "a", "long", stderr=-2) as following:
        for name in ("long", "a"):
            served.client.stop(name)
            assert following.until("exited with code 0").startswith(name)
        served.client.delete("a")
        assert following.until("deleted") == "llamactl: a was deleted, and its log with it\n"
        served.client.start("long")
        assert following.until("started at").startswith("long | ")
        served.client.delete("long", force=True)
        assert following.process.wait(10) == 0


def test_following_several_ends_with_ctrl_c(served: Daemon, two: None) -> None:
    with talking("--data-dir", str(served.data), "logs", "-f", "a", "long") as following:
        assert following.until("long | ")
        following.process.send_signal(signal.SIGINT)
        assert following.process.wait(10) == 130


def test_only_the_last_run_is_shown_when_that_is_asked_for(llamactl: Llamactl, two: None) -> None:
    llamactl("restart", "a")
    assert llamactl("logs", "a").out.count("=== Instance a started") == 2
    assert llamactl("logs", "a", "--since-start").out.count("=== Instance a started") == 1


def test_streams_that_are_not_kept_apart_are_refused_in_the_words_of_the_api(llamactl: Llamactl, two: None) -> None:
    assert llamactl("logs", "a", "--stream", "all").code == 0
    said = llamactl("logs", "a", "--stream", "stderr")
    assert (said.code, said.out) == (4, "")
    assert "is not kept apart" in said.err


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        ([b"plain\n"], "plain\n"),
        ([b"\x1b[1;31mred\x1b[0m\n"], "\x1b[1;31mred\x1b[0m\n"),
        ([b"\x1b", b"[3", b"1mred"], "\x1b[31mred"),
        ([b"\x1b]0;title\x07\x1b[2J"], "\\x1b]0;title\\x07\\x1b[2J"),
        ([b"\x1b", b"c"], "\\x1bc"),
        ([b"end\x1b"], "end\\x1b"),
        ([b"10%\r20%\r", b"\ndone\r\n"], "10%\n20%\ndone\n"),
        ([b"\xe2\x82", b"\xac \xff"], "€ �"),
        ([b"a\x00\x9b\tb"], "a\\x00�\tb"),
        (["\u009b2J \u202e".encode()], "\\x9b2J \\u202e"),
    ],
)
def test_a_log_cannot_steer_a_terminal(pieces: list[bytes], shown: str) -> None:
    assert b"".join(harmless(iter(pieces))).decode() == shown


def test_a_dirty_log_is_harmless_at_a_terminal_and_exact_in_a_pipe(served: Daemon, llamactl: Llamactl) -> None:
    llamactl("create", "a", "--start", "--env", "STUBD=dirty-log", "--", *SERVER)
    exact = b"".join(served.client.logs("a", 100))
    assert b"\x1b" in exact
    for words in (("logs", "a"), ("logs", "a", "a"), ("logs", "a", "nobody")):
        with terminal("--data-dir", str(served.data), *words) as screen:
            screen.end()
        assert b"\x00" not in screen.raw
        assert b"\x1b]" not in screen.raw
        assert b"\\x00" in screen.raw
