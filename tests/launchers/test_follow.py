"""Reading on in a log that is written and rotated meanwhile: what comes out is what went in, once."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from llamactl_py.launchers.follow import KNOWN, PIECE, Follower
from llamactl_py.launchers.logs import rotate


def append(log: Path, data: bytes) -> None:
    with log.open("ab") as file:
        file.write(data)


def everything(follower: Follower) -> bytes:
    found = b""
    while piece := follower.read():
        assert len(piece) <= PIECE
        found += piece
    return found


def lines(first: int, count: int) -> bytes:
    return b"".join(b"line %08d\n" % number for number in range(first, first + count))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 100), st.sampled_from(["read", "a piece", "rotate"])), max_size=12)
)
def test_nothing_is_told_twice_or_left_out_while_one_rotation_at_most_lies_between_two_looks(
    steps: list[tuple[int, int, str]],
) -> None:
    with TemporaryDirectory() as folder:
        log = Path(folder) / "a.log"
        count, has_read = 100, True
        append(log, lines(0, count))
        follower = Follower(log, log.stat().st_size)
        told = lines(0, count)
        for more, cut, then in steps:
            append(log, lines(count, more))
            count += more
            if then == "rotate" and has_read and log.stat().st_size > 1000:
                has_read = not rotate(log, log.stat().st_size - cut - 1, 3)
            elif then == "a piece":
                told += follower.read()
            elif then == "read":
                told += everything(follower)
                has_read = log.stat().st_size > 200  # more than a rotation here cuts off
        told += everything(follower)
        follower.close()
        assert told == lines(0, count)


def test_what_was_not_read_before_a_rotation_is_read_from_the_copy(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    append(log, lines(0, 1000))
    follower = Follower(log, 0)
    assert everything(follower) == lines(0, 1000)
    append(log, lines(1000, 500))
    assert rotate(log, 15_000, 3)
    append(log, lines(1500, 10))
    assert everything(follower) == lines(1000, 510)
    append(log, lines(1510, 1))
    assert everything(follower) == lines(1510, 1)


def test_what_came_and_was_rotated_between_two_looks_is_read_as_far_as_it_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    append(log, lines(0, 100))
    follower = Follower(log, 0)
    for number in range(3):
        assert everything(follower)[-14:] == lines(0, 100 + number * 100)[-14:]
        assert rotate(log, 1000, 3)
        assert everything(follower) == b""
        append(log, lines(100 + number * 100, 100))
        assert rotate(log, 1399, 3)
        append(log, b"x")
        assert everything(follower) == lines(100 + number * 100, 100)[1:] + b"x"
        append(log, lines(0, 100 + (number + 1) * 100))


def test_a_large_copy_is_read_in_pieces(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    append(log, lines(0, 10))
    follower = Follower(log, 0)
    everything(follower)
    append(log, lines(10, 300_000))
    assert rotate(log, 4_200_100, 1)
    append(log, b"new\n")
    assert everything(follower) == lines(10, 300_000) + b"new\n"


def test_where_nothing_is_kept_it_goes_on_with_what_is_there(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    append(log, lines(0, 1000))
    follower = Follower(log, len(lines(0, 1000)))
    assert rotate(log, 100, 0)
    append(log, b"new\n")
    assert everything(follower) == b"new\n"


def test_one_that_follows_nothing_yet_reads_from_the_beginning(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    follower = Follower(log, 0)
    assert everything(follower) == b""
    append(log, b"first\n")
    assert everything(follower) == b"first\n"
    log.unlink()
    assert everything(follower) == b""
    append(log, b"again\n")
    assert everything(follower) == b"again\n"


def test_a_log_that_was_emptied_since_its_end_was_looked_up_is_read_whole(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    append(log, b"short\n")
    assert everything(Follower(log, KNOWN * 3)) == b"short\n"
