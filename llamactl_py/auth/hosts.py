"""Is a request meant for this server? Any web page can have a name of its own lead to 127.0.0.1 (DNS rebinding). Pure."""

from __future__ import annotations

import ipaddress
import re

from llamactl_py.config.settings import Server

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{1,5})?")
"""A Host header: an address or a name, and a port. Nothing that one reader might take for the host and another might not."""


def names_us(host: str, server: Server) -> bool:
    """Is *host* (a Host header) an address, a loopback name, our listen address, or one of the allowed names?"""
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = (match[1] or match[2]).removesuffix(".").casefold()
    ours = ("localhost", server.host, *server.allowed_hosts)
    return any(name == known.casefold() for known in ours) or _is_address(name)


def _is_address(name: str) -> bool:
    """An address cannot be rebound: a page can only have it as its own host if it was served from there."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
