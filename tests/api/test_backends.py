"""Pasted command lines over HTTP: the routes, and the way to an instance. What each flag means is tested with the backends."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.house import STUB, House, house

BASE = "/api/v1/backends"


@pytest.fixture
async def h(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as running:
        yield running


LLAMA = ("llama_cpp", {"model": "/m/a b.gguf", "ctx_size": 4096})
MLX = ("mlx_lm", {"model": "org/model", "max_tokens": 9})
VLLM = ("vllm", {"model": "org/model", "tensor_parallel_size": 2})


@pytest.mark.parametrize(
    ("route", "command", "expected"),
    [
        ("parse-command", "llama-server -m '/m/a b.gguf' -c 4096", LLAMA),
        ("parse-command", "/opt/x/llama-server --model=/m/a\\ b.gguf \\\n  --ctx-size 4096  # comment", LLAMA),
        ("parse-command", "mlx_lm.server --model org/model --max-tokens 9", MLX),
        ("parse-command", "python -m mlx_lm.server --model org/model --max-tokens 9", MLX),
        ("parse-command", "vllm serve org/model -tp 2", VLLM),
        ("llama-cpp/parse-command", "llama-server -m '/m/a b.gguf' -c 4096", LLAMA),
        ("llama-cpp/parse-command", "-m '/m/a b.gguf' -c 4096", LLAMA),
        ("mlx/parse-command", "--model org/model --max-tokens 9", MLX),
        ("vllm/parse-command", "--model org/model --tensor-parallel-size 2", VLLM),
    ],
)
async def test_a_command_line_becomes_options(h: House, route: str, command: str, expected: tuple[str, dict[str, Any]]) -> None:
    status, body = await h.ask("POST", f"{BASE}/{route}", json={"command": command})
    assert (status, body["backend_type"], body["backend_options"]) == (200, *expected)


async def test_what_the_catalogue_does_not_know_is_kept_and_what_the_daemon_decides_is_left_out_with_a_warning(h: House) -> None:
    command = "FOO=bar llama-server -m x.gguf --brand-new-flag 7 --port 9999"
    status, body = await h.ask("POST", f"{BASE}/parse-command", json={"command": command})
    assert status == 200
    assert body["backend_options"] == {"model": "x.gguf", "extra_args": ["--brand-new-flag", "7"]}
    assert body["environment"] == {"FOO": "bar"}
    assert [warning.split()[0] for warning in body["warnings"]] == ["--brand-new-flag", "--port"]
    assert "command_override" not in body


async def test_a_parsed_command_makes_an_instance_that_runs_it(h: House) -> None:
    command = "X=1 llama-server -m /dev/null -c 77"
    status, body = await h.ask("POST", f"{BASE}/llama-cpp/parse-command", json={"command": command})
    assert status == 200
    body |= {"command_override": [sys.executable, "-S", "-E", str(STUB)]}
    assert (await h.ask("POST", "/api/v1/instances/a", json=body))[0] == 201
    assert (await h.chat("a"))[0] == 200
    pid = (await h.get("a"))["pid"]
    assert b"\0--ctx-size\x0077\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert b"\0X=1\0" in Path(f"/proc/{pid}/environ").read_bytes()


CUSTOM = ["PROGRAM", "-S", "-E", "STUB", "--host", "${HOST}", "--port=${PORT}", "-m", "${MODEL}", "--alias", "a; ${NAME} $${X}"]


async def test_any_command_is_run_with_its_placeholders_filled_in(h: House) -> None:
    command = [{"PROGRAM": sys.executable, "STUB": str(STUB)}.get(word, word) for word in CUSTOM]
    body = {
        "backend_type": "custom",
        "backend_options": {"command": command, "model": "/dev/null", "served_model_name": "other"},
        "environment": {"WHERE": "http://${HOST}:${PORT}", "STUBD": f"record={h.record('a')}"},
    }
    assert (await h.ask("POST", "/api/v1/instances/a", json=body))[0] == 201
    assert (await h.chat("a"))[0] == 200
    view = await h.get("a")
    words = Path(f"/proc/{view['pid']}/cmdline").read_bytes().split(b"\0")
    assert b"--alias\0a; a ${X}" in b"\0".join(words)
    assert f"\0WHERE=http://127.0.0.1:{view['port']}\0".encode() in Path(f"/proc/{view['pid']}/environ").read_bytes()
    (request,) = await h.recorded("a")
    assert json.loads(request["body"])["model"] == "other"


async def test_an_empty_health_path_waits_for_the_port_only(h: House) -> None:
    command = [{"PROGRAM": sys.executable, "STUB": str(STUB)}.get(word, word) for word in CUSTOM]
    body = {
        "backend_type": "custom",
        "backend_options": {"command": command, "health_path": "", "model": "/dev/null"},
        "environment": {"STUBD": "never-ready"},
    }
    assert (await h.ask("POST", "/api/v1/instances/a", json=body))[0] == 201
    await h.ask("POST", "/api/v1/instances/a/start")
    await h.until("a", "ready")


async def test_a_placeholder_in_a_variable_of_the_instance_is_checked_when_it_is_made(h: House) -> None:
    body = {"backend_type": "custom", "backend_options": {"command": ["x"]}, "environment": {"A": "${PROT}"}}
    status, answer = await h.ask("POST", "/api/v1/instances/a", json=body)
    assert status == 422
    assert "environment.A: ${PROT} is no placeholder" in answer["details"]


async def test_a_container_comes_back_as_options(h: House) -> None:
    command = "docker run --gpus all -p 1:1 -e A=1 vllm/vllm-openai --model m"
    status, body = await h.ask("POST", f"{BASE}/parse-command", json={"command": command})
    assert status == 200
    assert body["docker_enabled"] is True
    assert body["docker"] == {"engine": "docker", "image": "vllm/vllm-openai", "args": ["--gpus", "all"], "command": []}
    assert body["environment"] == {"A": "1"}


async def test_words_that_a_shell_has_split_already_are_taken_as_they_are(h: House) -> None:
    words = ["llama-server.exe", "-m", "it's $HOME; x", "--alias", "a\nb"]
    status, body = await h.ask("POST", f"{BASE}/parse-command", json={"command": words})
    assert (status, body["backend_options"]) == (200, {"model": "it's $HOME; x", "alias": "a\nb"})
    status, body = await h.ask("POST", f"{BASE}/parse-command", json={"command": [""] * 70_000})
    assert (status, body["error"]) == (400, "parse_error")


async def test_a_line_without_a_known_program_may_say_its_backend(h: House) -> None:
    line = {"command": "./own --port ${PORT}", "backend_type": "custom"}
    status, body = await h.ask("POST", f"{BASE}/parse-command", json=line)
    assert (status, body["backend_options"]) == (200, {"command": ["./own", "--port", "${PORT}"]})
    status, body = await h.ask("POST", f"{BASE}/parse-command", json={**line, "backend_type": "costum"})
    assert (status, "did you mean 'custom'?" in body["details"]) == (422, True)


async def test_an_error_shows_its_place(h: House) -> None:
    status, body = await h.ask("POST", f"{BASE}/parse-command", json={"command": "llama-server \\\n  -m x && rm -rf /"})
    assert status == 400
    told, line, caret = body["details"].split("\n")
    assert told.startswith("command: line 2, column 8: && is for a shell")
    assert line[caret.index("^^") :].startswith("&& rm")


@pytest.mark.parametrize(
    ("route", "body", "status", "part"),
    [
        ("parse-command", {"command": ""}, 400, "command"),
        ("parse-command", {"command": "   # nothing"}, 400, ""),
        ("parse-command", {"command": "-m x.gguf"}, 400, "names no program"),
        ("parse-command", {"command": "rm -rf /"}, 400, ""),
        ("parse-command", {"command": "llama-server -m 'open"}, 400, ""),
        ("parse-command", {"command": "llama-server -m x; rm -rf /"}, 400, ""),
        ("parse-command", {"command": "llama-server -m $(id)"}, 400, ""),
        ("parse-command", {"command": "llama-server -c many"}, 400, "whole number"),
        ("parse-command", {"command": "llama-server -m a\0b"}, 400, ""),
        ("parse-command", {"command": "x" * 70_000}, 422, "at most 65536"),
        ("parse-command", {"command": 3}, 422, "command"),
        ("parse-command", {}, 422, "is required"),
        ("parse-command", {"commando": "x"}, 422, "did you mean 'command'?"),
        ("mlx/parse-command", {"command": "llama-server -m x"}, 400, "starts llama.cpp"),
        ("llama_cpp/parse-command", {"command": "mlx_lm.server --model x"}, 400, "starts MLX"),
        ("tgi/parse-command", {"command": "x"}, 404, "unknown backend 'tgi'"),
    ],
)
async def test_what_cannot_be_understood_is_refused_with_the_reason(
    h: House, route: str, body: dict[str, Any], status: int, part: str
) -> None:
    said, answer = await h.ask("POST", f"{BASE}/{route}", json=body)
    codes = {400: "parse_error", 404: "not_found", 422: "invalid_request"}
    assert (said, answer["error"]) == (status, codes[status]), answer
    assert part in answer["details"]


async def test_a_body_that_is_no_json_is_400(h: House) -> None:
    status, body = await h.ask("POST", f"{BASE}/parse-command", data=b"llama-server -m x")
    assert (status, body["error"]) == (400, "invalid_request")
