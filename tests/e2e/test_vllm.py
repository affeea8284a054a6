"""A real vLLM on the CPU: several processes, half a minute to start, and signals that it swallows while it loads.

Run with `make test-vllm`. One daemon serves most of it, as each start takes so long; `family` are all its processes, whoever
their parents are.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.support.daemons import Daemon, daemon, wait_for
from tests.support.house import is_alive
from tests.support.real import COUNTED, count, stream

pytestmark = pytest.mark.vllm

PORTS = "27800-27899"
"""Ours alone: it takes half a minute from a port's choice until it listens, and other suites may run meanwhile."""
LOADED = 240.0
"""Seconds in which it is ready on a busy machine; 40 on a quiet one."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, vllm: Path) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("vllm")
    config = folder / "llamactl.yaml"
    config.write_text(f"backends: {{vllm: {{command: {vllm}}}}}\ninstances: {{on_demand_start_timeout: {LOADED}}}\n")
    with daemon(folder, "--config", str(config), environment={"LLAMACTL_INSTANCE_PORT_RANGE": PORTS}) as made:
        yield made


@pytest.fixture
def command(vllm: Path, tiny_hf_model: Path) -> str:
    variables = "HF_HUB_OFFLINE=1 VLLM_CPU_KVCACHE_SPACE=1 VLLM_NO_USAGE_STATS=1 OMP_NUM_THREADS=2 VLLM_HOST_IP=127.0.0.1"
    flags = "--enforce-eager --max-model-len 1024 --max-num-seqs 4 --served-model-name my-tiny alias2"
    return f"{variables} {vllm} serve {tiny_hf_model} --host 0.0.0.0 --port 9 --api-key mine {flags}"


@pytest.fixture
def made(running: Daemon, command: str) -> Iterator[str]:
    """An instance of it; deleted afterwards, and then nothing of it is left."""
    warnings = running.client.parse_command(command)["warnings"]
    assert [warning.split()[0] for warning in warnings if "left out" in warning] == ["--host", "--port", "--api-key"]
    running.create("tiny", command, start_timeout="5m")
    yield "tiny"
    running.client.delete("tiny", force=True)
    assert family() == []


def family() -> list[int]:
    """Every process that has the variable of `command`, or calls itself vLLM's (these overwrite their environment)."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            environment = (entry / "environ").read_bytes()
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        is_of_it = b"VLLM_CPU_KVCACHE_SPACE=1" in environment or b"VLLM::" in command
        if is_of_it and is_alive(int(entry.name)):
            found.append(int(entry.name))
    return found


def say(figure: str) -> None:
    """Figures for whoever runs this with -s."""
    sys.stderr.write(f"\n{figure}\n")


def client(running: Daemon) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.client.url}/v1", api_key=running.key, max_retries=0, timeout=LOADED)


def ready(running: Daemon) -> dict[str, object]:
    running.client.start("tiny")
    return running.until("tiny", "ready", timeout=LOADED)


def test_it_is_asked_for_its_version_quickly_and_for_its_help_in_time(running: Daemon) -> None:
    began = time.monotonic()
    row = next(row for row in running.client.backends() if row["type"] == "vllm")
    assert (row["found"], row["version"].startswith("0.")) == (True, True)
    assert time.monotonic() - began < 10, "from its package, not by starting it"
    found = running.client.backend("vllm")
    assert found["help_is_read"], found.get("note")


def test_a_parsed_command_is_served_over_every_name_and_stops_with_its_whole_family(running: Daemon, made: str) -> None:
    with client(running) as sdk:
        began = time.monotonic()
        assert count(sdk, made) == COUNTED
        say(f"ready and answered after {time.monotonic() - began:.1f} s")
        assert count(sdk, "my-tiny") == count(sdk, "alias2") == COUNTED
        assert "".join(stream(sdk, "alias2", 10)).split() == COUNTED.split()
        processes = family()
        assert len(processes) >= 3
        pid = running.client.instance(made)["pid"]
        assert b"--api-key" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        began = time.monotonic()
        running.client.stop(made)
        say(f"stopped {len(processes)} processes in {time.monotonic() - began:.1f} s")
        assert family() == []


def test_it_is_reached_over_a_socket(running: Daemon, made: str) -> None:
    options = running.client.instance(made)["options"] | {"unix_socket": True}
    with running.client._request("PUT", f"/api/v1/instances/{made}", options) as answer:
        json.loads(answer.read())
    with client(running) as sdk:
        assert count(sdk, made) == COUNTED
    view = running.client.instance(made)
    assert (Path(view["socket"]).is_socket(), view.get("port")) == (True, None)


@pytest.mark.parametrize("after", [6, 20, 30])
def test_a_stop_while_it_loads_ends_all_of_it_though_it_swallows_the_signal(running: Daemon, made: str, after: int) -> None:
    running.client.start(made)
    time.sleep(after)  # there is no event: it is about what it is doing by then
    began = time.monotonic()
    running.client.stop(made)
    took = time.monotonic() - began
    say(f"stopped {after} s into its start in {took:.1f} s: {running.client.instance(made)['last_exit']['code']}")
    assert family() == []
    assert took < 15, "stop_timeout is 10 s"


def test_the_engine_that_outlives_its_killed_leader_is_gone_before_the_next_start(running: Daemon, made: str) -> None:
    first = ready(running)
    before = set(family())
    os.kill(int(str(first["pid"])), signal.SIGKILL)
    wait_for(lambda: running.client.instance(made).get("pid") not in (None, first["pid"]), 60)
    assert before.isdisjoint(family()), "the next one was started while some of the old were left"
    running.until(made, "ready", timeout=LOADED)
    with client(running) as sdk:
        assert count(sdk, made) == COUNTED


def test_a_daemon_that_is_killed_leaves_nothing_that_the_next_one_does_not_end(tmp_path: Path, command: str) -> None:
    with daemon(tmp_path, environment={"LLAMACTL_INSTANCE_PORT_RANGE": PORTS}) as doomed:
        doomed.create("tiny", command, start_timeout="5m", auto_restart=False)
        doomed.client.start("tiny")
        doomed.until("tiny", "ready", timeout=LOADED)
        left = family()
        doomed.process.kill()
        doomed.process.wait()
    with daemon(tmp_path, environment={"LLAMACTL_INSTANCE_PORT_RANGE": PORTS}) as second:
        say(f"of {len(left)} processes the next daemon found {sum(map(is_alive, left))} alive after its sweep")
        assert not any(map(is_alive, left))
        assert second.client.instance("tiny")["state"] == "stopped"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("--enforce-eager", "--no-such-flag-at-all"), "unrecognized arguments: --no-such-flag-at-all"),
        (("--max-model-len 1024", "--max-model-len 9000000"), "max_model_len"),
    ],
    ids=["unknown flag", "too long a context"],
)
def test_what_it_says_about_a_bad_command_reaches_the_user(
    running: Daemon, command: str, change: tuple[str, str], reason: str
) -> None:
    running.create("tiny", command.replace(*change), max_restarts=0, start_timeout="5m")
    try:
        running.client.start("tiny")
        assert reason in running.until("tiny", "failed", timeout=LOADED)["reason"]
    finally:
        running.client.delete("tiny", force=True)


def test_nobody_else_may_use_it(running: Daemon, made: str) -> None:
    port = int(str(ready(running)["port"]))
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b" 401 " in stranger.recv(1000)
    with socket.socket() as outside:
        outside.settimeout(1)
        address = socket.gethostbyname(socket.gethostname())
        if not address.startswith("127."):
            assert outside.connect_ex((address, port)) != 0, "--host 0.0.0.0 of the pasted command was left out"
