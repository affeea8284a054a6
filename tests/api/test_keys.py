"""Keys: made, told once, listed without themselves, changed and revoked at once. Which routes one opens is in test_auth_matrix,
which instances in test_permits."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.house import House, house

BASE = "/api/v1/auth/keys"


@pytest.fixture
async def h(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as running:
        yield running


async def make(h: House, name: str = "notebook", **more: Any) -> dict[str, Any]:
    status, body = await h.ask("POST", BASE, json={"name": name, **more})
    assert status == 201, body
    return body


async def chat_with(h: House, key: str, model: str) -> int:
    """The status of a chat."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    return (await h.ask("POST", "/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"}))[0]


async def status_with(h: House, key: str, path: str = "/v1/models") -> int:
    return (await h.ask("GET", path, headers={"Authorization": f"Bearer {key}"}))[0]


async def test_a_key_is_told_once_and_never_shown_again(h: House) -> None:
    made = await make(h)
    key = made.pop("key")
    assert re.fullmatch(r"llamactl-[0-9a-f]{64}", key)
    assert made["prefix"] == key[:13]
    assert abs(made["created_at"] - time.time()) < 5
    assert made == {
        "id": 1,
        "name": "notebook",
        "user_id": "system",
        "scope": "inference",
        "permission_mode": "allow_all",
        "prefix": key[:13],
        "instance_ids": [],
        "instances": [],
        "groups": [],
        "may_start": True,
        "may_evict": True,
        "expires_at": None,
        "created_at": made["created_at"],
        "updated_at": made["created_at"],
        "last_used_at": None,
    }
    assert await h.ask("GET", f"{BASE}/1") == (200, made)
    assert await h.ask("GET", BASE) == (200, [made])
    assert await status_with(h, key) == 200


async def test_a_key_is_stored_only_as_its_digest(h: House) -> None:
    key = (await make(h))["key"]
    connection = sqlite3.connect(h.folder / "data" / "llamactl.db")
    dump = "\n".join(connection.iterdump())
    connection.close()
    assert key not in dump
    assert key.removeprefix("llamactl-") not in dump
    for file in (h.folder / "data").rglob("*"):
        if file.is_file():
            assert key.encode() not in file.read_bytes()


async def test_keys_are_listed_newest_first_and_names_may_repeat(h: House) -> None:
    keys = {(await make(h, name))["key"] for name in ("one", "two", "two", "größe 東京")}
    assert len(keys) == 4
    listed = (await h.ask("GET", BASE))[1]
    assert [(key["id"], key["name"]) for key in listed] == [(4, "größe 東京"), (3, "two"), (2, "two"), (1, "one")]
    assert not any(key in json.dumps(listed) for key in keys)


async def test_a_revoked_key_is_refused_at_once_and_others_are_not(h: House) -> None:
    revoked, kept = (await make(h))["key"], (await make(h))["key"]
    assert await h.ask("DELETE", f"{BASE}/1") == (204, "")
    assert (await status_with(h, revoked), await status_with(h, kept)) == (401, 200)
    assert (await h.ask("GET", f"{BASE}/1"))[0] == 404
    assert (await h.ask("DELETE", f"{BASE}/1"))[0] == 404


async def test_a_key_works_until_the_moment_it_expires(h: House) -> None:
    expires_at = int(time.time()) + 3600
    made = await make(h, expires_at=expires_at)
    assert made["expires_at"] == expires_at
    ring = h.daemon.services.keys
    for now, status in ((expires_at - 0.1, 200), (expires_at, 401), (expires_at + 1e9, 401)):
        ring._now = lambda now=now: now  # type: ignore[misc]
        assert await status_with(h, made["key"]) == status


async def test_keys_outlive_the_daemon(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        kept, revoked = (await make(h))["key"], (await make(h))["key"]
        await h.ask("DELETE", f"{BASE}/2")
    async with house(tmp_path) as h:
        assert (await status_with(h, kept), await status_with(h, revoked)) == (200, 401)
        assert (await make(h))["id"] == 3  # numbers are not used again


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": 3}, "name"),
        ({"name": "a", "expires_at": 1}, "expires_at"),
        ({"name": "a", "expires_at": int(time.time()) - 1}, "expires_at"),
        ({"name": "a", "expires_at": "tomorrow"}, "expires_at"),
        ({"name": "a", "expires_at": True}, "expires_at"),
        ({"name": "a", "expires_at": 10**30}, "expires_at"),
        ({"name": "a", "expires_in": 5}, "expires_in"),
    ],
)
async def test_a_bad_wish_is_422_and_names_its_field(h: House, body: dict[str, Any], field: str) -> None:
    status, said = await h.ask("POST", BASE, json=body)
    assert (status, [problem["field"] for problem in said["problems"]]) == (422, [field])
    assert await h.ask("GET", BASE) == (200, [])


