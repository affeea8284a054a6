"""Inference keys: made, told once, listed without themselves, revoked at once. What each may do is in test_auth_matrix."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

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


async def status_with(h: House, key: str, path: str = "/v1/models") -> int:
    return (await h.ask("GET", path, headers={"Authorization": f"Bearer {key}"}))[0]


async def test_a_key_is_told_once_and_never_shown_again(h: House) -> None:
    made = await make(h)
    key = made.pop("key")
    assert re.fullmatch(r"llamactl-[0-9a-f]{64}", key)
    assert made["prefix"] == key[:13]
    assert abs(made["created_at"] - time.time()) < 5
    assert made == {"id": 1, "name": "notebook", "prefix": key[:13], "created_at": made["created_at"]}
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
