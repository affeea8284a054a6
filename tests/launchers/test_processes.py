"""Looking at the machine's processes, checked against processes that the test starts itself."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from llamactl_py.launchers import processes
from llamactl_py.launchers.base import Listening
from llamactl_py.launchers.processes import Process

NOBODY = 2**22 + 1
"""More than the largest pid that Linux gives."""


@contextmanager
def sleeper(*, environment: dict[str, str] | None = None, program: str = "/bin/sleep") -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([program, "60"], start_new_session=True, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def look(pid: int) -> Process:
    found = processes.look(pid)
    assert found
    return found


# ---- who is it


def test_a_process_knows_itself() -> None:
    me = look(os.getpid())
    assert (me.pid, me.parent, me.session, me.is_zombie) == (os.getpid(), os.getppid(), os.getsid(0), False)
    assert me == look(os.getpid())
    assert processes.start_time(os.getpid()) == me.start_time
    assert processes.snapshot()[os.getpid()] == me


def test_nobody_is_not_there() -> None:
    assert processes.look(NOBODY) is None
    assert processes.start_time(NOBODY) is None
    assert NOBODY not in processes.snapshot()


def test_a_zombie_is_seen_as_one() -> None:
    with sleeper() as process:
        assert not look(process.pid).is_zombie
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert look(process.pid).is_zombie


def test_a_name_with_blanks_and_parentheses_confuses_nobody(tmp_path: Path) -> None:
    odd = tmp_path / ") R 1 (x"
    odd.symlink_to("/bin/sleep")
    with sleeper(program=str(odd)) as process:
        found = look(process.pid)
        assert (found.parent, found.session) == (os.getpid(), process.pid)


def test_the_boot_has_a_name() -> None:
    assert processes.boot_id() == processes.boot_id() != ""


# ---- signals


def test_a_signal_reaches_the_very_process() -> None:
    with sleeper() as process:
        assert look(process.pid).send(signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_signal_never_reaches_another_process_with_the_same_pid(shift: int) -> None:
    with sleeper() as process:
        former = look(process.pid)
        former = replace(former, start_time=former.start_time + shift)
        assert not former.send(signal.SIGKILL)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGUSR1)  # had there been a SIGKILL before, it would be the reason
        assert process.wait() == -signal.SIGUSR1


def test_a_signal_to_somebody_gone_is_no_error() -> None:
    with sleeper() as process:
        gone = look(process.pid)
        process.kill()
        process.wait()
        assert not gone.send(signal.SIGTERM)


# ---- families and marks


def test_children_and_descendants_are_found() -> None:
    script = "sleep 60 & sh -c 'sleep 60 & echo $!; wait' & wait"
    shell = subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    assert shell.stdout
    try:
        grandchild = int(shell.stdout.readline())
        children = {child.pid for child in processes.children(shell.pid)}
        assert len(children) == 2
        table = processes.snapshot()
        assert processes.descendants([shell.pid], table) == {shell.pid, grandchild, *children}
        assert processes.descendants([grandchild], table) == {grandchild}
        assert processes.descendants([NOBODY], table) == set()
        assert shell.pid in {child.pid for child in processes.children(os.getpid())}
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
        shell.stdout.close()


def test_a_circle_of_parents_is_gone_round_once() -> None:
    table = {pid: Process(pid, parent, 0, 0, is_zombie=False) for pid, parent in ((1, 2), (2, 1), (3, 2))}
    assert processes.descendants([1], table) == {1, 2, 3}


def test_marks_are_found_at_any_place_and_only_whole() -> None:
    marks = ({"OURS": "ab:1"}, {"X": "1", "OURS": "ab:2"}, {"OURS": "xab:3"}, {"NOTOURS": "ab:4"}, {"X": "OURS=ab:5"}, {})
    with ExitStack() as stack:
        pids = [stack.enter_context(sleeper(environment=mark)).pid for mark in marks]
        assert processes.marked("ab:", "OURS") == set(pids[:2])
        assert processes.marked("ab:2", "OURS") == {pids[1]}


# ---- who listens


@contextmanager
def listener(port: int = 0, *, family: int = socket.AF_INET, host: str = "127.0.0.1", shared: bool = False) -> Iterator[int]:
    with socket.socket(family) as sock:
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
        sock.listen()
        yield sock.getsockname()[1]


@contextmanager
def server_elsewhere(port: int = 0) -> Iterator[tuple[int, int]]:
    """(pid, port) of another process that listens, sharing its port with whoever wants to."""
    code = f"""if True:
        import socket, time
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", {port}))
        sock.listen()
        print(sock.getsockname()[1], flush=True)
        time.sleep(60)
    """
    process = subprocess.Popen([sys.executable, "-S", "-E", "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout
    try:
        yield process.pid, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


ME = [os.getpid()]


def test_a_listener_is_ours_if_one_of_ours_holds_it() -> None:
    with listener() as port, sleeper() as other:
        assert processes.listening(port, ME) is Listening.OURS
        assert processes.listening(port, [other.pid, NOBODY, *ME]) is Listening.OURS
        assert processes.listening(port, [other.pid, NOBODY]) is Listening.STRANGER
        assert processes.listening(port, []) is Listening.STRANGER
    assert processes.listening(port, ME) is Listening.NOBODY


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET6, "::1"), (socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")])
def test_listeners_on_other_addresses_of_the_port_count(family: int, host: str) -> None:
    with listener(family=family, host=host) as port:
        assert processes.listening(port, ME) is Listening.OURS
        assert processes.listening(port, []) is Listening.STRANGER


def test_a_port_shared_with_a_stranger_is_not_ours() -> None:
    with listener(shared=True) as port, server_elsewhere(port) as (stranger, _):
        assert processes.listening(port, ME) is Listening.STRANGER
        assert processes.listening(port, [stranger]) is Listening.STRANGER
        assert processes.listening(port, [stranger, *ME]) is Listening.OURS


def test_a_connection_from_the_port_is_no_listener() -> None:
    with listener() as port, socket.create_connection(("127.0.0.1", port)) as client:
        assert processes.listening(client.getsockname()[1], ME) is Listening.NOBODY
