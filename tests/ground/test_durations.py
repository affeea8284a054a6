"""Durations: what people may write, what is refused, and that whatever is shown or stored is read back exactly."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamactl_py.ground.durations import LONGEST, UNITS, Minutes, Seconds, parse, show
from llamactl_py.ground.fields import Frozen
from llamactl_py.ground.validation import parse as read
from llamactl_py.ground.validation import plain


class Timers(Frozen):
    wait: Seconds
    idle: Minutes


@pytest.mark.parametrize(
    ("value", "unit", "seconds"),
    [
        (90, 1, 90),
        (15, 60, 900),
        (1.5, 60, 90),
        (0, 60, 0),
        ("0", 60, 0),
        ("90", 1, 90),
        ("1.5", 60, 90),
        ("90s", 60, 90),
        ("500ms", 60, 0.5),
        ("57ms", 1, 0.057),
        ("9ms", 1, 0.009),
        ("15m", 1, 900),
        ("2h", 1, 7200),
        ("1d", 1, 86400),
        ("1h30m", 1, 5400),
        ("1h 30m 5s", 1, 5405),
        (" 2 H ", 1, 7200),
        ("0.5s", 1, 0.5),
        ("365d", 1, LONGEST),
        (LONGEST, 1, LONGEST),
    ],
)
def test_a_number_has_its_fields_unit_and_text_says_its_own(value: object, unit: float, seconds: float) -> None:
    assert parse(value, unit) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "", " ", "s", "-1", "-5s", "+5s", "1e5", "0x10", "1_000", "90sec", "5 minutes", "1h30", "s5", "5s!", "1..5s", ".5s",
        "5.s", "nan", "inf", "٣s", "５s", "5s\0", "1:30", None, True, False, [], {}, b"5s", (5,),
    ],
)  # fmt: skip
def test_what_is_no_duration_is_refused_with_examples(value: object) -> None:
    with pytest.raises(ValueError, match="is not a duration; write a number or a string such as '90s', '15m', '2h'"):
        parse(value, 1.0)


@pytest.mark.parametrize(
    "value", [-1, -0.001, LONGEST + 1, "366d", "9" * 400, math.nan, math.inf, -math.inf, 10**400, -(10**400)]
)
def test_what_no_timer_could_wait_for_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="is out of range: a duration is 0 to 365 days"):
        parse(value, 1.0)


def test_bounds_hold_in_the_fields_unit_too() -> None:
    assert parse(LONGEST / 60, 60.0) == LONGEST
    with pytest.raises(ValueError, match="out of range"):
        parse(LONGEST / 60 + 1, 60.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"), (0.5, "500ms"), (0.009, "9ms"), (1, "1s"), (59.999, "59999ms"), (90, "90s"), (120, "2m"), (5400, "90m"),
        (7200, "2h"), (172800, "2d"), (1000.5, "1000500ms"), (1234567.5, "1234567500ms"), (12.3456789, "12.3456789s"),
        (1e-8, "0.00000001s"),
    ],
)  # fmt: skip
def test_a_duration_is_shown_in_its_largest_whole_unit(seconds: float, text: str) -> None:
    assert show(seconds) == text


DURATIONS = st.one_of(
    st.floats(0, LONGEST),
    st.integers(0, int(LONGEST)).map(float),
    st.integers(0, 10**6).map(lambda n: n / 1000),
    st.builds(lambda n, unit: n * UNITS[unit], st.integers(0, 300), st.sampled_from(list(UNITS))),
)


@given(DURATIONS)
@settings(deadline=None)
def test_what_is_shown_is_read_back_exactly(seconds: float) -> None:
    assert parse(show(seconds), 60.0) == seconds


@given(DURATIONS, DURATIONS)
@settings(deadline=None)
def test_what_is_stored_is_read_back_exactly(wait: float, idle: float) -> None:
    stored = json.dumps(plain(read(Timers, {"wait": show(wait), "idle": show(idle)})))
    assert read(Timers, json.loads(stored)) == Timers(wait=wait, idle=idle)


def test_outside_a_duration_is_its_plain_number_where_that_is_whole() -> None:
    assert plain(Timers(wait=120.0, idle=120.0)) == {"wait": 120, "idle": 2}
    assert plain(Timers(wait=1.5, idle=90.0)) == {"wait": "1500ms", "idle": "90s"}


@given(st.text(max_size=20) | st.integers() | st.floats() | st.none() | st.booleans())
@settings(deadline=None)
def test_whatever_is_given_is_a_duration_in_range_or_a_value_error(value: object) -> None:
    try:
        seconds = parse(value, 60.0)
    except ValueError:
        return
    assert 0 <= seconds <= LONGEST
