"""Every request's entry, and the sums of them. It reads no clock but for dates, and stores no prompt, answer, query or key.

    entry = ledger.begin(loop.time(), instance, model, key_name, method, path, len(body), is_streamed)
    entry.loading = loop.time()     # only if its instance is not up and has to load for it
    entry.granted = loop.time()     # it holds its lease
    entry.first_byte = loop.time()  # the answer begins to go out
    tail.feed(piece)                # each piece of the body, where tells_usage(content_type)
    entry.end(loop.time(), 200, Outcome.ANSWERED, bytes_out, tail)

Moments are seconds on one clock, the loop's; a step that did not happen is left out. `begin` is for when a request is known
whole: its body read, its instance found. One that is refused before that begins and ends in the same moment, with "" for what
is not known. Only the first `end` of an entry counts, so that a `finally` may end it once more as Outcome.LEFT.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Container, Iterator, Sequence
from enum import StrEnum
from operator import attrgetter

import msgspec

from llamactl_py.accounting.sums import Sums
from llamactl_py.accounting.tail import Tail, of_answer
from llamactl_py.accounting.usage import Usage
from llamactl_py.ground import chance
from llamactl_py.ground.clock import Now

LONGEST_MODEL, LONGEST_PATH, LONGEST_METHOD = 256, 256, 16
"""Characters that are kept."""
MOST_PAIRS = 1000
"""Pairs of instance and key that have sums of their own; what is more is summed under OTHER."""
MOST_ANSWERS = 50
"""Pairs of status and outcome that are told apart in each of them; what is more counts as status 0."""
FOLD_AFTER = 600.0
"""Seconds that the sums of a deleted instance or key stand alone, so that whoever reads them has seen the last of them."""
OTHER, DELETED = "(other)", "(deleted)"
"""Stand for many; no instance can have such a name."""
MOST_ENDED = 64
"""Requests that are over and in no sums yet."""
SHORT = 1 << 12
"""Bytes of an answer that may be kept for one of them until then."""
_NO_NAMES = frozenset(("", OTHER, DELETED))
_ID = re.compile(r"([0-9a-z]{1,16})-([0-9a-f]{1,16})")


class Outcome(StrEnum):
    """What became of a request."""

    ANSWERED = "answered"
    """The backend's answer went out whole, whatever its status."""
    FAILED = "failed"
    """There was no backend's answer to pass on: it could not be started, or gave none."""
    LEFT = "left"
    """The client went before the end."""
    CUT = "cut"
    """The backend's answer broke off, and with it what the client got."""
    REFUSED = "refused"
    """We did not take it: no key, no such model, no room, too large."""


class Entry(msgspec.Struct, eq=False):
    """One request. `Ledger.begin` sets what has no default, whoever carries the request the next three fields, `end` the rest.

    *is_streamed* may be set as late as its answer tells. Moments are on the loop's clock; *date* is the Unix time of *arrived*.
    """

    ledger: Ledger
    number: int
    date: float
    arrived: float
    instance: str
    model: str
    key: str
    method: str
    path: str
    bytes_in: int
    is_streamed: bool
    sums: Sums
    loading: float | None = None
    granted: float | None = None
    first_byte: float | None = None
    ended: float | None = None
    status: int = 0
    outcome: Outcome | None = None
    bytes_out: int = 0
    told: Usage | Tail | bytes | None = None

    @property
    def id(self) -> str:
        """A short name of its own, for logs and people: `4f1c-2a`. Later requests of a daemon have greater numbers."""
        return f"{self.ledger.run}-{self.number:x}"

    @property
    def usage(self) -> Usage | None:
        """What its answer said of itself; None if there was none."""
        if isinstance(self.told, bytes):
            self.told = of_answer(self.told)
        elif isinstance(self.told, Tail):
            self.told = self.told.read()
        return self.told

    def end(self, at: float, status: int, outcome: Outcome, bytes_out: int = 0, told: Usage | Tail | bytes | None = None) -> None:
        """It is over. *status*: what the client was answered, 0 if it was not; *bytes_out*: bytes of the answer's body; *told*:
        what that said of itself, or where that is to be looked for: its tail, or all of it."""
        if self.outcome is None:
            self.ended, self.status, self.outcome, self.bytes_out, self.told = at, status, outcome, bytes_out, told
            self.sums.in_flight -= 1
            ended = self.ledger.ended
            ended.append(self)
            if len(ended) >= MOST_ENDED or bytes_out > SHORT:
                self.ledger.add_up()


