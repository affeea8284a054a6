"""Changing an instance without undoing what others changed: PATCH, and conditions by ETag.

`answer(...)` gives (status, headers, body), as the tags are in the headers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.house import House, house

BASE = "/api/v1/instances"
MASK = "********"
MERGE = "application/merge-patch+json"


@pytest.fixture
async def h(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as running:
        yield running


async def answer(h: House, method: str, path: str, **parameters: Any) -> tuple[int, Any, Any]:
    async with h.session.request(method, h.url + path, **parameters) as said:
        text = await said.text()
        return said.status, said.headers, json.loads(text) if text else None


async def tag_of(h: House, name: str = "a") -> str:
    _, headers, body = await answer(h, "GET", f"{BASE}/{name}")
    tag: str = headers["ETag"]
    assert tag == f'"{body["revision"]}"'
    return tag


# ---- patch


@pytest.mark.parametrize("kind", [MERGE, "application/json", f"{MERGE}; charset=utf-8", "application/x-www-form-urlencoded"])
async def test_a_patch_changes_what_it_names_and_nothing_else(h: House, kind: str) -> None:
    before = (await h.create("a", aliases=["x", "y"], backend_options={"ctx_size": 1, "threads": 2}))["options"]
    patch = {"idle_timeout": "90s", "aliases": ["z"], "backend_options": {"ctx_size": 8, "threads": None}}
    status, _, body = await answer(h, "PATCH", f"{BASE}/a", data=json.dumps(patch), headers={"Content-Type": kind})
    assert status == 200
    assert body["options"] == {
        **before,
        "idle_timeout": "90s",
        "aliases": ["z"],
        "backend_options": {"model": "/dev/null", "ctx_size": 8},
    }
    assert (await h.get("a"))["options"] == body["options"]


async def test_null_in_a_patch_means_the_default(h: House) -> None:
    await h.create("a", idle_timeout=5, group="g", environment={"X": "1"})
    _, body = await h.ask("PATCH", f"{BASE}/a", json={"idle_timeout": None, "group": None, "environment": {"X": None}})
    assert body["options"]["idle_timeout"] == 30
    assert "group" not in body["options"]
    assert "X" not in body["options"]["environment"]


async def test_a_patch_keeps_secrets_that_it_does_not_name_or_names_by_their_mask(h: House) -> None:
    await h.create("a", environment={"A_TOKEN": "kept", "B_TOKEN": "kept too", "C_TOKEN": "old"})
    await h.ask("PATCH", f"{BASE}/a", json={"environment": {"B_TOKEN": MASK, "C_TOKEN": "new"}})
    (instance,) = h.daemon.services.fleet
    kept = {name: value for name, value in instance.options.environment.items() if "TOKEN" in name}
    assert kept == {"A_TOKEN": "kept", "B_TOKEN": "kept too", "C_TOKEN": "new"}
    status, body = await h.ask("PATCH", f"{BASE}/a", json={"environment": {"D_TOKEN": MASK}})
    assert (status, body["problems"][0]["field"]) == (422, "environment.D_TOKEN")


@pytest.mark.parametrize(
    "patch", [[], None, "text", [{"op": "remove", "path": "/aliases"}], {"typo": 1}, {"typo": None}, {"backend_type": "x"}]
)
async def test_a_patch_that_leads_nowhere_changes_nothing(h: House, patch: Any) -> None:
    before = await h.create("a", aliases=["x"])
    status, body = await h.ask("PATCH", f"{BASE}/a", data=json.dumps(patch), headers={"Content-Type": MERGE})
    assert (status, body["error"]) == (422, "invalid_request")
    assert (await h.get("a"))["options"] == before["options"]


async def test_another_form_of_patch_is_refused_and_the_right_one_named(h: House) -> None:
    await h.create("a")
    headers = {"Content-Type": "application/json-patch+json"}
    status, body = await h.ask("PATCH", f"{BASE}/a", data=b"[]", headers=headers)
    assert (status, body["error"]) == (415, "unsupported_media_type")
    assert MERGE in body["details"]


async def test_a_patch_of_a_running_instance_waits_for_its_restart(h: House) -> None:
    await h.create("a")
    await h.chat("a")
    _, body = await h.ask("PATCH", f"{BASE}/a", json={"environment": {"NEW": "1"}})
    assert (body["state"], body["restart_required"]) == ("ready", True)


async def test_patches_of_different_fields_at_the_same_time_all_count(h: House) -> None:
    await h.create("a")
    patches = [{"environment": {f"V{n}": str(n)}} for n in range(20)]
    answers = await asyncio.gather(*(h.ask("PATCH", f"{BASE}/a", json=patch) for patch in patches))
    assert {status for status, _ in answers} == {200}
    environment = (await h.get("a"))["options"]["environment"]
    assert {name: value for name, value in environment.items() if name[0] == "V"} == {f"V{n}": str(n) for n in range(20)}


# ---- conditions


async def test_of_many_changes_to_the_same_revision_one_succeeds_and_the_others_learn_the_new_tag(h: House) -> None:
    await h.create("a")
    tag = await tag_of(h)
    answers = await asyncio.gather(
        *(answer(h, "PATCH", f"{BASE}/a", json={"idle_timeout": n}, headers={"If-Match": tag}) for n in range(1, 11)),
        *(
            answer(h, "PUT", f"{BASE}/a", json={"backend_type": "mlx_lm", "idle_timeout": n}, headers={"If-Match": tag})
            for n in (50, 51)
        ),
    )
    assert sorted(status for status, *_ in answers) == [200] + [412] * 11
    now = await tag_of(h)
    assert now != tag
    assert {headers["ETag"] for _, headers, _ in answers} == {now}
    assert {body["error"] for status, _, body in answers if status == 412} == {"changed"}


async def test_a_counter_that_is_raised_under_conditions_loses_no_count(h: House) -> None:
    await h.create("a", max_restarts=0)

    async def raise_it() -> None:
        while True:
            _, headers, body = await answer(h, "GET", f"{BASE}/a")
            change = {"max_restarts": body["options"]["max_restarts"] + 1}
            if (await answer(h, "PATCH", f"{BASE}/a", json=change, headers={"If-Match": headers["ETag"]}))[0] == 200:
                return

    async with asyncio.timeout(20):
        await asyncio.gather(*(raise_it() for _ in range(10)))
    assert (await h.get("a"))["options"]["max_restarts"] == 10


async def test_without_a_condition_a_change_is_made_whatever_came_before(h: House) -> None:
    await h.create("a")
    await h.ask("PATCH", f"{BASE}/a", json={"idle_timeout": 1})
    assert (await h.ask("PUT", f"{BASE}/a", json={"backend_type": "mlx_lm"}))[0] == 200


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("{tag}", 200),
        ('"other", {tag}', 200),
        ('  {tag} , "other"', 200),
        ("*", 200),
        ('"other"', 412),
        ("W/{tag}", 412),
        ('""', 412),
        ('"*"', 412),
        ("other", 400),
        ('"other', 400),
        ('"a" "b"', 400),
        ('w/"a"', 400),
        (",", 400),
    ],
)
async def test_the_forms_of_if_match(h: House, header: str, status: int) -> None:
    await h.create("a")
    headers = {"If-Match": header.replace("{tag}", await tag_of(h))}
    for method, body in (("PATCH", {}), ("PUT", {"backend_type": "mlx_lm"})):
        headers = {"If-Match": header.replace("{tag}", await tag_of(h))}
        assert (await h.ask(method, f"{BASE}/a", json=body, headers=headers))[0] == status, method


async def test_a_delete_under_a_condition_stops_nothing_when_it_fails(h: House) -> None:
    await h.create("a")
    await h.chat("a")
    tag = await tag_of(h)
    await h.ask("PATCH", f"{BASE}/a", json={"idle_timeout": 1})
    status, _ = await h.ask("DELETE", f"{BASE}/a?force=1", headers={"If-Match": tag})
    assert (status, (await h.get("a"))["state"]) == (412, "ready")
    assert (await h.ask("DELETE", f"{BASE}/a?force=1", headers={"If-Match": await tag_of(h)}))[0] == 204


async def test_an_unchanged_instance_need_not_be_sent_again(h: House) -> None:
    await h.create("a")
    tag = await tag_of(h)
    for header in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        status, headers, _ = await answer(h, "GET", f"{BASE}/a", headers={"If-None-Match": header})
        assert (status, headers["ETag"]) == (304, tag)
    assert (await answer(h, "GET", f"{BASE}/a", headers={"If-None-Match": '"other"'}))[0] == 200
    assert (await answer(h, "PUT", f"{BASE}/a", json={"backend_type": "mlx_lm"}, headers={"If-None-Match": "*"}))[0] == 412
    assert await tag_of(h) == tag


async def test_a_tag_changes_with_the_options_only_and_outlives_the_daemon(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        await h.create("a")
        await h.create("twin", environment=h.stub_options("a")["environment"])
        tag = await tag_of(h)
        assert await tag_of(h, "twin") != tag
        await h.chat("a")
        assert await tag_of(h) == tag
    async with house(tmp_path) as h:
        assert await tag_of(h) == tag
        await h.ask("PATCH", f"{BASE}/a", json={"idle_timeout": 7})
        assert await tag_of(h) != tag


async def test_an_answer_with_a_tag_is_not_for_caches(h: House) -> None:
    await h.create("a")
    _, headers, _ = await answer(h, "GET", f"{BASE}/a")
    assert headers["Cache-Control"] == "no-store"
