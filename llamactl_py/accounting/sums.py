"""What many requests come to: counters and histograms of one pair of instance and key. Knows no single request."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Upper bounds of the buckets of every histogram, in seconds: from a cached answer to the load of a large model."""


class Histogram:
    """How many took how long. *counts*: one for each of BOUNDS, and one for all above; *total*: seconds of all together."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def add(self, seconds: list[float]) -> None:
        """So long each of some took. Puts them in order."""
        self.total += sum(seconds)
        if len(seconds) < len(BOUNDS):
            for one in seconds:
                self.counts[bisect_left(BOUNDS, one)] += 1
            return
        seconds.sort()
        counted = 0
        for bucket, bound in enumerate(BOUNDS):
            if counted == len(seconds):
                return
            upto = bisect_right(seconds, bound, counted)
            self.counts[bucket] += upto - counted
            counted = upto
        self.counts[-1] += len(seconds) - counted

    def merge(self, other: Histogram) -> None:
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.total += other.total


class Sums:
    """Everything that is counted; seconds, bytes and tokens since the daemon started."""

    __slots__ = (
        "answers", "bytes_in", "bytes_out", "cached_tokens", "completion_tokens", "duration", "first_byte", "generation_seconds",
        "in_flight", "load", "prompt_seconds", "prompt_tokens", "queue",
    )  # fmt: skip

    def __init__(self) -> None:
        self.answers: Counter[tuple[int, str]] = Counter()
        """How many requests ended with which status and outcome."""
        self.in_flight = 0
        self.bytes_in = self.bytes_out = 0
        self.prompt_tokens = self.cached_tokens = self.completion_tokens = 0
        self.prompt_seconds = self.generation_seconds = 0.0
        """Time of the backend, where it tells."""
        self.queue, self.load, self.first_byte, self.duration = Histogram(), Histogram(), Histogram(), Histogram()

    def copy(self) -> Sums:
        """As they are now."""
        copied = Sums()
        copied.merge(self)
        return copied

    def merge(self, other: Sums) -> None:
        """Add what *other* has counted."""
        self.answers.update(other.answers)
        self.in_flight += other.in_flight
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        self.prompt_tokens += other.prompt_tokens
        self.cached_tokens += other.cached_tokens
        self.completion_tokens += other.completion_tokens
        self.prompt_seconds += other.prompt_seconds
        self.generation_seconds += other.generation_seconds
        self.queue.merge(other.queue)
        self.load.merge(other.load)
        self.first_byte.merge(other.first_byte)
        self.duration.merge(other.duration)
