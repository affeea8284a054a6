"""Which figures are shown, under which titles."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.names import AT_SCALE, OURS


@dataclass(frozen=True)
class Column:
    """One figure of a case."""

    title: str
    case: str
    figure: str


@dataclass(frozen=True)
class Table:
    """A table has a row for each candidate with figures in any of its columns."""

    title: str
    columns: tuple[Column, ...]
    note: str = ""
    only: frozenset[str] = frozenset()
    """The candidates that it is about; empty: all but those of scale."""


def _requests(case: str) -> tuple[Column, ...]:
    return (
        Column("requests/s", case, "rps"),
        Column("p50 µs", case, "p50_us"),
        Column("p99 µs", case, "p99_us"),
        Column("CPU µs/request", case, "cpu_us"),
        Column("requests/s, all in all", case, "mean_rps"),
        Column("new backend connections/request", case, "connects"),
    )


def _streams(case: str) -> tuple[Column, ...]:
    return (
        Column("late p50 µs", case, "p50_us"),
        Column("late p99 µs", case, "p99_us"),
        Column("late max µs", case, "max_us"),
        Column("first event p50 µs", case, "ttfb_p50_us"),
        Column("first event p99 µs", case, "ttfb_p99_us"),
        Column("CPU µs/chunk", case, "cpu_us"),
        Column("unfinished", case, "unfinished"),
    )


PEERS = (
    Table("1 connection, one request after the other", _requests("sequential")),
    Table("8 connections", _requests("c8")),
    Table("64 connections", _requests("c64")),
    Table(
        "10 MiB bodies, the model at their end",
        (
            Column("p50 ms", "upload", "p50_ms"),
            Column("p99 ms", "upload", "p99_ms"),
            Column("CPU ms/request", "upload", "cpu_ms"),
        ),
    ),
    Table(
        "100 streams, an event each 10 ms",
        _streams("paced100"),
        "All begin at once, and all events of a step come at one moment, as from one server that computes tokens for all.",
    ),
    Table("400 streams, an event each 10 ms", _streams("paced400")),
    Table(
        "100 streams, an event each 10 ms, evenly spread",
        _streams("spread100"),
        "As from servers that know nothing of each other: hardly any two events come together, each wakes the proxy alone.",
    ),
    Table(
        "16 streams, events as fast as they are taken",
        (Column("chunks/s", "flat", "per_second"), Column("CPU µs/chunk", "flat", "cpu_us")),
        "No measure of a proxy: a slower one reads larger pieces, and so looks better.",
    ),
    Table(
        "Start-up and memory",
        (
            Column("exec to first answered GET /v1/models, ms", "start-up", "ms"),
            Column("resident when idle, MB", "start-up", "idle_mb"),
            Column("resident right after all cases, MB", "after", "at_once_mb"),
            Column("resident some seconds later, MB", "after", "mb"),
        ),
    ),
)

INSTANCES = Table(
    "1, 100 and 1,000 registered instances",
    (
        Column("1 connection, p50 µs", "sequential", "p50_us"),
        Column("64 connections, requests/s", "c64", "rps"),
        Column("100 paced, CPU µs/chunk", "paced100", "cpu_us"),
        Column("400 paced, CPU µs/chunk", "paced400", "cpu_us"),
        Column("10 MiB, p50 ms", "upload", "p50_ms"),
        Column("start-up ms", "starts", "ms"),
        Column("idle MB", "start-up", "idle_mb"),
    ),
    "One of the registered instances gets all requests. The bar is for the quartiles of the better turns.",
    only=frozenset({OURS, *AT_SCALE}),
)

STREAMS = (
    Table("1 stream, an event each 0.1 ms", _streams("streams1"), "Beside the 100 streams above that are evenly spread."),
    Table("2,000 streams, an event each 200 ms", _streams("streams2000")),
)

COLD_START = Table(
    "Cold start",
    (
        Column("request to first token, ms", "cold-start", "through_ms"),
        Column("llama-server alone: exec to healthy, ms", "cold-start", "healthy_ms"),
        Column("its first token, ms", "cold-start", "answer_ms"),
        Column("our share, ms", "cold-start", "share_ms"),
    ),
    "A request to a stopped llama-server with a tiny model. Our share is what remains, round by round.",
)

PHASES = Table(
    "Where our start-up goes",
    (
        Column("a bare interpreter, ms", "phases", "interpreter_ms"),
        Column("everything imported, ms", "phases", "imported_ms"),
        Column("exec to listening, ms", "phases", "listening_ms"),
        Column("exec to first answer, ms", "phases", "answered_ms"),
    ),
    "The second is an interpreter that imports the same, and ends. The port listens as soon as the command line and the "
    "configuration are read; behind that the database is opened, instances and keys are loaded, and who asked is answered. "
    "aiohttp and the management API are imported beside the first answers.",
)
