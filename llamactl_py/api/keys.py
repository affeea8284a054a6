"""Inference keys: what clients of /v1 present."""

from __future__ import annotations

from aiohttp import web
from pydantic import Field

from llamactl_py.api.route import Route, read_model
from llamactl_py.api.views import KeyView, NewKeyView, show_key
from llamactl_py.auth.policy import Access
from llamactl_py.ground import errors
from llamactl_py.ground.errors import Invalid, NotFound, Problem
from llamactl_py.ground.names import KeyName
from llamactl_py.ground.validation import Frozen
from llamactl_py.services import Services


class NewKey(Frozen):
    """What a new inference key is to be."""

    name: KeyName = Field(description="Who or what it is for.")
    expires_at: int | None = Field(
        default=None, le=253_402_300_799, description="Unix seconds, to the year 9999; without it the key does not expire."
    )


async def list_keys(services: Services, request: web.Request) -> list[KeyView]:
    """List the inference keys.

    Newest first, without the keys themselves: those are told once, when they are made.
    """
    return [show_key(row) for row in services.keys.all()]


async def get_key(services: Services, request: web.Request) -> KeyView:
    """Show one inference key, without the key itself."""
    return show_key(services.keys.get(_id(request)))


async def create_key(services: Services, request: web.Request) -> NewKeyView:
    """Make an inference key.

    The answer is the only place where the key itself is ever told.
    """
    wanted = await read_model(request, NewKey)
    if wanted.expires_at is not None and wanted.expires_at <= services.now():
        raise Invalid([Problem("expires_at", f"{wanted.expires_at} has passed already; give a moment to come, in Unix seconds")])
    row, key = await services.keys.create(wanted.name, wanted.expires_at)
    return NewKeyView(**show_key(row).model_dump(), key=key)


async def delete_key(services: Services, request: web.Request) -> None:
    """Revoke an inference key, at once."""
    await services.keys.remove(_id(request))
    services.settle_ledger()


def _id(request: web.Request) -> int:
    text = request.match_info["id"]
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise NotFound(f"there is no key with id {text[:40]!r}")
    return int(text)


_BASE = "/api/v1/auth/keys"

ROUTES = (
    Route("GET", _BASE, list_keys, Access.MANAGEMENT, "keys", returns=list[KeyView]),
    Route(
        "POST", _BASE, create_key, Access.MANAGEMENT, "keys", NewKey, NewKeyView, 201,
        raises=(errors.BadRequest, errors.Invalid, errors.StorageFailed, errors.TooLarge), example={"name": "notebook"},
    ),
    Route("GET", f"{_BASE}/{{id}}", get_key, Access.MANAGEMENT, "keys", returns=KeyView, raises=(errors.NotFound,)),
    Route(
        "DELETE", f"{_BASE}/{{id}}", delete_key, Access.MANAGEMENT, "keys", status=204,
        raises=(errors.NotFound, errors.StorageFailed),
    ),
)  # fmt: skip
