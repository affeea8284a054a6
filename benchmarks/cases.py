"""What is measured of every candidate: each case asks through a door, and gives its figures by name."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.load import Door, Load
from benchmarks.results import Figures

Measure = Callable[[Load, Door, float], Figures]
PERIOD_US = 10_000
GRACE = 3.0
"""Seconds that streams may take longer than they are meant to."""
RAMP = 100
"""Periods over which spread streams begin."""
UPLOADS_A_SECOND = 20
FEWEST_SLICES = 8


@dataclass(frozen=True)
class Case:
    """*measure* takes about as many seconds as it is told. *is_in_turns*: those whose ratios are judged; all candidates stand
    side by side for them. Growth is asked of ourselves only, beside direct."""

    name: str
    title: str
    measure: Measure
    is_in_turns: bool = False
    is_of_growth: bool = False


@dataclass(frozen=True)
class Undisturbed:
    """What the better slices of a case show, while nobody slowed the processors: of each figure the quartile on that side."""

    per_second: float
    p50_us: float


def undisturbed(told: Mapping[str, Any]) -> Undisturbed:
    """From what the client of requests *told*; of the whole of it where that was too short for slices."""
    slices = [slice_ for slice_ in told["slices"] if slice_[1]]
    if len(slices) < FEWEST_SLICES:
        return Undisturbed(told["answered"] / told["seconds"], told["latency"]["p50"])
    return Undisturbed(-_quartile([-seen / seconds for seconds, seen, _ in slices]), _quartile([p50 for _, _, p50 in slices]))


def _quartile(values: Sequence[float]) -> float:
    """The lower one."""
    return statistics.quantiles(values, n=4)[0]


def connections(count: int) -> Measure:
    def measure(load: Load, door: Door, seconds: float) -> Figures:
        told = load.requests(door, count, seconds)
        best = undisturbed(told)
        return {
            "rps": best.per_second,
            "p50_us": best.p50_us,
            "p99_us": told["latency"]["p99"],
            "cpu_us": told["cpu"] / told["answered"] * 1e6,
            "mean_rps": told["answered"] / told["seconds"],
            "connects": told["connects"] / told["answered"],
            "waited": told["waited"] / told["seconds"],
        }

    return measure


def paced(streams: int, *, period_us: int = PERIOD_US, is_spread: bool = False, longer: int = 1) -> Measure:
    def measure(load: Load, door: Door, seconds: float) -> Figures:
        events = max(2, round(longer * seconds * 1e6 / period_us))
        ramp = min(RAMP, events // 2) if is_spread else 0
        bound = (events + ramp) * period_us / 1e6 + GRACE
        told = load.streams(door, streams, events, period_us, bound, ramp=ramp, in_steps=not is_spread)
        return {**_of_streams(told), "unfinished": told["unfinished"]}

    return measure


def flat_out(load: Load, door: Door, seconds: float) -> Figures:
    told = load.streams(door, 16, 10_000_000, 0, seconds, must_end=False)
    return {**_of_streams(told), "per_second": told["events"] / told["seconds"]}


def upload(load: Load, door: Door, seconds: float) -> Figures:
    told = load.requests(door, 1, 5 * seconds, count=math.ceil(UPLOADS_A_SECOND * seconds), is_large=True)
    return {
        "p50_ms": told["latency"]["p50"] / 1e3,
        "p99_ms": told["latency"]["p99"] / 1e3,
        "cpu_ms": told["cpu"] / told["answered"] * 1e3,
    }


def _of_streams(told: Mapping[str, Any]) -> dict[str, float]:
    delay, first = told["delay"] or {}, told["first_event"] or {}
    return {
        "events": told["events"],
        "p50_us": delay.get("p50", math.nan),
        "p99_us": delay.get("p99", math.nan),
        "max_us": delay.get("max", math.nan),
        "ttfb_p50_us": first.get("p50", math.nan),
        "ttfb_p99_us": first.get("p99", math.nan),
        "cpu_us": told["cpu"] / told["events"] * 1e6 if told["events"] else math.nan,
        "waited": told["waited"] / told["seconds"],
    }


MANY = paced(2000, period_us=200_000, is_spread=True, longer=2)

CASES = (
    Case("sequential", "1 connection, one request after the other", connections(1), is_in_turns=True),
    Case("c8", "8 connections", connections(8)),
    Case("c64", "64 connections", connections(64), is_in_turns=True),
    # Before the streams: who cannot keep up with those is busy with them long after their clients have left.
    Case("upload", "10 MiB bodies, the model at their end", upload, is_in_turns=True),
    Case("paced100", "100 streams, an event each 10 ms, in bursts", paced(100), is_in_turns=True),
    Case("paced400", "400 streams, an event each 10 ms, in bursts", paced(400), is_in_turns=True),
    Case("spread100", "100 streams, an event each 10 ms, evenly spread", paced(100, is_spread=True)),
    # As many events a second from one as from a hundred and from two thousand, so that the cost of each can be compared.
    Case("streams1", "1 stream, an event each 0.1 ms", paced(1, period_us=100), is_of_growth=True),
    Case("streams2000", "2,000 streams, an event each 200 ms", MANY, is_of_growth=True),
    Case("flat", "16 streams, events as fast as they are taken", flat_out),
)