@pytest.mark.parametrize("id_", ["0", "2", "-1", "x", "1.0", "%D9%A1", "1" * 30, "%31%20", "1%2F1"])
async def test_a_key_that_is_not_there_is_404(h: House, id_: str) -> None:
    await make(h)
    for method in ("GET", "DELETE"):
        answer = await h.raw(h.head(method, f"{BASE}/{id_}"))
        assert answer.startswith(b"HTTP/1.1 404 "), answer
    assert len((await h.ask("GET", BASE))[1]) == 1


# ---- what a key opens


async def test_bodies_of_llamactl_mean_what_they_do_there(h: House) -> None:
    for name in ("a", "b", "c"):
        await h.create(name)
    everything = await make(h, "all", permission_mode="allow_all", expires_at=None, instance_ids=None)
    assert (everything["permission_mode"], everything["instance_ids"]) == ("allow_all", [])
    some = await make(h, "some", permission_mode="per_instance", instance_ids=[3, 1])
    assert (some["permission_mode"], some["instance_ids"], some["instances"]) == ("per_instance", [1, 3], ["a", "c"])
    assert await h.ask("GET", f"{BASE}/1/permissions") == (200, [])
    told = [{"instance_id": 1, "instance_name": "a"}, {"instance_id": 3, "instance_name": "c"}]
    assert await h.ask("GET", f"{BASE}/2/permissions") == (200, told)


async def test_instances_may_be_named_and_groups_hold_whoever_is_in_them(h: House) -> None:
    await h.create("a")
    await h.create("b", group="small")
    made = await make(h, instances=["a"], groups=["small", "later"])
    assert (made["permission_mode"], made["instances"], made["groups"]) == ("per_instance", ["a"], ["later", "small"])
    await h.create("c", group="later")
    permissions = (await h.ask("GET", f"{BASE}/1/permissions"))[1]
    assert [permission["instance_name"] for permission in permissions] == ["a", "b", "c"]


async def test_a_deleted_instance_is_in_no_scope_and_its_heir_does_not_get_its_place(h: House) -> None:
    await h.create("a")
    await h.create("b")
    key = (await make(h, instances=["a", "b"]))["key"]
    await h.ask("DELETE", "/api/v1/instances/a")
    assert (await h.ask("GET", f"{BASE}/1"))[1]["instances"] == ["b"]
    await h.create("a")
    assert (await h.ask("GET", f"{BASE}/1"))[1]["instances"] == ["b"]
    assert await chat_with(h, key, "a") == 403
    await h.ask("DELETE", "/api/v1/instances/b")
    shown = (await h.ask("GET", f"{BASE}/1"))[1]
    assert (shown["permission_mode"], shown["instances"]) == ("per_instance", []), "none is not all"
    assert await h.ask("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"}) == (200, {"object": "list", "data": []})


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"name": ""}, "name", "invalid_name"),
    ({"name": "x" * 101}, "name", "invalid_name"),
    ({"name": "a", "expires_at": 1}, "expires_at", "invalid_expires_at"),
    ({"name": "a", "expires_at": "1893456000"}, "expires_at", "invalid_expires_at"),
    ({"name": "a", "permission_mode": "all"}, "permission_mode", "invalid_permission_mode"),
    ({"name": "a", "permission_mode": 1}, "permission_mode", "invalid_permission_mode"),
    ({"name": "a", "permission_mode": "per_instance"}, "permission_mode", "missing_permissions"),
    ({"name": "a", "permission_mode": "per_instance", "instance_ids": []}, "permission_mode", "missing_permissions"),
    ({"name": "a", "permission_mode": "allow_all", "instance_ids": [1]}, "permission_mode", "invalid_permission_mode"),
    ({"name": "a", "instance_ids": [1, 7]}, "instance_ids.1", "invalid_instance_id"),
    ({"name": "a", "instance_ids": [True]}, "instance_ids.0", "invalid_instance_id"),
    ({"name": "a", "instance_ids": ["1"]}, "instance_ids.0", "invalid_instance_id"),
    ({"name": "a", "instance_ids": 1}, "instance_ids", "invalid_instance_id"),
    ({"name": "a", "instance_ids": [1] * 1001}, "instance_ids", "invalid_instance_id"),
    ({"name": "a", "instances": ["other"]}, "instances.0", "invalid_instance_id"),
    ({"name": "a", "groups": [""]}, "groups.0", "invalid_group"),
    ({"name": "a", "groups": ["../x"]}, "groups.0", "invalid_group"),
    ({"name": "a", "scope": "root"}, "scope", "invalid_scope"),
    ({"name": "a", "scope": "read", "instances": ["a"]}, "instances", "invalid_instance_id"),
    ({"name": "a", "scope": "management", "may_start": False}, "may_start", "invalid_request"),
    ({"name": "a", "may_evict": 1}, "may_evict", "invalid_request"),
    ({"name": "a", "user_id": "me"}, "user_id", "invalid_request"),
]


