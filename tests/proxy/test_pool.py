"""What rests in the pool and for how long: connections to a server of two lines, and a clock that is put forward
and then stands still."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from llamactl_py.instances.target import Target
from llamactl_py.proxy.exchange import Exchange, Memo
from llamactl_py.proxy.upstream import LONGEST_IDLE, LOOKS_A_TURN, Authority, Pool, Upstream
from tests.support.house import eventually

QUICK = 0.01
"""Seconds between two looks around: as often as the pool's `response_timeout` wants them."""


ONE, OTHER = (Target("a", "/a.sock", 0) for _ in range(2))


class Server:
    """Accepts connections, and counts those that we have closed."""

    def __init__(self, path: Path) -> None:
        self.authority: Authority = (str(path), 0)
        self.closed = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        self.closed += 1
        writer.close()
        await writer.wait_closed()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    found = Server(tmp_path / "a.sock")
    async with await asyncio.start_unix_server(found, found.authority[0]):
        yield found


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    made = Pool(connect_timeout=1.0, response_timeout=QUICK)
    looking = asyncio.create_task(made.run())
    yield made
    looking.cancel()
    made.close()


async def rested(pool: Pool, authority: Authority) -> Upstream:
    connection = await pool.connect(authority)
    pool.give_back(connection, most=10)
    return connection


def put_forward(pool: Pool, seconds: float) -> None:
    later = pool.time() + seconds
    pool.time = lambda: later


async def test_what_rested_too_long_is_closed_though_nobody_asks_for_it(pool: Pool, server: Server) -> None:
    for _ in range(3):
        await rested(pool, server.authority)
    put_forward(pool, LONGEST_IDLE + 1)
    young = await rested(pool, server.authority)
    await eventually(lambda: server.closed == 3)
    assert pool.take(server.authority) is young
    assert pool.take(server.authority) is None
    young.close()
    await eventually(lambda: server.closed == 4)


async def test_a_backend_that_is_not_trusted_does_not_harm_the_next_one_at_its_address(pool: Pool, server: Server) -> None:
    for target, rests in ((ONE, False), (ONE, False), (OTHER, True)):
        connection = await pool.connect(server.authority)
        connection.target = target
        if target is ONE:
            pool.distrust(connection)
        pool.give_back(connection, most=10)
        assert (pool.take(server.authority) is connection) is rests
    connection.close()


async def test_memory_is_given_back_when_the_last_connection_is_gone(pool: Pool, server: Server) -> None:
    gc.disable()
    try:
        garbage = asyncio.Event()
        garbage.itself = garbage  # type: ignore[attr-defined]
        left = weakref.ref(garbage)
        connection = await rested(pool, server.authority)
        del garbage
        put_forward(pool, LONGEST_IDLE + 1)
        await eventually(lambda: left() is None)
        assert connection.transport.is_closing()
    finally:
        gc.enable()


async def test_what_one_answer_began_with_is_known_to_all_connections_to_its_backend_and_goes_with_them(
    pool: Pool, server: Server
) -> None:
    first, second = await pool.connect(server.authority), await pool.connect(server.authority)
    memo = weakref.ref(first._memo)
    assert second._memo is memo()
    first.close()
    second.close()
    await eventually(lambda: server.closed == 2)
    del first, second
    gc.collect()
    assert memo() is None


async def test_who_looks_at_many_exchanges_lets_others_have_their_turn() -> None:
    pool = Pool(connect_timeout=1.0, response_timeout=QUICK)
    turns, seen = 0, []

    class Looked:
        is_over = is_full = False
        failure = ""

        def look_around(self, _now: float, _silence: float) -> None:
            seen.append(turns)

    for _ in range(10 * LOOKS_A_TURN):
        busy = Upstream(pool, ("127.0.0.1", 1), Memo())
        busy.exchange = cast(Exchange, Looked())
        pool.busy.add(busy)
    looking = asyncio.create_task(pool.run())
    while len(seen) < len(pool.busy):
        await asyncio.sleep(0)
        turns += 1
    looking.cancel()
    pool.close()
    assert len(set(seen)) >= 10
