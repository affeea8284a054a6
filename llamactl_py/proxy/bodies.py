"""How much memory the bodies of all requests together may take. What is more waits outside, that is: it is refused for now."""

from __future__ import annotations

from llamactl_py.ground.errors import NoRoom


class Bodies:
    """Its state is how many bytes are held, by those who have yet to give them back."""

    def __init__(self, most: int) -> None:
        self.held = 0
        self._most = most

    def fits(self, size: int) -> bool:
        return self.held + size <= self._most

    def take(self, size: int) -> None:
        """Hold *size* bytes more. Raises NoRoom."""
        if not self.fits(size):
            error = NoRoom(f"the bodies of requests in flight take all of their {self._most} bytes (server.max_buffered_bodies)")
            error.retry_after = 1.0
            raise error
        self.held += size

    def give_back(self, size: int) -> None:
        self.held -= size
