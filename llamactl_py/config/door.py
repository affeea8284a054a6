"""The door: where it is, who can reach it, and which locks it needs for that."""

from __future__ import annotations

import ipaddress
import socket

from llamactl_py.config.settings import Settings
from llamactl_py.ground.errors import BadConfiguration, DaemonRefused, Problem


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


def listen(settings: Settings) -> socket.socket:
    """The listening socket, bound before anything is started. Raises DaemonRefused."""
    host, port = settings.server.host, settings.server.port
    try:
        name = host.encode() if host.isascii() else host  # text would bring the tables of international names, only to be ASCII
        family, kind, protocol, _, address = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1024)
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:  # the latter: a name that no domain name can be
        why = getattr(error, "strerror", None) or error
        raise DaemonRefused(f"cannot listen on {host}:{port}: {why}; choose another with --host and --port") from None
    listener.setblocking(False)
    return listener


def for_url(host: str) -> str:
    """*host* as others on this machine reach it."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 not bound here, only compared
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
