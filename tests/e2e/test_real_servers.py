"""What else real servers do under us: sockets, keys, names, embeddings, a router of models, sleep, old flags, broken starts.

Most run llama-server, which is ready in 25 ms; `server` makes its command line.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from llamactl_py.backends import backend
from llamactl_py.demo import tiny_gguf
from tests.support.daemons import Daemon, daemon, of_tree, wait_for
from tests.support.real import COUNTED, Commands, Sdk, count

pytestmark = pytest.mark.real

Server = Callable[..., str]


@pytest.fixture
def server(llama_server: Path, tiny_gguf_model: Path) -> Server:
    def line(*flags: str, model: Path | None = tiny_gguf_model) -> str:
        return " ".join([str(llama_server), *(["-m", str(model)] if model else []), "-c 2048 -t 1 --threads-http 4", *flags])

    return line


def ask(running: Daemon, method: str, path: str, body: Any = None) -> Any:
    """An answer of the management API, JSON parsed."""
    with running.client._request(method, path, body) as answer:
        return json.loads(answer.read())


def failure(running: Daemon, name: str) -> str:
    """Start it; the reason of its failure."""
    with pytest.raises(Exception, match=r"."):
        count(openai.OpenAI(base_url=f"{running.client.url}/v1", api_key=running.key, max_retries=0), name)
    return str(running.until(name, "failed", timeout=30)["reason"])


# ---- served


def test_a_real_server_is_reached_over_its_socket_and_nowhere_else(served: Daemon, server: Server, sdk: Sdk) -> None:
    served.create("tiny", server(), unix_socket=True)
    assert count(sdk(served), "tiny") == COUNTED
    view = served.client.instance("tiny")
    path = served.data / "sockets" / "tiny.sock"
    assert (view["socket"], view.get("port"), path.is_socket()) == (str(path), None, True)
    with socket.socket(socket.AF_UNIX) as stranger:  # of our own user: its key is asked for all the same
        stranger.connect(str(path))
        stranger.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b" 401 " in stranger.recv(1000)
    served.client.stop("tiny")
    assert not path.exists()


def test_a_key_in_the_pasted_command_is_replaced_and_its_aliases_are_served(served: Daemon, server: Server, sdk: Sdk) -> None:
    parsed = served.client.parse_command(server("--api-key my-own -a first,second"))
    assert any(warning.startswith("--api-key was left out") for warning in parsed["warnings"])
    served.create("tiny", server("--api-key my-own -a first,second"))
    client = sdk(served)
    assert [count(client, name) for name in ("tiny", "first", "second")] == [COUNTED] * 3
    assert {"tiny", "first", "second"} <= {model.id for model in client.models.list()}
    assert "my-own" not in Path(f"/proc/{served.client.instance('tiny')['pid']}/environ").read_text()


def test_embeddings_come_through(served: Daemon, server: Server, sdk: Sdk) -> None:
    served.create("embed", server("--embeddings --pooling mean"))
    answer = sdk(served).embeddings.create(model="embed", input=["one two", "three"], encoding_format="float")
    assert [len(item.embedding) for item in answer.data] == [64, 64]
    assert answer.data[0].embedding != answer.data[1].embedding


def test_a_router_lists_loads_serves_and_unloads_its_models(
    served: Daemon, server: Server, sdk: Sdk, tmp_path: Path, tiny_gguf_model: Path
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    for name in ("a", "b"):
        (models / f"{name}.gguf").symlink_to(tiny_gguf_model)
    (models / "bad.gguf").write_bytes(b"GARBAGE!" * 100)
    served.create("router", server(f"--models-dir {models} --models-max 1", model=None))
    client = sdk(served)
    assert count(client, "router/a") == COUNTED

    def states() -> dict[str, str]:
        found = ask(served, "GET", "/api/v1/instances/router/proxy/models")["data"]
        return {model["id"]: model["status"]["value"] for model in found}

    assert states() == {"a": "loaded", "b": "unloaded", "bad": "unloaded"}
    assert count(client, "router/b") == COUNTED
    wait_for(lambda: states()["a"] == "unloaded", 10)
    ask(served, "POST", "/api/v1/instances/router/proxy/models/unload", {"model": "b"})
    wait_for(lambda: states()["b"] == "unloaded", 10)
    ask(served, "POST", "/api/v1/instances/router/proxy/models/load", {"model": "a"})
    wait_for(lambda: states()["a"] == "loaded", 10)
    with pytest.raises(openai.APIStatusError, match="bad"):
        count(client, "router/bad")
    assert count(client, "router/a") == COUNTED
    family = of_tree(str(models))
    assert len(family) >= 2
    served.client.stop("router")
    assert of_tree(str(models)) == []


def test_a_server_that_sleeps_is_woken_by_the_next_request(served: Daemon, server: Server, sdk: Sdk) -> None:
    served.create("tiny", server("--sleep-idle-seconds 1"))
    client = sdk(served)
    assert count(client, "tiny") == COUNTED
    wait_for(lambda: ask(served, "GET", "/api/v1/instances/tiny/proxy/props")["is_sleeping"] is True, 20)
    assert served.client.instance("tiny")["state"] == "ready"
    assert count(client, "tiny") == COUNTED
    assert ask(served, "GET", "/api/v1/instances/tiny/proxy/props")["is_sleeping"] is False
    assert served.client.instance("tiny")["restarts"] == 0


@pytest.mark.soak
def test_a_model_that_takes_long_to_load_is_waited_for_and_can_be_stopped_meanwhile(
    served: Daemon, server: Server, sdk: Sdk, tmp_path: Path
) -> None:
    """1.2 GB: ten seconds to write, one or two to load from the disk."""
    big = tiny_gguf.write(tmp_path / "big.gguf", dim=1536, layers=24, heads=24, kv_heads=8, ffn=4096)
    assert big.stat().st_size > 1e9
    with open(big, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    served.create("big", server("--load-mode none", model=big))
    served.client.start("big")
    assert served.client.instance("big")["state"] == "starting"
    served.client.stop("big")
    assert of_tree(str(big)) == []
    assert count(sdk(served), "big", tokens=2) == "one two"


# ---- the version that is installed


def test_the_real_server_is_asked_and_its_help_is_understood(
    tmp_path: Path, server: Server, llama_server: Path, sdk: Sdk
) -> None:
    config = tmp_path / "llamactl.yaml"
    config.write_text(f"backends: {{llama-cpp: {{command: {llama_server}}}}}\n")
    with daemon(tmp_path, "--config", str(config)) as running:
        found = running.client.backend("llama-cpp")
        assert (found["found"], found["help_is_read"], found["path"]) == (True, True, str(llama_server))
        assert found["version"]
        described = len(ask(running, "GET", "/api/v1/backends/llama_cpp/options")["properties"])
        assert len(found["missing_flags"]) < described / 2
        for what in ("version", "devices"):
            with running.client._request("GET", f"/api/v1/server/{what}") as answer:
                assert answer.read()
        flags = backend("llama_cpp").catalogue
        refused = next(flag for flag in flags if flag.removed and not flag.historic and flag.arity == "one" and flag.instead)
        parsed = running.client.parse_command(server(refused.flag, "1"))
        said = next(warning for warning in parsed["warnings"] if "which is the one installed, refuses" in warning)
        assert f"refuses {refused.flag}; use " in said
        running.create("old", server(refused.flag, "1"), max_restarts=0)
        assert said in running.client.instance("old")["warnings"]
        assert "removed" in failure(running, "old"), "the warning was right"
        assert said in running.log


def test_the_real_mlx_server_is_asked_too(served: Daemon, mlx_server: Path) -> None:
    """It is found beside our own interpreter."""
    found = served.client.backend("mlx")
    assert (found["found"], found["help_is_read"], found["path"]) == (True, True, str(mlx_server))
    assert found["version"][0].isdigit()
    assert len(found["missing_flags"]) < 5


# ---- failures with their reasons


@pytest.fixture
def thief(tmp_path: Path, llama_server: Path) -> Iterator[Path]:
    """A llama-server that finds its port taken: something else of its own tree listens there first."""
    script = tmp_path / "late-server"
    listens = "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1])))"
    waits = "open(sys.argv[2], 'w').write('held'); time.sleep(60)"
    script.write_text(
        "#!/bin/sh\nfor port; do :; done\n"
        f'{sys.executable} -S -E -c "{listens}; {waits}" $port {tmp_path}/held &\n'
        f'while ! [ -s {tmp_path}/held ]; do sleep 0.01; done\nexec {llama_server} "$@"\n'
    )
    script.chmod(0o755)
    yield script
    assert of_tree(str(tmp_path / "held")) == []


def test_a_port_that_is_in_use_is_the_reason_of_the_failure(served: Daemon, server: Server, thief: Path) -> None:
    served.create("late", server(), command_override=str(thief), max_restarts=0)
    assert "couldn't bind HTTP server socket" in failure(served, "late")


def test_a_model_that_was_cut_short_is_the_reason_of_the_failure(
    served: Daemon, server: Server, tmp_path: Path, tiny_gguf_model: Path
) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny_gguf_model.read_bytes()[:-50_000])
    served.create("cut", server(model=cut), max_restarts=0)
    assert "data is not within the file bounds" in failure(served, "cut")


def test_a_value_that_the_server_refuses_is_the_reason_of_the_failure(served: Daemon, server: Server) -> None:
    served.create("bad", server("--rope-scaling sideways"), max_restarts=0)
    assert "rope-scaling" in failure(served, "bad")


def test_a_flag_that_mlx_does_not_know_is_the_reason_of_the_failure(served: Daemon, commands: Commands) -> None:
    served.create("bad", commands["mlx_lm.server"]() + " --no-such-flag-at-all", max_restarts=0)
    assert "unrecognized arguments: --no-such-flag-at-all" in failure(served, "bad")


def test_a_socket_that_the_server_cannot_make_is_the_reason_of_the_failure(
    tmp_path: Path, server: Server, tiny_gguf_model: Path
) -> None:
    deep = tmp_path / ("d" * 100)
    with daemon(tmp_path, environment={"LLAMACTL_SOCKETS_DIR": str(deep)}) as running:
        running.create("tiny", server(), unix_socket=True)
        assert "set instances.sockets_dir to a shorter one" in failure(running, "tiny")