class Ledger:
    """The newest *history* entries, those in flight among them, and the sums of all that there were.

    What ended is added up many at a time, and not while the next client waits. *now* gives the dates; *run* tells one daemon's
    ids from those of another.
    """

    def __init__(self, history: int, now: Now, run: str | None = None) -> None:
        self.since = now()
        """Unix time from which on everything is counted."""
        self.fold_after = FOLD_AFTER
        """Seconds, see there."""
        self.run = chance.token(2) if run is None else run
        self.ended: list[Entry] = []
        """Those that are over and in no sums yet."""
        self._now = now
        self._count = 0
        self._entries: deque[Entry] = deque(maxlen=history)
        self._sums: dict[tuple[str, str], Sums] = {}
        self._gone_since: dict[tuple[str, str], float] = {}

    def begin(
        self,
        at: float,
        instance: str,
        model: str,
        key: str,
        method: str,
        path: str,
        bytes_in: int = 0,
        is_streamed: bool = False,
    ) -> Entry:
        """A request has arrived at the moment *at*. *instance*: the one it is for; *model*: what it asked for; *key*: the name of
        its key; *path*: its query is left out; *bytes_in*: of its body; *is_streamed*: it asked for a stream of events."""
        sums = self._sums.get((instance, key)) or self._open(instance, key)
        sums.in_flight += 1
        self._count = number = self._count + 1
        if "?" in path or len(path) > LONGEST_PATH:
            path = path.partition("?")[0][:LONGEST_PATH]
        model, method = model[:LONGEST_MODEL], method[:LONGEST_METHOD]
        entry = Entry(self, number, self._now(), at, instance, model, key, method, path, bytes_in, is_streamed, sums)
        self._entries.append(entry)
        return entry

    def add_up(self) -> None:
        """Bring the sums up to date."""
        ended, self.ended = self.ended, []
        for sums in {id(entry.sums): entry.sums for entry in ended}.values():
            _add([entry for entry in ended if entry.sums is sums], sums)

    def _open(self, instance: str, key: str) -> Sums:
        """The sums of a pair that has none yet; of all others together when there are too many."""
        pair = (instance, key) if len(self._sums) < MOST_PAIRS else (OTHER, OTHER)
        return self._sums.setdefault(pair, Sums())

    def keep(self, instances: Container[str], keys: Container[str], at: float) -> None:
        """Hear at the moment *at* which instances and keys exist. The sums of others are added to those of DELETED when they
        have been gone for *fold_after* seconds: totals stay what they are, and names do not pile up."""
        for pair in list(self._sums):
            instance, key = pair
            kept = (
                instance if instance in instances or instance in _NO_NAMES else DELETED,
                key if key in keys or key in _NO_NAMES else DELETED,
            )
            if kept == pair:
                self._gone_since.pop(pair, None)
            elif at - self._gone_since.setdefault(pair, at) >= self.fold_after and not self._sums[pair].in_flight:
                self.add_up()
                del self._gone_since[pair]
                gone = self._sums.pop(pair)
                (self._sums.get(kept) or self._open(*kept)).merge(gone)

    def sums(self) -> Iterator[tuple[str, str, Sums]]:
        """(instance, key, what their requests came to), of every pair. They go on changing: copy what is to stay."""
        self.add_up()
        return ((instance, key, sums) for (instance, key), sums in self._sums.items())

    def entries(self, before: int | None = None) -> Iterator[Entry]:
        """The newest requests, newest first; *before*: those with a smaller number only."""
        return (entry for entry in reversed(self._entries) if before is None or entry.number < before)

    def entry(self, number: int) -> Entry | None:
        """The request with that number, if it is one of the newest."""
        index = number - self._count - 1 + len(self._entries)  # the last one has the number of the count
        return self._entries[index] if 0 <= index < len(self._entries) else None

    def number(self, id_: str) -> int | None:
        """The number in an id; None if it is no id of this daemon's."""
        match = _ID.fullmatch(id_)
        return int(match[2], 16) if match and match[1] == self.run else None


def _add(entries: Sequence[Entry], sums: Sums) -> None:
    """Add what *entries*, which have ended, came to. This is done for every request, in as few steps as we could find."""
    durations, first_bytes, queues, loads = [], [], [], []
    answers = sums.answers
    for arrived, loading, granted, first_byte, ended, status, outcome in map(_MOMENTS, entries):
        durations.append(ended - arrived)
        if first_byte is not None:
            first_bytes.append(first_byte - arrived)
        if granted is not None:
            queues.append((granted if loading is None else loading) - arrived)
            if loading is not None:
                loads.append(granted - loading)
        answer = (status, outcome)
        answers[answer if answer in answers or len(answers) < MOST_ANSWERS else (0, outcome)] += 1
    sums.duration.add(durations)
    sums.first_byte.add(first_bytes)
    sums.queue.add(queues)
    sums.load.add(loads)
    sums.bytes_in += sum(map(_BYTES_IN, entries))
    sums.bytes_out += sum(map(_BYTES_OUT, entries))
    usages = [usage for entry in entries if (usage := entry.usage) is not None]
    sums.prompt_tokens += sum(filter(None, map(_PROMPT_TOKENS, usages)))
    sums.cached_tokens += sum(filter(None, map(_CACHED_TOKENS, usages)))
    sums.completion_tokens += sum(filter(None, map(_COMPLETION_TOKENS, usages)))
    sums.prompt_seconds += sum(filter(None, map(_PROMPT_SECONDS, usages)))
    sums.generation_seconds += sum(filter(None, map(_GENERATION_SECONDS, usages)))


_MOMENTS = attrgetter("arrived", "loading", "granted", "first_byte", "ended", "status", "outcome")
_BYTES_IN, _BYTES_OUT = attrgetter("bytes_in"), attrgetter("bytes_out")
_PROMPT_TOKENS, _CACHED_TOKENS = attrgetter("prompt_tokens"), attrgetter("cached_tokens")
_COMPLETION_TOKENS = attrgetter("completion_tokens")
_PROMPT_SECONDS, _GENERATION_SECONDS = attrgetter("prompt_seconds"), attrgetter("generation_seconds")
