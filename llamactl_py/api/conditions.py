"""Conditional requests (RFC 9110, section 13): `If-Match` keeps two people from undoing each other's changes."""

from __future__ import annotations

import re

from aiohttp import web

from llamactl_py.api.route import Query
from llamactl_py.ground.errors import BadRequest, Changed
from llamactl_py.instances.fleet import refuse_changed
from llamactl_py.instances.instance import Instance

_TAGS = re.compile(r'\s*(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"\s*(?:,\s*(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"\s*)*')
_TAG = re.compile(r'(W/)?"([^"]*)"')

ANY: list[str] = []
"""Stands for every tag."""

IF_MATCH = Query("If-Match", "The ETag of what you saw: refused with 412 when it was changed meanwhile. Optional.")
IF_NONE_MATCH = Query("If-None-Match", "An ETag: answered 304 while the options are still those. State and process may differ.")


def expected(request: web.Request) -> list[str] | None:
    """The revisions that `If-Match` allows; None where any will do. A weak tag allows none, as the RFC has it.

    Raises BadRequest.
    """
    tags = _tags(request, "If-Match", weak=False)
    return None if tags is ANY else tags


def refuse_unmet(request: web.Request, instance: Instance) -> None:
    """Raises HTTPNotModified (for a GET) or Changed where `If-None-Match` has the tag of *instance*, or is `*`."""
    refused = _tags(request, "If-None-Match", weak=True)
    if refused is None or (refused is not ANY and instance.revision not in refused):
        return
    if request.method in ("GET", "HEAD"):
        raise web.HTTPNotModified(headers={"ETag": f'"{instance.revision}"', "Cache-Control": "no-store"})
    error = Changed(f"instance {instance.name!r} is what If-None-Match forbids it to be; leave the header out to change it")
    error.revision = instance.revision
    raise error


def refuse_stale(request: web.Request, instance: Instance) -> None:
    """Raises Changed where a condition of *request* does not hold now."""
    refuse_changed(instance, expected(request))
    refuse_unmet(request, instance)


def _tags(request: web.Request, header: str, *, weak: bool) -> list[str] | None:
    """The tags in *header*: ANY for `*`, None without the header."""
    text = ",".join(request.headers.getall(header, ())).strip()
    if not text:
        return None
    if text == "*":
        return ANY
    if not _TAGS.fullmatch(text):
        raise BadRequest(f"{header} takes an ETag in double quotes, several with commas between, or *; got {text[:80]!r}")
    return [found[2] for found in _TAG.finditer(text) if weak or not found[1]]
