"""Builds the web application from services. No wiring here, and nothing that listens: tests use it as the daemon does."""

from __future__ import annotations

import logging

import msgspec
from aiohttp import web
from aiohttp.web_log import AccessLogger

from llamactl_py.api import (
    accounting,
    actions,
    backends,
    command,
    config,
    events,
    instances,
    keys,
    llama_cpp,
    logs,
    openai,
    programs,
    system,
)
from llamactl_py.api.access_log import AccessLog
from llamactl_py.api.middleware import ROUTE_OF, check_key, refuse_strangers, tell_problems
from llamactl_py.api.route import SERVICES, Route
from llamactl_py.api.views import DescriptionView
from llamactl_py.auth.policy import Access
from llamactl_py.services import Services


async def get_openapi(services: Services, request: web.Request) -> web.StreamResponse:
    """Describe this API in OpenAPI 3.1."""
    from llamactl_py.api import openapi

    return web.Response(body=msgspec.json.encode(openapi.document(API)), content_type="application/json")


API: tuple[Route, ...] = (
    *instances.ROUTES,
    *command.ROUTES,
    *actions.ROUTES,
    *logs.ROUTES,
    *events.ROUTES,
    *llama_cpp.ROUTES,
    *backends.ROUTES,
    *programs.ROUTES,
    *keys.ROUTES,
    *accounting.ROUTES,
    *config.ROUTES,
    *system.ROUTES,
    Route("GET", "/api/v1/openapi.json", get_openapi, Access.READ, "system", returns=DescriptionView),
    *openai.ROUTES,
)
"""Every operation. Handlers, OpenAPI, auth needs and tests derive from this table."""


def build_app(services: Services) -> web.Application:
    """The application. Run it with `handler_cancellation=True`: a client that leaves must end what it asked for."""
    app = web.Application(middlewares=(tell_problems, refuse_strangers, check_key))
    app[SERVICES] = services
    app[ROUTE_OF] = {}
    for route in (*API, *system.PAGES):
        app[ROUTE_OF][route.handle] = route
        for path in route.spellings:
            app.router.add_route(route.method, path, route.handle)
    return app


def runner_for(services: Services, access: AccessLog | None, shutdown_timeout: float) -> web.AppRunner:
    """What serves the application, on connections that it is given. *shutdown_timeout*: seconds."""
    return web.AppRunner(
        build_app(services),
        handler_cancellation=True,
        access_log=logging.getLogger(__name__) if access else None,  # only whether there is one matters
        access_log_class=access.of_aiohttp() if access else AccessLogger,
        keepalive_timeout=services.settings.server.keepalive_timeout,
        shutdown_timeout=shutdown_timeout,
    )
