"""Figures as they were measured, in a file and together with those of other runs."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Sample:
    """What one candidate did in one case of one round; *failure* where it has no figures. NaN: it has no such figure."""

    candidate: str
    case: str
    round: int
    figures: Figures = field(default_factory=dict)
    failure: str = ""


@dataclass(frozen=True)
class Spread:
    """The median of a figure over all rounds, and how far they lay apart."""

    median: float
    low: float
    high: float
    count: int


@dataclass
class Run:
    """All samples of a run, or of several: when and on what machine, whose versions, and who could not be measured and why."""

    machine: str
    taken: list[str]
    versions: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    imports_ms: dict[str, float] = field(default_factory=dict)
    """Where our start-up goes: milliseconds of each package's own imports, as `-X importtime` tells."""
    typed: list[str] = field(default_factory=list)
    """The command of each run."""
    rounds_of_runs: list[int] = field(default_factory=list)
    """Where it was put together of several."""

    def rounds(self, candidate: str, case: str, figure: str) -> dict[int, float]:
        """That figure of each round that has it."""
        return {
            sample.round: sample.figures[figure]
            for sample in self.samples
            if (sample.candidate, sample.case) == (candidate, case) and math.isfinite(sample.figures.get(figure, math.nan))
        }

    def spread(self, candidate: str, case: str, figure: str) -> Spread | None:
        return spread_of(list(self.rounds(candidate, case, figure).values()))

    def failures(self) -> list[Sample]:
        return [sample for sample in self.samples if sample.failure]

    def candidates(self, case: str) -> list[str]:
        """Who has figures in that case, in the order of the run."""
        return list(dict.fromkeys(s.candidate for s in self.samples if s.case == case and s.figures))

    def apart(self) -> list[Run]:
        """The runs of which this was put together, each with its samples only."""
        if not self.rounds_of_runs:
            return [self]
        found, begin = [], 0
        for count, taken in zip(self.rounds_of_runs, self.taken, strict=True):
            samples = [sample for sample in self.samples if begin <= sample.round < begin + count]
            found.append(Run(self.machine, [taken], samples=samples))
            begin += count
        return found

    def save(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self), indent=1) + "\n")


def spread_of(values: Sequence[float]) -> Spread | None:
    return Spread(statistics.median(values), min(values), max(values), len(values)) if values else None


def combine(files: Iterable[Path]) -> Run:
    """The runs in *files* as one. Raises SystemExit when they are not of one machine."""
    runs = [_read(file) for file in files]
    if len({run.machine for run in runs}) != 1:
        raise SystemExit("figures of different machines are not one table: " + "; ".join(sorted({run.machine for run in runs})))
    whole = runs[0]
    whole.rounds_of_runs = [1 + max((sample.round for sample in run.samples), default=-1) for run in runs]
    for number, run in enumerate(runs[1:], 1):
        before = sum(whole.rounds_of_runs[:number])
        whole.samples += [replace(sample, round=sample.round + before) for sample in run.samples]
        whole.taken += run.taken
        whole.typed += run.typed
        whole.versions |= run.versions
        whole.missing |= run.missing
    measured = {name for sample in whole.samples for name in (sample.candidate, sample.case.replace("-", " "))}
    whole.missing = {name: why for name, why in whole.missing.items() if name not in measured}
    return whole


def _read(file: Path) -> Run:
    raw = json.loads(file.read_text())
    raw["samples"] = [Sample(**sample) for sample in raw["samples"]]
    return Run(**raw)
