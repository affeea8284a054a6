"""Configuration files and the daemon as a process: signals, watching, terminals. `declare(...)` writes the file."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.daemons import Daemon, daemon, wait_for
from tests.support.house import STUB

IN_A_TERMINAL = """\
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs this with nohup has it ignored
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
SERVER = [sys.executable, "-S", "-E", str(STUB)]


def stub() -> dict[str, Any]:
    return {"backend_type": "llama_cpp", "command_override": [*SERVER], "environment": {"STUBD": "max-life=60"}}


def declare(folder: Path, *names: str, **sections: Any) -> Path:
    """A file that declares these instances, put in place at once as editors do it."""
    new = folder / "c.yaml.new"
    new.write_text(yaml.safe_dump({**sections, "declared_instances": {name: stub() for name in names}}))
    return new.replace(folder / "c.yaml")


def names(running: Daemon) -> list[str]:
    return [instance["name"] for instance in running.client.instances()]


def test_sighup_reads_the_file_again_and_what_did_not_change_runs_on(tmp_path: Path) -> None:
    file = declare(tmp_path, "a")
    with daemon(tmp_path, "--config", str(file)) as running:
        running.client.start("a")
        pid = running.until("a", "ready")["pid"]
        declare(tmp_path, "a", "b")
        running.process.send_signal(signal.SIGHUP)
        wait_for(lambda: names(running) == ["a", "b"], 20)
        assert running.client.instance("a")["pid"] == pid
        wait_for(lambda: "the configuration was read again: added: b" in running.log, 20)


def test_a_broken_file_is_told_in_the_log_line_by_line_and_changes_nothing(tmp_path: Path) -> None:
    file = declare(tmp_path, "a")
    with daemon(tmp_path, "--config", str(file)) as running:
        file.write_text("sever: 1\nserver: {body_timeout: x}\n")
        running.process.send_signal(signal.SIGHUP)
        wait_for(lambda: running.log.count(f"{file}:") == 2, 20)
        assert f"{file}:1: sever: unknown key (did you mean 'server'?)" in running.log
        assert f"{file}:2: server.body_timeout: " in running.log
        assert "Traceback" not in running.log
        assert names(running) == ["a"]
        assert running.end() == 0


def test_sighup_without_any_file_is_harmless(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        running.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "the configuration was read again: nothing has changed" in running.log, 20)
        assert running.end() == 0


@pytest.mark.parametrize("place", [".env", "c.yaml"])
def test_a_watched_file_is_read_again_when_it_has_changed_and_come_to_rest(tmp_path: Path, place: str) -> None:
    file = declare(tmp_path, "a")
    with daemon(tmp_path, "--config", str(file), environment={"LLAMACTL_CONFIG_WATCH_INTERVAL": "50ms"}) as running:
        if place == ".env":
            (tmp_path / ".env").write_text("LLAMACTL_MAX_INSTANCES=7\n")
            wait_for(lambda: "settings: instances.max_instances" in running.log, 20)
            return
        declare(tmp_path, "a", "b")
        wait_for(lambda: names(running) == ["a", "b"], 20)
        file.write_text("{")
        wait_for(lambda: "is not valid YAML" in running.log, 20)
        assert names(running) == ["a", "b"]
        declare(tmp_path, "b")
        wait_for(lambda: names(running) == ["b"], 20)
        assert running.log.count("is not valid YAML") == 1


def test_a_file_that_nobody_watches_waits_to_be_asked_for(tmp_path: Path) -> None:
    file = declare(tmp_path, "a")
    with daemon(tmp_path, "--config", str(file)) as running:
        declare(tmp_path, "b")
        running.client.create("made", {"backend_type": "mlx_lm"})
        assert names(running) == ["a", "made"]


def test_a_terminal_that_is_closed_ends_the_daemon_in_it_and_its_servers(tmp_path: Path) -> None:
    file = declare(tmp_path, "a")
    master, slave = pty.openpty()
    command = (sys.executable, "-m", "llamactl_py", "serve", "--port", "0", "--config", str(file), "--data-dir")
    process = subprocess.Popen(
        (sys.executable, "-c", IN_A_TERMINAL, *command, str(tmp_path / "data")),
        stdin=slave, stdout=slave, stderr=slave, env={**os.environ, "LLAMACTL_INSTANCE_PORT_RANGE": "23000-23999"},
    )  # fmt: skip
    os.close(slave)
    try:
        running = Daemon(process, tmp_path)
        running.wait_until_it_listens()
        running.client.start("a")
        pid = running.until("a", "ready")["pid"]
        process.send_signal(signal.SIGHUP)
        declare(tmp_path, "a", "b")
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: "b" in names(running), 20)
        os.close(master)
        master = -1
        assert process.wait(20) in (0, 1)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    finally:
        with suppress(OSError):
            os.close(master)
        process.kill()
        process.wait()
