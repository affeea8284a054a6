"""Requests and streams through a door, sent by the C clients; every answer is compared with what the backend said."""

from __future__ import annotations

import json
import math
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks import machine, processes
from benchmarks.build import Programs

LARGE = 10 * 1024 * 1024
WARM_UP_TIMEOUT, WARM_UP_REQUESTS = 30.0, 100
IDLE_TIMEOUT, IDLE_LOOK, IDLE_SHARE = 3.0, 0.1, 0.1


@dataclass(frozen=True)
class Door:
    """Where a candidate is asked: its port, headers it wants, and its process (none for a backend asked directly)."""

    port: int
    headers: Mapping[str, str] = field(default_factory=dict)
    process: psutil.Process | None = None
    backend_port: int | None = None
    """Of the backend that stands fixed; None where the candidate starts its own."""
    is_exact: bool = True
    """Passes answers on byte for byte; one that writes them anew is checked for complete and ordered events only."""


class Wrong(Exception):
    """An answer was not what the backend had sent."""


@dataclass(frozen=True)
class Load:
    """The clients, and a folder for what they send."""

    programs: Programs
    folder: Path

    def requests(self, door: Door, connections: int, seconds: float, *, count: int = 0, is_large: bool = False) -> dict[str, Any]:
        """What `native/requests.c` prints, and of the candidate: `cpu`, seconds that it ran; `waited`, that it was ready and
        had to wait for its processor; `connects`, its new connections to the backend. Raises Wrong."""
        body = large() if is_large else small("Why is the sky blue? " * 10)
        options = {"--connections": connections, "--seconds": seconds, "--count": count}
        told = self._run(self.programs.requests, door, body, options, seconds + 30)
        if told["failed"]:
            raise Wrong(f"{told['failed']} of {told['answered'] + told['failed']} requests failed; the first: {told['failure']}")
        if not told["answered"]:
            raise Wrong(f"no request was answered within {seconds:g} s")
        return told

    def streams(
        self,
        door: Door,
        streams: int,
        events: int,
        period_us: int,
        seconds: float,
        *,
        ramp: int = 0,
        in_steps: bool = False,
        must_end: bool = True,
    ) -> dict[str, Any]:
        """What `native/streams.c` prints, and of the candidate the same. *seconds* is a bound; *ramp*: periods over which they
        begin; *in_steps*: all events of a period come at one moment. Raises Wrong."""
        asked = f"bench-events={events} bench-period-us={period_us} {'bench-steps=1 ' if in_steps else ''}"
        options = {
            "--streams": streams,
            "--events": events,
            "--period-us": period_us,
            "--ramp": ramp,
            "--seconds": seconds,
            "--whole": int(must_end),
        }
        told = self._run(self.programs.streams, door, small(asked, stream=True), options, seconds + 30)
        if told["failed"]:
            raise Wrong(f"{told['failed']} of {streams} streams failed; the first: {told['failure']}")
        return told

    def _run(self, program: Path, door: Door, body: bytes, options: Mapping[str, float], timeout: float) -> dict[str, Any]:
        file = self.folder / "request"
        file.write_bytes(request(door, body))
        words = [str(word) for option in options.items() for word in option]
        words += ["--port", str(door.port), "--request", str(file), "--exact", str(int(door.is_exact))]
        measured, backend = self.processes(door), self._backend_port(door)
        cpu, waited, accepted = machine.cpu_seconds(measured), machine.waited_seconds(measured), self._accepted(backend)
        done = subprocess.run(
            (str(program), *words, "--cpu", str(machine.OTHERS_CPU)), capture_output=True, text=True, timeout=timeout, check=False
        )
        used = {
            "cpu": machine.cpu_seconds(measured) - cpu,
            "waited": machine.waited_seconds(measured) - waited,
            "connects": self._accepted(backend) - accepted - 1,
        }
        if done.returncode:
            raise Wrong(done.stderr.strip() or f"{program.name} ended with {done.returncode}")
        told: dict[str, Any] = json.loads(done.stdout)
        return told | (used if measured else dict.fromkeys(used, math.nan))

    def processes(self, door: Door) -> list[psutil.Process]:
        """The candidate's own: those of its tree that are not the backend."""
        tree = machine.tree(door.process.pid) if door.process else []
        return [process for process in tree if not machine.runs(process, self.programs.backend)]

    def resident_mb(self, door: Door) -> float:
        """Raises Wrong when the candidate is gone."""
        if not (measured := self.processes(door)):
            raise Wrong("it had ended by itself")
        return machine.resident_mb(measured)

    def warm_up(self, door: Door) -> None:
        """The first request may have to wait for the backend to be started."""
        self.requests(door, 1, WARM_UP_TIMEOUT, count=WARM_UP_REQUESTS)

    def becomes_idle(self, door: Door) -> bool:
        """Wait until the candidate has finished with what the last case left to it; False when it takes too long."""
        for _ in range(int(IDLE_TIMEOUT / IDLE_LOOK)):
            before = machine.cpu_seconds(measured := self.processes(door))
            time.sleep(IDLE_LOOK)
            if machine.cpu_seconds(measured) - before < IDLE_SHARE * IDLE_LOOK:
                return True
        return False

    def _backend_port(self, door: Door) -> int | None:
        if door.backend_port or not door.process:
            return door.backend_port
        for process in machine.tree(door.process.pid):
            if machine.runs(process, self.programs.backend):
                words = process.cmdline()
                return int(words[words.index("--port") + 1])
        return None  # not started yet

    def _accepted(self, port: int | None) -> int:
        """How many connections the backend has accepted so far."""
        told = processes.get(port, "/bench", {}) if port else None
        return int(json.loads(told)["accepted"]) if told else 0


def request(door: Door, body: bytes) -> bytes:
    headers = {
        "Host": f"127.0.0.1:{door.port}",
        "Content-Type": "application/json",
        **door.headers,
        "Content-Length": str(len(body)),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST /v1/chat/completions HTTP/1.1\r\n{lines}\r\n".encode() + body


def small(text: str, *, stream: bool = False) -> bytes:
    messages = [{"role": "user", "content": f"bench-tag=000000 {text}"}]
    return json.dumps({"model": "bench", "messages": messages, "max_tokens": 10, "temperature": 0.7, "stream": stream}).encode()


def large() -> bytes:
    """A chat with an image of 10 MiB, and its model at the very end."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBORw0K" * (LARGE // 8)}}
    messages = [{"role": "user", "content": "bench-tag=000000 What is this?"}, {"role": "user", "content": [image]}]
    return json.dumps({"messages": messages, "model": "bench"}).encode()
