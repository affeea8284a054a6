"""Start, stop and restart through the daemon, several at once, and the waiting for what becomes of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from llamactl_py.cli import say
from llamactl_py.cli.progress import Background, Progress, progress
from llamactl_py.client import Client, Refused, Unreachable

POLL = 0.1
SLOW_POLL = 0.5
FEW = 5
"""So many instances are asked for one by one; of more, the whole list is cheaper."""

Rows = dict[str, dict[str, Any]]


class Done(Struct):
    """What became of some instances: as they are now, why some were refused, and for which nobody waited any longer."""

    action: str
    names: Sequence[str]
    rows: Rows = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    late: tuple[str, ...] = ()
    waits: bool = True

    @property
    def code(self) -> int:
        """4 after a refusal, 1 when one is not what it was to become, else 0."""
        return 4 if self.refused else 1 if self.late or any(map(self.has_failed, self.rows.values())) else 0

    def has_failed(self, row: Mapping[str, Any]) -> bool:
        if self.action == "stop":
            return row["name"] in self.late
        good = ("ready",) if self.waits else ("ready", "starting", "stopping")
        return row["state"] not in good

    def tell_refusals(self) -> None:
        for name, why in self.refused.items():
            say.complaint(why + hint_at_all(name, why))
        for name in self.late:
            hint = "" if self.action == "stop" else f"; llamactl stop {name} ends it"
            say.complaint(f"{name} is still {self.rows[name]['state']}, and the time to wait is over; it goes on{hint}")

    def tell_sum(self) -> None:
        """Of several of which some are not done, how many, and which."""
        bad = [*self.refused, *self.late, *(name for name, row in self.rows.items() if self.has_failed(row))]
        if bad and len(self.names) > 1:
            bad = [name for name in self.names if name in bad]
            say.complaint(f"{self.action}: {len(self.names) - len(bad)} of {len(self.names)} done; not {', '.join(bad)}")


def hint_at_all(name: str, why: str) -> str:
    """For who writes `start all`."""
    return "; every instance is meant with --all" if name.casefold() == "all" and why.startswith("there is no instance") else ""


def act(client: Client, action: str, names: Sequence[str], *, wait: bool = True, timeout: float | None = None) -> Done:
    """Have the daemon *action* (start, stop, restart) them, and see to the end of it, at most for so many seconds.

    Ctrl-C ends the command, and what was begun goes on. Raises Refused when the request as a whole is, and Unreachable.
    """
    done = Done(action, names, waits=wait)
    deadline = time.monotonic() + (timeout if timeout is not None else float("inf"))
    try:
        with progress() as tell:
            old = {name: row.get("pid") for name, row in _look(client, names).items()} if action == "restart" else {}
            if _ask(client, done, deadline, tell) and action != "stop" and wait:
                _watch(client, done, old, deadline, tell)
    except KeyboardInterrupt:
        _say_how_they_were_left(client, done)
        sys.exit(130)
    return done


def _ask(client: Client, done: Done, deadline: float, tell: Progress) -> bool:
    """Send the request, and note the answer; false when we did not wait for it. A stop is answered when it is over."""
    asking = Background(lambda: client.act_on_several(done.action, names=done.names))
    while not asking.is_done(POLL):
        rows = _look(client, done.names)
        up = [name for name, row in rows.items() if row["state"] in ("ready", "starting", "backoff")]
        has_begun = done.action == "stop" and len(rows) == len(done.names) and not up
        if (has_begun and not done.waits) or time.monotonic() >= deadline:
            done.rows = rows
            done.late = tuple(name for name, row in rows.items() if done.waits and row["state"] not in ("stopped", "failed"))
            return False
        tell(_summary(done.action, rows))
    for result in asking.result():
        if result.get("error"):
            done.refused[result["name"]] = result["details"]
        else:
            done.rows[result["name"]] = result["instance"]
    return True


def _watch(client: Client, done: Done, old: Mapping[str, Any], deadline: float, tell: Progress) -> None:
    """Until each is ready, at rest, or waits for its next try after a failed one; a restarted one with another process."""
    pending = list(done.rows)
    while pending := [name for name in pending if not _is_settled(done.rows[name], old.get(name))]:
        if time.monotonic() >= deadline:
            done.late = tuple(pending)
            return
        tell(_summary(done.action, {name: done.rows[name] for name in pending}))
        time.sleep(POLL if len(pending) <= FEW else SLOW_POLL)
        found = _look(client, pending)
        done.rows |= found
        for name in set(pending).difference(found):
            del done.rows[name]
            done.refused[name] = f"instance {name!r} was deleted meanwhile"
        pending = list(found)


def _is_settled(row: Mapping[str, Any], old_pid: int | None) -> bool:
    return row["state"] in ("ready", "failed", "stopped", "backoff") and not (old_pid and row.get("pid") == old_pid)


def _look(client: Client, names: Sequence[str]) -> Rows:
    """How they are now; those that there are."""
    if len(names) > FEW:
        return {row["name"]: row for row in client.instances() if row["name"] in set(names)}
    rows: Rows = {}
    for name in names:
        try:
            rows[name] = client.instance(name)
        except Refused as error:
            if error.status not in (400, 404):
                raise
    return rows


def _summary(action: str, rows: Rows) -> str:
    names = list(rows)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{action}: " + ", ".join(f"{name} is {rows[name]['state']}" for name in names[:3]) + more


def _say_how_they_were_left(client: Client, done: Done) -> None:
    """After Ctrl-C: we no longer wait, and the daemon goes on."""
    try:
        rows = _look(client, [name for name in done.names if name not in done.refused])
    except (Refused, Unreachable):
        return
    for name, row in rows.items():
        state = row["state"]
        if state in ("ready", "stopped", "failed"):
            say.err(f"{name} is {state}")
        elif done.action == "stop":
            say.err(f"{name} is still {state}, and will be stopped")
        else:
            say.err(f"{name} is still starting; llamactl stop {name} ends it")
