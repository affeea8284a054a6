"""From the settings that a daemon runs with to those that it should have: which of them it can take over while it runs."""

from __future__ import annotations

from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from llamactl_py.config.settings import Settings
from llamactl_py.ground.fields import Frozen, fields_of

Section = TypeVar("Section", bound=Frozen)

LIVE = (
    "server.allowed_hosts",
    "server.shutdown_timeout",
    "backends",
    "instances.port_range",
    "instances.max_instances",
    "instances.max_running_instances",
    "instances.group_limits",
    "instances.enable_lru_eviction",
    "instances.default_auto_restart",
    "instances.default_max_restarts",
    "instances.default_restart_delay",
    "instances.max_restart_delay",
    "instances.restart_window",
    "instances.failed_cooldown",
    "instances.default_on_demand_start",
    "instances.on_demand_start_timeout",
    "instances.max_queued_requests",
    "instances.default_start_timeout",
    "instances.default_stop_timeout",
    "instances.drain_timeout",
    "instances.default_idle_timeout",
    "auth",
)
"""Settings, and sections of them, that are looked at whenever they matter. What is not here was built into something at the
start (a socket, a pool, a path that processes write to), and a new value waits for the next start."""


class Adopted(Struct, frozen=True):
    """What becomes of changed settings. *settings* are those to run with; the others are dotted names."""

    settings: Settings
    applied: tuple[str, ...]
    needs_restart: tuple[str, ...]


def is_live(name: str) -> bool:
    """Does a change of that setting (dotted name) take effect without a restart of the daemon?"""
    return any(name == live or name.startswith(f"{live}.") for live in LIVE)


def adopt(running: Settings, wanted: Settings) -> Adopted:
    """*wanted*, where *running* can change into it."""
    applied: list[str] = []
    waiting: list[str] = []
    settings = _merged(running, wanted, "", applied, waiting)
    return Adopted(settings, tuple(applied), tuple(waiting))


def _merged(old: Section, new: Section, prefix: str, applied: list[str], waiting: list[str]) -> Section:
    changed: dict[str, object] = {}
    for field in fields_of(type(old)):
        was, will = getattr(old, field.name), getattr(new, field.name)
        dotted = prefix + field.key
        if was == will:
            continue
        if field.section:
            changed[field.name] = _merged(was, will, f"{dotted}.", applied, waiting)
        elif is_live(dotted):
            changed[field.name] = will
            applied.append(dotted)
        else:
            waiting.append(dotted)
    return replace(old, **changed)
