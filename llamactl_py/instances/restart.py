"""Whether, and when, a backend that died is started again. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from llamactl_py.ground.durations import show


class RestartPolicy(Struct, frozen=True):
    """*delay* seconds before the first restart, doubling up to *max_delay*; at most *max_restarts* within *window* seconds."""

    auto_restart: bool = True
    max_restarts: int = 3
    delay: float = 1.0
    max_delay: float = 300.0
    window: float = 600.0


class Restart(Struct, frozen=True):
    """Try again after so many seconds."""

    after: float


class GiveUp(Struct, frozen=True):
    """Do not try again."""

    why: str


def decide(policy: RestartPolicy, deaths: Sequence[float], now: float, failed_starts: int = 0) -> Restart | GiveUp:
    """What to do after the latest of *deaths* (moments on the loop's clock, as is *now*).

    Deaths that happened longer than a window ago count no more: three crashes in a year are no crash loop. *failed_starts*,
    the deaths since it was last ready, always count: one that takes minutes to fail would never fill a window.
    """
    if not policy.auto_restart or not policy.max_restarts:
        return GiveUp(f"it is not restarted ({'auto_restart is off' if policy.max_restarts else 'max_restarts is 0'})")
    recent = sum(1 for moment in deaths if now - moment <= policy.window)
    if recent > policy.max_restarts:
        return GiveUp(f"it died {recent} times within {show(policy.window)} (max_restarts is {policy.max_restarts})")
    if failed_starts > policy.max_restarts:
        return GiveUp(f"it failed to start {failed_starts} times in a row (max_restarts is {policy.max_restarts})")
    return Restart(after=min(policy.delay * 2.0 ** (max(recent, failed_starts) - 1), policy.max_delay))
