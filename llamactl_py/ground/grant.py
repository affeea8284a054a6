"""What a key opens. Data only: whether that suffices for a route is `auth.policy`'s to say."""

from __future__ import annotations

import enum

from msgspec import Struct


class Scope(enum.StrEnum):
    """The kind of a key; it stays what it was made as."""

    INFERENCE = "inference"
    """Asks models, and sees which there are."""
    READ = "read"
    """Sees what a management key sees, changes nothing, and reaches no backend."""
    MANAGEMENT = "management"
    """Everything."""


class Grant(Struct, frozen=True):
    """What one key opens. All but *scope* means something for inference keys only.

    *instances*: numbers of the instances that it may use, None for all; *groups*: those in these groups, now and later, too.
    *may_start*: may its request start one that is down; *may_evict*: may such a start stop an idle one for room.
    """

    scope: Scope = Scope.INFERENCE
    instances: frozenset[int] | None = None
    groups: frozenset[str] = frozenset()
    may_start: bool = True
    may_evict: bool = True

    @property
    def is_for_all(self) -> bool:
        """May it use every instance, those to come too?"""
        return self.instances is None

    def may_use(self, instance: int, group: str) -> bool:
        """May it use the instance with that number, which is in *group* (empty: in none)?"""
        return self.instances is None or instance in self.instances or group in self.groups
