"""What stands before a server's arguments: variables, wrappers, containers. And what of it the daemon keeps."""

from __future__ import annotations

from typing import Any

import pytest

from llamactl_py.backends import parse_command
from llamactl_py.backends.parse import Parsed
from llamactl_py.backends.wrappers import WRAPPERS


def parsed(command: str) -> Parsed:
    return parse_command(command)


@pytest.mark.parametrize(
    "before",
    [
        "exec",
        "exec -a name",
        "nohup",
        "setsid -w",
        "time -p",
        "time -o t.txt",
        "command",
        "nohup exec",
        "env",
        "env --",
        "sudo -n --",
        "sudo -u me -g you -E",
        "sudo --user=me nohup",
        "doas -u me",
        "env -i",
        "env -u HOME --unset=PATH",
    ],
)
def test_what_only_prepares_a_start_is_left_out(before: str) -> None:
    said = parsed(f"{before} llama-server -m x")
    assert (said.backend_options, said.environment, said.command_override) == ({"model": "x"}, {}, None)
    assert bool(said.warnings) == before.startswith(("sudo", "doas", "env -i", "env -u"))


@pytest.mark.parametrize(
    "before",
    [
        "nice",
        "nice -n 10",
        "nice -10",
        "nice --adjustment=5",
        "ionice -c 3",
        "chrt -f 50",
        "stdbuf -oL -e 0",
        "numactl --interleave all",
        "numactl -N 0 -m 0 --",
        "taskset 0xff",
        "taskset -c 0-3,8",
        "caffeinate -is",
        "uv run",
        "uv --directory /x run --with vllm --extra a --",
        "uv tool run --from vllm",
        "uvx --from vllm==0.10",
        "pipx run --spec vllm",
        "poetry -C /x run",
        "conda run -n vllm --live-stream",
        "mamba run -p /envs/vllm",
        "micromamba run -n vllm",
        "pixi run -e cuda",
        "/usr/bin/nice -n 1 /usr/bin/numactl -N 1",
        "nice --what-is-this 5",
    ],
)
def test_what_decides_how_it_runs_stays_part_of_the_command(before: str) -> None:
    said = parsed(f"{before} vllm serve m --seed 1")
    assert said.command_override == (*before.split(), "vllm", "serve")
    assert said.backend_options == {"model": "m", "seed": 1}
    assert said.warnings == ()


def test_variables_may_stand_at_several_places() -> None:
    said = parsed("A=1 sudo B=2 env C=3 nice -n 5 env D=4 llama-server -m x")
    assert said.environment == {"A": "1", "B": "2", "C": "3", "D": "4"}
    assert said.command_override == ("nice", "-n", "5", "llama-server")


def test_variables_of_the_server_stay_variables() -> None:
    said = parsed("LLAMA_ARG_CTX_SIZE=4096 VLLM_USE_V1=1 llama-server -m x")
    assert said.environment == {"LLAMA_ARG_CTX_SIZE": "4096", "VLLM_USE_V1": "1"}
    assert said.backend_options == {"model": "x"}


def test_no_wrapper_is_a_server() -> None:
    assert not {"vllm", "llama-server", "sglang", "lmdeploy", "docker"} & WRAPPERS.keys()


# ---- containers


def container(command: str) -> dict[str, Any]:
    docker = parsed(command).docker
    assert docker is not None
    return docker


@pytest.mark.parametrize("engine", ["docker", "podman", "nerdctl"])
def test_a_container_is_kept_with_what_the_engine_needs(engine: str) -> None:
    said = parsed(
        f"{engine} run --gpus all -v /m:/m --shm-size=1g -e A=1 --env=B=2 -eC=3 -e HF_TOKEN --env-file f "
        "vllm/vllm-openai:latest --model /m/x --dtype half"
    )
    assert said.backend_type == "vllm"
    assert said.backend_options == {"model": "/m/x", "dtype": "half"}
    assert said.environment == {"A": "1", "B": "2", "C": "3"}
    assert said.docker == {
        "engine": engine,
        "image": "vllm/vllm-openai:latest",
        "args": ["--gpus", "all", "-v", "/m:/m", "--shm-size=1g", "-e", "HF_TOKEN", "--env-file", "f"],
        "command": [],
    }
    assert said.command_override is None


