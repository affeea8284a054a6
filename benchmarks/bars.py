"""The bars of the data plane, and whether a run clears them. Ratios are taken turn by turn: machines drift meanwhile."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.names import ONE_THOUSAND, OURS
from benchmarks.results import Run, Spread, spread_of

MB_AFTER = 30


@dataclass(frozen=True)
class Bar:
    """*measured* gives a value for each round or turn that has one; their median has to be at least, or at most, *limit*."""

    case: str
    demand: str
    limit: float
    measured: Callable[[Run], Sequence[float]]
    is_floor: bool = False


@dataclass(frozen=True)
class Verdict:
    """What became of a bar; *spread* is None where it was not measured."""

    bar: Bar
    spread: Spread | None

    @property
    def holds(self) -> bool | None:
        if self.spread is None:
            return None
        return self.spread.median >= self.bar.limit if self.bar.is_floor else self.spread.median <= self.bar.limit


def verdicts(run: Run) -> list[Verdict]:
    return [Verdict(bar, spread_of(bar.measured(run))) for bar in BARS]


def of(case: str, figure: str) -> Callable[[Run], Sequence[float]]:
    """Our own figure."""
    return lambda run: list(run.rounds(OURS, case, figure).values())


def beside(peer: str, case: str, figure: str) -> Callable[[Run], Sequence[float]]:
    """Our figure in the measure of that peer's."""

    def measured(run: Run) -> Sequence[float]:
        theirs = run.rounds(peer, case, figure)
        return [value / theirs[n] for n, value in run.rounds(OURS, case, figure).items() if theirs.get(n)]

    return measured


def added_beside(peer: str) -> Callable[[Run], Sequence[float]]:
    """What we add to a request's time, in the measure of what that peer adds."""

    def measured(run: Run) -> Sequence[float]:
        direct, ours, theirs = (run.rounds(who, "sequential", "p50_us") for who in ("direct", OURS, peer))
        return [(ours[n] - direct[n]) / (theirs[n] - direct[n]) for n in ours if n in direct and theirs.get(n, 0) > direct[n]]

    return measured


def lost_streams(case: str) -> Callable[[Run], Sequence[float]]:
    """Streams that failed or did not end, of each round."""

    def measured(run: Run) -> Sequence[float]:
        broken = [1.0 for sample in run.failures() if (sample.candidate, sample.case) == (OURS, case)]
        lost = [*run.rounds(OURS, case, "unfinished").values(), *broken]
        return [max(lost)] * len(lost) if lost else []  # one is one too many, whatever the median

    return measured


def memory_kept(run: Run) -> Sequence[float]:
    idle = run.rounds(OURS, "start-up", "idle_mb")
    return [after - idle[n] for n, after in run.rounds(OURS, "after", "mb").items() if n in idle]


def worst_with_a_thousand(run: Run) -> Sequence[float]:
    """The worst of the cases with 1,000 instances in the measure of 1. Of the turns of each, the quartile of the better ones
    counts: what grows with the instances is in all of them; what a shared machine adds, which is more than a tenth, is not."""
    worst = []
    for case, figure, is_better_when_more in SCALE_FIGURES:
        one, many = (list(run.rounds(who, case, figure).values()) for who in (OURS, ONE_THOUSAND))
        if one and many:
            ratio = better_quartile(many, is_better_when_more) / better_quartile(one, is_better_when_more)
            worst.append(1 / ratio if is_better_when_more else ratio)
    return [max(worst)] if worst else []


def better_quartile(values: Sequence[float], is_better_when_more: bool) -> float:
    """The median where there are too few for quartiles."""
    if len(values) < FEWEST_FOR_QUARTILES:
        return statistics.median(values)
    lower, _, upper = statistics.quantiles(values, n=4)
    return upper if is_better_when_more else lower


FEWEST_FOR_QUARTILES = 4
SCALE_FIGURES = (
    ("sequential", "p50_us", False),
    ("c64", "rps", True),
    ("paced100", "cpu_us", False),
    ("paced400", "cpu_us", False),
    ("upload", "p50_ms", False),
    ("starts", "ms", False),
    ("start-up", "idle_mb", False),
)

BARS = (
    Bar("64 connections", "requests/s ≥ 5 x llama-swap", 5, beside("llama-swap", "c64", "rps"), is_floor=True),
    Bar("64 connections", "requests/s ≥ 3 x llamactl", 3, beside("llamactl", "c64", "rps"), is_floor=True),
    Bar("64 connections", "requests/s ≥ 0.5 x nginx", 0.5, beside("nginx", "c64", "rps"), is_floor=True),
    Bar("1 connection", "added p50 ≤ 0.5 x llama-swap's", 0.5, added_beside("llama-swap")),
    Bar("1 connection", "added p50 ≤ 1.25 x nginx's", 1.25, added_beside("nginx")),
    Bar("100 paced streams", "CPU per chunk ≤ 0.6 x llama-swap's", 0.6, beside("llama-swap", "paced100", "cpu_us")),
    Bar("100 paced streams", "CPU per chunk ≤ 1.2 x nginx's", 1.2, beside("nginx", "paced100", "cpu_us")),
    Bar("100 paced streams", "p99 lateness ≤ llama-swap's", 1, beside("llama-swap", "paced100", "p99_us")),
    Bar("400 paced streams", "no stream failed or unfinished", 0, lost_streams("paced400")),
    Bar("400 paced streams", "p99 lateness ≤ llama-swap's", 1, beside("llama-swap", "paced400", "p99_us")),
    Bar("10 MiB bodies", "time ≤ 0.6 x llama-swap's", 0.6, beside("llama-swap", "upload", "p50_ms")),
    Bar("memory", "idle ≤ 60 MB", 60, of("start-up", "idle_mb")),
    Bar("memory", f"some seconds after all cases ≤ idle + {MB_AFTER} MB", MB_AFTER, memory_kept),
    Bar("1,000 instances", "no case worse than with 1 by more than 10 %", 1.1, worst_with_a_thousand),
    Bar("2,000 streams", "all whole, byte for byte", 0, lost_streams("streams2000")),
    Bar("start-up", "exec to first answered GET /v1/models ≤ 250 ms", 250, of("start-up", "ms")),
    Bar("cold start", "our share ≤ 30 ms", 30, of("cold-start", "share_ms")),
)
