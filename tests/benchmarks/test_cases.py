"""What of a case counts where a neighbour slows the machine for a while: its better slices, and another attempt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import machine
from benchmarks.build import Programs
from benchmarks.cases import Case, undisturbed
from benchmarks.load import Door, Load, Wrong
from benchmarks.results import Run, Sample
from benchmarks.suite import ATTEMPTS, Suite

FAST, SLOW = [0.05, 1500, 2000.0], [0.05, 750, 4000.0]


def told(*slices: list[float]) -> dict[str, Any]:
    return {"slices": list(slices), "seconds": 1.0, "answered": 400, "latency": {"p50": 3000.0}}


@pytest.mark.parametrize("slowed", [0, 8, 14])
def test_a_case_tells_what_its_better_slices_show(slowed: int) -> None:
    found = undisturbed(told(*[SLOW] * slowed, *[FAST] * (20 - slowed)))
    assert (found.per_second, found.p50_us) == (30_000, 2000)


def test_one_lucky_slice_is_not_what_counts() -> None:
    assert undisturbed(told(*[FAST] * 19, [0.05, 15_000, 1.0])).per_second == 30_000


@pytest.mark.parametrize("slices", [(), (FAST,) * 7, ([0.05, 0, 0.0],) * 20], ids=["none", "few", "empty"])
def test_what_is_too_short_for_slices_counts_as_a_whole(slices: tuple[list[float], ...]) -> None:
    found = undisturbed(told(*slices))
    assert (found.per_second, found.p50_us) == (400, 3000)


def test_a_processor_is_slowed_when_known_work_takes_longer_than_at_best(monkeypatch: pytest.MonkeyPatch) -> None:
    took = 1.0
    monkeypatch.setattr(machine, "_work", lambda: took)
    speed = machine.Speed()
    assert not speed.is_slowed()
    took = 1.7
    assert speed.is_slowed()
    took = 0.5
    assert not speed.is_slowed(), "that is what is best, from now on"
    took = 1.0
    assert speed.is_slowed()


def answers(*words: bool) -> Callable[[], bool]:
    left: Iterator[bool] = iter(words)
    return lambda: next(left)


@pytest.mark.parametrize(
    ("looks", "attempts", "slowed"),
    [
        ((False,), 1, False),
        ((True, False), 1, False),
        ((True, True, False), 2, False),
        ((True, True) * ATTEMPTS, ATTEMPTS, True),
    ],
    ids=["calm", "calm behind it", "slowed once", "always slowed"],
)
def test_what_was_measured_on_a_slowed_processor_is_measured_again(
    monkeypatch: pytest.MonkeyPatch, looks: tuple[bool, ...], attempts: int, slowed: bool
) -> None:
    measured: list[float] = []

    def measure(_load: Load, _door: Door, seconds: float) -> dict[str, float]:
        measured.append(seconds)
        return {"rps": len(measured)}

    suite = Suite(rounds=1, turns=1, seconds=0.1, only=None, candidates=None, llama_swap=None, llamactl=None)
    is_slowed = answers(*looks)
    monkeypatch.setattr(machine.Speed, "is_slowed", lambda _: is_slowed())
    suite._speed = object.__new__(machine.Speed)
    suite._run = Run("a machine", ["now"])
    load = Load(Programs(Path(), Path(), Path()), Path())
    suite._case("nginx", Case("c64", "", measure), load, Door(1), 0, 0.1)
    assert measured == [0.1] * attempts
    assert suite._run.samples == [Sample("nginx", "c64", 0, {"rps": attempts, "slowed": slowed})]


@pytest.mark.parametrize(
    "failure", [Wrong("two answers differ"), TimeoutError("no answer"), psutil.NoSuchProcess(1, msg="it is gone")]
)
def test_one_that_fails_takes_nobody_elses_figures_with_it(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    def measure(_load: Load, door: Door, _seconds: float) -> dict[str, float]:
        if door.port == 1:
            raise failure
        return {"rps": 5}

    suite = Suite(rounds=1, turns=1, seconds=0.1, only=None, candidates=None, llama_swap=None, llamactl=None)
    monkeypatch.setattr(machine.Speed, "is_slowed", lambda _: False)
    suite._speed = object.__new__(machine.Speed)
    suite._run = Run("a machine", ["now"])
    load = Load(Programs(Path(), Path(), Path()), Path())
    for port in (1, 2):
        suite._case(f"peer {port}", Case("c64", "", measure), load, Door(port), 0, 0.1)
    bad, good = suite._run.samples
    assert (bad.candidate, bad.failure, bad.figures) == ("peer 1", str(failure), {})
    assert (good.candidate, good.figures["rps"]) == ("peer 2", 5)
