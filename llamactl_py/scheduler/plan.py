"""May this instance run now, who has to leave for it, and who has been idle too long? Pure: looks, decides, touches nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from llamactl_py.instances.state import AT_REST, State


class Seat(Struct, frozen=True):
    """What the plan has to know of an instance that holds a running slot."""

    name: str
    state: State
    is_wanted: bool
    leases: int
    waiting: int
    """Requests that wait for it."""
    last_used: float
    """Moment on the loop's clock."""
    idle_timeout: float
    """Seconds; 0 pins it."""
    group: str = ""

    @property
    def is_leaving(self) -> bool:
        return not self.is_wanted

    @property
    def may_leave(self) -> bool:
        """Idle, and not pinned. A busy or loading one is never made to leave; one in backoff only if nobody waits for it."""
        return self.state in (State.READY, State.BACKOFF) and not self.leases and not self.waiting and self.idle_timeout > 0


class Start(Struct, frozen=True):
    """There is room."""


class Evict(Struct, frozen=True):
    """There is room as soon as this one has left."""

    name: str


class Wait(Struct, frozen=True):
    """There is no room. *is_coming*: it is being made; else somebody has to finish first."""

    why: str
    is_coming: bool = False


def plan(seats: Sequence[Seat], limit: int, may_evict: bool, group: str = "", group_limit: int = -1) -> Start | Evict | Wait:
    """What an instance of *group* that is at rest has to do to run. *seats*: those of the others; a limit of -1 means none;
    *may_evict*: the settings, and whoever asks for it, allow that an idle one is stopped for it.

    Room in its group comes first: who leaves for that leaves a place for all.
    """
    if group and group_limit >= 0:
        own = [seat for seat in seats if seat.group == group]
        verdict = _room(
            own,
            group_limit,
            may_evict,
            f"{group_limit} instances of group {group!r} are running, which is its limit (group_limits)",
        )
        if not isinstance(verdict, Start):
            return verdict
    return _room(seats, limit, may_evict, f"{limit} instances are running, which is the limit (max_running_instances)")


def _room(seats: Sequence[Seat], limit: int, may_evict: bool, full: str) -> Start | Evict | Wait:
    if limit < 0 or len(seats) < limit:
        return Start()
    leaving = sum(seat.is_leaving for seat in seats)
    if len(seats) - leaving < limit:
        return Wait("another instance is leaving for it", is_coming=True)
    if not may_evict:
        return Wait(f"{full}, and none may be evicted for it")
    idle = sorted((seat for seat in seats if seat.may_leave and seat.is_wanted), key=lambda seat: seat.last_used)
    if idle:
        return Evict(idle[0].name)
    kept = ", ".join(f"{seat.name} {_why_it_stays(seat)}" for seat in seats[:5]) + (", ..." if len(seats) > 5 else "")
    return Wait(f"{full}, and none can leave: {kept}")


def _why_it_stays(seat: Seat) -> str:
    if seat.leases:
        return f"has {seat.leases} requests in flight"
    if seat.state in AT_REST:
        return "is about to start"
    if seat.state is not State.READY:
        return f"is {seat.state.value}"
    return "is pinned (idle_timeout 0)" if not seat.idle_timeout else "has requests waiting"


def idle_for_too_long(seats: Iterable[Seat], now: float) -> list[str]:
    """Names of ready instances whose idle timeout has passed."""
    return [seat.name for seat in seats if _can_idle(seat) and seat.last_used + seat.idle_timeout <= now]


def next_idle_moment(seats: Iterable[Seat]) -> float | None:
    """When the next idle timeout passes, if nothing happens until then."""
    return min((seat.last_used + seat.idle_timeout for seat in seats if _can_idle(seat)), default=None)


def _can_idle(seat: Seat) -> bool:
    return seat.state is State.READY and seat.is_wanted and not seat.leases and seat.idle_timeout > 0
