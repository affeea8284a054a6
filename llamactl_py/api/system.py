"""The daemon itself: its version, its health, its API's description, and the page at its root."""

from __future__ import annotations

import platform
from typing import ClassVar, Literal

from aiohttp import web

from llamactl_py import __version__
from llamactl_py.api.route import Route, View
from llamactl_py.auth.policy import Access
from llamactl_py.ground import errors
from llamactl_py.ground.errors import NotFound, ShuttingDown
from llamactl_py.services import Services

PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""For our own page: nothing inline, nothing from elsewhere, in nobody's frame."""
VIEWER_HEADERS = PAGE_HEADERS | {
    "Content-Security-Policy": f"{PAGE_HEADERS['Content-Security-Policy']}; img-src 'self' data:; object-src 'none'"
}
"""The viewer's style sheet has its icons in it."""


class Health(View, omit_defaults=False):
    """The daemon answers."""

    status: Literal["ok"] = "ok"


class Ready(View, omit_defaults=False):
    """The daemon takes requests."""

    status: Literal["ready"] = "ready"


class NodeView(View):
    """Another machine with a llamactl."""

    address: str


class Nodes(View):
    """Other machines by name. There are none: one llamactl looks after the instances of its own machine."""

    SCHEMA: ClassVar = {"additionalProperties": {"$ref": "#/components/schemas/NodeView"}}


async def get_version(services: Services, request: web.Request) -> str:
    """Show the version of llamactl.

    Plain text, a line for each part. The first three are those of llamactl; a package has no commit and no build time.
    """
    build = "Commit: unknown\nBuild Time: unknown"
    return f"Version: {__version__}\n{build}\nPython: {platform.python_version()}\nPlatform: {platform.platform(terse=True)}\n"


async def get_health(services: Services, request: web.Request) -> Health:
    """Say whether the daemon answers. It says nothing about instances."""
    return Health()


async def get_ready(services: Services, request: web.Request) -> Ready:
    """Say whether the daemon takes requests.

    It does from its first answer on, until it is asked to end. It says nothing about instances.
    """
    if services.is_closing:
        raise ShuttingDown("llamactl is shutting down")
    return Ready()


async def list_nodes(services: Services, request: web.Request) -> dict[str, NodeView]:
    """List the other machines: none.

    For clients of llamactl, which has nodes.
    """
    return {}


async def get_node(services: Services, request: web.Request) -> NodeView:
    """Show another machine: there is none."""
    raise NotFound(f"there is no node named {request.match_info['node'][:60]!r}: one llamactl looks after its own machine only")


async def get_page(services: Services, request: web.Request) -> web.StreamResponse:
    """Show the web page."""
    return web.FileResponse(services.webui / "index.html", headers=PAGE_HEADERS)


async def get_viewer(services: Services, request: web.Request) -> web.StreamResponse:
    """Show the page that shows the description of the API."""
    return web.FileResponse(services.webui / "docs" / "index.html", headers=VIEWER_HEADERS)


async def get_asset(services: Services, request: web.Request) -> web.StreamResponse:
    """Give a file that the web page uses."""
    folder = services.webui.resolve()
    try:
        file = (folder / request.match_info["file"]).resolve()
        is_there = file.is_relative_to(folder) and file.is_file()
    except (OSError, ValueError):  # a name that no file can have
        is_there = False
    if not is_there:
        raise web.HTTPNotFound
    return web.FileResponse(file, headers=PAGE_HEADERS)


ROUTES = (
    Route("GET", "/api/v1/version", get_version, Access.READ, "system", returns=str),
    Route("GET", "/health", get_health, Access.PUBLIC, "system", returns=Health),
    Route("GET", "/ready", get_ready, Access.PUBLIC, "system", returns=Ready, raises=(errors.ShuttingDown,)),
    Route("GET", "/api/v1/nodes", list_nodes, Access.READ, "system", returns=Nodes),
    Route("GET", "/api/v1/nodes/{node}", get_node, Access.READ, "system", returns=NodeView, raises=(errors.NotFound,)),
)

PAGES = (
    Route("GET", "/", get_page, Access.PUBLIC, "pages"),
    Route("GET", "/docs", get_viewer, Access.PUBLIC, "pages"),
    Route("GET", "/ui/{file:.+}", get_asset, Access.PUBLIC, "pages"),
)
"""What browsers load; not part of the API."""
