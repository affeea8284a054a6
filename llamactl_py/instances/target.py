"""All that a relay may know of a running instance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Target:
    """Where a request goes. *headers* carry the backend's own key: they are added to the request, and never shown."""

    instance: str
    host: str
    port: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    resting_connections: int = 0
    """How many idle connections the backend can bear."""

    @property
    def authority(self) -> tuple[str, int]:
        return self.host, self.port
