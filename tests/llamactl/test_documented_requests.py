"""What llamactl's own documents show to send (its edition of June 2026), sent to us as it stands there.

A row is one documented request: who asks, method, path, body. It has to work, or to be refused in the way that
apidocs/compatibility.md or apidocs/api.md gives as a difference on purpose; `says` is what stands there. The daemon has an
instance `my-model`, which stands for `{name}` too, and a router `my-router` without a model.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.house import House, house

GUIDES = Path(__file__).parents[2] / "apidocs"
GGUF = "Mistral-7B-Instruct-v0.3.Q4_K_M.gguf"
JSON = {"Content-Type": "application/json"}
HELLO = [{"role": "user", "content": "Hello!"}]
MLX = {"model": "mlx-community/Mistral-7B-Instruct-v0.3-4bit", "temp": 0.7, "max_tokens": 2048}
VLLM = {"model": "microsoft/DialoGPT-medium", "tensor_parallel_size": 2, "gpu_memory_utilization": 0.9}
LLAMA = {"model": "/path/to/model.gguf", "threads": 8, "ctx_size": 4096, "gpu_layers": 32, "flash_attn": "on"}
QUICK = {"model": "/path/to/llama-2-7b-chat.gguf", "threads": 4, "ctx_size": 2048, "gpu_layers": 32}


@dataclass(frozen=True)
class Row:
    method: str
    path: str
    status: int
    body: Any = None
    has: str = ""
    says: str = ""

    def __str__(self) -> str:
        return f"{self.method} {self.path} {list(self.body or ())}"


def create(instance: str, kind: str, options: dict[str, Any], status: int = 201, says: str = "", /, **more: Any) -> Row:
    body = {"backend_type": kind, "backend_options": options, **more}
    return Row("POST", f"/api/v1/instances/{instance}", status, body, says=says)


MAIN = {"nodes": ["main"]}
NO_NODES = "`nodes` may be left out or name `main`"
NO_DOWNLOADS = "not yet"
ROUTER = "/api/v1/llama-cpp/my-router/models"
ROWS = [
    # managing instances
    create(
        "my-llama-instance", "llama_cpp", LLAMA, **MAIN, auto_restart=True, max_restarts=3, docker_enabled=False,
        command_override="/opt/llama-server-dev",
    ),
    create("my-vllm-instance", "vllm", VLLM, on_demand_start=True, environment={"CUDA_VISIBLE_DEVICES": "0,1"}),
    create(
        "my-vllm-instance", "vllm", VLLM, 422, NO_NODES, on_demand_start=True, environment={"CUDA_VISIBLE_DEVICES": "0,1"},
        nodes=["worker1", "worker2"],
    ),
    create("my-mlx-instance", "mlx_lm", MLX, **MAIN),
    create("a-router", "llama_cpp", {}, **MAIN),
    create("my-large-model", "llama_cpp", {"model": "/path/to/30b-model.gguf", "gpu_layers": 32}, group="large", **MAIN),
    Row("POST", "/api/v1/instances/{name}/start", 200, has='"status":"running"'),
    Row("POST", "/api/v1/instances/{name}/stop", 200, has='"status":"stopped"'),
    Row(
        "PUT", "/api/v1/instances/{name}", 422, {"backend_options": {"threads": 8, "context_size": 4096}},
        says="one without `backend_type` is refused, as it is there",
    ),
    Row("GET", "/api/v1/instances/{name}/logs", 200, has="listening"),
    Row("GET", "/api/v1/instances/{name}/proxy/", 200),
    Row("GET", "/api/v1/instances/{name}/proxy/health", 200, has="ok"),
    Row("DELETE", "/api/v1/instances/my-router", 204),
    # several models in one instance
    Row("GET", ROUTER, 200, has='"data"'),
    Row("POST", f"{ROUTER}/{GGUF}/load", 404, {"model": GGUF}, has="File Not Found"),  # the stub is no router; it was asked
    Row("POST", f"{ROUTER}/{GGUF}/unload", 404, {"model": GGUF}, has="File Not Found"),
    Row("POST", "/v1/chat/completions", 200, {"model": f"my-router/{GGUF}", "messages": HELLO}, has='"choices"'),
    Row("GET", "/v1/models", 200, has='"id":"my-model"'),
    # the quick start
    create("llama2-7b", "llama_cpp", QUICK, name="llama2-7b", **MAIN),
    create("mistral-mlx", "mlx_lm", MLX, name="mistral-mlx", **MAIN),
    create("dialogpt-vllm", "vllm", VLLM, name="dialogpt-vllm", **MAIN),
    create(
        "distributed-model", "llama_cpp", {"model": "/path/to/model.gguf", "gpu_layers": 32}, 422, NO_NODES,
        name="distributed-model", nodes=["worker1"],
    ),
    Row("GET", "/api/v1/instances", 200, has='"name":"my-model"'),
    create("another-model", "llama_cpp", {"model": "/path/to/model.gguf"}),
    Row("POST", "/v1/chat/completions", 200, {"model": "my-model", "messages": HELLO, "max_tokens": 150, "temperature": 0.7}),
    # models
    create("cached", "llama_cpp", {"model": "~/.cache/llama.cpp/bartowski_Llama-3.2-3B-Instruct-GGUF_model-Q4_K_M.gguf"}),
    create("cached", "llama_cpp", {"hf_repo": "bartowski/Llama-3.2-3B-Instruct-GGUF", "hf_file": "model-Q4_K_M.gguf"}),
    create("cached", "vllm", {"model": "meta-llama/Llama-3.2-3B"}),
    create("cached", "mlx_lm", {"model": "meta-llama/Llama-3.2-3B"}),
    Row("POST", "/api/v1/models/download", 404, {"repo": "a/b:Q4_K_M", "format": "gguf"}, says=NO_DOWNLOADS),
    Row("POST", "/api/v1/models/download", 404, {"repo": "a/b", "format": "safetensors"}, says=NO_DOWNLOADS),
    Row("GET", "/api/v1/models", 404, says=NO_DOWNLOADS),
    Row("DELETE", "/api/v1/models?repo=bartowski/Llama-3.2-3B-Instruct-GGUF&tag=Q4_K_M", 404, says=NO_DOWNLOADS),
]  # fmt: skip


@pytest.fixture
async def h(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as running:
        await running.create("my-model")
        options = running.stub_options("my-router")
        del options["backend_options"]["model"]
        assert (await running.ask("POST", "/api/v1/instances/my-router", json=options))[0] == 201
        await running.chat("my-model")
        yield running


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_a_documented_request_works_or_differs_as_documented(h: House, row: Row) -> None:
    status, body = await h.ask(row.method, row.path.replace("{name}", "my-model"), data=_json(row.body), headers=JSON)
    assert (status, row.has in _text(body)) == (row.status, True), body
    if status >= 400 and not row.has:
        assert row.says in (GUIDES / "compatibility.md").read_text(), "say in apidocs/compatibility.md what differs, and why"


def _json(body: Any) -> bytes | None:
    return None if body is None else json.dumps(body).encode()


def _text(body: Any) -> str:
    return body if isinstance(body, str) else json.dumps(body, separators=(",", ":"))
