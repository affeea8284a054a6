"""What a start would run, told without starting anything: it has to be exactly what a start then does run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.house import House, house

BASE = "/api/v1/instances"
MASK = "********"
ECHO = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]))"


@pytest.fixture
async def h(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as running:
        yield running


async def command(h: House, name: str = "a") -> dict[str, Any]:
    status, body = await h.ask("GET", f"{BASE}/{name}/command")
    assert status == 200, body
    found: dict[str, Any] = body
    return found


async def test_what_is_told_is_what_a_start_then_runs(h: House) -> None:
    await h.create("a", environment={"X": "a b", "MY_TOKEN": "canary"}, backend_options={"ctx_size": 7})
    told = await command(h)
    assert (told["port_is_settled"], told.get("problems")) == (False, None)
    await h.chat("a")
    running = await h.get("a")
    proc = Path(f"/proc/{running['pid']}")
    assert (proc / "cmdline").read_bytes().split(b"\0")[:-1] == [word.encode() for word in told["argv"]]
    environment = dict(pair.split("=", 1) for pair in (proc / "environ").read_text().split("\0")[:-1])
    environment.pop("LLAMACTL_SPAWN")
    secret = {name for name, value in told["environment"].items() if value == MASK}
    assert {"MY_TOKEN", "LLAMA_API_KEY"} <= secret
    assert {n: v for n, v in environment.items() if n not in secret} == {
        n: v for n, v in told["environment"].items() if n not in secret
    }
    assert environment.keys() == told["environment"].keys()
    assert str((proc / "cwd").readlink()) == told["directory"]
    assert Path(told["log"]).read_text().startswith("=== Instance a started")
    again = await command(h)
    assert (again["argv"], again["port"], again["port_is_settled"]) == (told["argv"], running["port"], True)


async def test_one_that_runs_with_older_options_is_told_as_the_next_start_would_be(h: House) -> None:
    await h.create("a")
    await h.chat("a")
    port = (await h.get("a"))["port"]
    await h.ask("PATCH", f"{BASE}/a", json={"backend_options": {"ctx_size": 9}})
    told = await command(h)
    assert told["port"] != port
    assert not told["port_is_settled"]
    assert told["argv"][told["argv"].index("--ctx-size") + 1] == "9"


async def test_nothing_is_reserved_stored_or_started(h: House) -> None:
    await h.create("a")
    before = await h.get("a")
    draft = {"options": {"backend_type": "mlx_lm"}}
    ports = {(await command(h))["port"] for _ in range(3)}
    ports |= {(await h.ask("POST", f"{BASE}/command", json=draft))[1]["port"] for _ in range(3)}
    assert len(ports) == 1
    assert (await h.ask("GET", BASE))[1] == [before]
    assert h.spawned("a") == []
    assert not (h.folder / "data" / "logs").exists()


async def test_the_text_for_a_shell_runs_just_that(h: House) -> None:
    words = [sys.executable, "-c", ECHO]
    odd = 'it\'s "a" $HOME `id` \\ * \n ü'
    await h.create(
        "a", environment={"ODD": odd, "MY_TOKEN": "canary"}, command_override=words, backend_options={"chat_template": odd}
    )
    told = await command(h)
    assert "canary" not in json.dumps(told)
    run = subprocess.run(("sh", "-c", told["shell"]), capture_output=True, text=True, env={"MY_TOKEN": "mine"}, check=True)
    argv, environment, directory = json.loads(run.stdout)
    assert argv == told["argv"][3:]
    assert (environment["ODD"], environment["MY_TOKEN"], directory) == (odd, "mine", told["directory"])
    bare = subprocess.run(("sh", "-c", told["shell"]), capture_output=True, text=True, env={}, check=False)
    assert bare.returncode != 0
    assert "MY_TOKEN" in bare.stderr


async def test_a_password_in_a_url_that_is_handed_on_is_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:canary@proxy:3128")
    monkeypatch.setenv("HF_TOKEN", "canary")
    async with house(tmp_path) as h:
        await h.create("a")
        told = await command(h)
        assert told["environment"]["HTTPS_PROXY"] == f"http://me:{MASK}@proxy:3128"
        assert told["environment"]["HF_TOKEN"] == MASK
        assert "canary" not in json.dumps(told)


async def test_why_a_start_would_fail_is_told(h: House) -> None:
    await h.create("a", command_override="no-such-program", backend_options={"model": "/no/such.gguf"})
    told = await command(h)
    assert told["argv"][0] == "no-such-program"
    assert [problem.partition(" ")[0] for problem in told["problems"]] == ["'no-such-program'", "model"]


async def test_a_socket_is_told_and_the_one_in_use_is_left_alone(h: House) -> None:
    await h.create("a", unix_socket=True)
    told = await command(h)
    assert "port" not in told
    assert told["socket"] in told["argv"]
    assert not Path(told["socket"]).exists()
    await h.chat("a")
    again = await command(h)
    assert (again["socket"], again["port_is_settled"]) == (told["socket"], True)
    assert (await h.chat("a"))[0] == 200


async def test_a_container_is_told_with_the_names_of_its_variables_only(h: House) -> None:
    docker = {"engine": sys.executable, "image": "some/image"}
    options = {"docker_enabled": True, "docker": docker, "environment": {"MY_TOKEN": "canary"}}
    await h.ask("POST", f"{BASE}/d", json={"backend_type": "llama_cpp", **options})
    told = await command(h, "d")
    assert told["argv"][:2] == [sys.executable, "run"]
    assert {"MY_TOKEN", "some/image"} <= set(told["argv"])
    assert "canary" not in json.dumps(told)
    await h.ask("PATCH", f"{BASE}/d", json={"docker": {"engine": "no-such-engine"}})
    told = await command(h, "d")
    assert (told["argv"], told["shell"]) == ([], "")
    assert told["problems"][0].startswith("'no-such-engine' is not")


async def test_a_change_is_tried_as_put_or_as_patch_and_not_made(h: House) -> None:
    created = await h.create("a", environment={"MY_TOKEN": "canary"}, backend_options={"ctx_size": 7})
    status, put = await h.ask("POST", f"{BASE}/a/command", json={"backend_type": "llama_cpp", "backend_options": {"port": 1}})
    assert status == 200
    assert "--ctx-size" not in put["argv"]
    assert put["warnings"][0].startswith("--port")
    headers = {"Content-Type": "application/merge-patch+json"}
    patch = json.dumps({"backend_options": {"threads": 2}, "environment": {"MY_TOKEN": MASK}})
    _, patched = await h.ask("POST", f"{BASE}/a/command", data=patch, headers=headers)
    assert {"--ctx-size", "--threads"} <= set(patched["argv"])
    assert patched["environment"]["MY_TOKEN"] == MASK
    assert await h.get("a") == {name: value for name, value in created.items() if name != "warnings"}


async def test_a_draft_is_checked_as_an_instance_is(h: House) -> None:
    options = {"backend_type": "llama_cpp", "backend_options": {"model": "m.gguf", "ctx_size": 7}}
    status, told = await h.ask("POST", f"{BASE}/command", json={"name": "qwen", "options": options})
    assert (status, told["argv"][told["argv"].index("--alias") + 1]) == (200, "qwen")
    for body, status, field in (
        ({"options": {"backend_type": "llama_cpp", "idle_timeut": 1}}, 422, "options.idle_timeut"),
        ({"options": {"backend_type": "llama_cpp", "backend_options": {"x": 1}}}, 422, "options.backend_options.x"),
        ({"name": "..", "options": options}, 400, "name"),
        ({"name": "a"}, 422, "options"),
        (options, 400, "name"),
    ):
        said, told = await h.ask("POST", f"{BASE}/command", json=body)
        assert (said, told["problems"][0]["field"]) == (status, field), told


async def test_an_instance_with_a_name_that_is_a_word_of_the_api_still_works(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        options = h.stub_options("command")
        await h.daemon.services.fleet.create("command", options)  # made in another way: by an earlier version, in a file
        assert (await h.get("command"))["name"] == "command"
        assert (await command(h, "command"))["argv"]
        assert (await h.ask("POST", f"{BASE}/command/start"))[0] == 200