@pytest.mark.parametrize(("body", "field", "code"), WRONG)
async def test_what_is_wrong_is_told_in_llamactls_words_with_the_field(
    h: House, body: dict[str, Any], field: str, code: str
) -> None:
    await h.create("a")
    status, said = await h.ask("POST", BASE, json=body)
    assert (status, said["error"], [problem["field"] for problem in said["problems"]]) == (422, code, [field])
    assert await h.ask("GET", BASE) == (200, [])


async def test_a_wrong_name_of_an_instance_is_told_with_the_nearest(h: House) -> None:
    await h.create("qwen-small")
    said = (await h.ask("POST", BASE, json={"name": "k", "instances": ["qwen-smal"]}))[1]
    assert "there is no instance named 'qwen-smal' (did you mean 'qwen-small'?)" in said["details"]
    said = (await h.ask("POST", BASE, json={"name": "k", "instance_ids": list(range(100, 200))}))[1]
    assert len(said["problems"]) == 20


async def test_keys_of_each_scope_open_their_routes_and_look_like_it(h: House) -> None:
    for scope, prefix in (("inference", "llamactl-"), ("read", "llamactl-read-"), ("management", "llamactl-mgmt-")):
        made = await make(h, scope=scope)
        assert re.fullmatch(rf"{prefix}[0-9a-f]{{64}}", made["key"])
        assert made["prefix"] == made["key"][: len(prefix) + 4]
        statuses = [await status_with(h, made["key"], path) for path in ("/v1/models", "/api/v1/instances", "/metrics")]
        assert statuses == {"inference": [200, 403, 403], "read": [403, 200, 200], "management": [200, 200, 200]}[scope]


async def test_a_management_key_that_was_made_can_make_and_revoke_keys_itself_too(h: House) -> None:
    headers = {"Authorization": f"Bearer {(await make(h, scope='management'))['key']}"}
    made = (await h.ask("POST", BASE, json={"name": "below"}, headers=headers))[1]
    assert await status_with(h, made["key"]) == 200
    assert await h.ask("DELETE", f"{BASE}/1", headers=headers) == (204, "")
    assert (await h.ask("GET", BASE, headers=headers))[0] == 401


# ---- changes


async def change(h: House, id_: int = 1, **fields: Any) -> tuple[int, Any]:
    return await h.ask("PATCH", f"{BASE}/{id_}", json=fields)


async def test_what_is_left_out_of_a_change_stays(h: House) -> None:
    await h.create("a")
    made = await make(h, instances=["a"], groups=["g"], may_start=False, expires_at=2_000_000_000)
    del made["key"]
    assert (await change(h, name="other"))[1] == {**made, "name": "other", "updated_at": pytest.approx(time.time(), abs=5)}
    assert (await change(h))[0] == 200
    assert (await change(h, expires_at=None))[1]["expires_at"] is None
    assert (await change(h, may_start=True))[1]["may_start"] is True
    shown = (await change(h, instances=[]))[1]
    assert (shown["instances"], shown["groups"], shown["permission_mode"]) == ([], ["g"], "per_instance")
    shown = (await change(h, groups=["h"]))[1]
    assert (shown["instances"], shown["groups"]) == ([], ["h"])
    shown = (await change(h, permission_mode="allow_all"))[1]
    assert (shown["groups"], shown["permission_mode"]) == ([], "allow_all")
    shown = (await change(h, instance_ids=[1]))[1]
    assert (shown["instances"], shown["permission_mode"]) == (["a"], "per_instance")


