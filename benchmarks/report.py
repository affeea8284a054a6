"""The figures as Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.results import Run, Spread


@dataclass(frozen=True)
class Column:
    """One figure of a case."""

    title: str
    figure: str


TABLES: tuple[tuple[str, str, tuple[Column, ...]], ...] = (
    ("sequential", "1 connection", (Column("p50 µs", "p50_us"), Column("p99 µs", "p99_us"), Column("CPU µs/request", "cpu_us"))),
    (
        "c8",
        "8 connections",
        (Column("requests/s", "rps"), Column("p50 µs", "p50_us"), Column("p99 µs", "p99_us"), Column("CPU µs/request", "cpu_us")),
    ),
    (
        "c64",
        "64 connections",
        (Column("requests/s", "rps"), Column("p50 µs", "p50_us"), Column("p99 µs", "p99_us"), Column("CPU µs/request", "cpu_us")),
    ),
    (
        "paced100",
        "100 paced",
        (
            Column("late p50 µs", "p50_us"),
            Column("late p99 µs", "p99_us"),
            Column("CPU µs/chunk", "cpu_us"),
            Column("unfinished", "unfinished"),
        ),
    ),
    (
        "paced400",
        "400 paced",
        (
            Column("late p50 µs", "p50_us"),
            Column("late p99 µs", "p99_us"),
            Column("CPU µs/chunk", "cpu_us"),
            Column("unfinished", "unfinished"),
        ),
    ),
    (
        "spread100",
        "100 paced, spread",
        (
            Column("late p50 µs", "p50_us"),
            Column("late p99 µs", "p99_us"),
            Column("CPU µs/chunk", "cpu_us"),
            Column("unfinished", "unfinished"),
        ),
    ),
    ("flat", "flat out", (Column("chunks/s", "per_second"), Column("CPU µs/chunk", "cpu_us"))),
    ("upload", "10 MiB", (Column("p50 ms", "p50_ms"), Column("CPU ms", "cpu_ms"))),
)


def number(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ") if abs(value) >= 100 else f"{value:.3g}"


def cell(spread: Spread | None) -> str:
    if spread is None:
        return "–"
    return f"{number(spread.median)} ({number(spread.low)}–{number(spread.high)})" if spread.count > 1 else number(spread.median)


def markdown(run: Run) -> str:
    lines = [f"{run.machine}; {', '.join(run.taken)}", ""]
    for case, title, columns in TABLES:
        if not (candidates := run.candidates(case)):
            continue
        lines += [f"### {title}", "", "| | " + " | ".join(c.title for c in columns) + " |", "|---" * (len(columns) + 1) + "|"]
        lines += [
            f"| {name} | " + " | ".join(cell(run.spread(name, case, c.figure)) for c in columns) + " |" for name in candidates
        ]
        lines.append("")
    lines += [f"- {s.candidate}, {s.case}, round {s.round}: {s.failure}" for s in run.failures()]
    lines += [f"- {name}: not measured: {why}" for name, why in run.missing.items()]
    return "\n".join(lines)
