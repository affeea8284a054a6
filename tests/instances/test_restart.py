"""When a dead backend is started again: exact pauses, a limit within a window, and reasons. Moments are seconds on some clock.

`life` is what becomes of a backend that lives so long each time: the pauses before its restarts, and why we gave up, if we did.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamactl_py.instances.restart import GiveUp, Restart, RestartPolicy, decide


def life(policy: RestartPolicy, lives_for: float = 0.0, deaths: int = 20) -> tuple[list[float], str | None]:
    now, moments, pauses = 0.0, list[float](), list[float]()
    for _ in range(deaths):
        now += lives_for
        moments.append(now)
        decision = decide(policy, moments, now)
        if isinstance(decision, GiveUp):
            return pauses, decision.why
        pauses.append(decision.after)
        now += decision.after
    return pauses, None


def test_pauses_double_up_to_the_longest() -> None:
    pauses, why = life(RestartPolicy(max_restarts=12, window=1e6))
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    assert why == "it died 13 times within 1000000s (max_restarts is 12)"


@pytest.mark.parametrize(
    ("policy", "pauses", "why"),
    [
        (RestartPolicy(), [1, 2, 4], "it died 4 times within 10m (max_restarts is 3)"),
        (RestartPolicy(max_restarts=1), [1], "it died 2 times within 10m (max_restarts is 1)"),
        (RestartPolicy(delay=0.05, max_restarts=4), [0.05, 0.1, 0.2, 0.4], "it died 5 times within 10m (max_restarts is 4)"),
        (RestartPolicy(delay=0.0, max_restarts=2), [0, 0], "it died 3 times within 10m (max_restarts is 2)"),
        (RestartPolicy(delay=60, max_delay=5), [5, 5, 5], "it died 4 times within 10m (max_restarts is 3)"),
        (RestartPolicy(max_restarts=0), [], "it is not restarted (max_restarts is 0)"),
        (RestartPolicy(auto_restart=False), [], "it is not restarted (auto_restart is off)"),
        (RestartPolicy(auto_restart=False, max_restarts=0), [], "it is not restarted"),
    ],
)
def test_a_crash_loop_ends_with_its_reason(policy: RestartPolicy, pauses: list[float], why: str) -> None:
    found = life(policy)
    assert found[0] == pauses
    assert (found[1] or "").startswith(why)


def test_crashes_that_are_far_apart_are_no_crash_loop() -> None:
    assert life(RestartPolicy(), lives_for=601) == ([1.0] * 20, None)


@pytest.mark.parametrize(
    ("deaths", "decision"),
    [
        ([0.0, 0.0, 0.0, 600.0], GiveUp("it died 4 times within 10m (max_restarts is 3)")),  # a window long: they still count
        ([-0.1, 0.0, 0.0, 600.0], Restart(4.0)),
        ([-0.1, -0.1, -0.1, 600.0], Restart(1.0)),
    ],
)
def test_a_death_counts_for_exactly_one_window(deaths: Sequence[float], decision: Restart | GiveUp) -> None:
    assert decide(RestartPolicy(), deaths, now=600.0) == decision


POLICIES = st.builds(
    RestartPolicy,
    st.booleans(),
    st.integers(0, 1000),
    st.floats(0, 1e7),
    st.floats(0, 1e7),
    st.floats(0, 1e7),
)


@given(POLICIES, st.lists(st.floats(0, 1e6), min_size=1, max_size=30).map(sorted))
@settings(max_examples=200, deadline=None)
def test_every_decision_is_a_pause_in_bounds_or_a_reason(policy: RestartPolicy, deaths: list[float]) -> None:
    decision = decide(policy, deaths, deaths[-1])
    if isinstance(decision, GiveUp):
        assert decision.why
    else:
        assert policy.auto_restart
        assert 0 <= decision.after <= policy.max_delay


def test_a_thousand_restarts_overflow_nothing() -> None:
    decision = decide(RestartPolicy(max_restarts=1000, delay=1e7, max_delay=300.0), [0.0] * 1000, 0.0)
    assert decision == Restart(300.0)


def test_starts_that_take_longer_than_the_window_to_fail_are_counted_all_the_same() -> None:
    policy = RestartPolicy(max_restarts=3, window=600)
    deaths = [0.0, 201.0, 403.0, 607.0]
    assert decide(policy, deaths[:3], 403.0, failed_starts=3) == Restart(after=4.0)
    assert decide(policy, deaths, 607.0, failed_starts=4) == GiveUp("it failed to start 4 times in a row (max_restarts is 3)")
