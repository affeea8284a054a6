"""A picture of the figures: for each, a dot at every candidate's median and a line over its range, on a logarithmic axis.

An own SVG: the picture is a handful of dots, lines and words, and a library for that would be the heaviest thing here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from benchmarks.names import AT_SCALE, OURS
from benchmarks.report import number
from benchmarks.results import Run, Spread
from benchmarks.tables import Column

PANELS = (
    Column("64 connections: requests per second (more is better)", "c64", "rps"),
    Column("64 connections: CPU µs per request (less is better, here and below)", "c64", "cpu_us"),
    Column("1 connection: p50, µs", "sequential", "p50_us"),
    Column("100 paced streams: CPU µs per chunk", "paced100", "cpu_us"),
    Column("100 paced streams: p99 lateness, µs", "paced100", "p99_us"),
    Column("400 paced streams: p99 lateness, µs", "paced400", "p99_us"),
    Column("10 MiB bodies: p50, ms", "upload", "p50_ms"),
    Column("memory after all cases, MB", "after", "mb"),
)
COLUMNS = 2
PANEL_WIDTH, ROW, HEAD, FOOT, NAMES, VALUES, MARGIN = 460, 20, 34, 22, 96, 70, 16
INK, PALE, OURS_INK = "#333", "#ddd", "#c2410c"


@dataclass(frozen=True)
class Axis:
    """From values to places, logarithmically, between whole powers of ten."""

    low: int
    high: int
    left: float
    right: float

    def at(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.left + share * (self.right - self.left)


def svg(run: Run) -> str:
    panels = [(column.title, rows) for column in PANELS if (rows := _rows(run, column))]
    panel_height = HEAD + FOOT + ROW * max((len(rows) for _, rows in panels), default=0)
    width, height = MARGIN * 2 + PANEL_WIDTH * COLUMNS, MARGIN * 2 + panel_height * math.ceil(len(panels) / COLUMNS)
    size = f'width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">',
        f'<rect {size} fill="white"/>',
    ]
    for place, (title, rows) in enumerate(panels):
        x, y = MARGIN + PANEL_WIDTH * (place % COLUMNS), MARGIN + panel_height * (place // COLUMNS)
        parts += [f'<g transform="translate({x},{y})">', *_panel(title, rows), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _rows(run: Run, column: Column) -> list[tuple[str, Spread]]:
    names = [name for name in run.candidates(column.case) if name not in AT_SCALE]
    spreads = [(name, run.spread(name, column.case, column.figure)) for name in names]
    return [(name, spread) for name, spread in spreads if spread and spread.low > 0]  # direct uses no time of its own


def _panel(title: str, rows: Sequence[tuple[str, Spread]]) -> Iterator[str]:
    low = math.floor(math.log10(min(spread.low for _, spread in rows)))
    high = max(low + 1, math.ceil(math.log10(max(spread.high for _, spread in rows))))
    axis = Axis(low, high, NAMES, PANEL_WIDTH - VALUES - MARGIN)
    bottom = HEAD + ROW * len(rows)
    yield _text(0, 16, title, weight="bold")
    for power in range(low, high + 1):
        x = axis.at(10.0**power)
        yield f'<line x1="{x:.1f}" y1="{HEAD - 6}" x2="{x:.1f}" y2="{bottom}" stroke="{PALE}"/>'
        yield _text(x, bottom + 13, _power(power), anchor="middle")
    for place, (name, spread) in enumerate(rows):
        yield from _row(axis, HEAD + ROW * place + ROW / 2, name, spread)


def _row(axis: Axis, y: float, name: str, spread: Spread) -> Iterator[str]:
    ink, weight = (OURS_INK, "bold") if name == OURS else (INK, "normal")
    low, median, high = (axis.at(value) for value in (spread.low, spread.median, spread.high))
    yield _text(NAMES - 8, y + 4, name, ink, "end", weight)
    yield f'<line x1="{low:.1f}" y1="{y}" x2="{high:.1f}" y2="{y}" stroke="{ink}" stroke-width="2"/>'
    yield f'<circle cx="{median:.1f}" cy="{y}" r="4" fill="{ink}"/>'
    yield _text(axis.right + 8, y + 4, number(spread.median), ink, "start", weight)


def _power(exponent: int) -> str:
    return f"{10**exponent:,}" if exponent >= 0 else f"{10.0**exponent:g}"


def _text(x: float, y: float, words: str, ink: str = INK, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{ink}" text-anchor="{anchor}" font-weight="{weight}">{escape(words)}</text>'
