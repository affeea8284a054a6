"""Keys: what clients present, and what it opens for them. Made, changed and revoked here; see `auth` for what they are."""

from __future__ import annotations

from typing import TypeVar

from aiohttp import web
from msgspec import UNSET
from msgspec.structs import asdict, replace

from llamactl_py.api.key_forms import (
    KeyChange,
    KeyView,
    NewKey,
    NewKeyView,
    PermissionView,
    coded,
    grant_of,
    refuse_past,
    show_key,
)
from llamactl_py.api.route import Route, read_model
from llamactl_py.auth.policy import Access
from llamactl_py.ground import errors
from llamactl_py.ground.errors import Invalid, NotFound
from llamactl_py.ground.grant import Grant
from llamactl_py.services import Services
from llamactl_py.storage.keys import KeyRow

Form = TypeVar("Form", bound=KeyChange)


async def list_keys(services: Services, request: web.Request) -> list[KeyView]:
    """List the keys.

    Newest first, without the keys themselves: those are told once, when they are made. The management keys of the data
    directory and of the settings are not among them.
    """
    names = _names(services)
    return [show_key(row, names) for row in services.keys.all()]


async def get_key(services: Services, request: web.Request) -> KeyView:
    """Show one key, without the key itself."""
    return show_key(services.keys.get(_id(request)), _names(services))


async def get_permissions(services: Services, request: web.Request) -> list[PermissionView]:
    """List the instances that a key may use.

    Those of its groups among them; empty for a key that may use all.
    """
    grant = services.keys.get(_id(request)).grant
    return [
        PermissionView(instance_id=instance.id, instance_name=instance.name)
        for instance in services.fleet
        if not grant.is_for_all and grant.may_use(instance.id, instance.options.group)
    ]


async def create_key(services: Services, request: web.Request) -> NewKeyView:
    """Make a key.

    The answer is the only place where the key itself is ever told.
    """
    wanted = await _read(request, NewKey)
    expires_at = None if wanted.expires_at is UNSET else wanted.expires_at
    refuse_past(expires_at, services.now())
    grant = grant_of(wanted, Grant(wanted.scope), services.fleet)
    row, key = await services.keys.create(wanted.name, expires_at, grant)
    return NewKeyView(**asdict(show_key(row, _names(services))), key=key)


async def change_key(services: Services, request: web.Request) -> KeyView:
    """Change a key.

    What is left out stays as it is; `expires_at: null` means never. A new list of instances, or of groups, takes the place of
    the old one. It counts from the next request on. The scope stays: make another key for another one.
    """
    wanted = await _read(request, KeyChange)

    def changed(row: KeyRow) -> KeyRow:
        expires_at = row.expires_at
        if wanted.expires_at is not UNSET:
            expires_at = wanted.expires_at
            refuse_past(expires_at, services.now())
        grant = grant_of(wanted, row.grant, services.fleet)
        return replace(row, name=wanted.name or row.name, expires_at=expires_at, grant=grant)

    row = await services.keys.edit(_id(request), changed)
    services.settle_ledger()
    return show_key(row, _names(services))


async def delete_key(services: Services, request: web.Request) -> None:
    """Revoke a key, at once.

    Its next request is refused. An answer of a model that has begun goes on to its end; what follows logs or events is cut.
    """
    await services.keys.remove(_id(request))
    services.settle_ledger()


async def _read(request: web.Request, form: type[Form]) -> Form:
    try:
        return await read_model(request, form)
    except Invalid as error:
        raise coded(error) from None


def _names(services: Services) -> dict[int, str]:
    return {instance.id: instance.name for instance in services.fleet}


def _id(request: web.Request) -> int:
    text = request.match_info["id"]
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise NotFound(f"there is no key with id {text[:40]!r}")
    return int(text)


_BASE = "/api/v1/auth/keys"
_ONE = f"{_BASE}/{{id}}"
_CHANGES = (errors.BadRequest, errors.Invalid, errors.StorageFailed, errors.TooLarge)

ROUTES = (
    Route("GET", _BASE, list_keys, Access.READ, "keys", returns=list[KeyView]),
    Route(
        "POST", _BASE, create_key, Access.MANAGEMENT, "keys", NewKey, NewKeyView, 201, raises=_CHANGES,
        location=_ONE, example={"name": "notebook", "instances": ["qwen"], "may_evict": False},
    ),
    Route("GET", _ONE, get_key, Access.READ, "keys", returns=KeyView, raises=(errors.NotFound,)),
    Route(
        "PATCH", _ONE, change_key, Access.MANAGEMENT, "keys", KeyChange, KeyView, raises=(*_CHANGES, errors.NotFound),
        example={"name": "old notebook", "expires_at": 1893456000},
    ),
    Route(
        "DELETE", _ONE, delete_key, Access.MANAGEMENT, "keys", status=204, raises=(errors.NotFound, errors.StorageFailed),
    ),
    Route(
        "GET", f"{_ONE}/permissions", get_permissions, Access.READ, "keys", returns=list[PermissionView],
        raises=(errors.NotFound,),
    ),
)  # fmt: skip
