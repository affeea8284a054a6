"""Who can reach the door, and which locks it needs."""

from __future__ import annotations

import ipaddress

from llamactl_py.config.settings import Settings
from llamactl_py.ground.errors import BadConfiguration, Problem


def refuse_open_door(settings: Settings) -> None:
    """Whoever may manage may run any command here: a door that others can reach needs both locks. Raises BadConfiguration."""
    auth = settings.auth
    if not is_loopback(settings.server.host) and not (auth.require_inference_auth and auth.require_management_auth):
        what = (
            f"refusing to listen on {settings.server.host} without keys: set auth.require_inference_auth and "
            "auth.require_management_auth to true, or listen on 127.0.0.1"
        )
        raise BadConfiguration([Problem("", what)])


def is_loopback(host: str) -> bool:
    """Can only this machine reach *host*?"""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
