"""Pasted command lines over HTTP: the routes, and the way to an instance. What each flag means is tested with the backends."""

from __future__ import annotations

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
        ("llama_cpp/parse-command", {"command": "x"}, 404, "no route"),
        ("tgi/parse-command", {"command": "x"}, 404, "no route"),
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
