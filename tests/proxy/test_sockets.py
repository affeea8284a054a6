"""Backends on a Unix socket: the same exchange, connected to by path."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import uvloop

from llamactl_py.instances.target import Target
from llamactl_py.proxy.heads import request_head
from llamactl_py.proxy.upstream import Broken, Pool


async def test_a_connection_to_a_socket_is_made_by_its_path_and_rests_under_it(tmp_path: Path) -> None:
    target = Target("a", str(tmp_path / "a.sock"), 0)
    came: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    server = await asyncio.start_unix_server(lambda _reader, writer: came.put_nowait(writer), target.host)
    async with server:
        pool = Pool(connect_timeout=1.0)
        connection = await pool.connect(target.authority)
        pool.give_back(connection, most=1)
        assert pool.take(target.authority) is connection
        connection.close()
        end = await came.get()
        end.close()
        await end.wait_closed()


@pytest.mark.parametrize("is_stale", [False, True])
async def test_a_socket_that_nobody_listens_on_is_a_broken_backend(tmp_path: Path, is_stale: bool) -> None:
    path = tmp_path / "a.sock"
    if is_stale:
        server = await asyncio.start_unix_server(lambda _r, _w: None, path)
        server.close()
        path.touch()
    with pytest.raises(Broken, match="could not be connected to"):
        await Pool(connect_timeout=1.0).connect((str(path), 0))


def test_the_host_of_a_request_over_a_socket_is_no_path() -> None:
    head = request_head("GET", "/v1/models", b"", Target("a", "/run/a.sock", 0), 0)
    assert b"\r\nHost: localhost\r\n" in head


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_where_many_wait_to_be_accepted_one_more_waits_too(
    tmp_path: Path, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    path = str(tmp_path / "a.sock")

    async def one_more(listener: socket.socket) -> bytes:
        pool = Pool(connect_timeout=10.0)
        connecting = asyncio.create_task(pool.connect((path, 0)))
        await asyncio.sleep(0.1)
        assert not connecting.done()
        for _ in range(2):
            listener.accept()[0].close()
        connection = await connecting
        accepted, _ = listener.accept()
        connection.transport.write(b"hello")
        await asyncio.sleep(0.05)
        with accepted:
            received = accepted.recv(100)
        connection.close()
        pool.close()
        return received

    async def too_late() -> None:
        with pytest.raises(Broken, match="in time"):
            await Pool(connect_timeout=0.1).connect((path, 0))

    with socket.socket(socket.AF_UNIX) as listener, ExitStack() as waiting:
        listener.bind(path)
        listener.listen(1)
        for _ in range(2):  # as many as there is room for
            waiting.enter_context(socket.socket(socket.AF_UNIX)).connect(path)
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(too_late())
            assert runner.run(one_more(listener)) == b"hello"
