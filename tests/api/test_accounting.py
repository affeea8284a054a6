"""Metrics, the newest requests and the totals over HTTP. Requests are put into the ledger by hand: test_account has true ones,
and tests/accounting what answers may look like.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llamactl_py.accounting.ledger import Entry, Ledger, Outcome
from llamactl_py.accounting.usage import Usage
from tests.support.house import House, house

REQUESTS = "/api/v1/requests"


@pytest.fixture
async def h(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as running:
        yield running


def ledger(h: House) -> Ledger:
    return h.daemon.services.ledger


def begin(h: House, instance: str = "a", key: str = "management", is_streamed: bool = False) -> Entry:
    return ledger(h).begin(100.0, instance, f"{instance}/m", key, "POST", "/v1/chat/completions", 500, is_streamed)


def answer(h: House, instance: str = "a", key: str = "management", usage: Usage | None = None) -> Entry:
    entry = begin(h, instance, key)
    entry.end(101.0, 200, Outcome.ANSWERED, 800, usage)
    return entry


async def get(h: House, path: str) -> Any:
    status, body = await h.ask("GET", path)
    assert status == 200, body
    return body


async def metrics(h: House) -> dict[tuple[str, ...], float]:
    """Every sample, by its name and the values of its labels."""
    families = text_string_to_metric_families(await get(h, "/metrics"))
    return {(s.name, *(s.labels[label] for label in sorted(s.labels))): s.value for family in families for s in family.samples}


# -- requests -----------------------------------------------------------------------------------------------------------------


async def test_a_request_is_told_with_all_that_is_known_of_it(h: House) -> None:
    entry = begin(h, is_streamed=True)
    entry.loading, entry.granted, entry.first_byte = 100.5, 104.5, 105.0
    entry.end(110.0, 200, Outcome.ANSWERED, 800, Usage(12, 2, 10, 0.5, 24.0, 4.0, 2.5))
    told = await get(h, f"{REQUESTS}/{entry.id}")
    assert abs(told.pop("arrived_at") - time.time()) < 5
    assert told == {
        "id": entry.id, "instance": "a", "model": "a/m", "key": "management", "method": "POST", "path": "/v1/chat/completions",
        "streamed": True, "outcome": "answered", "status": 200, "bytes_in": 500, "bytes_out": 800,
        "queue_seconds": 0.5, "load_seconds": 4.0, "first_byte_seconds": 5.0, "duration_seconds": 10.0,
        "prompt_tokens": 12, "cached_tokens": 2, "completion_tokens": 10,
        "prompt_tokens_per_second": 24.0, "completion_tokens_per_second": 2.5,
    }  # fmt: skip


async def test_what_did_not_happen_is_left_out(h: House) -> None:
    running, refused = begin(h), begin(h, "")
    refused.end(100.0, 404, Outcome.REFUSED)
    told = await get(h, f"{REQUESTS}/{running.id}")
    assert not {"outcome", "status", "bytes_out", "duration_seconds", "queue_seconds", "prompt_tokens"} & set(told)
    told = await get(h, f"{REQUESTS}/{refused.id}")
    assert (told["outcome"], told["status"], told["duration_seconds"], told["instance"]) == ("refused", 404, 0.0, "")


async def test_the_speed_of_a_stream_is_known_without_the_backends_word(h: House) -> None:
    for is_streamed in (True, False):
        entry = begin(h, is_streamed=is_streamed)
        entry.first_byte = 101.0
        entry.end(105.0, 200, Outcome.ANSWERED, 800, Usage(12, None, 10))
    whole, stream = await get(h, REQUESTS)
    assert stream["completion_tokens_per_second"] == 2.5
    assert "completion_tokens_per_second" not in whole


async def test_requests_are_listed_newest_first_page_by_page(h: House) -> None:
    ids = [answer(h).id for _ in range(7)][::-1]
    assert [told["id"] for told in await get(h, REQUESTS)] == ids
    page = await get(h, f"{REQUESTS}?limit=3")
    seen = [told["id"] for told in page]
    answer(h)  # what comes meanwhile does not shift the pages
    while page:
        page = await get(h, f"{REQUESTS}?limit=3&before={page[-1]['id']}")
        seen += [told["id"] for told in page]
    assert seen == ids


async def test_requests_are_found_by_instance_and_by_key(h: House) -> None:
    made = {(instance, key): answer(h, instance, key).id for instance in ("a", "b") for key in ("k", "größe & more", "")}
    for query, wanted in {
        "instance=a": [id_ for (instance, _), id_ in made.items() if instance == "a"],
        "key=k": [id_ for (_, key), id_ in made.items() if key == "k"],
        "key=gr%C3%B6%C3%9Fe+%26+more&instance=b": [made["b", "größe & more"]],
        "key=": [id_ for (_, key), id_ in made.items() if not key],
        "instance=A": [],
        "instance=a&limit=1": [made["a", ""]],
    }.items():
        assert sorted(told["id"] for told in await get(h, f"{REQUESTS}?{query}")) == sorted(wanted), query


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "limit=-1", "before=x", "before=", "before=0000-1-1", "before=%00"]
)
async def test_a_bad_query_is_422_and_names_its_field(h: House, query: str) -> None:
    status, body = await h.ask("GET", f"{REQUESTS}?{query}")
    assert (status, [problem["field"] for problem in body["problems"]]) == (422, [query.partition("=")[0]])


async def test_a_request_that_is_not_there_is_404(h: House) -> None:
    run = answer(h).ledger.run
    for id_ in (f"{run}-0", f"{run}-2", f"{run}x-1", "x", "1", "%00", "%2e%2e", "a" * 500):
        status, body = await h.ask("GET", f"{REQUESTS}/{id_}")
        assert (status, body["error"]) == (404, "not_found"), id_


async def test_only_so_many_requests_are_remembered(tmp_path: Path) -> None:
    async with house(tmp_path, server={"request_history": 2}) as h:
        ids = [answer(h).id for _ in range(4)]
        assert [told["id"] for told in await get(h, REQUESTS)] == ids[:1:-1]
        assert (await h.ask("GET", f"{REQUESTS}/{ids[0]}"))[0] == 404
        assert (await get(h, "/api/v1/usage"))["total"]["requests"] == 4


# -- totals -------------------------------------------------------------------------------------------------------------------


async def test_usage_is_told_for_each_instance_and_each_key(h: House) -> None:
    before = time.time()
    for instance, key in (("a", "x"), ("a", "y"), ("b", "y")):
        answer(h, instance, key, Usage(10, 4, 5))
    begin(h, "b", "x")
    begin(h, "", "").end(100.0, 401, Outcome.REFUSED)
    usage = await get(h, "/api/v1/usage")
    assert before - 60 < usage["since"] < time.time()
    assert usage["total"] == {
        "requests": 4, "in_flight": 1, "outcomes": {"answered": 3, "refused": 1}, "bytes_in": 2000, "bytes_out": 2400,
        "prompt_tokens": 30, "cached_tokens": 12, "completion_tokens": 15,
    }  # fmt: skip
    assert [(t["name"], t["requests"], t["in_flight"], t["completion_tokens"]) for t in usage["instances"]] == [
        ("", 1, 0, 0),
        ("a", 2, 0, 10),
        ("b", 1, 1, 5),
    ]
    assert [(t["name"], t["requests"], t["prompt_tokens"]) for t in usage["keys"]] == [("", 1, 0), ("x", 1, 10), ("y", 2, 20)]


async def test_what_was_deleted_is_told_a_while_longer_and_then_in_one(h: House) -> None:
    await h.create("a")
    for name in ("k", "k"):
        assert (await h.ask("POST", "/api/v1/auth/keys", json={"name": name}))[0] == 201
    answer(h, "a", "management")
    answer(h, "a", "k")
    assert (await h.ask("DELETE", "/api/v1/auth/keys/1"))[0] == 204
    assert (await h.ask("DELETE", "/api/v1/instances/a"))[0] == 204
    assert ("llamactl_requests_total", "a", "k", "answered", "200") in await metrics(h)
    ledger(h).fold_after = 0.0
    assert not [sample for sample in await metrics(h) if sample[0].startswith("llamactl_requests_total")]
    usage = await get(h, "/api/v1/usage")
    assert [(t["name"], t["requests"]) for t in usage["instances"]] == [("(deleted)", 2)]
    assert [(t["name"], t["requests"]) for t in usage["keys"]] == [
        ("k", 1),
        ("management", 1),
    ]  # the other key of that name is there
    assert (await h.ask("DELETE", "/api/v1/auth/keys/2"))[0] == 204
    usage = await get(h, "/api/v1/usage")
    assert [(t["name"], t["requests"]) for t in usage["keys"]] == [("(deleted)", 1), ("management", 1)]
    assert usage["total"]["requests"] == 2


async def test_what_was_deleted_is_heard_of_though_nobody_reads(h: House) -> None:
    ledger(h).fold_after = 0.0
    await h.create("a")
    assert (await h.ask("POST", "/api/v1/auth/keys", json={"name": "k"}))[0] == 201
    answer(h, "a", "k")
    assert (await h.ask("DELETE", "/api/v1/auth/keys/1"))[0] == 204
    assert [(instance, key) for instance, key, _ in ledger(h).sums()] == [("a", "(deleted)")]
    assert (await h.ask("DELETE", "/api/v1/instances/a"))[0] == 204
    assert [(instance, key) for instance, key, _ in ledger(h).sums()] == [("(deleted)", "(deleted)")]


# -- metrics ------------------------------------------------------------------------------------------------------------------


async def test_metrics_tell_of_requests_instances_and_the_process(h: House) -> None:
    for name in ("a", "b"):
        await h.create(name)
    await h.ask("POST", "/api/v1/instances/a/start")
    await h.until("a", "ready")
    answer(h, usage=Usage(12, 2, 10))
    told = await metrics(h)
    assert told["llamactl_requests_total", "a", "management", "answered", "200"] == 1
    assert told["llamactl_tokens_total", "a", "management", "completion"] == 10
    states = ("stopped", "starting", "ready", "stopping", "backoff", "failed")
    assert [told["llamactl_instance_state", "a", state] for state in states] == [0, 0, 1, 0, 0, 0]
    assert [told["llamactl_instance_state", "b", state] for state in states] == [1, 0, 0, 0, 0, 0]
    assert told["llamactl_instance_restarts_total", "a"] == 0
    assert [value for name, *_, value in [(*key, value) for key, value in told.items()] if name == "llamactl_build_info"] == [1]


async def test_openmetrics_is_given_to_whom_asks_for_it(h: House) -> None:
    for accept, begins in (("", "text/plain; version=0.0.4"), ("application/openmetrics-text", "application/openmetrics-text")):
        async with h.session.get(f"{h.url}/metrics", headers={"Accept": accept}) as given:
            assert given.headers["Content-Type"].startswith(begins)
            assert (await given.text()).endswith("# EOF\n") is bool(accept)


async def test_metrics_are_behind_the_management_key(h: House) -> None:
    async with h.session.get(f"{h.url}/metrics", headers={"Authorization": "Bearer x"}) as given:
        assert given.status == 401


async def test_scrapes_at_the_same_time_do_not_disturb_each_other_or_requests(h: House) -> None:
    async def work() -> None:
        for number in range(200):
            begin(h, key=f"k{number}").end(101.0, 200 + number % 5, Outcome.ANSWERED)
            await asyncio.sleep(0)

    *_, last = await asyncio.gather(work(), *(metrics(h) for _ in range(5)), metrics(h))
    assert all(value >= 0 for value in last.values())
    told = await metrics(h)
    assert sum(value for sample, value in told.items() if sample[0] == "llamactl_requests_total") == 200
