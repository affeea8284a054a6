"""One daemon per data directory: the second is refused and told who has it; the kernel drops the lock of a dead one."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from llamactl_py.config.paths import LOCK
from llamactl_py.ground.errors import DaemonRefused
from llamactl_py.storage.lock import DataDirectoryLock

HOLDER = """
import fcntl, os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(file, fcntl.LOCK_EX)
os.write(file, b"%d\\n" % os.getpid())
print("held", flush=True)
sys.stdin.read()
"""


def test_the_second_one_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    lock = DataDirectoryLock(tmp_path)
    expected = f"data directory {tmp_path} is in use by another llamactl daemon (pid {os.getpid()}); stop that one or choose"
    for _ in range(2):
        with pytest.raises(DaemonRefused) as caught:
            DataDirectoryLock(tmp_path)
        assert str(caught.value).startswith(expected)
    lock.release()


def test_a_lock_given_up_can_be_taken_again(tmp_path: Path) -> None:
    DataDirectoryLock(tmp_path).release()
    DataDirectoryLock(tmp_path).release()


def test_a_longer_name_of_an_earlier_holder_leaves_no_digits(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("99999999999\nrubbish\n")
    lock = DataDirectoryLock(tmp_path)
    assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n"
    lock.release()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\0", b"\n"])
def test_a_holder_that_left_no_name_is_still_a_holder(tmp_path: Path, content: bytes) -> None:
    lock = DataDirectoryLock(tmp_path)
    (tmp_path / LOCK).write_bytes(content)
    with pytest.raises(DaemonRefused, match="is in use by another llamactl daemon"):
        DataDirectoryLock(tmp_path)
    lock.release()


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-ISE", "-c", HOLDER, str(tmp_path / LOCK)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(DaemonRefused, match=rf"\(pid {holder.pid}\)"):
            DataDirectoryLock(tmp_path)
        holder.kill()
        holder.wait()
        DataDirectoryLock(tmp_path).release()


def test_a_refused_one_leaves_no_file_open(tmp_path: Path) -> None:
    lock = DataDirectoryLock(tmp_path)
    before = len(os.listdir("/dev/fd"))
    with pytest.raises(DaemonRefused):
        DataDirectoryLock(tmp_path)
    assert len(os.listdir("/dev/fd")) == before
    lock.release()


def test_the_directory_and_the_lock_are_for_their_owner_alone(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        lock = DataDirectoryLock(tmp_path / "a" / "b")
    finally:
        os.umask(umask)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "a/b", f"a/b/{LOCK}")]
    assert modes == [0o700, 0o700, 0o600]
    lock.release()


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_place_where_no_directory_can_be_is_refused_with_the_reason(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DaemonRefused, match=r"cannot be used: (File exists|Not a directory); choose another with --data-dir"):
        DataDirectoryLock(tmp_path / place)


def test_a_directory_in_the_locks_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / LOCK).mkdir()
    with pytest.raises(DaemonRefused, match="cannot be used: Is a directory"):
        DataDirectoryLock(tmp_path)
