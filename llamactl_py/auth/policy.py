"""What a route needs, what a caller is, and whether that suffices. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from llamactl_py.ground.errors import Forbidden, Unauthenticated


class Access(enum.Enum):
    """What a route asks of its caller."""

    PUBLIC = "public"
    INFERENCE = "inference"
    MANAGEMENT = "management"


@dataclass(frozen=True)
class Caller:
    """Who holds a key. A management key is good for everything: it may run commands on this machine."""

    name: str
    is_manager: bool


ANYBODY = Caller("", is_manager=False)
"""Who asks where no key is asked for."""


@dataclass(frozen=True)
class Requirements:
    """Which keys are asked for at all."""

    inference: bool = True
    management: bool = True


def admit(access: Access, caller: Caller | None, required: Requirements) -> None:
    """Pass, or raise Unauthenticated (no valid key) or Forbidden (a valid key of the wrong kind)."""
    match access:
        case Access.PUBLIC:
            return
        case Access.INFERENCE if required.inference and caller is None:
            raise Unauthenticated("this route needs an inference key; send it as: Authorization: Bearer KEY")
        case Access.MANAGEMENT if required.management and caller is None:
            raise Unauthenticated("this route needs a management key; send it as: Authorization: Bearer KEY")
        case Access.MANAGEMENT if required.management and caller and not caller.is_manager:
            raise Forbidden(f"key {caller.name!r} is an inference key; this route needs a management key")
