"""What a route needs, what a caller is, and whether that suffices. Pure."""

from __future__ import annotations

import enum
from collections.abc import Callable

from msgspec import Struct

from llamactl_py.ground.errors import Forbidden, Unauthenticated
from llamactl_py.ground.grant import Grant, Scope


class Access(enum.Enum):
    """What a route asks of its caller."""

    PUBLIC = "public"
    INFERENCE = "inference"
    READ = "read"
    """Management that only looks: nothing is changed or started, and no backend asked."""
    MANAGEMENT = "management"


class Caller(Struct, frozen=True):
    """Who holds a key. A management key is good for everything: it may run commands on this machine."""

    name: str
    grant: Grant
    key: int = 0
    """Number of the stored key; 0 for the others."""


OPENS: dict[Access, frozenset[Scope]] = {
    Access.INFERENCE: frozenset((Scope.INFERENCE, Scope.MANAGEMENT)),
    Access.READ: frozenset((Scope.READ, Scope.MANAGEMENT)),
    Access.MANAGEMENT: frozenset((Scope.MANAGEMENT,)),
}
"""The keys that open a route, where keys are asked for. Which instances one may use is looked at later, when that is known."""

_NAMED = {
    Scope.INFERENCE: "an inference key",
    Scope.READ: "a read-only key",
    Scope.MANAGEMENT: "a management key",
}
_NEEDED = {
    Access.INFERENCE: "an inference key",
    Access.READ: "a management key, or a read-only one",
    Access.MANAGEMENT: "a management key",
}


ANYBODY = Caller("", Grant())
"""Who asks where no key is asked for."""


class Requirements(Struct, frozen=True):
    """Which keys are asked for at all."""

    inference: bool = True
    management: bool = True

    def of(self, access: Access) -> bool:
        """Is a key asked for there?"""
        if access is Access.PUBLIC:
            return False
        return self.inference if access is Access.INFERENCE else self.management


def may_pass(access: Access, caller: Caller | None, required: Requirements) -> bool:
    """May *caller* (None: no valid key) take a route with *access*?"""
    return not required.of(access) or (caller is not None and caller.grant.scope in OPENS[access])


def admit(access: Access, caller: Caller | None, required: Requirements, why: Callable[[], str] = lambda: "") -> None:
    """Pass, or raise Unauthenticated (no valid key; *why* none) or Forbidden (a valid key of the wrong kind)."""
    if may_pass(access, caller, required):
        return
    needed = f"this route needs {_NEEDED[access]}"
    if caller is None:
        told = f"{needed}; {reason}" if (reason := why()) else needed
        raise Unauthenticated(f"{told}; send it as: Authorization: Bearer KEY")
    raise Forbidden(f"key {caller.name!r} is {_NAMED[caller.grant.scope]}; {needed}")