@pytest.mark.parametrize(
    "flags",
    [
        "-d",
        "-it",
        "-dit",
        "-itp 1:1",
        "-p 8000:8000",
        "-p8000:8000",
        "-P",
        "--publish=1:1",
        "--rm --init",
        "--name x",
        "--restart=always",
        "-p0.0.0.0:9000:8000",
        "-itd",
        "-itp1:1",
        "-d=true",
        "--detach=true",
        "--rm=false",
        "--publish-all=true",
    ],
)
def test_what_the_daemon_decides_for_a_container_is_left_out(flags: str) -> None:
    said = parsed(f"docker run {flags} --privileged vllm/vllm-openai --model m")
    assert said.docker is not None
    assert said.docker["args"] == ["--privileged"]
    assert said.backend_options == {"model": "m"}
    assert all(warning.startswith("docker -") for warning in said.warnings)
    assert bool(said.warnings) == (flags != "--rm --init")


@pytest.mark.parametrize(
    ("flags", "args"),
    [
        ("-itv/a:/b", ["-v/a:/b"]),
        ("-itv /a:/b", ["-v", "/a:/b"]),
        ("-itv=/a:/b", ["-v=/a:/b"]),
        ("-v/a:/b", ["-v/a:/b"]),
    ],
)
def test_a_cluster_of_switches_may_end_in_a_flag_with_its_value(flags: str, args: list[str]) -> None:
    assert container(f"docker run {flags} vllm/vllm-openai --model m")["args"] == args


@pytest.mark.parametrize("flags", ["-iteHF_TOKEN=abc", "-ite HF_TOKEN=abc", "-ite=HF_TOKEN=abc"])
def test_a_variable_in_a_cluster_is_one_of_the_instance(flags: str) -> None:
    assert parsed(f"docker run {flags} vllm/vllm-openai --model m").environment == {"HF_TOKEN": "abc"}


def test_a_variable_without_a_value_is_doubted() -> None:
    said = parsed("docker run -e HF_TOKEN vllm/vllm-openai --model m")
    (warning,) = said.warnings
    assert warning.startswith("docker -e HF_TOKEN takes its value from the daemon's environment, which is filtered; ")
    assert warning.endswith("put HF_TOKEN and its value into environment")


@pytest.mark.parametrize("flags", ["-v --entrypoint", "-e --entrypoint=/bin/sh", "--entrypoint x --entrypoint ''"])
def test_an_entrypoint_is_looked_for_among_flags_and_not_among_their_values(flags: str) -> None:
    said = parsed(f"docker run {flags} vllm/vllm-openai --model x")
    assert (said.backend_type, said.backend_options) == ("vllm", {"model": "x"})


@pytest.mark.parametrize(
    ("command", "backend", "words"),
    [
        ("docker run vllm/vllm-openai m", "vllm", []),
        ("docker run vllm/vllm-openai vllm serve m", "vllm", ["vllm", "serve"]),
        ("docker run --entrypoint vllm some/image serve m", "vllm", ["serve"]),
        ("docker run --entrypoint=/app/llama-server some/image -m m", "llama_cpp", []),
        ("docker run some/image python3 -m sglang.launch_server --model m", "sglang", ["python3", "-m", "sglang.launch_server"]),
        ("docker run lmsysorg/sglang sglang serve --model m", "sglang", ["sglang", "serve"]),
        ("docker run ghcr.io/ggml-org/llama.cpp:server-cuda -m m", "llama_cpp", []),
        ("docker run ghcr.io/ggml-org/llama.cpp:full --server -m m", "llama_cpp", ["--server"]),
        ("docker run openmmlab/lmdeploy lmdeploy serve api_server m", "lmdeploy", ["lmdeploy", "serve", "api_server"]),
        ("docker container run vllm/vllm-openai --model m", "vllm", []),
        ("/usr/bin/docker run vllm/vllm-openai --model m", "vllm", []),
        ("sudo docker run vllm/vllm-openai --model m", "vllm", []),
    ],
)
def test_the_words_behind_the_image_the_entrypoint_or_the_image_tell_the_server(
    command: str, backend: str, words: list[str]
) -> None:
    said = parsed(command)
    assert (said.backend_type, said.backend_options) == (backend, {"model": "m"})
    assert container(command)["command"] == words


def test_a_wrapper_of_the_engines_client_is_left_out_with_a_word() -> None:
    said = parsed("nice -n 5 docker run vllm/vllm-openai --model m")
    assert said.warnings == ("nice was left out: it would hold for the engine's client, not for the server in the container",)


def test_an_image_that_nobody_knows_needs_the_backend() -> None:
    said = parse_command("docker run my/own -m x", "llama_cpp")
    assert (said.backend_type, said.docker and said.docker["image"]) == ("llama_cpp", "my/own")
