"""Custom commands that are stopped by a command of their own, with a whole daemon and the stub as the server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.support.house import STUB, House, eventually, house, is_alive


async def custom(h: House, name: str, stop: list[str], stub: str = "", **more: Any) -> None:
    wish = {
        "backend_type": "custom",
        "backend_options": {
            "command": [sys.executable, "-S", "-E", str(STUB), "--host", "${HOST}", "--port", "${PORT}"],
            "stop_command": stop,
        },
        "environment": {"STUBD": f"{stub} pids={h.pids(name)}"},
        "stop_timeout": 3,
        **more,
    }
    status, body = await h.ask("POST", f"/api/v1/instances/{name}", json=wish)
    assert status == 201, body


async def test_it_is_run_first_and_told_whom_to_stop_and_where_that_listens(tmp_path: Path) -> None:
    """The server does not hear SIGTERM: it is the command that ends it."""
    told = tmp_path / "told"
    stop = ["/bin/sh", "-c", f"echo $0 $1 $2 > {told}; kill -INT $1", "${NAME}", "${PID}", "${PORT}"]
    async with house(tmp_path) as h:
        await custom(h, "a", stop, "ignore-term", stop_timeout=60)
        assert (await h.chat("a"))[0] == 200
        view = await h.get("a")
        assert (await h.ask("POST", "/api/v1/instances/a/stop"))[0] == 200
        assert told.read_text().split() == ["a", str(view["pid"]), str(view["port"])]
        assert (await h.get("a"))["last_exit"]["code"] == 0
        await eventually(lambda: not is_alive(view["pid"]))


async def test_one_that_is_not_there_is_told_and_signals_do_the_work(tmp_path: Path, caplog: Any) -> None:
    async with house(tmp_path) as h:
        await custom(h, "a", ["no-such-stop-command"])
        assert (await h.chat("a"))[0] == 200
        pid = (await h.get("a"))["pid"]
        assert (await h.ask("POST", "/api/v1/instances/a/stop"))[0] == 200
        assert not is_alive(pid)
    assert "a: its stop command no-such-stop-command could not be started: No such file or directory" in caplog.text
