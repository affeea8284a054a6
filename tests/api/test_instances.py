"""The routes of instances over real HTTP, with the stub as backend: each test has a daemon of its own (10 ms).

`h.ask(METHOD, path)` gives (status, body). What a route refuses must leave things as they were, so refusals are followed by
a look at the list.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llamactl_py.launchers import local
from tests.support.house import House, eventually, house, is_alive

BASE = "/api/v1/instances"
MASK = "********"


@pytest.fixture
async def h(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as running:
        yield running


async def names(h: House) -> list[str]:
    status, listed = await h.ask("GET", BASE)
    assert status == 200
    return [instance["name"] for instance in listed]


def fields(body: dict[str, Any]) -> dict[str, str]:
    """The fields that a refusal complains about."""
    return {problem["field"]: problem["problem"] for problem in body["problems"]}


# ---- create, see, list


async def test_a_created_instance_is_stopped_and_has_its_defaults_filled_in(h: House) -> None:
    status, body = await h.ask("POST", f"{BASE}/a", json={"backend_type": "llama-cpp", "backend_options": {"ctx_size": 1}})
    assert status == 201
    created = body.pop("created")
    revision = body.pop("revision")
    assert body.pop("since") == created
    assert body == {
        "id": 1,
        "name": "a",
        "status": "stopped",
        "state": "stopped",
        "options": {
            "backend_type": "llama_cpp",
            "backend_options": {"ctx_size": 1},
            "unix_socket": False,
            "auto_restart": True,
            "max_restarts": 3,
            "restart_delay": 1,
            "autostart": False,
            "on_demand_start": True,
            "idle_timeout": 30,
            "start_timeout": 600,
            "stop_timeout": 10,
        },
        "in_flight": 0,
        "restarts": 0,
        "restart_required": False,
        "declared": False,
    }
    assert await h.get("a") == {**body, "created": created, "since": created, "revision": revision}


async def test_the_list_has_all_in_order_of_creation(h: House) -> None:
    for name in ("zoe", "adam", "_1.x-y"):
        await h.create(name)
    assert await names(h) == ["zoe", "adam", "_1.x-y"]


async def test_null_means_the_default_and_durations_come_with_or_without_unit(h: House) -> None:
    given = {"idle_timeout": "90s", "restart_delay": 2, "stop_timeout": "1m", "max_restarts": None, "group": None}
    _, body = await h.ask("POST", f"{BASE}/a", json={"backend_type": "mlx_lm", **given})
    options = body["options"]
    assert [options[name] for name in ("idle_timeout", "restart_delay", "stop_timeout", "max_restarts")] == ["90s", 2, 60, 3]


async def test_instances_outlive_the_daemon(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        await h.create("a", environment={"HF_TOKEN": "secret"}, aliases=["x"])
        before = await h.get("a")
    async with house(tmp_path) as h:
        after = await h.get("a")
        assert {k: v for k, v in after.items() if k != "since"} == {k: v for k, v in before.items() if k != "since"}
        assert (await h.chat("x"))[0] == 200


# ---- refusals


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_an_unknown_name_is_404_and_the_nearest_one_is_told(h: House, method: str) -> None:
    await h.create("mistral")
    status, body = await h.ask(method, f"{BASE}/mistrall", json={})
    assert (status, body["error"]) == (404, "not_found")
    assert body["details"] == "there is no instance named 'mistrall' (did you mean 'mistral'?)"


@pytest.mark.parametrize("action", ["POST start", "POST stop", "POST restart", "GET logs", "GET proxy/health", "POST proxy/x"])
async def test_nothing_can_be_done_with_an_unknown_instance(h: House, action: str) -> None:
    method, path = action.split()
    status, body = await h.ask(method, f"{BASE}/nobody/{path}")
    assert (status, body["error"]) == (404, "not_found")


LONG = "x" * 51
BAD_NAMES = (
    ".", "..", "...", "a.", "-rf", "-", ".hidden", "a%20b", "a%2Fb", "..%2f..%2fetc", "a%00", "a%0Ab", "a%0d%0aX-Y:1",
    "%C3%A9", "%EF%BC%A1", "%E2%80%AEa", "a:b", "a%5Cb", "a@b", "a%25", "*", "$(id)", "'a'", "%22", "~", "a,b", LONG,
    "a%3Fb", "%FF", "a;b",
)  # fmt: skip


async def test_a_bad_name_is_refused_by_every_route(h: House) -> None:
    body = b'{"backend_type": "mlx_lm"}'
    for name in BAD_NAMES:
        for method, path in (
            ("POST", ""),
            ("GET", ""),
            ("PUT", ""),
            ("DELETE", ""),
            ("POST", "/start"),
            ("GET", "/logs"),
            ("PATCH", ""),
            ("GET", "/stats"),
            ("GET", "/command"),
            ("POST", "/command"),
            ("GET", "/"),
        ):
            answer = await h.raw(h.head(method, f"{BASE}/{name}{path}", f"Content-Length: {len(body)}") + body)
            assert answer.startswith(b"HTTP/1.1 400 "), (name, method, path, answer)
            assert b'"error":"invalid_instance_name"' in answer
    assert await names(h) == []
    assert not list((h.folder / "data").glob("logs/*"))


async def test_the_longest_name_is_usable(h: House) -> None:
    await h.create("x" * 50)
    assert (await h.chat("x" * 50))[0] == 200


INVALID: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"backend_type": None}, {"backend_type": "is required"}),
    ({"backend_type": "llama"}, {"backend_type": "unknown backend 'llama' (did you mean 'llama"}),
    ({"backend_type": 3}, {"backend_type": "expected text, got 3"}),
    ({"idle_timeut": 1}, {"idle_timeut": "unknown key (did you mean 'idle_timeout'?)"}),
    ({"port": 8080}, {"port": "unknown key"}),
    ({"auto_restart": "yes please"}, {"auto_restart": "expected true or false"}),
    ({"max_restarts": -1}, {"max_restarts": "from 0 to 1000, got -1"}),
    ({"max_restarts": 1.5}, {"max_restarts": "expected a whole number"}),
    ({"idle_timeout": "soon"}, {"idle_timeout": "'soon' is not a duration"}),
    ({"restart_delay": -1}, {"restart_delay": "out of range"}),
    ({"start_timeout": 0}, {"start_timeout": "expected a number over 0"}),
    ({"environment": {"1X": "a"}}, {"environment.1X": "matching ^[A-Za-z_]"}),
    ({"environment": {"A=B": "a"}}, {"environment.A=B": "matching ^[A-Za-z_]"}),
    ({"environment": {"X": "a\0b"}}, {"environment.X": "matching "}),
    ({"environment": {"X": 1}}, {"environment.X": "expected text"}),
    ({"environment": {"API_KEY": MASK}}, {"environment.API_KEY": "holds only the mask"}),
    ({"backend_options": {"api_key": MASK, "hf_token": MASK}}, {"backend_options.hf_token": "holds only the mask"}),
    ({"aliases": ["ok", ""]}, {"aliases.1": "expected text of 1 to 256 characters"}),
    ({"aliases": ["a\nb"]}, {"aliases.0": "holds U+000A at position 2"}),
    ({"aliases": "x"}, {"aliases": "expected a list, got text"}),
    ({"group": "-x"}, {"group": "not usable"}),
    ({"command_override": ""}, {"command_override": ""}),
    ({"command_override": []}, {"command_override": ""}),
    ({"command_override": ["a", ""]}, {"command_override.1": "expected text of 1 to 4096 characters"}),
    ({"backend_options": []}, {"backend_options": "a list"}),
    ({"backend_options": {"ctx_sizes": 1}}, {"backend_options.ctx_sizes": "unknown option (did you mean 'ctx_size'?)"}),
    ({"backend_options": {"ctx_size": "many"}}, {"backend_options.ctx_size": "many"}),
    ({"backend_options": {"extra_args": ["--port", "1"]}}, {"backend_options.extra_args": "cannot be set here"}),
    (
        {"backend_options": {"ctx_size": "x", "nope": 1, "threads": None}, "aliases": []},
        {"backend_options.ctx_size": "x", "backend_options.nope": "unknown option"},
    ),
    ({"max_restarts": -1, "group": "..", "typo": 1}, {"max_restarts": "0", "group": "usable", "typo": "unknown key"}),
]


@pytest.mark.parametrize(("options", "expected"), INVALID, ids=[json.dumps(options)[:50] for options, _ in INVALID])
async def test_bad_options_are_422_and_each_bad_field_is_named(
    h: House, options: dict[str, Any], expected: dict[str, str]
) -> None:
    body = {"backend_type": "llama_cpp", **options}
    status, said = await h.ask("POST", f"{BASE}/a", json=body)
    assert (status, said["error"]) == (422, "invalid_request")
    problems = fields(said)
    for field, part in expected.items():
        assert part in problems[field], said
    assert len(problems) == len(expected), said
    assert await names(h) == []


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b'{"backend_type": "mlx_lm"} x', 400),
        (b"\xff\xfe{\x00}\x00", 400),
        (b'{"backend_type": "mlx_lm", "group": "\xff"}', 400),
        (b"[" * 100_000, 400),
        (b'{"max_restarts": ' + b"9" * 5000 + b"}", 400),
        (b"NaN", 400),
        (b"[]", 422),
        (b"null", 422),
        (b'"text"', 422),
        (b"3", 422),
    ],
)
async def test_a_body_that_is_no_json_object_is_refused(h: House, data: bytes, status: int) -> None:
    for method in ("POST", "PUT"):
        await h.create("there") if method == "PUT" else None
        said, body = await h.ask(method, f"{BASE}/there", data=data)
        assert (said, body["error"]) == (status, "invalid_request"), body
    assert (await h.get("there"))["options"]["backend_type"] == "llama_cpp"


@pytest.mark.parametrize("twin", ["alpha", "Alpha", "ALPHA"])
async def test_a_name_is_taken_in_any_case(h: House, twin: str) -> None:
    await h.create("alpha")
    status, body = await h.ask("POST", f"{BASE}/{twin}", json={"backend_type": "mlx_lm"})
    assert (status, body["error"]) == (409, "name_taken")
    assert await names(h) == ["alpha"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("nick", {}),
        ("NICK", {}),
        ("small", {}),
        ("b", {"aliases": ["alpha"]}),
        ("b", {"aliases": ["Alpha"]}),
        ("b", {"aliases": ["free", "nick"]}),
        ("b", {"aliases": ["SMALL"]}),
        ("b", {"backend_options": {"alias": "free,nick"}}),
    ],
)
async def test_names_aliases_and_served_names_are_one_space(h: House, name: str, options: dict[str, Any]) -> None:
    await h.create("alpha", aliases=["nick", "org/nick"], backend_options={"alias": "small"})
    await h.create("beta")
    options = {"backend_type": "llama_cpp", **options}
    status, body = await h.ask("POST", f"{BASE}/{name}", json=options)
    assert (status, body["error"]) == (409, "name_taken")
    assert "'alpha'" in body["details"]
    assert await names(h) == ["alpha", "beta"]
    if options.keys() > {"backend_type"}:
        status, body = await h.ask("PUT", f"{BASE}/beta", json=options)
        assert (status, body["error"]) == (409, "name_taken")
        assert "aliases" not in (await h.get("beta"))["options"]


async def test_an_instance_may_repeat_its_own_names(h: House) -> None:
    status, body = await h.ask(
        "POST",
        f"{BASE}/a",
        json={"backend_type": "llama_cpp", "aliases": ["a", "x", "x"], "backend_options": {"model": "m", "alias": "a,x"}},
    )
    assert status == 201, body
    assert (await h.ask("PUT", f"{BASE}/a", json={"backend_type": "llama_cpp", "aliases": ["x"]}))[0] == 200


async def test_a_name_among_the_options_may_only_repeat_the_address(h: House) -> None:
    body = {**h.stub_options("twice"), "name": "twice"}
    assert (await h.ask("POST", "/api/v1/instances/twice", json=body))[0] == 201
    for method, path in (("PUT", "twice"), ("PATCH", "twice"), ("POST", "other")):
        status, said = await h.ask(method, f"/api/v1/instances/{path}", json={**body, "name": "third"})
        assert (status, [problem["field"] for problem in said["problems"]]) == (422, ["name"]), said
    assert (await h.ask("PUT", "/api/v1/instances/twice", json=body))[0] == 200


async def test_two_who_create_the_same_name_at_once_are_told_apart(h: House) -> None:
    options = {"backend_type": "mlx_lm"}
    answers = await asyncio.gather(*(h.ask("POST", f"{BASE}/{name}", json=options) for name in ("a", "A") * 5))
    assert sorted(status for status, _ in answers) == [201] + [409] * 9
    assert len(await names(h)) == 1


async def test_no_more_instances_than_allowed(tmp_path: Path) -> None:
    async with house(tmp_path, instances={"max_instances": 1}) as h:
        await h.create("a")
        status, body = await h.ask("POST", f"{BASE}/b", json={"backend_type": "mlx_lm"})
        assert (status, body["error"]) == (409, "limit_reached")
        await h.ask("DELETE", f"{BASE}/a")
        await h.create("b")


async def test_nothing_of_a_refused_instance_is_stored(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        for options in ({"backend_type": "mlx_lm", "typo": 1}, {"backend_type": "none"}, {}):
            assert (await h.ask("POST", f"{BASE}/a", json=options))[0] == 422
    async with house(tmp_path) as h:
        assert await names(h) == []


# ---- warnings and secrets


async def test_what_the_daemon_decides_is_left_out_with_a_warning(h: House) -> None:
    status, body = await h.ask(
        "POST", f"{BASE}/a", json={"backend_type": "llama_cpp", "backend_options": {"host": "0.0.0.0", "port": 1, "ctx_size": 1}}
    )
    assert status == 201
    assert [warning.split(" ")[0] for warning in body["warnings"]] == ["--host", "--port"]
    assert body["options"]["backend_options"] == {"ctx_size": 1}
    assert "warnings" not in await h.get("a")


async def test_secrets_are_shown_masked_everywhere_and_reach_the_backend(h: House) -> None:
    secrets = {"WANDB_TOKEN": "canary-1", "MY_API_KEY": "canary-2", "DB_PASSWORD": "canary-3", "PLAIN": "shown"}
    created = await h.create("a", environment=secrets, backend_options={"hf_token": "canary-4"})
    shown = created["options"]["environment"]
    assert {name: shown[name] for name in secrets} == {**dict.fromkeys(secrets, MASK), "PLAIN": "shown"}
    assert created["options"]["backend_options"]["hf_token"] == MASK
    await h.ask("POST", f"{BASE}/a/start")
    body = await h.until("a", "ready")
    assert "canary" not in json.dumps([created, body, (await h.ask("GET", BASE))[1]])
    proc = Path(f"/proc/{body['pid']}")
    environment = dict(pair.split("=", 1) for pair in (proc / "environ").read_text().split("\0")[:-1])
    assert {name: environment[name] for name in secrets} == secrets
    assert environment["HF_TOKEN"] == "canary-4"
    assert b"canary" not in (proc / "cmdline").read_bytes()


async def test_a_mask_sent_back_keeps_the_secret_and_anything_else_replaces_it(h: House) -> None:
    await h.create("a", environment={"KEEP_TOKEN": "kept", "NEW_TOKEN": "old", "GONE_TOKEN": "gone"})
    options = (await h.get("a"))["options"]
    options["environment"] |= {"NEW_TOKEN": "new"}
    del options["environment"]["GONE_TOKEN"]
    status, _ = await h.ask("PUT", f"{BASE}/a", json=options)
    assert status == 200
    await h.ask("POST", f"{BASE}/a/start")
    pid = (await h.until("a", "ready"))["pid"]
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert {pair for pair in environment if b"TOKEN" in pair} == {b"KEEP_TOKEN=kept", b"NEW_TOKEN=new"}


async def test_a_mask_for_what_is_not_known_is_refused(h: House) -> None:
    await h.create("a")
    options = (await h.get("a"))["options"]
    options["environment"]["OTHER_TOKEN"] = MASK
    status, body = await h.ask("PUT", f"{BASE}/a", json=options)
    assert (status, list(fields(body))) == (422, ["environment.OTHER_TOKEN"])


# ---- change


async def test_a_change_replaces_all_options(h: House) -> None:
    await h.create("a", aliases=["x"], idle_timeout=5)
    status, body = await h.ask("PUT", f"{BASE}/a", json={"backend_type": "mlx_lm", "backend_options": {"model": "m"}})
    assert (status, body["options"]["backend_type"]) == (200, "mlx_lm")
    assert body["options"]["idle_timeout"] == 30
    assert "aliases" not in body["options"]
    assert not body["restart_required"]


async def test_a_running_instance_keeps_its_options_until_it_is_restarted(h: House) -> None:
    await h.create("a", environment={"WHICH": "old"})
    await h.ask("POST", f"{BASE}/a/start")
    first = await h.until("a", "ready")
    options = h.stub_options("a", environment={"WHICH": "new"})
    _, body = await h.ask("PUT", f"{BASE}/a", json=options)
    assert (body["restart_required"], body["pid"], body["options"]["environment"]["WHICH"]) == (True, first["pid"], "new")
    assert b"WHICH=old" in Path(f"/proc/{first['pid']}/environ").read_bytes()
    await h.ask("POST", f"{BASE}/a/restart")
    await eventually(lambda: not is_alive(first["pid"]))
    second = await h.until("a", "ready")
    assert not second["restart_required"]
    assert b"WHICH=new" in Path(f"/proc/{second['pid']}/environ").read_bytes()


async def test_a_change_that_is_taken_back_needs_no_restart(h: House) -> None:
    await h.create("a")
    await h.ask("POST", f"{BASE}/a/start")
    await h.until("a", "ready")
    assert (await h.ask("PATCH", f"{BASE}/a", json={"environment": {"NEW": "1"}}))[1]["restart_required"]
    assert not (await h.ask("PUT", f"{BASE}/a", json=h.stub_options("a")))[1]["restart_required"]


async def test_what_a_process_has_nothing_to_do_with_counts_at_once(h: House) -> None:
    await h.create("a")
    assert (await h.chat("a"))[0] == 200
    pid = (await h.get("a"))["pid"]
    body = (await h.ask("PATCH", f"{BASE}/a", json={"aliases": ["other"]}))[1]
    assert (body["pid"], body["restart_required"]) == (pid, False)
    assert (await h.chat("other"))[0] == 200
    status, body = await h.ask("GET", f"{BASE}/other")
    assert (status, body["details"]) == (404, "there is no instance named 'other'; that is an alias of 'a'")
    services = h.daemon.services
    await services.dispatcher.stop(services.fleet.get("a"))
    assert (await h.chat("a"))[0] == 200
    await h.ask("PATCH", f"{BASE}/a", json={"idle_timeout": 0.001})  # minutes: it has been idle for longer already
    await h.until("a", "stopped")


# ---- delete


async def test_a_deleted_instance_is_gone_with_its_logs_and_its_name_is_free(h: House) -> None:
    await h.create("a")
    await h.create("a.log")
    for name in ("a", "a.log"):
        await h.chat(name)
        await h.ask("POST", f"{BASE}/{name}/stop")
    assert (await h.ask("DELETE", f"{BASE}/a")) == (204, "")
    assert (await h.ask("GET", f"{BASE}/a"))[0] == 404
    assert (await h.chat("a"))[0] == 404
    assert await names(h) == ["a.log"]
    assert "stubd: listening" in (await h.ask("GET", f"{BASE}/a.log/logs"))[1]
    assert (await h.create("a"))["id"] == 3
    assert (await h.ask("GET", f"{BASE}/a/logs")) == (200, "")


async def test_a_running_instance_is_deleted_only_by_force(h: House) -> None:
    await h.create("a", "workers=1")
    await h.ask("POST", f"{BASE}/a/start")
    await h.until("a", "ready")
    status, body = await h.ask("DELETE", f"{BASE}/a")
    assert (status, body["error"]) == (409, "conflict")
    assert "force" in body["details"]
    assert (await h.get("a"))["state"] == "ready"
    assert (await h.ask("DELETE", f"{BASE}/a?force=maybe"))[0] == 422
    assert (await h.ask("DELETE", f"{BASE}/a?force=true"))[0] == 204
    assert not any(map(is_alive, h.spawned("a")))
    assert len(h.spawned("a")) == 2
    assert await names(h) == []


async def test_who_waits_for_an_instance_that_is_deleted_is_told(h: House) -> None:
    await h.create("a", "never-ready")
    waiting = [asyncio.ensure_future(h.chat("a")) for _ in range(3)]
    await h.until("a", "starting")
    assert (await h.ask("DELETE", f"{BASE}/a?force=1"))[0] == 204
    for status, body in await asyncio.gather(*waiting):
        assert (status, body["error"]["code"]) == (503, "instance_stopped")
    assert not any(map(is_alive, h.spawned("a")))


# ---- start, stop, restart


async def test_start_twice_is_one_start_and_stop_twice_is_one_stop(h: House) -> None:
    await h.create("a", "load-time=0.2")
    for status, body in await asyncio.gather(*(h.ask("POST", f"{BASE}/a/start") for _ in range(5))):
        assert (status, body["status"], body["state"]) == (200, "running", "starting")
    ready = await h.until("a", "ready")
    assert (await h.ask("POST", f"{BASE}/a/start"))[1]["pid"] == ready["pid"]
    assert ready["pid"] == h.spawned("a")[0]
    assert ready["idle_seconds"] >= 0
    for status, body in await asyncio.gather(*(h.ask("POST", f"{BASE}/a/stop") for _ in range(3))):
        assert (status, body["status"], body["state"]) == (200, "stopped", "stopped")
        assert body.get("pid") is None
        assert body.get("port") is None
    assert len(h.spawned("a")) == 1
    assert not is_alive(ready["pid"])


async def test_stopping_what_is_stopped_is_no_error(h: House) -> None:
    await h.create("a")
    status, body = await h.ask("POST", f"{BASE}/a/stop")
    assert (status, body["state"]) == (200, "stopped")


async def test_stop_answers_only_when_no_process_is_left(h: House) -> None:
    await h.create("a", "ignore-term workers=1 setsid-worker worker-ignore-term", stop_timeout="200ms")
    await h.ask("POST", f"{BASE}/a/start")
    await h.until("a", "ready")
    stopping = asyncio.ensure_future(h.ask("POST", f"{BASE}/a/stop"))
    assert (await h.until("a", "stopping"))["status"] == "shutting_down"
    status, body = await stopping
    assert (status, body["state"], body["last_exit"]["code"]) == (200, "stopped", -9)
    assert [is_alive(pid) for pid in h.spawned("a")] == [False] * 3


async def test_stop_while_starting_stops_it(h: House) -> None:
    await h.create("a", "never-ready")
    await h.ask("POST", f"{BASE}/a/start")
    await eventually(lambda: h.spawned("a"))
    assert (await h.ask("POST", f"{BASE}/a/stop"))[1]["state"] == "stopped"
    assert not any(map(is_alive, h.spawned("a")))


async def test_stop_in_backoff_stays_stopped(h: House) -> None:
    await h.create("a", "exit-after=0.2 exit-code=4", restart_delay="300ms")
    await h.ask("POST", f"{BASE}/a/start")
    down = await h.until("a", "backoff")
    assert (down["status"], down["last_exit"]["code"]) == ("restarting", 4)
    assert (await h.ask("POST", f"{BASE}/a/stop"))[1]["state"] == "stopped"
    spawned = len(h.spawned("a"))
    await asyncio.sleep(0.5)  # longer than the delay: whatever was going to happen would have
    assert ((await h.get("a"))["state"], len(h.spawned("a"))) == ("stopped", spawned)


async def test_restart_means_another_process_and_starts_what_is_stopped(h: House) -> None:
    await h.create("a")
    status, body = await h.ask("POST", f"{BASE}/a/restart")
    assert (status, body["state"]) == (200, "starting")
    first = await h.until("a", "ready")
    assert (await h.ask("POST", f"{BASE}/a/restart"))[0] == 200
    await eventually(lambda: not is_alive(first["pid"]))
    second = await h.until("a", "ready")
    assert h.spawned("a") == [first["pid"], second["pid"]]
    assert second["restarts"] == 0  # those are the automatic ones


async def test_an_instance_that_died_comes_back_and_tells_how_it_ended(h: House) -> None:
    await h.create("a", "last-words=out-of-memory")
    await h.ask("POST", f"{BASE}/a/start")
    first = await h.until("a", "ready")
    os.kill(first["pid"], 9)
    await eventually(lambda: len(h.spawned("a")) == 2)
    second = await h.until("a", "ready")
    assert (second["restarts"], second["last_exit"]["code"]) == (1, -9)
    assert any("stubd: listening" in line for line in second["last_exit"]["last_lines"])


async def test_a_crash_loop_ends_in_failed_with_code_and_last_line(h: House) -> None:
    await h.create("a", "exit-code=3 last-words=error:bad-magic", max_restarts=1)
    await h.ask("POST", f"{BASE}/a/start")
    failed = await h.until("a", "failed")
    assert failed["status"] == "failed"
    assert "exited with code 3 before it was ready: error:bad-magic; it died 2 times" in failed["reason"]
    assert failed["last_exit"] == {"code": 3, "reason": "exited with code 3", "last_lines": ["error:bad-magic"]}
    assert len(h.spawned("a")) == 2
    status, body = await h.chat("a")
    assert (status, body["error"]["code"]) == (503, "start_failed")
    assert "error:bad-magic" in body["error"]["message"]
    await h.ask("POST", f"{BASE}/a/start")  # a person may try at once
    await eventually(lambda: len(h.spawned("a")) == 4)
    await h.until("a", "failed")
    assert (await h.ask("POST", f"{BASE}/a/stop"))[1]["state"] in ("stopped", "failed")


def _junk(folder: Path) -> str:
    file = folder / "junk"
    file.write_bytes(b"\x01no program")
    file.chmod(0o755)
    return str(file)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"command_override": "/no/such/program"}, "'/no/such/program' is not an executable file or a command on PATH"),
        ({"command_override": "no-such-program"}, "'no-such-program' is not an executable file or a command on PATH"),
        ({"command_override": "/tmp"}, "'/tmp' is not an executable file"),
        ({"command_override": "/dev/null"}, "'/dev/null' is not an executable file"),
        ({"command_override": _junk}, "junk could not be started: Exec format error"),
        ({"backend_options": {"model": "/no/such/model.gguf"}}, "model '/no/such/model.gguf' does not exist"),
    ],
)
async def test_what_cannot_be_started_fails_with_the_reason_and_is_not_tried_again(
    h: House, options: dict[str, Any], reason: str
) -> None:
    if callable(make := options.get("command_override")):
        options = {"command_override": make(h.folder)}
    await h.create("a", **options)
    status, body = await h.chat("a")
    assert (status, body["error"]["code"]) == (503, "start_failed")
    assert reason in body["error"]["message"]
    failed = await h.get("a")
    assert (failed["state"], failed["restarts"], failed.get("pid")) == ("failed", 0, None)
    assert reason in failed["reason"]
    assert "last_exit" not in failed


async def test_a_start_without_room_is_refused_at_once_and_an_idle_one_makes_room(tmp_path: Path) -> None:
    async with house(tmp_path, instances={"max_running_instances": 1}) as h:
        await h.create("busy", "tok-rate=20 tokens=1000")
        await h.create("other")
        async with h.session.post(f"{h.url}/v1/completions", json={"model": "busy", "stream": True}) as stream:
            await stream.content.readline()
            async with h.session.post(f"{h.url}{BASE}/other/start") as answer:
                assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
                assert "busy has 1 requests in flight" in (await answer.json())["details"]
            assert (await h.get("busy"))["in_flight"] == 1
        await eventually(lambda: h.requests("busy"))
        async with asyncio.timeout(5):
            while (await h.ask("POST", f"{BASE}/other/start"))[0] != 200:
                await asyncio.sleep(0.01)
        await h.until("other", "ready")
        assert (await h.get("busy"))["state"] == "stopped"


# ---- logs


async def log(h: House, name: str = "a", query: str = "") -> str:
    status, text = await h.ask("GET", f"{BASE}/{name}/logs{query}")
    assert status == 200
    assert isinstance(text, str)
    return text


async def test_logs_are_plain_text_of_as_many_lines_as_asked_for(h: House) -> None:
    await h.create("a", "spew-total=10000 exit-after=0.2 exit-code=0", auto_restart=False)
    assert await log(h) == ""
    await h.ask("POST", f"{BASE}/a/start")
    await h.until("a", "failed")
    everything = (await log(h)).splitlines()
    assert everything[0].startswith("=== Instance a started at ")
    assert everything[-1].startswith("=== Instance a exited with code 0 at ")
    assert len([line for line in everything if line.startswith("spew 00000000")]) == 100
    for query, expected in (("?lines=3", 3), ("?lines=0", len(everything)), ("?lines=-5", len(everything)), ("?lines=1", 1)):
        assert (await log(h, query=query)).splitlines() == everything[-expected:]
    async with h.session.get(f"{h.url}{BASE}/a/logs") as answer:
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("query", ["lines=x", "lines=1.5", "lines=1e3", "lines=9999999999", "follow=perhaps", "lines=%D9%A3"])
async def test_a_bad_parameter_of_logs_is_422_and_named(h: House, query: str) -> None:
    await h.create("a")
    status, body = await h.ask("GET", f"{BASE}/a/logs?{query}")
    assert (status, list(fields(body))) == (422, [query.partition("=")[0]])


async def test_what_a_backend_writes_is_text_whatever_it_is(h: House) -> None:
    await h.create("a", "dirty-log")
    await h.chat("a")
    text = await log(h)
    assert "nul \0, not utf-8 \ufffd\ufffd, red \x1b[31m" in text
    assert "no end of line" in text


async def test_logs_go_back_into_rotated_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "MAINTENANCE_INTERVAL", 0.01)
    async with house(tmp_path, instances={"log_rotation_max_size": 0.1, "log_rotation_backups": 3}) as h:
        await h.create("a", "spew=150000 spew-total=300000", backend_options={"verbose": True})
        await h.ask("POST", f"{BASE}/a/start")
        logs = h.folder / "data" / "logs"
        await eventually(lambda: (logs / "a.log.2").exists())
        text = await log(h)
        rotated = (logs / "a.log.1").read_text()
        assert rotated.strip().splitlines()[-1] in text
        assert max(file.stat().st_size for file in logs.iterdir()) < 200_000
        assert (await log(h, query="?lines=1500")).count("\n") > len(rotated.splitlines())


async def follow(h: House, query: str = "") -> AsyncIterator[str]:
    """Whole lines of a followed log, as they come."""
    async with h.session.get(f"{h.url}{BASE}/a/logs?follow=true{query}") as answer:
        assert answer.status == 200
        async for line in answer.content:
            yield line.decode("utf-8", "replace").rstrip("\n")


@pytest.fixture
async def slow_threads() -> AsyncIterator[None]:
    """Every look at a file has to wait its turn: what may change between two looks, does."""
    executor = ThreadPoolExecutor(1)
    asyncio.get_running_loop().set_default_executor(executor)
    done = threading.Event()

    def be_busy() -> None:
        if not done.wait(0.02):
            executor.submit(be_busy)

    executor.submit(be_busy)
    yield
    done.set()


@pytest.mark.usefixtures("slow_threads")
async def test_a_followed_log_goes_on_line_by_line_without_a_gap_or_a_repetition(h: House) -> None:
    await h.create("a", "spew=1000000")
    await h.ask("POST", f"{BASE}/a/start")
    await eventually(lambda: (h.folder / "data" / "logs" / "a.log").stat().st_size > 100_000)
    async with asyncio.timeout(10):
        for query in ("&lines=5", "&lines=3000"):
            numbers: list[int] = []
            async for line in follow(h, query):
                if line.startswith("spew"):
                    assert len(line) == 99, line
                    numbers.append(int(line.split()[1]))
                if len(numbers) > 5000:
                    break
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


async def test_a_followed_log_goes_on_after_a_rotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "MAINTENANCE_INTERVAL", 0.01)
    async with house(tmp_path, instances={"log_rotation_max_size": 0.05}) as h:
        await h.create("a", "spew=60000")
        await h.ask("POST", f"{BASE}/a/start")
        rotated = h.folder / "data" / "logs" / "a.log.2"
        async with asyncio.timeout(10):
            last = ""
            async for line in follow(h):
                if line.startswith("spew ") and rotated.exists():
                    if last and line > last:
                        break
                    last = last or line
        assert line > last


async def test_a_followed_log_of_one_that_never_ran_waits_for_its_first_line(h: House) -> None:
    await h.create("a")
    following = follow(h)
    first = asyncio.ensure_future(anext(following))
    await asyncio.sleep(0.05)
    assert not first.done()
    await h.ask("POST", f"{BASE}/a/start")
    assert (await asyncio.wait_for(first, 5)).startswith("=== Instance a started at ")
    await following.aclose()


# ---- the way through to the backend


async def test_the_proxy_passes_any_method_path_and_query_on(h: House) -> None:
    await h.create("a")
    await h.ask("POST", f"{BASE}/a/start")
    await h.until("a", "ready")
    status, body = await h.ask("GET", f"{BASE}/a/proxy/props?x=1&y=%2F")
    assert (status, body["model_path"]) == (200, "/dev/null")
    status, body = await h.ask("POST", f"{BASE}/a/proxy/echo?a=b%20c&d", data=b"no json \xff")
    assert (status, body["method"], body["target"], body["length"]) == (200, "POST", "/echo?a=b%20c&d", 9)
    for method in ("PUT", "PATCH", "DELETE", "OPTIONS"):
        status, body = await h.ask(method, f"{BASE}/a/proxy/deep/er?q")
        assert (status, body["error"]["message"]) == (404, "File Not Found")
    assert (await h.ask("HEAD", f"{BASE}/a/proxy/health"))[0] == 404  # the stub knows no HEAD; ours would be 405
    targets = [(line["method"], line["target"]) for line in await h.recorded("a", 6)]
    assert targets[1:] == [(m, "/deep/er?q") for m in ("PUT", "PATCH", "DELETE", "OPTIONS")] + [("HEAD", "/health")]


async def test_the_proxy_starts_nothing(h: House) -> None:
    await h.create("a")
    for method in ("GET", "POST"):
        async with h.session.request(method, f"{h.url}{BASE}/a/proxy/health") as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
            assert (await answer.json())["error"] == "instance_not_running"
    assert (await h.get("a"))["state"] == "stopped"
    assert h.spawned("a") == []


async def test_the_proxy_waits_for_one_that_is_starting(h: House) -> None:
    await h.create("a", "load-time=0.2")
    await h.ask("POST", f"{BASE}/a/start")
    assert (await h.ask("GET", f"{BASE}/a/proxy/health")) == (200, {"status": "ok"})


async def test_reading_through_the_proxy_does_not_keep_an_instance_awake_and_writing_does(h: House) -> None:
    for name in ("read", "written"):
        await h.create(name, idle_timeout="300ms")
        await h.ask("POST", f"{BASE}/{name}/start")
        await h.until(name, "ready")
    for _ in range(30):
        await h.ask("GET", f"{BASE}/read/proxy/health")
        await h.ask("POST", f"{BASE}/written/proxy/echo")
        await asyncio.sleep(0.02)
    assert (await h.get("read"))["state"] == "stopped"
    assert (await h.get("written"))["state"] == "ready"
    await h.until("written", "stopped")
