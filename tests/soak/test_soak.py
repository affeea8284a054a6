"""Long repetitions, run with `make test-soak`: what happens a thousand times must leave as much behind as what happens once.

Real processes throughout. Each test says how often, and what it counts.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from llamactl_py.client import Client, Refused, Unreachable
from tests.support.daemons import Daemon, daemon, of_tree, wait_for
from tests.support.house import STUB, house, is_alive

pytestmark = pytest.mark.soak


async def test_a_thousand_starts_and_stops_leave_nothing_behind(tmp_path: Path) -> None:
    ourselves = psutil.Process()

    def held() -> tuple[int, int, int]:
        gc.collect()
        return ourselves.num_fds(), len(asyncio.all_tasks()), ourselves.num_threads()

    async with house(tmp_path) as h:
        await h.create("a", "workers=1 setsid-worker")
        await h.chat("a")
        await h.ask("POST", "/api/v1/instances/a/stop")
        before, memory = held(), ourselves.memory_info().rss
        for _ in range(1000):
            assert (await h.chat("a"))[0] == 200
            assert (await h.ask("POST", "/api/v1/instances/a/stop"))[1]["state"] == "stopped"
        after = held()
        assert [b - a for a, b in zip(before, after, strict=True)] == pytest.approx([0, 0, 0], abs=2)
        assert ourselves.memory_info().rss - memory < 15e6
        async with asyncio.timeout(5):  # orphans are buried once a second
            while any(child.status() == psutil.STATUS_ZOMBIE for child in ourselves.children(recursive=True)):
                await asyncio.sleep(0.1)
        assert not any(map(is_alive, h.spawned("a")))


async def test_a_leader_killed_a_hundred_times_never_leaves_a_worker(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        await h.create("a", "workers=2 setsid-worker", max_restarts=1000, restart_delay="0ms")
        for _ in range(100):
            assert (await h.chat("a"))[0] == 200
            leader = (await h.get("a"))["pid"]
            old = h.spawned("a")
            os.kill(leader, signal.SIGKILL)
            async with asyncio.timeout(20):
                while (found := await h.get("a"))["state"] != "ready" or found["pid"] == leader:
                    await asyncio.sleep(0.005)
            assert not any(map(is_alive, old))


async def test_ten_thousand_requests_over_connections_that_the_backend_closes_early_all_succeed(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        await h.create("a", "idle-close=0.3 tokens=1")
        await h.chat("a")
        failures = []

        async def client(count: int) -> None:
            for number in range(count):
                code, body = await h.chat("a")
                if code != 200:
                    failures.append(body)
                if number % 10 == 0:
                    await asyncio.sleep(random.choice((0.295, 0.3, 0.305)))

        await asyncio.gather(*(client(500) for _ in range(20)))
        assert failures == []


def test_a_daemon_killed_fifty_times_at_any_moment_leaves_nothing_and_loses_nothing(tmp_path: Path) -> None:
    acknowledged: set[str] = set()
    dice = random.Random(7)
    for _ in range(50):
        with daemon(tmp_path) as running:
            begun = time.monotonic()
            assert acknowledged <= {instance["name"] for instance in running.client.instances()}
            assert time.monotonic() - begun < 3
            work = threading.Thread(target=keep_busy, args=(running, acknowledged, dice.random()))
            work.start()
            time.sleep(dice.uniform(0.0, 0.7))
            running.process.kill()
            running.process.wait()
            work.join()
    with daemon(tmp_path) as running:
        assert acknowledged <= {instance["name"] for instance in running.client.instances()}
        assert running.end() == 0
    wait_for(lambda: of_tree(str(tmp_path)) == [], 10)


def keep_busy(running: Daemon, acknowledged: set[str], seed: float) -> None:
    """Create, wake and stop instances until the daemon is gone."""
    environment = {"STUBD": "workers=1 setsid-worker max-life=120", "MARK": str(running.folder)}
    options = {
        "backend_type": "llama_cpp",
        "backend_options": {"model": "/dev/null"},
        "command_override": [sys.executable, "-S", "-E", str(STUB)],
        "environment": environment,
    }
    client = Client(running.client.url, running.key)
    for number in range(1000):
        name = f"i{int(seed * 1e9)}-{number}"
        try:
            client.create(name, options)
            acknowledged.add(name)
            "".join(client.chat(name, [{"role": "user", "content": "hi"}]))
            if number % 2:
                client.stop(name)
        except Unreachable:
            return
        except Refused as error:
            if error.status >= 500 and error.code not in ("start_failed", "shutting_down"):
                raise