async def test_a_change_counts_from_the_next_request(h: House) -> None:
    for name in ("a", "b"):
        await h.create(name)
    key = (await make(h, instances=["a"]))["key"]
    assert [await chat_with(h, key, name) for name in ("a", "b")] == [200, 403]
    await change(h, instances=["b"])
    assert [await chat_with(h, key, name) for name in ("a", "b")] == [403, 200]


@pytest.mark.parametrize(
    ("body", "field", "code"),
    [
        ({"name": ""}, "name", "invalid_name"),
        ({"expires_at": 1}, "expires_at", "invalid_expires_at"),
        ({"instances": ["none"]}, "instances.0", "invalid_instance_id"),
        ({"permission_mode": "per_instance"}, "permission_mode", "missing_permissions"),
        ({"permission_mode": "allow_all", "groups": ["g"]}, "permission_mode", "invalid_permission_mode"),
        ({"scope": "management"}, "scope", "invalid_scope"),
        ({"key": "x"}, "key", "invalid_request"),
    ],
)
async def test_a_wrong_change_is_told_and_changes_nothing(h: House, body: dict[str, Any], field: str, code: str) -> None:
    made = await make(h)
    status, said = await h.ask("PATCH", f"{BASE}/1", json=body)
    assert (status, said["error"], [problem["field"] for problem in said["problems"]]) == (422, code, [field])
    del made["key"]
    assert await h.ask("GET", f"{BASE}/1") == (200, made)


async def test_limits_are_for_inference_keys(h: House) -> None:
    await make(h, scope="read")
    status, said = await change(h, groups=["g"])
    assert (status, said["error"]) == (422, "invalid_group")
    assert "a key with scope 'read' cannot have it" in said["details"]
    assert (await change(h, name="prometheus"))[1]["name"] == "prometheus"


async def test_an_expired_key_can_be_given_more_time(h: House) -> None:
    expires_at = int(time.time()) + 3600
    key = (await make(h, expires_at=expires_at))["key"]
    h.daemon.services.keys._now = lambda: expires_at + 1
    assert await status_with(h, key) == 401
    await change(h, expires_at=None)
    assert await status_with(h, key) == 200


# ---- use and revocation


async def test_the_last_use_is_shown_at_once_and_outlives_an_orderly_end(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        key = (await make(h))["key"]
        await make(h, "never used")
        await h.create("a")
        assert await chat_with(h, key, "a") == 200
        before = [row["last_used_at"] for row in (await h.ask("GET", BASE))[1]]
        assert before == [None, pytest.approx(time.time(), abs=5)]
    async with house(tmp_path) as h:
        assert [row["last_used_at"] for row in (await h.ask("GET", BASE))[1]] == before


async def test_who_follows_a_log_is_cut_off_when_the_key_is_revoked_and_a_chat_goes_on(h: House) -> None:
    await h.create("a", stub="tok-rate=20")
    reader, asker = (await make(h, scope="read"))["key"], (await make(h))["key"]
    await h.ask("POST", "/api/v1/instances/a/start")
    await h.until("a", "ready")
    log = h.session.get(f"{h.url}/api/v1/instances/a/logs?follow=true", headers={"Authorization": f"Bearer {reader}"})
    body = {"model": "a", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    asking = h.session.post(f"{h.url}/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {asker}"})
    async with log as followed, asking as answered:
        assert await followed.content.readany()
        assert await answered.content.readany()
        assert [(await h.ask("DELETE", f"{BASE}/{id_}"))[0] for id_ in (1, 2)] == [204, 204]
        async with asyncio.timeout(10):
            with pytest.raises(aiohttp.ClientError):
                await followed.content.read()
        assert (await answered.content.read()).rstrip().endswith(b"[DONE]")
    assert [await status_with(h, key, path) for key, path in ((reader, "/metrics"), (asker, "/v1/models"))] == [401, 401]
