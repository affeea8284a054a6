"""`llamactl serve` as a process: how it starts, what refuses its start, how it ends, and what is left after it was killed.

The backends are stubs, started through real launchers; `with_stub` makes one.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llamactl_py.daemon import MANY_FILES
from llamactl_py.launchers.local import MAINTENANCE_INTERVAL
from tests.support.daemons import Daemon, daemon, of_tree, wait_for
from tests.support.house import STUB


def with_stub(running: Daemon, name: str, switches: str = "", **options: object) -> None:
    environment = {"STUBD": f"{switches} max-life=60", "MARK": str(running.folder)}
    command = f"{sys.executable} -S -E {STUB}"
    fields = {"command_override": command.split(), "environment": environment, "stop_timeout": 2, "restart_delay": "100ms"}
    running.client.create(name, {"backend_type": "llama_cpp", "backend_options": {"model": "/dev/null"}, **fields, **options})


def words(running: Daemon, model: str, tokens: int = 5) -> str:
    return "".join(running.client.chat(model, [{"role": "user", "content": "hi"}], max_tokens=tokens)).strip()


def refused(tmp_path: Path, *flags: str, **environment: str) -> tuple[int, str]:
    """(exit code, what it said) of a daemon that must not start."""
    with daemon(tmp_path, *flags, environment=environment, listens=False) as running:
        return running.process.wait(20), running.log


# ---- starting


def test_the_management_key_is_made_once_private_and_told_where_it_is(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with daemon(tmp_path) as running:
            key = running.key
            wait_for(lambda: "The management key was made" in running.log, 10)
            assert str(running.data / "management.key") in running.log
            assert key not in running.log, "this is a log file, and no person"
            assert (running.data / "management.key").stat().st_mode & 0o777 == 0o600
            assert running.data.stat().st_mode & 0o777 == 0o700
            assert running.end() == 0
        with daemon(tmp_path) as running:
            assert running.key == key
            assert running.log.count("The management key was made") == 1
    finally:
        os.umask(before)


def test_a_person_at_a_terminal_is_shown_the_new_management_key(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    command = (sys.executable, "-m", "llamactl_py", "serve", "--port", "0", "--data-dir", str(tmp_path / "data"))
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        seen = b""
        while b"Ctrl-C" not in seen:
            seen += os.read(ours, 4096)
        assert (tmp_path / "data" / "management.key").read_bytes().strip() in seen
    finally:
        process.terminate()
        process.wait(20)
        os.close(ours)


def test_an_unknown_key_in_the_configuration_refuses_the_start_with_file_line_and_the_nearest_name(tmp_path: Path) -> None:
    config = tmp_path / "llamactl.yaml"
    config.write_text("instances:\n  max_runing_instances: 2\n")
    code, said = refused(tmp_path, "--config", str(config))
    assert code == 2
    assert f"{config}:2: instances.max_runing_instances: unknown key (did you mean 'max_running_instances'?)" in said
    assert "Traceback" not in said


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_it_has_room_for_many_files_from_the_start_on(tmp_path: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with daemon(tmp_path) as running:
        told = Path(f"/proc/{running.process.pid}/status").read_text()
        room = int(told.partition("FDSize:")[2].split()[0])
        assert len(os.listdir(f"/proc/{running.process.pid}/fd")) < 100
    assert room >= min(hard, MANY_FILES) if hard != resource.RLIM_INFINITY else room >= MANY_FILES


def test_a_taken_port_refuses_the_start_before_any_backend_runs(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, said = refused(tmp_path, "--port", str(taken.getsockname()[1]))
    assert code == 1
    assert f"cannot listen on 127.0.0.1:{taken.getsockname()[1] if taken.fileno() != -1 else ''}"[:30] in said
    assert "Traceback" not in said


def test_a_second_daemon_on_the_same_data_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        code, said = refused(tmp_path)
        assert code == 1
        assert f"(pid {running.process.pid})" in said


def test_listening_in_public_without_keys_is_refused(tmp_path: Path) -> None:
    code, said = refused(tmp_path, "--host", "0.0.0.0", LLAMACTL_REQUIRE_INFERENCE_AUTH="false")
    assert code == 2
    assert "without keys" in said


def test_a_damaged_database_refuses_the_start_and_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    database = tmp_path / "data" / "llamactl.db"
    database.write_bytes(b"this is no database, and much longer than a header " * 100)
    before = database.read_bytes()
    code, said = refused(tmp_path)
    assert (code, database.read_bytes()) == (1, before)
    assert "Nothing was changed" in said


# ---- ending


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_everything_and_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    with daemon(tmp_path) as running:
        with_stub(running, "plain", "workers=2 setsid-worker")
        with_stub(running, "stubborn", "ignore-term workers=1 worker-ignore-term", stop_timeout=1)
        for name in ("plain", "stubborn"):
            assert words(running, name)
        assert len(of_tree(str(tmp_path))) > 5
        assert running.end(number) == 0
        assert of_tree(str(tmp_path)) == []
        assert not (running.data / "address").exists()


def test_a_second_signal_does_not_wait_for_streams_or_grace(tmp_path: Path) -> None:
    with daemon(tmp_path, environment={"LLAMACTL_SHUTDOWN_TIMEOUT": "60"}) as running:
        with_stub(running, "slow", "tok-rate=1 tokens=1000 ignore-term", stop_timeout=60)
        stream = running.client.chat("slow", [{"role": "user", "content": "hi"}])
        next(stream)
        running.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "shutting down" in running.log, 10)
        begun = time.monotonic()
        assert running.end(signal.SIGTERM) == 0
        assert time.monotonic() - begun < 10
        assert of_tree(str(tmp_path)) == []
        stream.close()


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit")
def test_where_no_more_files_can_be_opened_it_lives_on_and_ends_when_told(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        with_stub(running, "a")
        running.client.start("a")
        running.until("a", "ready")
        pid = running.process.pid
        open_now = len(os.listdir(f"/proc/{pid}/fd"))
        hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_now + 12, hard))
        address = ("127.0.0.1", int(running.client.url.rpartition(":")[2]))
        clients = [socket.create_connection(address, timeout=20) for _ in range(60)]
        wait_for(lambda: len(os.listdir(f"/proc/{pid}/fd")) >= open_now + 11, 20)
        time.sleep(2.5 * MAINTENANCE_INTERVAL)
        for client in clients:
            client.close()
        wait_for(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= open_now + 4, 20)
        assert words(running, "a")
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(20) == 0
        assert of_tree(str(tmp_path)) == []


def test_a_stream_in_flight_may_finish_before_the_daemon_ends(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        with_stub(running, "slow", "tok-rate=10 tokens=15")
        stream = running.client.chat("slow", [{"role": "user", "content": "hi"}])
        heard = next(stream)
        running.process.send_signal(signal.SIGTERM)
        heard += "".join(stream)
        assert len(heard.split()) == 15
        assert running.process.wait(20) == 0


def test_what_ran_when_the_daemon_ended_runs_again_with_the_next_one(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        for name in ("up", "down"):
            with_stub(running, name)
            assert words(running, name)
        running.client.stop("down")
        assert running.end() == 0
    with daemon(tmp_path) as running:
        running.until("up", "ready")
        assert running.client.instance("down")["state"] == "stopped"


def test_what_was_stopped_by_hand_stays_stopped_after_a_kill(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        with_stub(running, "a")
        assert words(running, "a")
        assert running.end() == 0
    with daemon(tmp_path) as running:
        running.until("a", "ready")
        running.client.stop("a")
        running.process.kill()
        running.process.wait()
    with daemon(tmp_path) as running:
        running.client.create("later", {"backend_type": "mlx_lm", "backend_options": {"model": "x"}})
        assert running.client.instance("a")["state"] == "stopped"


# ---- clients that leave


@pytest.mark.parametrize("ahead", [0, 32, 400])
def test_a_client_that_left_is_noticed_also_behind_requests_that_it_sent_ahead(tmp_path: Path, ahead: int) -> None:
    """While one is answered, those behind it stay unread, and with them that the client hung up."""
    with daemon(tmp_path) as running:
        with_stub(running, "a", "hang-on-request")
        running.client.start("a")
        running.until("a", "ready")
        body = b'{"model":"a"}'
        head = f"Host: localhost\r\nAuthorization: Bearer {running.key}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", int(running.client.url.rpartition(":")[2]))) as client:
            client.sendall(b"POST /v1/x HTTP/1.1\r\n" + head + body)
            wait_for(lambda: running.client.instance("a")["in_flight"] == 1, 5)
            client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * ahead)
            time.sleep(0.3)  # until the daemon has read as much as it wants to
        wait_for(lambda: running.client.instance("a")["in_flight"] == 0, 2)


# ---- being killed


def test_a_killed_daemon_leaves_nothing_that_the_next_one_does_not_settle(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        with_stub(running, "a", "workers=2 setsid-worker")
        assert words(running, "a")
        leader = running.client.instance("a")["pid"]
        running.process.kill()
        running.process.wait()
        wait_for(lambda: leader not in of_tree(str(tmp_path)), 5)  # the kernel ends the leader with its daemon
        orphans = of_tree(str(tmp_path))
        assert orphans, "the workers outlive it: there is something to settle"
    with daemon(tmp_path) as running:
        assert not set(orphans) & set(of_tree(str(tmp_path)))
        assert "killed what was left" in running.log
        running.until("a", "ready")  # what ran runs again
        assert words(running, "a")
        assert running.end() == 0
    assert of_tree(str(tmp_path)) == []


def test_a_stranger_with_a_recycled_pid_is_not_swept(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        assert running.end() == 0
    bystander = subprocess.Popen((sys.executable, "-c", "import time; time.sleep(60)"), start_new_session=True)
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        with sqlite3.connect(tmp_path / "data" / "llamactl.db") as database:
            database.execute("INSERT INTO tickets VALUES ('t', 'a', ?, ?, 1, 0, '[]')", (boot, bystander.pid))
        database.close()
        with daemon(tmp_path) as running:
            assert bystander.poll() is None
            assert "killed" not in running.log
    finally:
        bystander.kill()
        bystander.wait()


def test_acknowledged_changes_survive_kill_9(tmp_path: Path) -> None:
    for round_ in range(3):
        with daemon(tmp_path) as running:
            known = {instance["name"] for instance in running.client.instances()}
            assert known == {f"i{n}" for n in range(round_ * 5)}
            for n in range(round_ * 5, round_ * 5 + 5):
                with_stub(running, f"i{n}")
            running.process.kill()
            running.process.wait()
