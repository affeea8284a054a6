"""A whole daemon inside the test's own event loop: real processes, real SQLite, real HTTP, the stub as backend.

async with house(tmp_path) as h:
    await h.create("a", stub="load-time=0.2")
    answer = await h.chat("a")
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp

from llamactl_py.config.load import Configuration, Sources, load
from llamactl_py.config.settings import Settings
from llamactl_py.daemon import Running, running
from llamactl_py.ground.validation import parse

STUB = Path(__file__).with_name("stubd.py")
PORTS = (21000, 21999)
"""Below the ephemeral range, so that no outgoing connection of the tests takes them."""
FIRST_PORT = PORTS[0] + os.getpid() % 900
"""Two test runs at the same time do not try the same ports."""

T = TypeVar("T")


@dataclass
class House:
    """A running daemon and a client of it."""

    daemon: Running
    session: aiohttp.ClientSession
    folder: Path

    @property
    def url(self) -> str:
        return self.daemon.url

    def stub_options(self, name: str, stub: str = "", **options: Any) -> dict[str, Any]:
        """Options of a llama_cpp instance whose executable is the stub; *stub* are its switches."""
        environment = {"STUBD": f"{stub} pids={self.pids(name)} record={self.record(name)}", **options.pop("environment", {})}
        return {
            "backend_type": "llama_cpp",
            "backend_options": {"model": "/dev/null", **options.pop("backend_options", {})},
            "command_override": [sys.executable, "-S", "-E", str(STUB)],
            "environment": environment,
            "restart_delay": "50ms",
            "stop_timeout": 3,
            **options,
        }

    async def create(self, name: str, stub: str = "", **options: Any) -> dict[str, Any]:
        status, body = await self.ask("POST", f"/api/v1/instances/{name}", json=self.stub_options(name, stub, **options))
        assert status == 201, body
        return body

    async def ask(self, method: str, path: str, **parameters: Any) -> tuple[int, Any]:
        """(status, body) of a request with the management key; the body parsed where it is JSON."""
        async with self.session.request(method, self.url + path, **parameters) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text and answer.content_type == "application/json" else text

    async def get(self, name: str) -> dict[str, Any]:
        status, body = await self.ask("GET", f"/api/v1/instances/{name}")
        assert status == 200, body
        return body

    async def chat(self, model: str, **fields: Any) -> tuple[int, Any]:
        """(status, body) of a chat that is not streamed."""
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}
        return await self.ask("POST", "/v1/chat/completions", json=body)

    async def until(self, name: str, *states: str, timeout: float = 10.0) -> dict[str, Any]:
        """Wait until the instance is in one of *states*."""
        async with asyncio.timeout(timeout):
            while (found := await self.get(name))["state"] not in states:
                await asyncio.sleep(0.01)
        return found

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A bare connection to the daemon."""
        address = urlsplit(self.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=1 << 24)
        try:
            yield reader, writer
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def raw(self, data: bytes, timeout: float = 10.0) -> bytes:
        """Everything that comes back for these very bytes, until the daemon closes or resets the connection."""
        async with asyncio.timeout(timeout), self.connection() as (reader, writer):
            writer.write(data)
            parts: list[bytes] = []
            with suppress(ConnectionError):
                while part := await reader.read(1 << 16):
                    parts.append(part)
            return b"".join(parts)

    def head(self, method: str, target: str, *headers: str) -> bytes:
        """The head of a request with the management key, byte for byte as given; the connection ends with its answer."""
        given = {header.partition(":")[0].lower() for header in headers}
        usual = (f"Host: {urlsplit(self.url).netloc}", f"Authorization: Bearer {self.daemon.management_key}", "Connection: close")
        lines = (
            f"{method} {target} HTTP/1.1",
            *(line for line in usual if line.partition(":")[0].lower() not in given),
            *headers,
        )
        return "".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1")

    async def recorded(self, name: str, count: int = 1) -> list[dict[str, Any]]:
        """What the stub received, as soon as that are *count*: it notes a request when it is over, which we may see first."""
        await eventually(lambda: len(self.requests(name)) >= count)
        return self.requests(name)

    def pids(self, name: str) -> Path:
        return self.folder / f"{name}.pids"

    def record(self, name: str) -> Path:
        return self.folder / f"{name}.record"

    def spawned(self, name: str, role: str | None = None) -> list[int]:
        """Pids that the stub of that instance ever had, of one role or of all."""
        return [line["pid"] for line in _lines(self.pids(name)) if role in (None, line["role"])]

    def requests(self, name: str) -> list[dict[str, Any]]:
        """What the stub of that instance received, health checks left out."""
        return [line for line in _lines(self.record(name)) if line["method"] != "GET"]


@asynccontextmanager
async def house(
    folder: Path, environ: Mapping[str, str] = os.environ, *, config: Path | None = None, **settings: Any
) -> AsyncIterator[House]:
    """A daemon on *folder*; *settings* are sections of the settings, as in the YAML file. With *config* they come from that
    file, over which no section is given here."""
    tree = {
        **settings,
        "data_dir": str(folder / "data"),
        "server": {"port": 0, "shutdown_timeout": 3, **settings.get("server", {})},
        "instances": {"port_range": (FIRST_PORT, PORTS[1]), "drain_timeout": 5, **settings.get("instances", {})},
    }
    configuration = Configuration(parse(Settings, tree), environ)
    if config:
        assert not settings
        flags = {f"{name}.{key}": value for name in ("server", "instances") for key, value in tree[name].items()}
        foreign = {name: value for name, value in environ.items() if not name.startswith("LLAMACTL_")}
        configuration = load(Sources(config, foreign, {**flags, "data_dir": tree["data_dir"]}))
    async with running(configuration) as daemon:
        headers = {"Authorization": f"Bearer {daemon.management_key}"}
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
            yield House(daemon, session, folder)


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


async def eventually(condition: Callable[[], T], seconds: float = 10.0) -> T:
    """What *condition* gives as soon as that is true."""
    async with asyncio.timeout(seconds):
        while not (found := condition()):
            await asyncio.sleep(0.005)
    return found


def is_alive(pid: int) -> bool:
    """Is there such a process, and is it more than a zombie?"""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
