"""A line for each request, for those who ask for it. Never the query: people put secrets there."""

from __future__ import annotations

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger


class AccessLog(AbstractAccessLogger):
    """Peer, method, path, status, bytes, seconds."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        path = "".join(c if c.isprintable() else "?" for c in request.path)
        self.logger.info("%s %s %s %d %d %.3f", request.remote, request.method, path, response.status, response.body_length, time)
