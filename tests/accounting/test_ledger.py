"""The ledger: what an entry holds, what the sums come to, whose they are, and which requests are remembered."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamactl_py.accounting import ledger as module
from llamactl_py.accounting.ledger import DELETED, MOST_ANSWERS, MOST_PAIRS, OTHER, Entry, Ledger, Outcome
from llamactl_py.accounting.sums import BOUNDS, Sums
from llamactl_py.accounting.usage import Usage

ANSWERED = Outcome.ANSWERED
DATE = 1_700_000_000.0


def ledger(history: int = 1000) -> Ledger:
    return Ledger(history, lambda: DATE, "4f1c")


def begin(to: Ledger, at: float = 0.0, instance: str = "a", key: str = "k", **more: Any) -> Entry:
    return to.begin(at, instance, "model", key, "POST", "/v1/chat/completions", **more)


def of(led: Ledger) -> dict[tuple[str, str], Sums]:
    return {(instance, key): sums for instance, key, sums in led.sums()}


def test_an_entry_tells_its_request_step_by_step() -> None:
    led = ledger()
    entry = led.begin(10.0, "a", "a/model", "k", "POST", "/v1/completions?key=secret", 500, True)
    assert (entry.id, entry.date, entry.arrived) == ("4f1c-1", DATE, 10.0)
    assert (entry.path, entry.bytes_in, entry.is_streamed, entry.outcome) == ("/v1/completions", 500, True, None)
    assert of(led)["a", "k"].in_flight == 1
    entry.loading, entry.granted, entry.first_byte = 10.5, 14.5, 15.0
    entry.end(20.0, 200, ANSWERED, 800, Usage(12, 2, 10, 0.5, 24.0, 4.0, 2.5))
    assert (entry.ended, entry.status, entry.outcome, entry.bytes_out) == (20.0, 200, ANSWERED, 800)
    sums = of(led)["a", "k"]
    assert (sums.in_flight, sums.answers, sums.bytes_in, sums.bytes_out) == (0, {(200, "answered"): 1}, 500, 800)
    assert (sums.prompt_tokens, sums.cached_tokens, sums.completion_tokens) == (12, 2, 10)
    assert (sums.prompt_seconds, sums.generation_seconds) == (0.5, 4.0)
    assert [h.total for h in (sums.queue, sums.load, sums.first_byte, sums.duration)] == [0.5, 4.0, 5.0, 10.0]
    assert [sum(h.counts) for h in (sums.queue, sums.load, sums.first_byte, sums.duration)] == [1, 1, 1, 1]


def test_steps_that_did_not_happen_are_not_counted() -> None:
    led = ledger()
    begin(led, 1.0).end(1.5, 503, Outcome.FAILED)
    ready = begin(led, 2.0)
    ready.granted = 2.25
    ready.end(3.0, 0, Outcome.LEFT)
    sums = of(led)["a", "k"]
    assert sums.answers == {(503, "failed"): 1, (0, "left"): 1}
    assert [sum(h.counts) for h in (sums.queue, sums.load, sums.first_byte, sums.duration)] == [1, 0, 0, 2]
    assert (sums.queue.total, sums.duration.total) == (0.25, 1.5)


def test_only_the_first_end_counts() -> None:
    led = ledger()
    entry = begin(led)
    entry.end(1.0, 200, ANSWERED, 5, Usage(1, 1, 1))
    entry.end(2.0, 0, Outcome.LEFT, 7, Usage(1, 1, 1))
    assert (entry.ended, entry.outcome, entry.bytes_out) == (1.0, ANSWERED, 5)
    assert of(led)["a", "k"].answers == {(200, "answered"): 1}
    assert of(led)["a", "k"].in_flight == 0


def test_a_bucket_includes_its_bound() -> None:
    led = ledger()
    for seconds in (0.0, BOUNDS[0], BOUNDS[0] + 1e-9, BOUNDS[-1], BOUNDS[-1] + 1, 1e9):
        begin(led).end(seconds, 200, ANSWERED)
    counts = of(led)["a", "k"].duration.counts
    assert (counts[0], counts[1], counts[-2], counts[-1], sum(counts)) == (2, 1, 1, 2, 6)


def test_what_a_client_wrote_is_cut() -> None:
    entry = ledger().begin(0.0, "a", "m" * 5000, "k", "X" * 500, "/" + "p" * 5000 + "?" + "q" * 5000)
    assert (len(entry.model), len(entry.method), len(entry.path)) == (256, 16, 256)


def test_the_newest_requests_are_remembered_newest_first() -> None:
    led = ledger(3)
    entries = [begin(led, float(number)) for number in range(5)]
    assert list(led.entries()) == entries[:1:-1]
    assert [entry.id for entry in led.entries()] == ["4f1c-5", "4f1c-4", "4f1c-3"]
    assert list(led.entries(before=5)) == entries[3:1:-1]
    assert list(led.entries(before=3)) == []
    assert [led.entry(number) for number in range(7)] == [None, None, None, *entries[2:], None]
    assert of(led)["a", "k"].in_flight == 5  # those that are not remembered count on


def test_without_history_there_are_only_sums() -> None:
    led = ledger(0)
    begin(led).end(1.0, 200, ANSWERED)
    assert (list(led.entries()), led.entry(1), of(led)["a", "k"].answers) == ([], None, {(200, "answered"): 1})


IDS = {"4f1c-1": 1, "4f1c-ff": 255}
NO_IDS = ("4f1d-1", "4f1c", "4f1c--1", "4f1c-g", "", "4f1c-" + "f" * 17, "4f1c-1\n", "4f1c-\u0661", "4F1C-1")


@pytest.mark.parametrize(("id_", "number"), [*IDS.items(), *((id_, None) for id_ in NO_IDS)])
def test_an_id_leads_to_its_number_in_its_own_daemon_only(id_: str, number: int | None) -> None:
    assert ledger().number(id_) == number


def test_two_daemons_have_different_ids() -> None:
    runs = {begin(Ledger(1, lambda: DATE)).ledger.run for _ in range(20)}
    assert len(runs) > 1
    assert all(Ledger(1, lambda: DATE, run).number(f"{run}-1") == 1 for run in runs)


# -- whose sums ---------------------------------------------------------------------------------------------------------------


def test_sums_of_what_was_deleted_are_folded_after_a_while() -> None:
    led = ledger()
    for instance, key in (("a", "k"), ("b", "k"), ("b", "gone"), ("", "k"), ("b", "")):
        begin(led, 0.0, instance, key, bytes_in=1).end(1.0, 200, ANSWERED)
    led.keep({"a"}, {"k"}, 100.0)
    assert len(of(led)) == 5
    led.keep({"a"}, {"k"}, 100.0 + led.fold_after - 1)
    assert len(of(led)) == 5
    led.keep({"a"}, {"k"}, 100.0 + led.fold_after)
    left = of(led)
    assert set(left) == {("a", "k"), (DELETED, "k"), (DELETED, DELETED), ("", "k"), (DELETED, "")}
    assert [sums.bytes_in for sums in left.values()] == [1] * 5


def test_one_that_comes_back_in_time_keeps_its_sums() -> None:
    led = ledger()
    begin(led).end(1.0, 200, ANSWERED)
    led.keep(set(), {"k"}, 100.0)
    led.keep({"a"}, {"k"}, 200.0)
    led.keep(set(), {"k"}, 300.0)
    led.keep(set(), {"k"}, 300.0 + led.fold_after - 1)
    assert set(of(led)) == {("a", "k")}


def test_sums_are_not_folded_while_a_request_is_in_flight() -> None:
    led = ledger()
    entry = begin(led)
    for at in (0.0, led.fold_after, 10 * led.fold_after):
        led.keep(set(), set(), at)
        assert set(of(led)) == {("a", "k")}
    entry.end(1.0, 200, ANSWERED)
    led.keep(set(), set(), 11 * led.fold_after)
    assert of(led)[DELETED, DELETED].answers == {(200, "answered"): 1}
    begin(led).end(2.0, 200, ANSWERED)  # created again, or still on its way
    assert of(led)["a", "k"].answers == {(200, "answered"): 1}


def test_there_are_at_most_so_many_pairs_and_the_rest_is_summed_together() -> None:
    led = ledger(10)
    for number in range(MOST_PAIRS + 50):
        begin(led, 0.0, f"i{number}", bytes_in=1).end(1.0, 200, ANSWERED)
    sums = of(led)
    assert len(sums) == MOST_PAIRS + 1
    assert sums[OTHER, OTHER].bytes_in == 50
    assert next(led.entries()).instance == f"i{MOST_PAIRS + 49}"
    begin(led, 0.0, "i0", bytes_in=1)
    assert of(led)["i0", "k"].in_flight == 1
    led.keep(set(), {"k"}, 0.0)
    begin(led, 0.0, "i0").end(1.0, 200, ANSWERED)
    led.keep({"i0"}, {"k"}, led.fold_after)
    assert set(of(led)) == {("i0", "k"), (DELETED, "k"), (OTHER, OTHER)}


def test_sums_are_folded_into_those_that_there_are_also_when_there_are_too_many() -> None:
    led = ledger(0)
    led.fold_after = 0.0
    begin(led, 0.0, "gone", bytes_in=1).end(1.0, 200, ANSWERED)
    led.keep(set(), {"k"}, 0.0)
    names = {f"i{number}" for number in range(MOST_PAIRS)}
    for name in (*names, "too many"):
        begin(led, 0.0, name, bytes_in=1).end(1.0, 200, ANSWERED)
    assert len(of(led)) == MOST_PAIRS + 1
    led.keep(names - {"i0"}, {"k"}, 0.0)
    assert of(led)[DELETED, "k"].bytes_in == 2


def test_a_backend_cannot_make_up_answers_without_end() -> None:
    led = ledger(0)
    for status in range(100, 1000):
        begin(led).end(1.0, status, ANSWERED)
    answers = of(led)["a", "k"].answers
    assert len(answers) <= MOST_ANSWERS + len(Outcome)
    assert answers.total() == 900


# -- the law: what goes in is what comes out ------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "", "c"])
COUNTS = st.none() | st.integers(0, 10**9)
TIMES = st.none() | st.floats(0, 10**7)
USAGES = st.none() | st.builds(Usage, COUNTS, COUNTS, COUNTS, TIMES, TIMES, TIMES, TIMES)
STEP = st.tuples(st.just("begin"), NAMES, NAMES, st.integers(0, 10**6))
END = st.tuples(st.just("end"), st.integers(0, 50), st.sampled_from([0, 200, 404, 503]), st.sampled_from(Outcome), USAGES)
KEEP = st.tuples(st.just("keep"), st.sets(NAMES), st.sets(NAMES))


@given(st.lists(STEP | END | KEEP, max_size=60))
def test_the_sums_are_those_of_what_was_put_in_whatever_the_order(steps: list[Any]) -> None:
    led = ledger(5)
    running: list[Entry] = []
    ended: list[Entry] = []
    at = 0.0
    for kind, *details in steps:
        at += module.FOLD_AFTER / 2
        if kind == "begin":
            entry = begin(led, at, details[0], details[1], bytes_in=details[2])
            entry.loading, entry.granted, entry.first_byte = at + 1, at + 3, at + 7
            running.append(entry)
        elif kind == "keep":
            led.keep(*details, at)
        elif running:
            which, status, outcome, usage = details
            entry = running.pop(which % len(running))
            entry.end(at, status, outcome, 7, usage)
            ended.append(entry)
        if len(ended) % 3 == 0:  # to look is to add up; what is folded away meanwhile has to be added up first
            assert sum(sums.in_flight for sums in of(led).values()) == len(running)
    for entry in running:
        entry.end(at, 200, ANSWERED)
    total = Sums()
    for sums in of(led).values():
        assert sums.in_flight == 0
        assert sum(sums.duration.counts) == sums.answers.total()
        total.merge(sums)
    every = ended + running
    assert total.answers == Counter((entry.status, entry.outcome) for entry in every)
    assert total.bytes_in == sum(entry.bytes_in for entry in every)
    assert total.bytes_out == 7 * len(ended)
    usages = [entry.usage for entry in every if entry.usage]
    assert total.prompt_tokens == sum(usage.prompt_tokens or 0 for usage in usages)
    assert total.completion_tokens == sum(usage.completion_tokens or 0 for usage in usages)
    assert total.generation_seconds == pytest.approx(sum(usage.generation_seconds or 0 for usage in usages))
    assert [h.total for h in (total.queue, total.load, total.first_byte)] == [len(every), 2 * len(every), 7 * len(every)]
    assert total.duration.total == pytest.approx(sum((entry.ended or 0) - entry.arrived for entry in every))


def test_a_copy_does_not_change_with_its_original() -> None:
    led = ledger()
    begin(led).end(1.0, 200, ANSWERED)
    ((_, _, sums),) = led.sums()
    copied = sums.copy()
    begin(led).end(1.0, 200, ANSWERED, 5)
    assert (copied.answers.total(), copied.bytes_out, sum(copied.duration.counts)) == (1, 0, 1)
    led.add_up()
    assert sums.answers.total() == 2
