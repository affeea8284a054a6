"""From raw figures to a page: runs put together, verdicts, tables and the picture. `run_of` makes a run of a few figures."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from benchmarks import bars, plot, report
from benchmarks.__main__ import arguments, typed
from benchmarks.cases import CASES
from benchmarks.names import ONE_THOUSAND, OURS
from benchmarks.results import Run, Sample, combine
from benchmarks.start_up import by_package
from benchmarks.tables import INSTANCES, PEERS, STREAMS


def run_of(*samples: Sample, machine: str = "a machine", taken: str = "today", missing: dict[str, str] | None = None) -> Run:
    return Run(machine, [taken], missing=missing or {}, samples=list(samples))


def rounds(candidate: str, case: str, figure: str, *values: float) -> list[Sample]:
    return [Sample(candidate, case, number, {figure: value}) for number, value in enumerate(values)]


def verdict(run: Run, case: str, demand: str) -> bars.Verdict:
    return next(v for v in bars.verdicts(run) if v.bar.case == case and demand in v.bar.demand)


# ---- runs


def test_a_spread_is_the_median_and_the_range_of_what_there_is() -> None:
    run = run_of(*rounds("nginx", "c64", "rps", 5, 1, 3, math.nan))
    spread = run.spread("nginx", "c64", "rps")
    assert spread
    assert (spread.median, spread.low, spread.high, spread.count) == (3, 1, 5, 3)
    assert run.spread("nginx", "c64", "p50_us") is None
    assert run.spread("nobody", "c64", "rps") is None


def test_runs_are_saved_and_put_together(tmp_path: Path) -> None:
    run_of(*rounds(OURS, "c64", "rps", 1, 2), missing={"nginx": "not installed", "llamactl": "no path"}).save(tmp_path / "a")
    run_of(*rounds(OURS, "c64", "rps", 3), *rounds("nginx", "c64", "rps", math.nan), taken="tomorrow").save(tmp_path / "b")
    both = combine([tmp_path / "a", tmp_path / "b"])
    assert both.rounds(OURS, "c64", "rps") == {0: 1, 1: 2, 2: 3}
    assert both.taken == ["today", "tomorrow"]
    assert both.missing == {"llamactl": "no path"}, "nginx was measured in one of them"


def test_a_page_of_several_runs_shows_the_verdict_of_each(tmp_path: Path) -> None:
    for name, rps in (("a", (600, 700)), ("b", (300, 350, 400))):
        run_of(*rounds(OURS, "c64", "rps", *rps), *rounds("nginx", "c64", "rps", *[1000] * len(rps))).save(tmp_path / name)
    run_of(*rounds("litellm", "c64", "rps", 1)).save(tmp_path / "c")
    both = combine([tmp_path / "a", tmp_path / "b", tmp_path / "c"])
    first, second, _ = both.apart()
    assert first.rounds(OURS, "c64", "rps") == {0: 600, 1: 700}
    assert list(second.rounds(OURS, "c64", "rps").values()) == [300, 350, 400]
    (line,) = [line for line in report.page(both, None).splitlines() if "0.5 x nginx" in line]
    assert line.endswith("| **missed** | 0.65 | **0.35** |"), "nothing is judged by the third"
    assert "run 1" not in report.page(run_of(*rounds(OURS, "c64", "rps", 1)), None)


def test_what_one_run_measured_is_not_missing_because_another_could_not(tmp_path: Path) -> None:
    Run("m", ["then"], missing={"cold start": "no llama-server", "nginx": "not installed"}).save(tmp_path / "a")
    Run("m", ["now"], samples=[Sample("llamactl-py", "cold-start", 0, {"share_ms": 9.0})]).save(tmp_path / "b")
    assert combine([tmp_path / "a", tmp_path / "b"]).missing == {"nginx": "not installed"}


def test_figures_of_different_machines_are_not_put_together(tmp_path: Path) -> None:
    run_of().save(tmp_path / "a")
    run_of(machine="another").save(tmp_path / "b")
    with pytest.raises(SystemExit, match="different machines"):
        combine([tmp_path / "a", tmp_path / "b"])


# ---- verdicts


@pytest.mark.parametrize(("ours", "holds"), [((5000, 5100, 4000), True), ((4900, 5100, 4000), False)])
def test_a_ratio_is_taken_round_by_round_and_judged_by_its_median(ours: tuple[float, ...], holds: bool) -> None:
    run = run_of(*rounds(OURS, "c64", "rps", *ours), *rounds("llama-swap", "c64", "rps", 1000, 1000, 1000))
    assert verdict(run, "64 connections", "llama-swap").holds is holds


def test_a_round_in_which_the_machine_was_slow_is_compared_with_itself() -> None:
    run = run_of(*rounds(OURS, "c64", "rps", 6000, 600, 6000), *rounds("llama-swap", "c64", "rps", 1000, 100, 1000))
    spread = verdict(run, "64 connections", "llama-swap").spread
    assert spread
    assert (spread.low, spread.high) == (6, 6)


def test_what_is_added_is_counted_without_what_the_backend_takes() -> None:
    run = run_of(
        *rounds("direct", "sequential", "p50_us", 20),
        *rounds(OURS, "sequential", "p50_us", 120),
        *rounds("llama-swap", "sequential", "p50_us", 220),
    )
    found = verdict(run, "1 connection", "llama-swap")
    assert found.spread
    assert (found.spread.median, found.holds) == (0.5, True)


def test_without_the_peer_a_bar_is_not_measured() -> None:
    found = verdict(run_of(*rounds(OURS, "c64", "rps", 1000)), "64 connections", "llamactl")
    assert (found.spread, found.holds) == (None, None)


@pytest.mark.parametrize(("unfinished", "holds"), [((0, 0, 0), True), ((0, 1, 0), False)])
def test_one_lost_stream_is_one_too_many(unfinished: tuple[float, ...], holds: bool) -> None:
    run = run_of(*rounds(OURS, "streams2000", "unfinished", *unfinished))
    assert verdict(run, "2,000 streams", "whole").holds is holds


def test_a_failed_round_is_a_lost_stream() -> None:
    run = run_of(*rounds(OURS, "paced400", "unfinished", 0, 0), Sample(OURS, "paced400", 2, failure="stream 7: was cut off"))
    assert verdict(run, "400 paced streams", "failed").holds is False


def test_memory_is_judged_by_what_is_kept() -> None:
    run = run_of(*rounds(OURS, "start-up", "idle_mb", 50, 50), *rounds(OURS, "after", "mb", 70, 90))
    assert verdict(run, "memory", "idle ≤ 60").holds is True
    kept = verdict(run, "memory", "after")
    assert kept.spread
    assert (kept.spread.low, kept.spread.high, kept.holds) == (20, 40, True)


@pytest.mark.parametrize(("rps", "start_up", "holds"), [(950, 109, True), (880, 109, False), (950, 111, False)])
def test_with_a_thousand_instances_the_worst_case_decides(rps: float, start_up: float, holds: bool) -> None:
    ours, many = (150, 100, 90), (300, start_up, 90)  # one of three turns was disturbed
    run = run_of(
        *(*rounds(OURS, "starts", "ms", *ours), *rounds(ONE_THOUSAND, "starts", "ms", *many)),
        *(*rounds(OURS, "c64", "rps", 1000), *rounds(ONE_THOUSAND, "c64", "rps", rps)),
        *(*rounds(OURS, "upload", "p50_ms", 10), *rounds(ONE_THOUSAND, "upload", "p50_ms", 9)),
    )
    assert verdict(run, "1,000 instances", "10 %").holds is holds


# ---- the page


def test_the_page_says_what_was_typed_and_not_where() -> None:
    command = typed(["--rounds", "2", "--llama-swap", "/home/me/llama-swap", "--json", "x.json", "--only", "c64"])
    assert command == "python -m benchmarks --rounds 2 --llama-swap PATH --json PATH --only c64"
    run = run_of(*rounds(OURS, "c64", "rps", 1))
    run.typed = [command, command]
    assert f"```console\n$ {command}  # 2 x\n```" in report.page(run, None)
    run.typed = [command, "another"]
    assert f"```console\n$ {command}\n$ another\n```" in report.page(run, None)


def test_the_page_shows_medians_ranges_verdicts_and_who_is_missing() -> None:
    run = run_of(
        *(*rounds(OURS, "c64", "rps", 30_000, 31_000, 29_000), *rounds("nginx", "c64", "rps", 50_000, 50_000, 50_000)),
        Sample("litellm", "upload", 1, failure="no request was answered within 7 s"),
        missing={"llamactl": "its binary is given with: --llamactl PATH"},
    )
    page = report.page(run, "results.svg")
    assert "| llamactl-py | 30,000 (29,000–31,000) |" in page
    assert "| 64 connections | requests/s ≥ 0.5 x nginx | 0.6 (0.58–0.62) | holds |" in page
    assert "| 64 connections | requests/s ≥ 5 x llama-swap | – | not measured |" in page
    assert "llamactl is **not measured**: its binary is given with" in page
    assert "litellm **failed** in `upload`, 1 x: no request" in page
    assert "![medians and ranges](results.svg)" in page
    assert "of 0 rounds" in page  # nobody was started
    run.samples += [*rounds(OURS, "start-up", "ms", 1, 2), *rounds(OURS, "sequential", "p50_us", 1, 2, 3)]
    assert "a median (smallest–largest) of 2 rounds" in report.page(run, None)
    assert "of 3 turns" in report.page(run, None)


@pytest.mark.parametrize(("waited", "is_told"), [((0.01, 0.2, 0.02), False), ((0.1, 0.2, 0.02), True)])
def test_a_busy_machine_is_told(waited: tuple[float, ...], is_told: bool) -> None:
    page = report.page(run_of(*rounds("nginx", "c64", "waited", *waited)), None)
    assert ("nginx waited for its processor 10% of the time" in page) is is_told


def test_a_part_of_a_run_shows_only_the_bars_that_it_touches() -> None:
    page = report.page(run_of(*rounds(OURS, "c64", "rps", 2), *rounds("nginx", "c64", "rps", 2)), None)
    assert "0.5 x nginx" in page
    assert "llama-swap" not in page


def test_scale_has_a_table_of_its_own() -> None:
    run = run_of(*rounds(OURS, "c64", "rps", 2), *rounds(ONE_THOUSAND, "c64", "rps", 3))
    assert ONE_THOUSAND not in report.table(run, next(table for table in PEERS if table.title == "64 connections"))
    assert ONE_THOUSAND in report.table(run, INSTANCES)


def test_every_case_has_a_place_on_the_page() -> None:
    shown = {column.case for table in (*PEERS, *STREAMS) for column in table.columns}
    assert {case.name for case in CASES} <= shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0"), (0.061, "0.06"), (1.5, "1.5"), (3, "3"), (10.04, "10"), (99.94, "99.9"), (12345.6, "12,346")]
)
def test_numbers_have_as_many_digits_as_mean_something(value: float, shown: str) -> None:
    assert report.number(value) == shown


def test_the_picture_is_an_svg_with_a_dot_for_each_candidate() -> None:
    run = run_of(
        *rounds(OURS, "c64", "rps", 1000, 3000), *rounds("nginx", "c64", "rps", 50_000), *rounds("direct", "c64", "cpu_us", 0)
    )
    root = ET.fromstring(plot.svg(run))
    dots = root.findall(".//{http://www.w3.org/2000/svg}circle")
    words = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert len(dots) == 2
    assert {"2,000", "50,000", OURS, "nginx"} <= set(words)
    assert float(dots[0].attrib["cx"]) < float(dots[1].attrib["cx"])


def test_a_picture_of_nothing_is_one_too() -> None:
    ET.fromstring(plot.svg(run_of()))


def test_imports_are_summed_up_by_package() -> None:
    told = (
        "import time: self [us] | cumulative | imported package\n"
        "import time:      2000 |       2000 |   aiohttp.web\n"
        "import time:       500 |       2500 | aiohttp\n"
        "import time:       100 |        100 |     _socket\n"
        "something else\n"
        "import time:       300 |        300 |   email.parser\n"
    )
    assert by_package(told) == {"aiohttp": 2.5, "standard library": 0.4}


# ---- the command line


def test_a_whole_run_writes_the_page_and_a_part_of_one_does_not(tmp_path: Path) -> None:
    assert arguments([]).output is not None
    assert arguments(["--quick"]).output is None
    assert arguments(["--only", "c64"]).output is None
    assert arguments(["--only", "c64", "--output", str(tmp_path)]).output == tmp_path


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--only", "c64,c65"], "there is no 'c65'; known are sequential"),
        (["--candidates", "caddy"], "there is no 'caddy'; known are direct"),
        (["--llama-swap", "/nowhere/llama-swap"], "there is no program at /nowhere/llama-swap"),
        (["--output", "/nowhere"], "there is no folder /nowhere"),
        (["--json", "/nowhere/run.json"], "there is no folder /nowhere"),
        (["--rounds", "0"], "0 is not above 0"),
    ],
)
def test_a_wrong_word_is_told(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(words)
    assert told in capsys.readouterr().err
