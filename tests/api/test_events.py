"""What happens, as clients hear of it: `listen` gives (kind, data, id) of each event over real HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llamactl_py.api import events as api_events
from llamactl_py.api import logs as api_logs
from llamactl_py.client import Refused
from tests.support.daemons import daemon
from tests.support.house import House, eventually, house

BASE = "/api/v1/instances"
EVENTS = "/api/v1/events"
Told = tuple[str, Any, str]


@pytest.fixture
async def h(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(api_logs, "FOLLOW_INTERVAL", 0.01)
    async with house(tmp_path) as running, asyncio.timeout(30):
        yield running


async def listen(h: House, query: str = "", last_id: str = "") -> AsyncIterator[Told]:
    headers = {"Last-Event-ID": last_id} if last_id else {}
    async with h.session.get(f"{h.url}{EVENTS}{query}", headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert answer.headers["Cache-Control"] == "no-store"
        fields: dict[str, str] = {}
        async for raw in answer.content:
            name, _, value = raw.decode().rstrip("\n").partition(": ")
            if name == ":":
                yield "", None, ""
            elif name:
                fields[name] = value
            elif fields:
                yield fields["event"], json.loads(fields["data"]), fields.get("id", "")
                fields = {}


async def first(events: AsyncIterator[Told], kind: str) -> Any:
    """Data of the next event of that kind."""
    async for told, data, _ in events:
        if told == kind:
            return data
    raise AssertionError(f"no {kind}")


async def test_the_life_of_an_instance_is_told_step_by_step(h: House) -> None:
    async with aclosing(listen(h)) as events:
        assert (await anext(events))[0] == "hello"
        created = await h.create("a")
        await h.chat("a")
        pid = (await h.get("a"))["pid"]
        await h.ask("PATCH", f"{BASE}/a", json={"idle_timeout": 1})
        await h.ask("POST", f"{BASE}/a/stop")
        await h.ask("DELETE", f"{BASE}/a")
        told = [await anext(events) for _ in range(7)]
    assert [kind for kind, *_ in told] == ["created", "state", "state", "updated", "state", "state", "deleted"]
    assert told[0][1] == {"name": "a", "id": 1, "revision": created["revision"]}
    states = [data for kind, data, _ in told if kind == "state"]
    assert [(data["from"], data["state"], data["status"]) for data in states] == [
        ("stopped", "starting", "running"),
        ("starting", "ready", "running"),
        ("ready", "stopping", "shutting_down"),
        ("stopping", "stopped", "stopped"),
    ]
    assert [data.get("pid") for data in states] == [None, pid, pid, None]
    assert told[3][1]["revision"] != told[0][1]["revision"]
    numbers = [int(id_.rpartition("-")[2]) for *_, id_ in told]
    assert numbers == list(range(numbers[0], numbers[0] + 7))


async def test_a_death_is_told_with_its_reason(h: House) -> None:
    await h.create("a", "exit-code=3 last-words=error:bad-magic", max_restarts=0)
    async with aclosing(listen(h)) as events:
        await anext(events)
        await h.ask("POST", f"{BASE}/a/start")
        told = [await first(events, "state") for _ in range(2)]
        assert told[1]["state"] == "failed"
        assert "error:bad-magic" in told[1]["reason"]


async def test_who_comes_back_misses_nothing(h: House) -> None:
    async with aclosing(listen(h)) as events:
        _, _, last_id = await anext(events)
    for name in "abc":
        await h.create(name)
    async with aclosing(listen(h, last_id=last_id)) as events:
        assert [(await anext(events))[1]["name"] for _ in range(3)] == ["a", "b", "c"]


async def test_what_is_not_kept_any_more_is_a_gap(tmp_path: Path) -> None:
    async with house(tmp_path, server={"event_history": 2}) as h, asyncio.timeout(20):
        async with aclosing(listen(h)) as events:
            _, _, last_id = await anext(events)
        for name in "abc":
            await h.create(name)
        async with aclosing(listen(h, last_id=last_id)) as events:
            kind, data, id_ = await anext(events)
            assert (kind, data["since"]) == ("gap", last_id)
        async with aclosing(listen(h, last_id=id_)) as events:
            await h.create("d")
            assert (await anext(events))[1]["name"] == "d"
    async with house(tmp_path) as h, asyncio.timeout(20), aclosing(listen(h, last_id=id_)) as events:
        assert (await anext(events))[0] == "gap"  # another daemon's


async def test_log_lines_come_for_those_who_ask(h: House) -> None:
    for name in "abc":
        await h.create(name)
    async with aclosing(listen(h, "?logs=a,b")) as events:
        await anext(events)
        for name in "cab":
            await h.chat(name)
        named = {(await first(events, "log"))["name"]}
        while named != {"a", "b"}:
            log = await first(events, "log")
            assert all(isinstance(line, str) for line in log["lines"])
            named.add(log["name"])


async def test_requests_are_told_to_those_who_ask(h: House) -> None:
    bus = h.daemon.services.bus
    async with aclosing(listen(h, "?requests=1")) as events, aclosing(listen(h)) as others:
        await anext(events)
        await anext(others)
        bus.publish_passing("request", {"instance": "a", "status": 200})
        await h.create("a")
        assert await anext(events) == ("request", {"instance": "a", "status": 200}, "")
        assert (await anext(others))[0] == "created"


@pytest.mark.parametrize("fast", [True, False])
async def test_a_request_is_told_when_it_comes_and_when_it_ends(tmp_path: Path, fast: bool) -> None:
    async with house(tmp_path, server={"fast_path": fast}) as h, asyncio.timeout(20):
        await h.create("a")
        async with aclosing(listen(h, "?requests=1")) as events:
            await anext(events)
            await h.chat("a")
            came = await first(events, "request")
            ended = await first(events, "request")
            assert "outcome" not in came
            assert (ended["outcome"], ended["status"], ended["instance"]) == ("answered", 200, "a")
            assert came["id"] == ended["id"]
            assert (await h.ask("GET", "/api/v1/requests"))[1][0]["id"] == came["id"]
            await h.chat("nobody")
            told = [await first(events, "request") for _ in range(2)]
            assert told[1]["outcome"] == "refused"
        await eventually(lambda: not h.daemon.services.bus.is_heard("request"))


async def test_silence_is_filled_with_comments(h: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_events, "HEARTBEAT", 0.02)
    async with aclosing(listen(h)) as events:
        assert [(await anext(events))[0] for _ in range(3)] == ["hello", "", ""]


async def test_a_stream_can_be_asked_to_end(h: House) -> None:
    assert [kind async for kind, *_ in listen(h, "?limit=1")] == ["hello"]
    assert h.daemon.services.watchers == 0


async def test_a_client_that_does_not_read_is_cut_and_holds_up_nobody(h: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_events, "PATIENCE", 0.5)
    bus = h.daemon.services.bus
    async with h.connection() as (_, writer):
        writer.write(h.head("GET", EVENTS))
        await eventually(lambda: h.daemon.services.watchers)
        for _ in range(900):  # more than all buffers between us take
            bus.publish("state", {"filler": "x" * 100_000})
        await h.create("a")
        await eventually(lambda: h.daemon.services.watchers == 0)


async def test_one_that_fell_behind_is_dropped_with_the_reason(h: House) -> None:
    bus = h.daemon.services.bus
    async with aclosing(listen(h)) as events:
        await anext(events)
        for number in range(5000):
            bus.publish("state", {"number": number})
        told = [event async for event in events]
        assert told[-1][0] == "dropped"
        assert "come back with the last id" in told[-1][1]["reason"]


async def test_the_end_of_the_daemon_is_told_after_that_of_its_instances(tmp_path: Path) -> None:
    text: list[bytes] = []

    async def collect(url: str, key: str) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        async with aiohttp.ClientSession(headers=headers) as session, session.get(f"{url}{EVENTS}") as answer:
            text.append(await answer.read())

    async with asyncio.timeout(20):
        async with house(tmp_path) as h:
            await h.create("a")
            await h.chat("a")
            listening = asyncio.ensure_future(collect(h.url, h.daemon.management_key))
            await eventually(lambda: h.daemon.services.watchers)
        await listening
    kinds = [line.decode().partition(": ")[2] for line in text[0].splitlines() if line.startswith(b"event")]
    assert kinds == ["hello", "state", "state", "closing"]


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("?logs=nobody", 404, "no instance named 'nobody'"),
        ("?logs=..", 400, "not usable"),
        ("?logs=", 400, "needs a name"),
        ("?logs=" + ",".join(f"x{n}" for n in range(21)), 422, "names 21 instances; one client may follow 20"),
        ("?requests=maybe", 422, "neither true nor false"),
        ("?limit=0", 422, "whole number from 1"),
    ],
)
async def test_what_cannot_be_watched_is_refused(h: House, query: str, status: int, said: str) -> None:
    told, body = await h.ask("GET", f"{EVENTS}{query}")
    assert told == status
    assert said in body["details"]


async def test_only_so_many_may_watch(tmp_path: Path) -> None:
    async with house(tmp_path, server={"max_watchers": 1}) as h, aclosing(listen(h)) as events:
        await anext(events)
        assert (await h.ask("GET", EVENTS))[0] == 503


def test_the_client_of_the_command_line_has_a_method_for_each(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        client = running.client
        made = client.create("a", {"backend_type": "mlx_lm", "group": "g"})
        assert [one["name"] for one in client.instances(group="g", limit=1)] == ["a"]
        assert client.instances(search="nothing") == []
        assert client.stats("a")["state"] == "stopped"
        changed = client.patch("a", {"idle_timeout": 1}, revision=made["revision"])
        with pytest.raises(Refused, match="changed meanwhile") as refused:
            client.replace("a", {"backend_type": "mlx_lm"}, revision=made["revision"])
        assert refused.value.status == 412
        client.replace("a", {"backend_type": "mlx_lm"}, revision=changed["revision"])
        assert client.command("a")["environment"]
        assert (
            "--log-level" in client.try_change("a", {"backend_type": "mlx_lm", "backend_options": {"log_level": "INFO"}})["argv"]
        )
        assert client.try_command("x", {"backend_type": "mlx_lm"})["log"].endswith("x.log")
        assert [result["http_status"] for result in client.act_on_several("stop", names=["a", "x"])] == [200, 404]
        assert b"".join(client.logs("a", 1, newest_run=True)) == b"".join(client.log_file("a")) == b""
        with pytest.raises(Refused, match="only llama_cpp has native routes"):
            client.router_models("a")
        with pytest.raises(Refused, match="only llama_cpp has native routes"):
            client.load_model("a", "org/model:Q4")


def test_a_real_daemon_tells_the_client_of_the_command_line_until_it_ends(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        events = running.client.events()
        assert next(events)[0] == "hello"
        running.client.create("a", {"backend_type": "mlx_lm"})
        kind, data, id_ = next(events)
        assert (kind, data["name"]) == ("created", "a")
        running.client.patch("a", {"idle_timeout": 1})
        assert next(running.client.events(id_))[0] == "updated"
        running.end()
        assert [kind for kind, *_ in events][-1] == "closing"
