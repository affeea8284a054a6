"""What can go wrong, in the words of the domain.

No HTTP here: `api/problems.py` has the one table that gives each of these a status. Every message names the
thing and the value, and says what to do next; it is safe to show to the caller.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from msgspec import Struct


class LlamactlError(Exception):
    """Root of all errors that we raise on purpose."""

    retry_after: float | None = None
    """Seconds after which trying again may help; None where waiting does not help."""


class NotFound(LlamactlError):
    """Nothing has that name."""


class UnknownModel(NotFound):
    """No instance answers to that model name."""


class NameTaken(LlamactlError):
    """The name, or an alias, belongs to another instance already."""


class Conflict(LlamactlError):
    """The thing exists, but not in a state that allows this."""


class Changed(LlamactlError):
    """Somebody has changed the thing since the caller looked (If-Match). `revision` is what it has now."""

    revision: str = ""


class Declared(Conflict):
    """The configuration file declares the instance: it is changed there, and not through the API."""


class LimitReached(LlamactlError):
    """A configured number (max_instances, ...) is used up."""


class NotRunning(LlamactlError):
    """The instance is not running and may not be started by this request."""


class NoRoom(LlamactlError):
    """Every running slot is held by a busy, loading or pinned instance."""


class TooManyWatchers(LlamactlError):
    """As many follow events and logs as may at once."""


class TimedOut(LlamactlError):
    """The request's own deadline passed while its model was still loading or queued."""


class StartFailed(LlamactlError):
    """The backend could not be started, or died before it was ready."""


class WasStopped(LlamactlError):
    """The instance was stopped while a request waited for it."""


class ShuttingDown(LlamactlError):
    """The daemon is going away."""


class BackendFailed(LlamactlError):
    """The backend took the request and gave no usable answer."""


class StorageFailed(LlamactlError):
    """The database could not be read or written; nothing was changed."""


class Unauthenticated(LlamactlError):
    """No key, or none that is known and has not expired."""


class Forbidden(LlamactlError):
    """The key is known and may not do this; or the request came from another site's page."""


class BadRequest(LlamactlError):
    """The request itself cannot be understood."""


class TooLarge(LlamactlError):
    """The request's body is over the configured limit."""


class WrongType(LlamactlError):
    """The request's body is of a media type that is not taken here."""


class DaemonRefused(LlamactlError):
    """The daemon cannot start like this: port or data directory taken, database damaged, a tool missing."""


class Problem(Struct, frozen=True):
    """One thing wrong with one field: where (dotted path, as the caller wrote it; or FILE:LINE) and what."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


class BadConfiguration(DaemonRefused):
    """Settings are unknown or wrong; each problem names its file and line, its variable, or its flag."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)))


class Invalid(LlamactlError):
    """Input with one or more problems, each naming its field."""

    def __init__(self, problems: Iterable[Problem], code: str = "") -> None:
        """*code*: a word for programs that says which problem it is, where llamactl has one."""
        self.problems, self.code = tuple(problems), code
        super().__init__("; ".join(map(str, self.problems)))


class BadCommand(Invalid):
    """A pasted command line that cannot be read: an open quote, a pipe, an unknown program."""


class InvalidName(Invalid):
    """A name that no instance may have."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for an unknown word: `" (did you mean 'x'?)"`, or the empty string when nothing is near."""
    by_fold = {k.casefold(): k for k in known}
    folded = word.casefold()
    close = get_close_matches(folded, by_fold, n=1, cutoff=0.6) or [k for k in by_fold if sorted(k) == sorted(folded)]
    return f" (did you mean {by_fold[close[0]]!r}?)" if close else ""
