"""top: what instances take and do, once for a program, again and again at a terminal."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.commands import Llamactl
from tests.support.daemons import Daemon
from tests.support.terminal import CTRL_C, terminal

SERVER = ("llama-server", "-m", "/dev/null")


@pytest.fixture
def two(llamactl: Llamactl) -> None:
    llamactl("create", "a", "--group", "g", "--", *SERVER)
    llamactl("create", "b", "--", *SERVER)


def test_top_tells_once_where_a_program_reads(served: Daemon, llamactl: Llamactl, two: None) -> None:
    served.client.patch("a", {"environment": {"STUBD": "tok-rate=50"}})  # an answer that comes at once has no speed
    list(served.client.chat("a", [{"role": "user", "content": "Count."}], stream_options={"include_usage": True}))
    sums, header, first, second = llamactl("top").out.splitlines()
    assert re.fullmatch(r"2 instances, 1 up, \d+ MiB, 0 requests in flight; in all \d+ requests, \d+ tokens", sums)
    columns = ["NAME", "STATE", "GROUP", "MEMORY", "CPU", "IN FLIGHT", "TOK/S", "REQUESTS", "TOKENS"]
    assert re.split(r"  +", header) == columns
    a = dict(zip(columns, re.split(r"  +", first), strict=True))
    assert (a["NAME"], a["STATE"], a["GROUP"], a["REQUESTS"], a["TOKENS"]) == ("a", "ready", "g", "1", "10")
    assert re.fullmatch(r"\d+ MiB", a["MEMORY"])
    assert re.fullmatch(r"\d+%", a["CPU"])
    assert re.fullmatch(r"\d+\.\d", a["TOK/S"])
    assert re.split(r"  +", second)[:7] == ["b", "stopped", "-", "-", "-", "0", "-"]


def test_top_json_has_what_the_api_says(served: Daemon, llamactl: Llamactl, two: None) -> None:
    told = json.loads(llamactl("top", "--json", "--group", "g").out)
    assert [row["name"] for row in told["instances"]] == ["a"]
    assert told["usage"]["total"].keys() == served.client.usage()["total"].keys()
    many = llamactl("top", "--json", "-n", "2", "-d", "0.2").out.splitlines()
    assert [sorted(json.loads(line)) for line in many] == [["instances", "tokens_per_second", "usage"]] * 2


def test_top_goes_on_at_a_terminal(served: Daemon, two: None) -> None:
    with terminal("--data-dir", str(served.data), "top", "-d", "0.2") as screen:
        screen.until("a     stopped")
        served.client.start("a")
        screen.until("a     ready")
        screen.type("x")
        screen.type(CTRL_C)
        assert screen.end() == 130
    with terminal("--data-dir", str(served.data), "top", "-d", "100") as screen:
        screen.until("a     ready")
        screen.type("q")
        assert screen.end() == 0
    with terminal("--data-dir", str(served.data), "top", "-d", "0.2", "-n", "2") as screen:
        assert screen.end() == 0
