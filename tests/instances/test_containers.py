"""Instances in containers: the words for `docker run`, and whole daemons with the stand-in of tests/support/dockerd.py.

There is no docker where the suite runs. The stand-in keeps what matters: a container is no child of the client and lives on
when that is killed; SIGTERM is passed on to it; of the client's environment it sees only what is named.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from llamactl_py.backends import BACKENDS
from llamactl_py.config.settings import Docker, Instances
from llamactl_py.ground.errors import Invalid, StartFailed
from llamactl_py.instances.containers import Box, box
from llamactl_py.instances.options import InstanceOptions, parse_options
from tests.support import dockerd
from tests.support.daemons import daemon
from tests.support.house import STUB, House, eventually, house, is_alive

LLAMA, MLX, VLLM = BACKENDS["llama_cpp"], BACKENDS["mlx_lm"], BACKENDS["vllm"]


def options(**raw: Any) -> InstanceOptions:
    return parse_options({"backend_type": "llama_cpp", **raw}, Instances())[0]


class TestWords:
    def made(self, **raw: Any) -> Box:
        found = box(LLAMA, Docker(), "a", options(docker_enabled=True, **raw))
        assert found
        return found

    def test_the_port_is_published_on_loopback_and_of_variables_only_the_names_are_told(self) -> None:
        made = self.made(docker={"image": "img", "args": ["--gpus", "all"], "command": ["/app/server"]})
        assert made.run(8001, ["B", "A", "B"], ["-m", "x"]) == (
            "docker", "run", "--rm", "--init", "--name", made.name, "--publish", "127.0.0.1:8001:8001",
            "--gpus", "all", "--env", "A", "--env", "B", "img", "-m", "x",
        )  # fmt: skip
        assert made.host == "0.0.0.0"
        assert made.removal == ("docker", "rm", "--force", made.name)

    @pytest.mark.parametrize("args", [["--network", "host"], ["--network=host"], ["--net", "host"], ["--net=host", "--gpus=all"]])
    def test_on_the_network_of_the_host_it_listens_on_loopback_and_nothing_is_published(self, args: list[str]) -> None:
        made = self.made(docker={"args": args})
        assert made.host == "127.0.0.1"
        assert "--publish" not in made.run(8001, [], [])

    def test_another_network_is_not_that_of_the_host(self) -> None:
        assert not self.made(docker={"args": ["--network", "llm", "--hostname", "host"]}).shares_our_network

    def test_every_start_has_a_name_of_its_own(self) -> None:
        names = {self.made().name for _ in range(10)}
        assert len(names) == 10
        assert all(name.startswith("llamactl-a-") for name in names)

    def test_what_is_ours_to_say_is_taken_out_also_in_the_form_of_llamactls_settings(self) -> None:
        words = ("run", "--rm", "-itd", "--name", "x", "-p", "1:1", "-p0.0.0.0:2:2", "-P", "--restart=always", "--rm=false")
        found = box(LLAMA, Docker(enabled=True, args=(*words, "--gpus", "all", "-itv/m:/m", "-e", "A=1")), "a", options())
        assert found
        assert found.args == ("--gpus", "all", "-v/m:/m", "-e", "A=1")

    @pytest.mark.parametrize(
        ("args", "said"),
        [
            (["-p0.0.0.0:9000:8000"], "-p is not for an instance to say: the daemon publishes its port"),
            (["-P"], "-P is not for an instance to say: the daemon publishes its port"),
            (["--publish-all"], "--publish-all is not for an instance to say"),
            (["-itd"], "-d is not for an instance to say: the daemon keeps it in the foreground"),
            (["-d=true"], "-d is not for an instance to say"),
            (["--detach=true"], "--detach is not for an instance to say"),
            (["--rm=false"], "--rm is not for an instance to say: the daemon removes it"),
            (["--restart=always"], "--restart is not for an instance to say: the daemon restarts it"),
            (["--env", "VLLM_API_KEY=sesame"], "put VLLM_API_KEY into environment"),
            (["-e", "HF_TOKEN=sesame"], "put HF_TOKEN into environment"),
            (["-iteHF_TOKEN=sesame"], "put HF_TOKEN into environment"),
            (["--gpus", "all", "img"], "'img' is no flag, and would be taken for the image"),
            (["--gpus"], "--gpus of docker run needs a value"),
        ],
    )
    def test_an_instance_cannot_say_what_the_daemon_decides_nor_a_secret(self, args: list[str], said: str) -> None:
        with pytest.raises(Invalid) as caught:
            options(docker={"args": args})
        assert {problem.where for problem in caught.value.problems} == {"docker.args"}
        assert said in str(caught.value)
        assert "sesame" not in str(caught.value)

    def test_what_the_daemon_does_too_and_a_variable_that_is_handed_on_are_no_mistakes(self) -> None:
        assert self.made(docker={"args": ["run", "--rm", "--init=true", "-e", "HF_TOKEN"]}).args == ("-e", "HF_TOKEN")

    @pytest.mark.parametrize("args", [("-e", "HF_TOKEN=sesame"), ("-eVLLM_API_KEY=sesame",), ("img",), ("-v",)])
    def test_a_secret_or_a_stray_word_in_the_settings_keeps_an_instance_from_starting(self, args: tuple[str, ...]) -> None:
        with pytest.raises(StartFailed, match=r"the words of docker\.args: ") as caught:
            box(VLLM, Docker(enabled=True, args=args), "a", options())
        assert "sesame" not in str(caught.value)

    @pytest.mark.parametrize(
        ("own", "settings", "runs"),
        [(None, False, False), (None, True, True), (True, False, True), (False, True, False)],
    )
    def test_an_instance_decides_and_its_backends_settings_where_it_is_silent(
        self, own: bool | None, settings: bool, runs: bool
    ) -> None:
        found = box(LLAMA, Docker(enabled=settings), "a", options(docker_enabled=own))
        assert (found is not None) == runs

    def test_own_words_win_over_settings_and_those_over_the_usual_ones(self) -> None:
        usual = box(VLLM, Docker(enabled=True), "a", options())
        assert usual
        assert (usual.image, usual.args) == ("vllm/vllm-openai:latest", ("--gpus", "all", "--shm-size", "1g"))
        settings = Docker(enabled=True, engine="podman", image="mine", args=("--cpus=2",))
        configured = box(VLLM, settings, "a", options())
        assert configured
        assert (configured.engine, configured.image, configured.args) == ("podman", "mine", ("--cpus=2",))
        own = box(VLLM, settings, "a", options(docker={"image": "own", "args": []}))
        assert own
        assert (own.engine, own.image, own.args) == ("podman", "own", ())

    def test_a_server_without_a_usual_image_needs_one(self) -> None:
        with pytest.raises(StartFailed, match=r"MLX has no usual image: set docker\.image"):
            box(MLX, Docker(), "a", options(docker_enabled=True))

    def test_a_socket_in_a_container_is_refused(self) -> None:
        with pytest.raises(Invalid, match="unix_socket: a container is reached over a port"):
            options(docker_enabled=True, unix_socket=True)
        with pytest.raises(StartFailed, match="leave out unix_socket"):
            box(LLAMA, Docker(enabled=True), "a", options(unix_socket=True))

    @pytest.mark.parametrize("image", ["-v", "--privileged", " x", "a b", "a\0"])
    def test_an_image_that_would_be_read_as_a_flag_is_refused(self, image: str) -> None:
        with pytest.raises(Invalid, match=r"docker\.image"):
            options(docker={"image": image})


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[dict[str, str]]:
    with dockerd.engine(tmp_path) as environment:
        yield environment


@pytest.fixture
async def h(tmp_path: Path, engine: dict[str, str]) -> AsyncIterator[House]:
    async with house(tmp_path, {**os.environ, **engine, "SECRET_OF_THE_DAEMON": "x"}) as running:
        yield running


async def boxed(h: House, name: str, stub: str = "", **more: Any) -> None:
    await h.create(
        name,
        stub,
        command_override=None,
        docker_enabled=True,
        docker={"image": str(STUB)},
        backend_options={"model": "/in/the/container.gguf", "ctx_size": 7},
        **more,
    )


async def test_a_request_is_served_by_a_container(h: House) -> None:
    await boxed(h, "a", environment={"MY_OWN_SECRET": "sesame"})
    status, answer = await h.chat("a")
    assert (status, answer["spawn"]) == (200, None), "the mark of our processes must not be in it"
    (container,) = h.spawned("a", "leader")
    assert (await h.get("a"))["pid"] != container
    inside = Path(f"/proc/{container}/environ").read_text()
    assert "MY_OWN_SECRET=sesame" in inside
    assert "LLAMA_API_KEY=" in inside
    assert "SECRET_OF_THE_DAEMON" not in inside
    client = Path(f"/proc/{(await h.get('a'))['pid']}/cmdline").read_text()
    assert "sesame" not in client
    assert "--env\0LLAMA_API_KEY\0" in client
    assert (await h.ask("POST", "/api/v1/instances/a/stop"))[0] == 200
    assert not is_alive(container)
    assert (await h.get("a"))["last_exit"]["code"] == 0, "SIGTERM was passed on, and it ended of its own accord"


async def test_a_container_outlives_its_killed_client_but_not_the_instance(h: House) -> None:
    await boxed(h, "a", auto_restart=False)
    assert (await h.chat("a"))[0] == 200
    (container,) = h.spawned("a", "leader")
    os.kill((await h.get("a"))["pid"], signal.SIGKILL)
    await h.until("a", "failed")
    assert not is_alive(container)


async def test_one_that_does_not_hear_sigterm_is_removed_at_the_end_of_its_grace(h: House) -> None:
    await boxed(h, "a", "ignore-term", stop_timeout="300ms")
    assert (await h.chat("a"))[0] == 200
    (container,) = h.spawned("a", "leader")
    assert (await h.ask("POST", "/api/v1/instances/a/stop"))[0] == 200
    assert not is_alive(container)


async def test_what_the_engine_says_about_a_start_reaches_the_user(h: House) -> None:
    await boxed(h, "a", "exit-code=3 last-words=no_such_gpu", max_restarts=0)
    status, body = await h.chat("a")
    assert status == 503
    assert "docker run" in body["error"]["message"]
    assert "no_such_gpu" in body["error"]["message"]


async def test_without_an_engine_the_reason_says_what_to_install(tmp_path: Path) -> None:
    async with house(tmp_path, {"PATH": "/nowhere"}) as h:
        await boxed(h, "a")
        status, body = await h.chat("a")
    assert status == 503
    assert "'docker' is not an executable file or a command on PATH; install it, or set docker.engine" in body["error"]["message"]


async def test_settings_alone_put_every_instance_into_a_container(tmp_path: Path, engine: dict[str, str]) -> None:
    docker = {"enabled": True, "image": str(STUB), "environment": {"FROM_SETTINGS": "1"}}
    async with house(tmp_path, {**os.environ, **engine}, backends={"llama-cpp": {"docker": docker}}) as h:
        await h.create("a", command_override=None)
        assert (await h.chat("a"))[0] == 200
        (container,) = h.spawned("a", "leader")
        assert "FROM_SETTINGS=1" in Path(f"/proc/{container}/environ").read_text()
    await eventually(lambda: not is_alive(container))


def test_the_next_daemon_removes_the_containers_of_one_that_was_killed(tmp_path: Path, engine: dict[str, str]) -> None:
    """kill -9 of the daemon takes the clients with it; only the tickets know what is left."""
    with daemon(tmp_path, environment=engine) as first:
        first.client.create(
            "a",
            {
                "backend_type": "llama_cpp",
                "docker_enabled": True,
                "docker": {"image": str(STUB)},
                "environment": {"STUBD": f"pids={tmp_path}/pids"},
                "auto_restart": False,
            },
        )
        first.client.start("a")
        first.until("a", "ready")
        container = json.loads((tmp_path / "pids").read_text())["pid"]
        first.process.kill()
        first.process.wait()
    assert is_alive(container)
    with daemon(tmp_path, environment=engine) as second:
        assert not is_alive(container)
        assert second.client.instance("a")["state"] == "stopped"
