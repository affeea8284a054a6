"""Who runs, who leaves, who has been idle too long: the rules one by one, then the promises that no fleet may break.

`seat` is an idle, wanted, ready instance with an idle timeout; a test says in which way one differs.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from llamactl_py.instances.state import State
from llamactl_py.scheduler.plan import Evict, Seat, Start, Wait, idle_for_too_long, next_idle_moment, plan


def seat(name: str = "a", **different: Any) -> Seat:
    return replace(Seat(name, State.READY, is_wanted=True, leases=0, waiting=0, last_used=100.0, idle_timeout=60.0), **different)


BUSY = seat("busy", leases=2)
LOADING = seat("loading", state=State.STARTING)
PINNED = seat("pinned", idle_timeout=0.0)
LEAVING = seat("leaving", state=State.STOPPING, is_wanted=False)
AWAITED = seat("awaited", waiting=1)
RETRYING = seat("retrying", state=State.BACKOFF)
OLD, NEW = seat("old", last_used=10.0), seat("new", last_used=20.0)


@pytest.mark.parametrize(
    ("seats", "limit", "decision"),
    [
        ([], -1, Start()),
        ([BUSY] * 50, -1, Start()),
        ([], 1, Start()),
        ([BUSY], 2, Start()),
        ([OLD], 2, Start()),
        ([OLD], 1, Evict("old")),
        ([NEW, OLD], 2, Evict("old")),
        ([OLD, NEW], 2, Evict("old")),
        ([BUSY, NEW], 2, Evict("new")),
        ([LOADING, PINNED, BUSY, NEW], 4, Evict("new")),
        ([RETRYING], 1, Evict("retrying")),
        ([LEAVING], 1, Wait("another instance is leaving for it", is_coming=True)),
        ([LEAVING, OLD], 2, Wait("another instance is leaving for it", is_coming=True)),
        ([LEAVING, LEAVING, OLD], 2, Wait("another instance is leaving for it", is_coming=True)),
        ([LEAVING, OLD, BUSY], 2, Evict("old")),  # one place too few even when the first has left
    ],
)
def test_who_leaves_for_whom(seats: list[Seat], limit: int, decision: Start | Evict | Wait) -> None:
    assert plan(seats, limit, may_evict=True) == decision


@pytest.mark.parametrize(
    ("stays", "why"),
    [
        (BUSY, "busy has 2 requests in flight"),
        (LOADING, "loading is starting"),
        (seat("soon", state=State.STOPPED), "soon is about to start"),
        (PINNED, "pinned is pinned (idle_timeout 0)"),
        (AWAITED, "awaited has requests waiting"),
        (replace(RETRYING, waiting=1), "retrying is backoff"),
        (seat("stopping", state=State.STOPPING), "stopping is stopping"),
    ],
)
def test_one_that_may_not_leave_is_waited_for_and_named(stays: Seat, why: str) -> None:
    decision = plan([stays], 1, may_evict=True)
    limit = "1 instances are running, which is the limit (max_running_instances)"
    assert decision == Wait(f"{limit}, and none can leave: {why}")


def test_without_eviction_nobody_leaves_but_who_is_leaving_is_waited_for() -> None:
    off = plan([OLD], 1, may_evict=False)
    assert off == Wait("1 instances are running, which is the limit (max_running_instances), and none may be evicted for it")
    assert plan([LEAVING], 1, may_evict=False) == Wait("another instance is leaving for it", is_coming=True)
    assert plan([OLD], 2, may_evict=False) == Start()


def test_a_limit_of_zero_lets_nobody_run() -> None:
    assert isinstance(plan([], 0, may_evict=True), Wait)


def test_a_long_list_of_reasons_is_cut() -> None:
    decision = plan([seat(f"s{n}", leases=1) for n in range(20)], 20, may_evict=True)
    assert isinstance(decision, Wait)
    assert "s4 has 1 requests in flight, ..." in decision.why
    assert "s5" not in decision.why


@pytest.mark.parametrize(
    ("seats", "limit", "group_limit", "decision"),
    [
        ([], -1, 1, Start()),
        ([OLD], -1, 1, Start()),  # of no group
        ([seat("other", group="h")], -1, 1, Start()),
        ([seat("mine", group="g")], -1, -1, Start()),
        ([seat("mine", group="g")], -1, 2, Start()),
        ([seat("mine", group="g", last_used=30.0), OLD], -1, 1, Evict("mine")),
        ([seat("mine", group="g", last_used=30.0), OLD], 2, 1, Evict("mine")),  # in the group, though another is older
        ([seat("mine", group="g", last_used=30.0), OLD], 2, 2, Evict("old")),
        ([replace(LEAVING, group="g"), OLD], 2, 1, Wait("another instance is leaving for it", is_coming=True)),
    ],
)
def test_room_in_the_group_comes_first(seats: list[Seat], limit: int, group_limit: int, decision: Start | Evict | Wait) -> None:
    assert plan(seats, limit, True, "g", group_limit) == decision


def test_a_full_group_is_named_with_its_limit() -> None:
    decision = plan([replace(BUSY, group="g"), OLD], -1, True, "g", 1)
    full = "1 instances of group 'g' are running, which is its limit (group_limits)"
    assert decision == Wait(f"{full}, and none can leave: busy has 2 requests in flight")


SEATS = st.lists(
    st.builds(
        Seat,
        st.integers(0, 10**6).map(str),
        st.sampled_from([State.STARTING, State.READY, State.STOPPING, State.BACKOFF]),
        st.booleans(),
        st.integers(0, 2),
        st.integers(0, 2),
        st.integers(0, 50).map(float),
        st.sampled_from([0.0, 10.0, 60.0]),
        st.sampled_from(["", "g", "h"]),
    ),
    unique_by=lambda seat: seat.name,
    max_size=8,
)
LIMITS = st.integers(-1, 8)


@given(SEATS, LIMITS, st.booleans())
@settings(max_examples=200, deadline=None)
def test_no_start_is_ever_above_the_limit_and_none_is_kept_waiting_below_it(
    seats: list[Seat], limit: int, may_evict: bool
) -> None:
    decision = plan(seats, limit, may_evict)
    assert isinstance(decision, Start) == (limit < 0 or len(seats) + 1 <= limit)


@given(SEATS, LIMITS, LIMITS, st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_start_is_within_both_limits_and_an_eviction_helps_the_group_first(
    seats: list[Seat], limit: int, group_limit: int, may_evict: bool
) -> None:
    decision = plan(seats, limit, may_evict, "g", group_limit)
    own = [seat for seat in seats if seat.group == "g"]
    has_room = [most < 0 or count < most for count, most in ((len(seats), limit), (len(own), group_limit))]
    assert isinstance(decision, Start) == all(has_room)
    if isinstance(decision, Evict):
        (chosen,) = [seat for seat in seats if seat.name == decision.name]
        assert chosen.group == "g" or has_room[1]
        candidates = seats if has_room[1] else own
        assert chosen.last_used == min(seat.last_used for seat in candidates if seat.may_leave and seat.is_wanted)


@given(SEATS, LIMITS, st.booleans())
@settings(max_examples=200, deadline=None)
def test_who_is_evicted_is_idle_not_pinned_and_was_used_longest_ago(seats: list[Seat], limit: int, may_evict: bool) -> None:
    decision = plan(seats, limit, may_evict)
    if not isinstance(decision, Evict):
        return
    assert may_evict
    (chosen,) = [seat for seat in seats if seat.name == decision.name]
    assert chosen.is_wanted
    assert chosen.state in (State.READY, State.BACKOFF)
    assert not chosen.leases
    assert not chosen.waiting
    assert chosen.idle_timeout > 0
    assert chosen.last_used == min(seat.last_used for seat in seats if seat.may_leave and seat.is_wanted)


@given(SEATS, LIMITS)
@settings(max_examples=200, deadline=None)
def test_nobody_waits_for_ever_while_somebody_could_leave(seats: list[Seat], limit: int) -> None:
    decision = plan(seats, limit, may_evict=True)
    could_leave = [seat for seat in seats if seat.may_leave and seat.is_wanted]
    if isinstance(decision, Wait) and could_leave:
        assert decision.is_coming
        assert len([seat for seat in seats if seat.is_wanted]) < limit


@given(SEATS, st.integers(0, 4), st.lists(st.sampled_from(["arrive", "leave", "busy", "idle"]), max_size=30), st.data())
@settings(max_examples=100, deadline=None)
def test_carrying_the_plan_out_never_exceeds_the_limit(
    seats: list[Seat], limit: int, events: list[str], data: st.DataObject
) -> None:
    """A fleet that does as the plan says, with a start decided alone: one at a time, as the dispatcher does."""
    fleet = {seat.name: seat for seat in seats[:limit]}
    for number, event in enumerate(events):
        some = data.draw(st.sampled_from(sorted(fleet))) if fleet else None
        if event == "arrive":
            match plan(list(fleet.values()), limit, may_evict=True):
                case Start():
                    fleet[f"new{number}"] = seat(f"new{number}", state=State.STARTING, last_used=float(number))
                case Evict(name):
                    assert fleet[name].may_leave
                    fleet[name] = replace(fleet[name], is_wanted=False)
        elif some and event == "leave" and not fleet[some].is_wanted:
            del fleet[some]
        elif some:
            fleet[some] = replace(fleet[some], leases=event == "busy", state=State.READY)
        assert len(fleet) <= limit


@pytest.mark.parametrize(
    ("changes", "leaves"),
    [
        ({}, True),
        ({"last_used": 100.1}, False),
        ({"idle_timeout": 60.1}, False),
        ({"idle_timeout": 0.0}, False),
        ({"leases": 1}, False),
        ({"is_wanted": False}, False),
        ({"state": State.STARTING}, False),
        ({"state": State.BACKOFF}, False),
        ({"state": State.STOPPING}, False),
    ],
)
def test_an_instance_idles_out_when_its_timeout_has_passed_and_nothing_speaks_against_it(
    changes: dict[str, Any], leaves: bool
) -> None:
    """60 seconds after moment 100."""
    assert idle_for_too_long([seat(**changes)], now=160.0) == (["a"] if leaves else [])


def test_the_next_idle_moment_is_the_earliest_of_those_that_can_idle() -> None:
    assert next_idle_moment([]) is None
    assert next_idle_moment([BUSY, LOADING, PINNED, LEAVING]) is None
    assert next_idle_moment([BUSY, seat(last_used=50.0), seat(last_used=0.0, idle_timeout=300.0)]) == 110.0


@given(SEATS)
@settings(max_examples=100, deadline=None)
def test_exactly_at_the_next_idle_moment_somebody_is_idle_and_not_before(seats: list[Seat]) -> None:
    moment = next_idle_moment(seats)
    if moment is None:
        assert idle_for_too_long(seats, 1e9) == []
    else:
        assert idle_for_too_long(seats, moment) != []
        assert idle_for_too_long(seats, moment - 0.001) == []
