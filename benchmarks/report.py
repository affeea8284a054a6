"""The figures as a page: RESULTS.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from benchmarks import bars, tables
from benchmarks.names import AT_SCALE, OURS
from benchmarks.results import Run, Spread
from benchmarks.tables import Table

LARGEST_IMPORTS = 10
METHOD = """\
Written by `python -m benchmarks` ([how](README.md)). Each cell is a median (smallest–largest) of {rounds} rounds, in each of
which the candidates are started anew; of {turns} turns where ratios are judged: there all are up, and each is asked for a moment,
one after the other. The candidate has processor 0 to itself; backend, clients and everything else share processor 1. `direct` is
the clients and the backend with nobody in between: what the others are read against, and the proof that these are not what is
measured. CPU is the candidate's own, of all its processes, without the backend's. Requests per second and their p50 are those of
the better slices of 50 ms, as neighbours slow a shared machine for moments; "all in all" is of the whole case. Every byte of
every answer is compared with what the backend sent (LiteLLM writes answers anew: there, each event's mark and order)."""
WAITED = 0.03
"""Share of its time that nginx, which has no second thread to wait for, may wait for a processor of its own."""
MARKS = {True: "holds", False: "**missed**", None: "not measured"}


def page(run: Run, plot: str | None) -> str:
    """*plot* is the address of the picture; without it, the page of a part of a run: bars that it does not touch are left out."""
    return "\n\n".join(part for part in _parts(run, plot) if part) + "\n"


def _parts(run: Run, plot: str | None) -> Iterator[str]:
    rounds = max((len(run.rounds(name, "start-up", "ms")) for name in run.candidates("start-up")), default=0)
    turns = len(run.rounds(OURS, "sequential", "p50_us"))
    yield "# Figures beside peers"
    yield METHOD.format(rounds=rounds, turns=turns)
    yield f"{run.machine}. Measured {', '.join(run.taken)}."
    if run.typed:
        commands = (f"$ {command}" + f"  # {times} x" * (times > 1) for command, times in Counter(run.typed).items())
        yield "\n".join(("```console", *commands, "```"))
    yield "\n".join(f"* {name}: {version}" for name, version in run.versions.items() if name not in AT_SCALE)
    yield _troubles(run)
    if plot:
        yield f"![medians and ranges]({plot})"
    verdicts = [verdict for verdict in bars.verdicts(run) if plot or verdict.spread]
    if verdicts:
        yield "## Bars\n\nRatios are taken within a turn; a bar is judged by their median, in each run too."
        yield verdict_table(verdicts, run.apart())
    yield "## Cases"
    yield from (table(run, one) for one in tables.PEERS)
    yield from _growth(run)
    yield table(run, tables.COLD_START)
    yield table(run, tables.PHASES)
    yield _imports(run)


def _troubles(run: Run) -> str:
    lines = [f"* {name} is **not measured**: {why}" for name, why in run.missing.items()]
    for (name, case, failure), times in Counter((s.candidate, s.case, s.failure) for s in run.failures()).items():
        lines.append(f"* {name} **failed** in `{case}`, {times} x: {failure}")
    slowed = [sample.figures["slowed"] for sample in run.samples if "slowed" in sample.figures]
    if any(slowed):
        lines.append(
            f"* {sum(slowed):.0f} of {len(slowed)} cases were measured while a neighbour slowed the candidates' processor."
        )
    waited = [run.spread("nginx", case, "waited") for case in ("c64", "paced100")]
    if (worst := max((spread.median for spread in waited if spread), default=0)) > WAITED:
        lines.append(
            f"* **The machine was busy with something else**: nginx waited for its processor {worst:.0%} of the time. Believe "
            "CPU, and ratios of it; times and rates say little."
        )
    return "\n".join(lines)


def _growth(run: Run) -> Iterator[str]:
    parts = [table(run, tables.INSTANCES), *(table(run, one) for one in tables.STREAMS)]
    if any(parts):
        yield "## Growth"
        yield "Streams send 10,000 events a second, however many they are."
    yield from parts


def _imports(run: Run) -> str:
    if not run.imports_ms:
        return ""
    largest = list(run.imports_ms.items())[:LARGEST_IMPORTS]
    rest = sum(run.imports_ms.values()) - sum(ms for _, ms in largest)
    rows = [(name, number(ms)) for name, ms in (*largest, ("all others", rest), ("together", sum(run.imports_ms.values())))]
    told = "What is imported before the first answer, by package, as `python -X importtime` tells (which itself slows imports):"
    return f"{told}\n\n{markdown(('package', 'own ms'), rows)}"


def verdict_table(verdicts: Sequence[bars.Verdict], runs: Sequence[Run]) -> str:
    """With the median of each of *runs*, if there are several that have one."""
    judged = [one for one in map(bars.verdicts, runs) if any(verdict.spread for verdict in one)]
    of_runs = [{verdict.bar: verdict for verdict in one} for one in judged] if len(judged) > 1 else []
    rows = [
        (v.bar.case, v.bar.demand, cell(v.spread), MARKS[v.holds], *(_of_run(verdicts[v.bar]) for verdicts in of_runs))
        for v in verdicts
    ]
    return markdown(("case", "bar", "measured", "verdict", *(f"run {number}" for number, _ in enumerate(of_runs, 1))), rows)


def _of_run(verdict: bars.Verdict) -> str:
    text = number(verdict.spread.median) if verdict.spread else "–"
    return f"**{text}**" if verdict.holds is False else text


def table(run: Run, shown: Table) -> str:
    """Empty when nobody has a figure in it."""
    names = dict.fromkeys(name for column in shown.columns for name in run.candidates(column.case))
    chosen = [name for name in names if (name in shown.only if shown.only else name not in AT_SCALE)]
    rows = [(name, *(cell(run.spread(name, column.case, column.figure)) for column in shown.columns)) for name in chosen]
    filled = [row for row in rows if set(row[1:]) != {"–"}]
    if not filled:
        return ""
    note = f"{shown.note}\n\n" if shown.note else ""
    return f"### {shown.title}\n\n{note}{markdown(('', *(column.title for column in shown.columns)), filled)}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(spread: Spread | None) -> str:
    if spread is None:
        return "–"
    if spread.count == 1 or number(spread.low) == number(spread.high):
        return number(spread.median)
    return f"{number(spread.median)} ({number(spread.low)}–{number(spread.high)})"


def number(value: float) -> str:
    """Three digits; thousands in full."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}".rstrip("0").rstrip(".") if abs(value) < 10 else f"{value:.1f}".removesuffix(".0")
