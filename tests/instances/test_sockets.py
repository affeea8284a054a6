"""Instances on Unix sockets: the file, its directory, and a whole daemon that reaches the stub over one."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
from pathlib import Path

import pytest

from llamactl_py.config.settings import Instances
from llamactl_py.ground.errors import Invalid, StartFailed
from llamactl_py.instances import sockets
from llamactl_py.instances.options import parse_options
from tests.support.house import house


def bound(path: Path) -> None:
    """Leave a socket file behind, as a killed server does."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


class TestFiles:
    def test_the_directory_is_made_for_us_alone(self, tmp_path: Path) -> None:
        path = sockets.take(tmp_path / "s", "a")
        assert path == tmp_path / "s" / "a.sock"
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o700

    @pytest.mark.parametrize("mode", [0o755, 0o701, 0o770, 0o720])
    def test_a_directory_that_others_may_enter_is_refused_as_it_is(self, tmp_path: Path, mode: int) -> None:
        (tmp_path / "s").mkdir()
        (tmp_path / "s").chmod(mode)
        with pytest.raises(StartFailed, match=f"open to others .*mode {mode:o}.*mode 700"):
            sockets.take(tmp_path / "s", "a")
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == mode

    def test_what_a_killed_server_left_is_taken_away_before_the_start_and_after_the_end(self, tmp_path: Path) -> None:
        path = sockets.take(tmp_path / "s", "a")
        bound(path)
        assert sockets.take(tmp_path / "s", "a") == path
        assert not path.exists()
        bound(path)
        sockets.remove(str(path))
        sockets.remove(str(path))
        assert not path.exists()

    def test_what_is_no_socket_is_never_taken_away(self, tmp_path: Path) -> None:
        path = sockets.take(tmp_path / "s", "a")
        path.write_text("precious")
        with pytest.raises(StartFailed, match=r"a\.sock is in the way of its socket"):
            sockets.take(tmp_path / "s", "a")
        assert path.read_text() == "precious"

    def test_a_link_to_nowhere_is_in_the_way_too(self, tmp_path: Path) -> None:
        path = sockets.take(tmp_path / "s", "a")
        path.symlink_to(tmp_path / "nowhere")
        with pytest.raises(StartFailed, match="in the way"):
            sockets.take(tmp_path / "s", "a")

    @pytest.mark.parametrize("extra", [0, 1])
    def test_the_longest_path_that_the_kernel_takes_works_and_one_more_byte_is_told(self, tmp_path: Path, extra: int) -> None:
        left = sockets.LONGEST_PATH - len(os.fsencode(tmp_path)) - len("/s/.sock") + extra
        if extra:
            with pytest.raises(StartFailed, match=r"has 108 bytes, and the kernel takes 107: set instances\.sockets_dir"):
                sockets.take(tmp_path / "s", "x" * left)
        else:
            bound(sockets.take(tmp_path / "s", "x" * left))

    def test_a_directory_that_cannot_be_made_is_a_reason(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StartFailed, match="cannot be prepared: Not a directory"):
            sockets.take(tmp_path / "file" / "s", "a")


def test_a_server_that_knows_no_sockets_is_refused_when_its_options_come() -> None:
    with pytest.raises(Invalid, match="unix_socket: MLX listens on ports only"):
        parse_options({"backend_type": "mlx_lm", "unix_socket": True}, Instances())


async def test_requests_reach_a_backend_that_has_a_socket_and_no_port(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        await h.create("a", unix_socket=True)
        assert (await h.chat("a"))[0] == 200
        view = await h.get("a")
        path = tmp_path / "data" / "sockets" / "a.sock"
        assert (view["state"], view["socket"], view.get("port")) == ("ready", str(path), None)
        assert f"\0--host\0{path}\0".encode() in Path(f"/proc/{view['pid']}/cmdline").read_bytes()
        assert ["Host", "localhost"] in (await h.recorded("a"))[-1]["headers"]
        status, _ = await h.ask("POST", "/api/v1/instances/a/stop")
        assert status == 200
        assert not path.exists()
        assert "socket" not in await h.get("a")


async def test_a_killed_backend_leaves_its_socket_and_comes_back_on_the_same_path(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        await h.create("a", unix_socket=True)
        assert (await h.chat("a"))[0] == 200
        first = (await h.get("a"))["pid"]
        os.kill(first, signal.SIGKILL)
        async with asyncio.timeout(10):
            while (await h.get("a"))["restarts"] == 0:
                await asyncio.sleep(0.01)
        assert (await h.chat("a"))[0] == 200
        assert (await h.get("a"))["pid"] != first


async def test_a_path_that_is_too_long_is_the_reason_of_the_failure(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 90)
    async with house(tmp_path, instances={"sockets_dir": str(deep)}) as h:
        await h.create("a", unix_socket=True)
        status, body = await h.chat("a")
        assert status == 503
        assert "set instances.sockets_dir to a shorter one" in body["error"]["message"]
        assert (await h.get("a"))["state"] == "failed"
