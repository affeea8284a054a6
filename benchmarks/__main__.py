"""Measure llamactl-py beside its peers: `python -m benchmarks`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks import build, machine, report
from benchmarks.candidates.base import Bench, Candidate, NotMeasured
from benchmarks.candidates.direct import Direct
from benchmarks.candidates.nginx import Nginx
from benchmarks.candidates.ours import Ours
from benchmarks.cases import CASES, Case
from benchmarks.load import Door, Load, Wrong
from benchmarks.results import Run, Sample, load


def main() -> None:
    options = arguments(sys.argv[1:])
    run = load(options.report) if options.report else measure(options)
    if not options.report:
        run.save(file := options.json or build.cache() / f"run-{time.strftime('%Y%m%d-%H%M%S')}.json")
        print(f"raw figures: {file}", file=sys.stderr)
    print(report.markdown(run))


def arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often everybody is measured, in turn [3]")
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long each case takes [2]")
    parser.add_argument("--quick", action="store_true", help="1 round, short cases, llamactl-py beside direct and nginx")
    parser.add_argument("--only", type=names, help="these cases only, with commas between: " + ",".join(c.name for c in CASES))
    parser.add_argument("--candidates", type=names, help="these candidates only: direct,llamactl-py,nginx,...")
    parser.add_argument("--json", type=Path, help="where the raw figures go [a file in the cache]")
    parser.add_argument("--report", type=Path, nargs="+", metavar="FILE", help="measure nothing; report what these files hold")
    options = parser.parse_args(words)
    if options.quick:
        options.rounds, options.seconds = 1, 1.0
    return options


def names(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def measure(options: argparse.Namespace) -> Run:
    machine.settle()
    programs = build.programs()
    run = Run(machine.description(), [time.strftime("%Y-%m-%d %H:%M")])
    cases = [case for case in CASES if not options.only or case.name in options.only]
    with tempfile.TemporaryDirectory(prefix="llamactl-bench-") as name:
        folder, port = Path(name), machine.free_port()
        command = (str(programs.backend), "--port", str(port))
        with machine.running(command, cpu=machine.OTHERS_CPU, log=folder / "backend.log"):
            machine.until(lambda: machine.answers(port, "/health", {}), "the backend")
            candidates = prepare(Bench(programs, folder, port), options, run)
            load = Load(programs, folder)
            for round_ in range(options.rounds):
                for candidate in candidates:
                    print(f"round {round_ + 1} of {options.rounds}: {candidate.name}", file=sys.stderr)
                    run.samples += one_round(candidate, cases, load, options.seconds, round_)
    return run


def prepare(bench: Bench, options: argparse.Namespace, run: Run) -> list[Candidate]:
    """Those who can be measured; why the others cannot goes into *run*."""
    able = []
    candidates: list[Candidate] = [Direct(), Ours(), Nginx()]
    for candidate in candidates:
        if options.candidates and candidate.name not in options.candidates:
            continue
        try:
            run.versions[candidate.name] = candidate.prepare(bench)
            able.append(candidate)
        except NotMeasured as why:
            run.missing[candidate.name] = str(why)
    return able


def one_round(candidate: Candidate, cases: Iterable[Case], load: Load, seconds: float, round_: int) -> Iterable[Sample]:
    with candidate.open() as opened:
        load.requests(opened.door, 1, 0.2)
        if opened.start_up_ms:
            yield Sample(candidate.name, "start-up", round_, {"ms": opened.start_up_ms, "idle_mb": resident(opened.door, load)})
        for case in cases:
            try:
                yield Sample(candidate.name, case.name, round_, case.measure(load, opened.door, seconds))
            except Wrong as wrong:
                yield Sample(candidate.name, case.name, round_, failure=str(wrong))
        if opened.start_up_ms:
            yield Sample(candidate.name, "after", round_, {"mb": resident(opened.door, load)})


def resident(door: Door, load: Load) -> float:
    assert door.process
    return machine.resident_mb(machine.of(door.process.pid, load.programs.backend))


if __name__ == "__main__":
    main()
