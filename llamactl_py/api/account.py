"""One request's account: what the ledger is told of it, from the moment its instance is known to its end."""

from __future__ import annotations

from functools import lru_cache

from msgspec import to_builtins

from llamactl_py.accounting.ledger import Outcome
from llamactl_py.accounting.tail import Tail, tells_usage
from llamactl_py.api import problems
from llamactl_py.auth.policy import Caller
from llamactl_py.ground.errors import BackendFailed, LlamactlError, StartFailed, TimedOut
from llamactl_py.instances.instance import Instance
from llamactl_py.proxy.exchange import Watch
from llamactl_py.proxy.http1 import AnswerHead
from llamactl_py.proxy.relay import Relayed
from llamactl_py.services import Services

_tells_usage = lru_cache(64)(tells_usage)


ANSWERED, CUT = Outcome.ANSWERED, Outcome.CUT
DONE = b"data: [DONE]"
"""The last event of OpenAI's streams."""


class Account:
    """It ends once, with the first of `answered`, `refused` and `left`; whatever comes behind that counts for nothing."""

    _tail: Tail | None = None
    _told: Tail | bytes | None = None
    """The same, or a whole answer, if it may tell of usage."""
    _status = 0

    def __init__(
        self, services: Services, instance: Instance | None, model: str, caller: Caller, method: str, path: str, size: int
    ) -> None:
        """*model*: what was asked for; *size*: bytes of the request's body."""
        self.caller = caller
        self._services = services
        name = instance.name if instance else ""
        self._entry = services.ledger.begin(services.time(), name, model, caller.name, method, path, size)
        if services.bus.is_heard("request"):
            self._tell()

    def granted(self, instance: Instance, was_ready: bool) -> None:
        """It holds its lease on *instance*, which *was_ready* when the request came, or had to load for it."""
        entry = self._entry
        entry.granted = self._services.time()
        if not was_ready or instance.loads_since > entry.arrived:
            entry.loading = max(entry.arrived, instance.loads_since)

    def granted_at_once(self) -> None:
        self._entry.granted = self._entry.arrived

    def hear(self, head: AnswerHead) -> Watch:
        """The head of the answer is there; gives what is to watch its body."""
        self._entry.first_byte = self._services.time()
        self._status = head.status
        self._tail = tail = Tail()
        if _tells_usage(head.content_type):
            self._told = tail
            self._entry.is_streamed = head.content_type.startswith(b"text/event-stream")
        return tail.feed

    def hear_whole(self, head: AnswerHead, body: bytes) -> None:
        """`hear`, when the whole answer is there."""
        self._entry.first_byte = self._services.time()
        self._status = head.status
        if _tells_usage(head.content_type):
            self._told = body

    def answered(self, relayed: Relayed) -> None:
        """The answer went out, or broke off."""
        self._end(relayed.status, CUT if relayed.is_cut else ANSWERED, relayed.sent, self._told)

    def refused(self, error: LlamactlError) -> None:
        """There is no answer of a backend: *error* is told instead."""
        status, _ = problems.status_of(type(error))
        failed = isinstance(error, (BackendFailed, StartFailed, TimedOut))
        self._end(status, Outcome.FAILED if failed else Outcome.REFUSED)

    def left(self) -> None:
        """The client has gone, or we have failed it. One that goes with `[DONE]` has heard all that there was: OpenAI's clients
        do not wait for the end behind it."""
        if self._entry.outcome is not None:
            return
        sent = self._tail.total if self._tail else 0
        if isinstance(self._told, Tail) and self._told.ends_with(DONE):
            self._end(self._status, ANSWERED, sent, self._told)
        else:
            self._end(0, Outcome.LEFT, sent, self._told)

    def _end(self, status: int, outcome: Outcome, sent: int = 0, told: Tail | bytes | None = None) -> None:
        if self._entry.outcome is None:
            self._entry.end(self._services.time(), status, outcome, sent, told)
            if self._services.bus.is_heard("request"):
                self._tell()

    def _tell(self) -> None:
        """Tell those who watch requests that this one came, or ended."""
        from llamactl_py.api.accounting import show_request  # who watches came through what takes long to import

        self._services.bus.publish_passing("request", to_builtins(show_request(self._entry)))
