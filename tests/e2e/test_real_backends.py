"""The main job on real parts: `llamactl serve` as a process, a real llama-server and mlx_lm.server on tiny models, and the
OpenAI SDK, unmodified, as the client. The model counts: any prompt goes on "one two three ... ten one".

Every test gets a daemon of its own from `served`; `BACKENDS` runs a test once for each real server.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import openai
import pytest

from tests.support.daemons import Daemon, daemon, of_tree, wait_for
from tests.support.house import is_alive
from tests.support.real import COUNTED, Commands, Sdk, count, stream

pytestmark = pytest.mark.real

BACKENDS = pytest.mark.parametrize("backend", ["llama-server", "mlx_lm.server"])


@BACKENDS
def test_the_openai_sdk_lists_chats_and_streams_through_a_stopped_instance(
    served: Daemon, commands: Commands, sdk: Sdk, backend: str
) -> None:
    served.create("tiny", commands[backend](), aliases=["gpt-4"])
    client = sdk(served)
    assert [model.id for model in client.models.list()] == ["gpt-4", "tiny"]
    assert served.client.instance("tiny")["state"] == "stopped"
    assert count(client, "tiny") == COUNTED
    assert served.client.instance("tiny")["state"] == "ready"
    assert " ".join("".join(stream(client, "gpt-4", 20)).split()) == f"{COUNTED} {COUNTED}"
    completion = client.completions.create(model="tiny", prompt="one two", max_tokens=2)
    assert completion.choices[0].text.split() == ["three", "four"]


@BACKENDS
def test_a_killed_backend_comes_back_by_itself_and_answers_again(
    served: Daemon, commands: Commands, sdk: Sdk, backend: str
) -> None:
    served.create("tiny", commands[backend]())
    client = sdk(served)
    assert count(client, "tiny") == COUNTED
    first = served.client.instance("tiny")
    os.kill(first["pid"], signal.SIGKILL)
    wait_for(lambda: served.client.instance("tiny").get("pid") not in (None, first["pid"]), 20)
    assert count(client, "tiny") == COUNTED
    second = served.client.instance("tiny")
    assert (second["state"], second["restarts"], second["last_exit"]["code"]) == ("ready", 1, -9)


@pytest.mark.parametrize("backend", ["slow", "mlx_lm.server"])
def test_streams_under_way_end_honestly_when_their_backend_is_killed(
    served: Daemon, commands: Commands, sdk: Sdk, backend: str
) -> None:
    """mlx_lm.server ends its streams by closing, which is also what its death looks like."""
    served.create("tiny", commands[backend]())
    client = sdk(served)
    assert count(client, "tiny") == COUNTED
    outcomes: list[str] = []
    begun = threading.Barrier(5)

    def read_a_long_stream() -> None:
        words = stream(client, "tiny", 10_000)
        next(words)
        begun.wait(20)
        try:
            for _ in words:
                pass
            outcomes.append("ended as if whole")
        except Exception as error:  # the SDK's transport has several names for a broken connection
            outcomes.append(type(error).__name__)

    readers = [threading.Thread(target=read_a_long_stream) for _ in range(4)]
    for reader in readers:
        reader.start()
    begun.wait(20)
    pid = served.client.instance("tiny")["pid"]
    os.kill(pid, signal.SIGKILL)
    for reader in readers:
        reader.join(20)
    assert len(outcomes) == 4
    assert "ended as if whole" not in outcomes, outcomes
    assert count(client, "tiny") == COUNTED
    assert served.client.instance("tiny")["pid"] != pid


@BACKENDS
def test_an_idle_instance_is_stopped_and_woken_by_the_next_request(
    served: Daemon, commands: Commands, sdk: Sdk, backend: str
) -> None:
    served.create("tiny", commands[backend](), idle_timeout="500ms")
    client = sdk(served)
    assert count(client, "tiny") == COUNTED
    pid = served.client.instance("tiny")["pid"]
    served.until("tiny", "stopped")
    assert not is_alive(pid)
    assert count(client, "tiny") == COUNTED


def test_two_real_servers_take_turns_when_only_one_may_run(tmp_path: Path, commands: Commands, sdk: Sdk) -> None:
    with daemon(tmp_path, "--max-running-instances", "1") as running:
        running.create("llama", commands["llama-server"]())
        running.create("mlx", commands["mlx_lm.server"]())
        client = sdk(running)
        for name, other in (("llama", "mlx"), ("mlx", "llama"), ("llama", "mlx")):
            assert count(client, name) == COUNTED
            assert [running.client.instance(n)["state"] for n in (name, other)] == ["ready", "stopped"]


def test_stopping_in_the_middle_of_a_stream_does_not_hang_on_the_server(tmp_path: Path, commands: Commands, sdk: Sdk) -> None:
    """llama-server alone takes up to 30 s to end while it streams; the second SIGTERM ends it."""
    with daemon(tmp_path, environment={"LLAMACTL_DRAIN_TIMEOUT": "300ms"}) as running:
        running.create("slow", commands["slow"](), stop_timeout=25)
        words = stream(sdk(running), "slow", 10_000)
        next(words)
        begun = time.monotonic()
        assert running.client.stop("slow")["state"] == "stopped"
        assert time.monotonic() - begun < 10
        with pytest.raises(openai.APIConnectionError):
            list(words)


def test_a_real_server_refuses_whoever_does_not_come_through_us(served: Daemon, commands: Commands) -> None:
    served.create("tiny", commands["llama-server"]())
    served.client.start("tiny")
    port = served.until("tiny", "ready")["port"]
    with pytest.raises(openai.AuthenticationError):
        count(openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="guess", max_retries=0), "tiny")
    cmdline = Path(f"/proc/{served.client.instance('tiny')['pid']}/cmdline").read_bytes()
    assert b"api-key" not in cmdline


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(("-c 2048", "-c abc"), "", id="bad value"),
        pytest.param(("-t 1", "--no-such-flag-at-all"), "invalid argument: --no-such-flag-at-all", id="unknown flag"),
        pytest.param(("tiny.gguf", "no-such.gguf"), "does not exist", id="bad path"),
    ],
)
def test_what_llama_server_says_about_a_bad_command_reaches_the_user(
    served: Daemon, commands: Commands, sdk: Sdk, change: tuple[str, str], reason: str
) -> None:
    line = commands["llama-server"]().replace(*change)
    if not reason:
        with pytest.raises(Exception, match="ctx_size"):
            served.create("bad", line)
        assert served.client.instances() == []
        return
    served.create("bad", line, max_restarts=0)
    with pytest.raises(openai.APIStatusError, match=reason) as refusal:
        count(sdk(served), "bad")
    assert refusal.value.status_code == 503
    assert reason in served.until("bad", "failed")["reason"]


def test_a_garbage_model_is_told_with_what_the_server_said(served: Daemon, commands: Commands, sdk: Sdk, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.gguf"
    garbage.write_bytes(b"GARBAGE!" * 1000)
    program = commands["llama-server"]().split()[0]
    served.create("bad", f"{program} -m {garbage}", max_restarts=0)
    with pytest.raises(openai.APIStatusError, match=r"magic|GGUF"):
        count(sdk(served), "bad")


def test_an_mlx_server_that_never_becomes_ready_is_ended_by_its_deadline(
    served: Daemon, commands: Commands, sdk: Sdk, tmp_path: Path
) -> None:
    """It does not exit on a model that it cannot load: its health path says 503 for ever."""
    empty = tmp_path / "empty-model"
    empty.mkdir()
    line = commands["mlx_lm.server"]()
    served.create("bad", f"{line.rpartition(' ')[0]} {empty}", start_timeout=6)
    with pytest.raises(openai.APIStatusError, match="not ready within 6s"):
        count(sdk(served), "bad")
    assert of_tree(str(empty)) == []


def test_after_sigterm_in_the_middle_of_work_no_process_is_left(tmp_path: Path, commands: Commands, sdk: Sdk) -> None:
    with daemon(tmp_path, environment={"LLAMACTL_SHUTDOWN_TIMEOUT": "1"}) as running:
        running.create("llama", commands["slow"]())
        running.create("mlx", commands["mlx_lm.server"]())
        client = sdk(running)
        words = stream(client, "llama", 10_000)
        next(words)
        assert count(client, "mlx") == COUNTED
        pids = [running.client.instance(name)["pid"] for name in ("llama", "mlx")]
        assert running.end(signal.SIGTERM) == 0
        assert not any(map(is_alive, pids))
        with pytest.raises(openai.APIConnectionError):
            list(words)
