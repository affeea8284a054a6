"""Every way in which a request can end, at every point: what it held is given back once, and the ledger says how it ended."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import struct
import sys
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from llamactl_py.accounting.ledger import Outcome
from llamactl_py.proxy import relay
from llamactl_py.proxy.upstream import Authority, Upstream
from tests.support import puppet
from tests.support.house import House, eventually
from tests.support.narrow import narrow, nothing_is_held, outcomes, puppets

HELLO = (["head", "Content-Length: 5"], ["say", "hello"])
COUNTED = ["head", "Content-Length: 100"]
CHUNKED = ["head", "Transfer-Encoding: chunked"]
Steps = tuple[list[Any], ...]


@pytest.fixture
async def h(tmp_path: Path, fast_path: bool) -> AsyncIterator[House]:
    async with puppets(tmp_path, server={"fast_path": fast_path}) as made:
        yield made


async def ask(h: House, *steps: list[Any], until: bytes = b"", leave: str = "", **fields: Any) -> bytes:
    """All that came back; with *until* and *leave* the client leaves when it has read that."""
    received = b""
    async with asyncio.timeout(30), h.connection() as (reader, writer):
        writer.write(narrow(h, *steps, keep=False, **fields))
        try:
            while not leave or until not in received:
                part = await reader.read(1 << 16)
                if not part:
                    break
                received += part
        except ConnectionError:
            return received
        if leave:
            await asyncio.sleep(0.02)
            if leave == "reset":
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
    return received


EVENTS = ["head", "Content-Type: Text/Event-Stream; charset=utf-8"]
ENDS: dict[str, tuple[Steps, Outcome, int]] = {
    "counted": (HELLO, Outcome.ANSWERED, 200),
    "chunked": ((CHUNKED, ["chunk", "hello"], ["end"]), Outcome.ANSWERED, 200),
    "until-close": ((["head"], ["say", "hello"], ["close"]), Outcome.ANSWERED, 200),
    "events-until-close": ((EVENTS, ["say", "data: one\n\n"], ["close"]), Outcome.ANSWERED, 200),
    "done-without-its-end": (
        (EVENTS, ["say", "data: one\n\ndata: [DO"], ["say", "NE]"], ["close"]),
        Outcome.ANSWERED,
        200,
    ),
    "no-events-until-close": ((EVENTS, ["close"]), Outcome.ANSWERED, 200),
    "an-event-that-breaks-off": (
        (EVENTS, ["say", "data: one\n\nda"], ["wait", 0.1], ["say", "ta: tw"], ["close"]),
        Outcome.CUT,
        200,
    ),
    "no-content": ((["head", "HTTP/1.1 204 No Content"],), Outcome.ANSWERED, 204),
    "an-error": ((["head", "HTTP/1.1 500 Oh", "Content-Length: 0"],), Outcome.ANSWERED, 500),
    "closed-before": ((["wait", 0.3], ["close"]), Outcome.FAILED, 502),
    "reset-before": ((["wait", 0.3], ["reset"]), Outcome.FAILED, 502),
    "no-http": ((["say", "SSH-2.0\r\n\r\n"], ["left"]), Outcome.FAILED, 502),
    "closed-in-the-middle": ((COUNTED, ["say", "hello"], ["close"]), Outcome.CUT, 200),
    "reset-in-the-middle": ((COUNTED, ["say", "hello"], ["wait", 0.1], ["reset"]), Outcome.CUT, 200),
    "closed-between-chunks": ((CHUNKED, ["chunk", "hello"], ["wait", 0.1], ["close"]), Outcome.CUT, 200),
    "bad-chunks": ((CHUNKED, ["say", "hello\r\n"], ["left"]), Outcome.CUT, 200),
    "no-model": (HELLO, Outcome.REFUSED, 404),
}


async def test_every_end_of_an_answer_has_its_name(h: House) -> None:
    for warm in (False, True):
        for name, (steps, outcome, status) in ENDS.items():
            if warm:
                await ask(h, *HELLO)
            fields = {"model": "nobody"} if name == "no-model" else {}
            received = await ask(h, *steps, **fields)
            assert received.startswith(b"HTTP/1.1 %d " % status), (name, received)
            await eventually(lambda: nothing_is_held(h))
            assert outcomes(h)[-1] is outcome, name
    assert (await h.get("a"))["state"] == "ready"


LEAVES: dict[str, tuple[Steps, bytes]] = {
    "before-the-first-byte": ((["left"],), b""),
    "behind-the-head": ((CHUNKED, ["left"]), b"\r\n\r\n"),
    "in-the-middle": ((CHUNKED, ["chunk", "hello"], ["left"]), b"hello"),
    "in-the-middle-of-a-count": ((COUNTED, ["say", "hello"], ["left"]), b"hello"),
    "with-full-buffers": ((CHUNKED, ["chunk", "x" * 10_000, 10_000]), b"xxxxxx"),
}


@pytest.mark.parametrize("leave", ["close", "reset"])
async def test_a_client_may_leave_at_any_point(h: House, leave: str) -> None:
    for warm in (False, True):
        for name, (steps, until) in LEAVES.items():
            if warm:
                await ask(h, *HELLO)
            await ask(h, *steps, until=until, leave=leave)
            await eventually(lambda: nothing_is_held(h))
            assert outcomes(h)[-1] is Outcome.LEFT, (name, warm)
    assert (await ask(h, *HELLO)).endswith(b"hello")


async def test_a_client_that_leaves_while_it_waits_for_the_start_leaves_nothing(h: House) -> None:
    await h.ask("POST", "/api/v1/instances/a/stop")
    await asyncio.gather(*(ask(h, *HELLO, leave="reset") for _ in range(20)), ask(h, *HELLO))
    await eventually(lambda: nothing_is_held(h))
    assert sorted(str(outcome) for outcome in outcomes(h)) == ["answered"] + ["left"] * 20


@pytest.mark.parametrize("what", ["stop", "restart", "delete", "kill"])
@pytest.mark.parametrize("warm", [False, True])
async def test_an_instance_that_goes_in_the_middle_of_answers_cuts_them(
    tmp_path: Path, fast_path: bool, what: str, warm: bool
) -> None:
    settings: dict[str, Any] = {"server": {"fast_path": fast_path}, "instances": {"drain_timeout": "100ms"}}
    async with puppets(tmp_path, **settings) as h:
        if warm:
            await asyncio.gather(*(ask(h, *HELLO) for _ in range(4)))
        before = [(CHUNKED, ["chunk", "hello"], ["left"])] * 3
        asked = [asyncio.ensure_future(ask(h, *steps)) for steps in [*before, (["left"],)]]
        await eventually(lambda: h.daemon.services.fleet.get("a").leases.value == 4)
        await asyncio.sleep(0.1)
        if what == "delete":
            assert (await h.ask("DELETE", "/api/v1/instances/a?force=true"))[0] == 204
        elif what == "kill":
            await ask(h, ["die"])
        else:
            await h.ask("POST", f"/api/v1/instances/a/{what}")
        *cut, refused = await asyncio.gather(*asked)
        assert all(received.endswith(b"5\r\nhello\r\n") for received in cut)
        assert refused.startswith(b"HTTP/1.1 502 ")
        await eventually(lambda: nothing_is_held(h))
        found = [entry for entry in h.daemon.services.ledger.entries() if entry.ended is not None and entry.status in (200, 502)]
        assert sum(entry.outcome is Outcome.CUT for entry in found) == 3


async def test_connections_that_their_backend_closes_at_any_moment_fail_nobody(h: House) -> None:
    """What a server does with idle connections: two thousand requests, and not one error."""
    chance = random.Random(7)

    async def client() -> None:
        async with h.connection() as (reader, writer):
            for _ in range(250):
                steps = [*HELLO, *([["wait", chance.choice((0.0, 0.001, 0.003))], ["close"]] if chance.random() < 0.3 else [])]
                writer.write(narrow(h, *steps))
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
                assert await reader.readexactly(5) == b"hello"
                await asyncio.sleep(chance.choice((0, 0, 0.001, 0.003)))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(client())
    assert set(outcomes(h)) == {Outcome.ANSWERED}
    await eventually(lambda: nothing_is_held(h))


@pytest.mark.parametrize("seed", [1, 2])
async def test_whatever_happens_in_whatever_order_everything_is_given_back_once(h: House, seed: int) -> None:
    chance = random.Random(seed)
    lowest = 0
    leases = h.daemon.services.fleet.get("a").leases

    def quiet(step: list[Any]) -> list[Any]:
        return ["wait", chance.random() / 20] if step[0] == "wait" else step

    async def one() -> None:
        nonlocal lowest
        await asyncio.sleep(chance.random())
        if chance.random() < 0.5:
            steps, *_ = chance.choice(list(ENDS.values()))
            await ask(h, *map(quiet, steps), model=chance.choice(("a", "a", "a", "nobody")))
        else:
            steps, until = chance.choice(list(LEAVES.values()))
            await ask(h, *steps, until=until, leave=chance.choice(("close", "reset")))
        lowest = min(lowest, leases.value)

    async def disturb(what: Callable[[], Any]) -> None:
        await asyncio.sleep(0.1 + chance.random())
        await what()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with asyncio.TaskGroup() as tasks:
            for _ in range(150):
                tasks.create_task(one())
            tasks.create_task(disturb(lambda: h.ask("POST", "/api/v1/instances/a/restart")))
            tasks.create_task(disturb(lambda: ask(h, ["die"])))
        await eventually(lambda: nothing_is_held(h))
        gc.collect()
    assert lowest == 0
    assert None not in outcomes(h)
    assert (await ask(h, *HELLO)).endswith(b"hello")


async def test_an_answer_that_breaks_off_is_cut_though_the_wrapper_of_its_server_lives_on(h: House, tmp_path: Path) -> None:
    wrapper = tmp_path / "llama-server"
    wrapper.write_text(f'#!/bin/sh\n{sys.executable} -S -E {puppet.__file__} "$@"\nsleep 5\n')
    wrapper.chmod(0o755)
    await h.create("w", command_override=[str(wrapper)], stop_timeout=1)
    await h.ask("POST", "/api/v1/instances/w/start")
    await h.until("w", "ready")
    received = await ask(h, EVENTS, ["say", "data: one\n\n"], ["die"], model="w")
    assert b"data: one" in received
    assert not received.endswith(b"0\r\n\r\n")
    assert outcomes(h)[-1] is Outcome.CUT


async def test_what_a_connection_that_rested_has_lost_is_sent_once_more_and_not_twice(
    h: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.gather(*(ask(h, ["wait", 0.2], *HELLO) for _ in range(2)))  # both connections rest now
    pool, taken, made = h.daemon.services.pool, Counter[bool](), Counter[str]()
    take, connect = pool.take, pool.connect

    def noted_take(authority: Authority) -> Upstream | None:
        found = take(authority)
        taken[found is not None] += 1
        return found

    async def noted_connect(authority: Authority) -> Upstream:
        made["new"] += 1
        return await connect(authority)

    monkeypatch.setattr(pool, "take", noted_take)
    monkeypatch.setattr(pool, "connect", noted_connect)
    assert (await ask(h, ["close"])).startswith(b"HTTP/1.1 502 ")
    assert (taken[True], made["new"]) == (1, 1)


async def test_a_failure_is_told_also_where_no_log_can_be_read(h: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> list[str]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(h.daemon.services, "log_lines", fails)
    answer = await ask(h, ["close"])
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"closed the connection before it answered" in answer


async def test_a_defect_of_ours_while_connecting_is_the_end_of_one_request_only(
    h: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ask(h, *HELLO)

    async def fails(_authority: object) -> None:
        raise RuntimeError("a secret of ours")

    pool = h.daemon.services.pool
    with monkeypatch.context() as broken:
        broken.setattr(pool, "take", lambda _authority: None)
        broken.setattr(pool, "connect", fails)
        received = await ask(h, *HELLO)
    assert received.startswith(b"HTTP/1.1 500 ")
    assert b"secret" not in received
    await eventually(lambda: nothing_is_held(h))
    assert outcomes(h)[-1] is Outcome.LEFT
    assert (await ask(h, *HELLO)).endswith(b"hello")


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
async def test_nothing_of_ours_stands_in_the_middle_of_an_answer(
    h: House, framing: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that sends much ahead, then ends its side, and goes on reading: nobody reads it, only a look around tells that."""
    async with asyncio.timeout(30), h.connection() as (reader, writer):
        writer.write(narrow(h, ["head", framing], ["say" if "Length" in framing else "chunk", "hello"], ["left"]))
        await reader.readuntil(b"hello")
        writer.write(narrow(h, *HELLO) * 300)
        await asyncio.sleep(0.3)
        writer.write_eof()
        rest = b""
        with suppress(ConnectionError):
            while part := await reader.read(1 << 16):
                rest += part
    assert rest.strip() == b""
    assert "Error handling" not in caplog.text
    await eventually(lambda: nothing_is_held(h))


async def test_a_defect_of_ours_is_not_told_in_the_middle_of_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(**things: Coroutine[Any, Any, object]) -> None:
        for thing in things.values():
            thing.close()
        raise RuntimeError("a defect of ours")

    async with puppets(tmp_path, server={"fast_path": False}) as h, h.connection() as (reader, writer):
        monkeypatch.setattr(relay, "first_of", fails)  # it waits for a client that does not read
        writer.write(narrow(h, ["head", "Transfer-Encoding: chunked"], ["chunk", "x" * 10_000, 20_000], ["end"]))
        await eventually(lambda: "a defect of ours" in caplog.text)
        received = b""
        with suppress(ConnectionError):
            async with asyncio.timeout(30):
                while part := await reader.read(1 << 16):
                    received += part
        assert received.count(b"HTTP/1.1 ") <= 1
        assert not received.endswith(b"0\r\n\r\n")
        await eventually(lambda: nothing_is_held(h))
