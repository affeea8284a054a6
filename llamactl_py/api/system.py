"""The daemon itself: its version, its health, its API's description, and the page at its root."""

from __future__ import annotations

import platform
from typing import Literal

from aiohttp import web
from pydantic import BaseModel

from llamactl_py import __version__
from llamactl_py.api.route import Route
from llamactl_py.auth.policy import Access
from llamactl_py.services import Services

PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""For our own page: nothing inline, nothing from elsewhere, in nobody's frame."""


class Health(BaseModel):
    """The daemon answers."""

    status: Literal["ok"] = "ok"


async def get_version(services: Services, request: web.Request) -> str:
    """Show the version of llamactl.

    Plain text, a line for each part.
    """
    return f"Version: {__version__}\nPython: {platform.python_version()}\nPlatform: {platform.platform(terse=True)}\n"


async def get_health(services: Services, request: web.Request) -> Health:
    """Say whether the daemon answers. It says nothing about instances."""
    return Health()


async def get_page(services: Services, request: web.Request) -> web.StreamResponse:
    """Show the web page."""
    return web.FileResponse(services.webui / "index.html", headers=PAGE_HEADERS)


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
    Route("GET", "/api/v1/version", get_version, Access.MANAGEMENT, "system", returns=str),
    Route("GET", "/health", get_health, Access.PUBLIC, "system", returns=Health),
)

PAGES = (
    Route("GET", "/", get_page, Access.PUBLIC, "pages"),
    Route("GET", "/ui/{file}", get_asset, Access.PUBLIC, "pages"),
)
"""What browsers load; not part of the API."""
