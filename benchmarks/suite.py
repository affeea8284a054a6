"""A run: everybody in turn, round by round, each started anew and asked in every case."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

from benchmarks import build, cold_start, machine, processes, start_up
from benchmarks.candidates.base import Bench, Candidate, NotMeasured
from benchmarks.candidates.direct import Direct
from benchmarks.candidates.litellm import LiteLLM
from benchmarks.candidates.llama_swap import LlamaSwap
from benchmarks.candidates.llamactl import Llamactl
from benchmarks.candidates.nginx import Nginx
from benchmarks.candidates.ours import Ours
from benchmarks.cases import CASES, Case
from benchmarks.load import Door, Load, Wrong
from benchmarks.names import ALL_PYTHON, AT_SCALE, FEW_THREADS, OURS
from benchmarks.results import Figures, Run, Sample

ALONE = frozenset({ALL_PYTHON, FEW_THREADS, "litellm"})
"""Who takes no turns: nothing is judged by them, and LiteLLM is busy for long with what it is asked."""
NOT_AT_SCALE = frozenset(case.name for case in CASES if not case.is_in_turns)
NAMES = ("direct", OURS, "nginx", "llama-swap", "llamactl", "litellm", "scale")
"""`scale` stands for llamactl-py with 100 and with 1,000 instances, before a server of few threads, and all in Python."""
EXTRAS = ("start-up", "cold-start")
BUSY = "not asked: it was still busy with what clients had given up before"
COLD_STARTS_A_ROUND = 5
PHASES_A_ROUND = 3
STARTS_A_ROUND = 24
TURN = 2 / 3
"""How much shorter a case is that is asked in turns."""
ATTEMPTS = 4
"""At a case while something else slows the processor; the last one counts, whatever it shows."""
RESTS = 4
"""Behind all cases everybody rests for as long as so many of them take, to give back what was needed for a while."""


@dataclass
class Suite:
    """What is to be measured; None means everything."""

    rounds: int
    turns: int
    """In each round."""
    seconds: float
    only: list[str] | None
    candidates: list[str] | None
    llama_swap: Path | None
    llamactl: Path | None
    _run: Run = field(init=False)
    _speed: machine.Speed = field(init=False)

    def measure(self) -> Run:
        machine.settle()
        self._speed = machine.Speed()
        programs = build.programs()
        self._run = Run(machine.description(), [time.strftime("%Y-%m-%d %H:%M")])
        with tempfile.TemporaryDirectory(prefix="llamactl-bench-", ignore_cleanup_errors=True) as name:
            folder, port = Path(name), processes.free_port()
            command = (str(programs.backend), "--port", str(port), "--bench-cpu", str(machine.OTHERS_CPU))
            with processes.timed(command, cpu=machine.OTHERS_CPU, log=folder / "backend.log"):
                processes.until(lambda: processes.answers(port, "/health"), "the backend")
                self._measure(Bench(programs, folder, port), Load(programs, folder))
        return self._run

    def _measure(self, bench: Bench, load: Load) -> None:
        able = [candidate for candidate in self._chosen() if self._can_prepare(candidate, bench)]
        for round_ in range(self.rounds):
            say(f"round {round_ + 1} of {self.rounds}")
            with ExitStack() as stack:
                doors = {one: door for one in able if (door := self._door(one, stack, load, round_))}
                self._in_turn({one: door for one, door in doors.items() if one.name not in ALONE}, load, round_)
                for one, door in doors.items():
                    if one.name not in AT_SCALE:
                        self._by_itself(one, door, load, round_)
        ours = {one.name: one for one in able if isinstance(one, Ours)}
        if OURS in ours and self._wants("start-up"):
            self._start_up(ours[OURS], bench.folder)
            self._starts([one for name, one in ours.items() if name in (OURS, *AT_SCALE)])
        if OURS in ours and self._wants("cold-start"):
            self._cold_start(bench.folder)

    def _chosen(self) -> list[Candidate]:
        at_scale = [Ours(name, count, NOT_AT_SCALE) for name, count in AT_SCALE.items()]
        peers = (Nginx(), LlamaSwap(self.llama_swap), Llamactl(self.llamactl), LiteLLM())
        cases = frozenset(case.name for case in CASES)
        few_threads = Ours(FEW_THREADS, skips=cases - {"c8", "c64"}, has_few_threads=True)
        all_python = Ours(ALL_PYTHON, skips=cases - {"c64", "paced100", "paced400", "spread100"}, is_compiled=False)
        everybody: list[Candidate] = [Direct(), Ours(OURS), all_python, *peers, few_threads, *at_scale]
        wanted = self.candidates
        return [
            one
            for one in everybody
            if not wanted or ("scale" if isinstance(one, Ours) and one.name != OURS else one.name) in wanted
        ]

    def _can_prepare(self, candidate: Candidate, bench: Bench) -> bool:
        say(f"preparing {candidate.name}")
        try:
            self._run.versions[candidate.name] = candidate.prepare(bench)
        except NotMeasured as why:
            self._run.missing[candidate.name] = str(why)
            say(f"{candidate.name} is not measured: {why}")
            return False
        return True

    def _keep(self, name: str, case: str, round_: int, measure: Callable[[], Figures]) -> bool:
        """What *measure* gives, or why it gives nothing: one that fails takes nobody else's figures with it. False if it does."""
        try:
            figures, failure = measure(), ""
        except (Wrong, NotMeasured, TimeoutError, psutil.Error) as wrong:
            figures, failure = {}, str(wrong) or type(wrong).__name__
            say(f"{name}, {case}: {wrong}")
        if figures or failure:
            self._run.samples.append(Sample(name, case, round_, figures, failure))
        return not failure

    def _door(self, candidate: Candidate, stack: ExitStack, load: Load, round_: int) -> Door | None:
        """Start it, and once before: then its files are in memory, as they are where it is in use. None if it does not start."""
        doors: list[Door] = []

        def start() -> Figures:
            with candidate.open():
                pass
            opened = stack.enter_context(candidate.open())
            doors.append(door := opened.door)
            load.warm_up(door)
            if not door.process:
                return {}
            load.becomes_idle(door)
            return {"ms": opened.start_up_ms, "idle_mb": load.resident_mb(door)}

        return doors[0] if self._keep(candidate.name, "start-up", round_, start) else None

    def _in_turn(self, doors: Mapping[Candidate, Door], load: Load, round_: int) -> None:
        """All are up, and each case is asked of one after the other, again and again: a machine that drifts does so for all."""
        for turn in range(round_ * self.turns, (round_ + 1) * self.turns):
            say(f"turn {turn + 1} of {self.rounds * self.turns}")
            first = turn % max(1, len(doors))
            order = [*doors.items()][first:] + [*doors.items()][:first]
            for case in CASES:
                if case.is_in_turns and self._wants(case.name):
                    for one, door in order:
                        self._case(one.name, case, load, door, turn, TURN * self.seconds)

    def _by_itself(self, candidate: Candidate, door: Door, load: Load, round_: int) -> None:
        """The other cases, and what it keeps of the memory that it needed."""
        say(f"{candidate.name} by itself")
        is_busy, alone = False, candidate.name in ALONE
        for case in CASES:
            if not self._wants(case.name) or case.name in candidate.skips or (case.is_in_turns and not alone):
                continue
            if is_busy:
                self._run.samples.append(Sample(candidate.name, case.name, round_, failure=BUSY))
                continue
            self._case(candidate.name, case, load, door, round_, self.seconds)
            is_busy = not load.becomes_idle(door)

        def memory() -> Figures:
            at_once = load.resident_mb(door)
            time.sleep(RESTS * self.seconds)  # in which it may give back what it needed
            return {"at_once_mb": at_once, "mb": load.resident_mb(door)}

        if door.process:
            self._keep(candidate.name, "after", round_, memory)

    def _case(self, name: str, case: Case, load: Load, door: Door, round_: int, seconds: float) -> None:
        def measure() -> Figures:
            for _ in range(ATTEMPTS):
                was_slowed = self._speed.is_slowed()
                figures = case.measure(load, door, seconds)
                load.becomes_idle(door)
                is_slowed = was_slowed and self._speed.is_slowed()
                if not is_slowed:
                    break
            return {**figures, "slowed": is_slowed}

        self._keep(name, case.name, round_, measure)

    def _start_up(self, ours: Ours, folder: Path) -> None:
        say("where our start-up goes")
        for round_ in range(PHASES_A_ROUND * self.rounds):
            self._run.samples.append(Sample(OURS, "phases", round_, start_up.phases(folder, ours)))
        self._run.imports_ms = start_up.imports(folder, ours)

    def _starts(self, ours: Sequence[Ours]) -> None:
        """In turn, and many: one may take half as long again as the one before."""
        say("start-up with 1, 100 and 1,000 instances")
        for round_ in range(STARTS_A_ROUND * self.rounds):
            for one in ours:
                self._keep(one.name, "starts", round_, partial(_start, one))

    def _cold_start(self, folder: Path) -> None:
        say("cold starts")
        try:
            self._run.samples += cold_start.measure(folder, COLD_STARTS_A_ROUND * self.rounds)
        except NotMeasured as why:
            self._run.missing["cold start"] = str(why)
            say(f"cold start is not measured: {why}")

    def _wants(self, case: str) -> bool:
        return not self.only or case in self.only


def _start(candidate: Candidate) -> Figures:
    with candidate.open() as opened:
        return {"ms": opened.start_up_ms}


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
