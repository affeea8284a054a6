"""Log files: appending, reading the end, rotating, deleting. Plain files, no processes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from llamactl_py.launchers import logs


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "a.log"


def write(log: Path, data: bytes) -> Path:
    log.parent.mkdir(exist_ok=True)
    log.write_bytes(data)
    return log


# ---- reading the end


@pytest.mark.parametrize(
    ("data", "lines", "expected"),
    [
        (b"", 5, []),
        (b"one\ntwo\nthree\n", 2, ["two", "three"]),
        (b"one\ntwo\nthree", 2, ["two", "three"]),
        (b"one\n\n\n", 2, ["", ""]),
        (b"one\ntwo\n", 100, ["one", "two"]),
        (b"nul \0 bad \xff\xc3 end\n", 1, ["nul \0 bad \ufffd\ufffd end"]),
        ("größe €\n".encode(), 1, ["größe €"]),
        (b"one\ntwo\n", 0, []),
    ],
)
def test_tail_gives_the_last_lines(log: Path, data: bytes, lines: int, expected: list[str]) -> None:
    assert logs.tail(write(log, data), lines, 1 << 16) == expected


def test_tail_of_nothing_is_nothing(log: Path) -> None:
    assert logs.tail(log, 5, 1 << 16) == []
    assert logs.size(log) == 0


def test_tail_reads_no_more_than_it_may(log: Path) -> None:
    write(log, b"x" * 5_000_000 + b"\nlast\n")
    (line, last) = logs.tail(log, 10, 1000)
    assert (len(line), last) == (1000 - len("\nlast\n"), "last")


def test_tail_leaves_out_what_came_before_a_moment_unless_the_log_was_rotated_since(log: Path) -> None:
    write(log, b"before\nafter\n")
    assert logs.tail(log, 10, 1000, since=7) == ["after"]
    assert logs.tail(log, 10, 1000, since=13) == []
    assert logs.tail(log, 10, 1000, since=14) == ["before", "after"]


@pytest.mark.parametrize(
    ("data", "end"), [(b"", 0), (b"one\n", 4), (b"one\ntw", 4), (b"one", 0), (b"\n", 1), (b"x" * 50 + b"\n" + b"y" * 50, 101)]
)
def test_who_reads_on_does_so_behind_the_last_whole_line(log: Path, data: bytes, end: int) -> None:
    assert logs.end_of_last_line(write(log, data), longest=20) == end
    assert logs.end_of_last_line(log.with_name("missing.log")) == 0


def test_tail_can_end_before_the_end(log: Path) -> None:
    write(log, b"one\ntwo\nthr")
    write(logs.backup(log, 1), b"zero\n")
    assert logs.tail(log, 2, 1000, until=8) == ["one", "two"]
    assert logs.tail_rotated(log, 9, 1000, until=4) == ["zero", "one"]
    assert logs.tail(log, 2, 1000, until=1000) == ["two", "thr"]  # it was rotated since


def test_tail_goes_on_into_rotated_files_newest_first(log: Path) -> None:
    write(log, b"5\n6\n")
    write(logs.backup(log, 1), b"3\n4\n")
    write(logs.backup(log, 2), b"1\n2\n")
    write(logs.backup(log, 4), b"not connected\n")
    assert logs.tail_rotated(log, 3, 1000) == ["4", "5", "6"]
    assert logs.tail_rotated(log, 2, 1000) == ["5", "6"]
    assert logs.tail_rotated(log, 99, 1000) == ["1", "2", "3", "4", "5", "6"]
    assert logs.tail_rotated(log, 99, 6) == ["4", "5", "6"]  # bytes are bounded over all files


# ---- appending


def test_append_adds_a_line_to_what_others_wrote(log: Path) -> None:
    logs.append(log, "one")
    with log.open("ab") as other:
        other.write(b"two\n")
    logs.append(log, "größe")
    assert log.read_text("utf-8") == "one\ntwo\ngröße\n"


def test_append_to_a_place_that_cannot_be_written_is_lost_and_raises_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    logs.append(tmp_path / "file" / "a.log", "lost")


def test_files_are_for_their_owner_alone_whatever_the_umask(log: Path) -> None:
    before = os.umask(0)
    try:
        os.close(logs.open_for_child(log))
        write(log, b"x" * 100)
        logs.rotate(log, 10, 1)
    finally:
        os.umask(before)
    assert [stat.S_IMODE(file.stat().st_mode) for file in (log, logs.backup(log, 1), log.parent)] == [0o600, 0o600, 0o700]


def test_a_child_inherits_no_log_by_accident(log: Path) -> None:
    descriptor = logs.open_for_child(log)
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)


# ---- rotating


def test_a_log_that_is_not_over_its_size_stays(log: Path) -> None:
    write(log, b"x" * 100)
    assert not logs.rotate(log, 100, 3)
    assert not logs.rotate(log, 0, 3)
    assert not logs.rotate(log.with_name("missing.log"), 10, 3)
    assert list(log.parent.iterdir()) == [log]


def test_rotation_keeps_a_bounded_number_of_files_in_order(log: Path) -> None:
    for number in range(6):
        write(log, b"%d" % number * 20)
        assert logs.rotate(log, 10, 3)
        assert log.read_bytes() == b""
    assert {file.name: file.read_bytes() for file in log.parent.iterdir()} == {
        "a.log": b"",
        "a.log.1": b"5" * 10,  # the newest ten bytes
        "a.log.2": b"4" * 10,
        "a.log.3": b"3" * 10,
    }


def test_rotation_without_backups_only_empties_the_log(log: Path) -> None:
    write(log, b"x" * 100)
    assert logs.rotate(log, 10, 0)
    assert {file.name: file.stat().st_size for file in log.parent.iterdir()} == {"a.log": 0}


def test_who_has_the_log_open_goes_on_writing_into_the_same_file(log: Path) -> None:
    child = logs.open_for_child(log)
    os.write(child, b"before " * 10)
    assert logs.rotate(log, 10, 1)
    os.write(child, b"after")
    os.close(child)
    assert log.read_bytes() == b"after"


# ---- deleting


def test_a_log_is_deleted_with_its_rotations_and_nobody_elses(log: Path) -> None:
    ours = [log, logs.backup(log, 1), logs.backup(log, 12)]
    others = [log.with_name(name) for name in ("b.log", "a.log.log", "a.log.1.log", "a.log.1.log.1", "aa.log.1", "a.log.bak")]
    for file in (*ours, *others):
        write(file, b"x")
    logs.remove(log)
    logs.remove(log)
    assert sorted(log.parent.iterdir()) == sorted(others)
