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

    @property
    def authority(self) -> str:
        return f"{self.host}:{self.port}"
