"""Lists: filtered, sorted and cut as the query says; and a query that cannot be meant is refused, naming what is allowed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.house import House, house

BASE = "/api/v1/instances"


@pytest.fixture
async def h(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as running:
        await running.create("zoe", group="large", aliases=["Nick"])
        await running.create("Adam", group="small", backend_options={"model": "/models/Qwen.gguf"})
        await running.create("mia")
        await running.ask("POST", f"{BASE}/eve", json={"backend_type": "mlx_lm", "group": "large"})
        await running.ask("POST", f"{BASE}/mia/start")
        await running.until("mia", "ready")
        yield running


async def names(h: House, query: str) -> list[str]:
    status, listed = await h.ask("GET", f"{BASE}?{query}")
    assert status == 200, listed
    return [instance["name"] for instance in listed]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "zoe Adam mia eve"),
        ("status=running", "mia"),
        ("status=ready", "mia"),
        ("status=stopped", "zoe Adam eve"),
        ("status=stopped,running", "zoe Adam mia eve"),
        ("status=stopped&status=ready", "zoe Adam mia eve"),
        ("status=failed", ""),
        ("group=large", "zoe eve"),
        ("group=", "mia"),
        ("group=none", ""),
        ("backend_type=mlx_lm", "eve"),
        ("backend_type=llama-cpp", "zoe Adam mia"),
        ("search=A", "zoe Adam mia eve"),
        ("search=ADAM", "Adam"),
        ("search=nick", "zoe"),
        ("search=qwen", "Adam"),
        ("search=large", "zoe eve"),
        ("search=%25", ""),
        ("group=large&backend_type=mlx", "eve"),
        ("sort=name", "Adam eve mia zoe"),
        ("sort=name&order=desc", "zoe mia eve Adam"),
        ("order=desc", "eve mia Adam zoe"),
        ("sort=group", "mia zoe eve Adam"),
        ("sort=status", "mia zoe Adam eve"),
        ("sort=last_used&order=desc&limit=1", "mia"),
        ("limit=2", "zoe Adam"),
        ("limit=2&offset=1", "Adam mia"),
        ("offset=3", "eve"),
        ("offset=10000", ""),
    ],
)
async def test_a_list_has_what_was_asked_for(h: House, query: str, expected: str) -> None:
    assert await names(h, query) == expected.split()


async def test_the_number_of_all_is_told_beside_a_part(h: House) -> None:
    async with h.session.get(f"{h.url}{BASE}?status=stopped&limit=1") as answer:
        assert (answer.headers["X-Total-Count"], len(await answer.json())) == ("3", 1)


@pytest.mark.parametrize(
    ("query", "field", "said"),
    [
        ("status=runing", "status", "'runing' is none of backoff, failed, ready, restarting, running, shutting_down, starting"),
        ("status=", "status", "'' is none of"),
        ("status=running,", "status", "'' is none of"),
        ("backend_type=llama", "backend_type", "unknown backend 'llama'"),
        ("sort=size", "sort", "'size' is none of created, name"),
        ("sort=stat", "sort", "(did you mean 'state'?)"),
        ("order=down", "order", "'down' is none of asc, desc"),
        ("limit=0", "limit", "'0' is not a whole number from 1 to 10000"),
        ("limit=all", "limit", "'all' is not"),
        ("offset=-1", "offset", "'-1' is not a whole number from 0 to 10000"),
    ],
)
async def test_a_query_that_cannot_be_meant_is_refused_also_where_there_is_nothing(
    tmp_path: Path, query: str, field: str, said: str
) -> None:
    async with house(tmp_path) as h:
        status, body = await h.ask("GET", f"{BASE}?{query}")
        (problem,) = body["problems"]
        assert (status, problem["field"]) == (422, field)
        assert said in problem["problem"]
