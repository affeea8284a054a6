"""The wall clock is for people: seconds since 1970 in, local time with its offset out."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from llamactl_py.ground.clock import now, stamp


@pytest.fixture(autouse=True)
def _east_of_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "XYZ-05:30")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_a_moment_is_shown_in_local_time_with_its_offset() -> None:
    assert stamp(0.9) == "1970-01-01 05:30:00+0530"


def test_now_is_unix_time() -> None:
    before = time.time()
    assert before <= now() <= time.time()
