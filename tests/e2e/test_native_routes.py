"""llama.cpp's native routes and its router mode on a real llama-server: what a client of llamactl does with them."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.support.house import house

pytestmark = pytest.mark.real


async def test_native_routes_of_a_real_server_answer(tmp_path: Path, llama_server: Path, tiny_gguf_model: Path) -> None:
    async with house(tmp_path) as h:
        options = {"backend_options": {"model": str(tiny_gguf_model), "ctx_size": 512, "threads": 1, "metrics": True}}
        command = {"command_override": str(llama_server)}
        await h.ask("POST", "/api/v1/instances/a", json={"backend_type": "llama_cpp", **command, **options})
        status, body = await h.ask("POST", "/llama-cpp/a/tokenize", json={"content": "one two"})
        assert (status, len(body["tokens"])) == (200, 2)
        status, body = await h.ask("POST", "/llama-cpp/a/detokenize", json={"tokens": body["tokens"]})
        assert (status, body["content"].split()) == (200, ["one", "two"])
        status, body = await h.ask("POST", "/llama-cpp/a/completion", json={"prompt": "one", "n_predict": 2, "temperature": 0})
        assert (status, body["content"].split()) == (200, ["two", "three"])
        assert (await h.ask("GET", "/llama-cpp/a/props"))[1]["total_slots"] >= 1
        status, text = await h.ask("GET", "/llama-cpp/a/metrics")
        assert (status, "llamacpp:" in text) == (200, True)
        told = (await h.ask("GET", "/api/v1/instances/a/stats"))[1]
        assert told["usage"]["memory_bytes"] > 1 << 20
        _, preview = await h.ask("GET", "/api/v1/instances/a/command")
        assert preview["argv"][0] == str(llama_server)


async def test_the_models_of_a_real_router_are_listed_loaded_and_unloaded(
    tmp_path: Path, llama_server: Path, tiny_gguf_model: Path
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    shutil.copy(tiny_gguf_model, models / "count.gguf")
    async with house(tmp_path) as h, asyncio.timeout(60):
        options = {"backend_options": {"models_dir": str(models), "ctx_size": 512, "threads": 1}}
        command = {"command_override": str(llama_server)}
        await h.ask("POST", "/api/v1/instances/r", json={"backend_type": "llama_cpp", **command, **options})
        path = "/api/v1/llama-cpp/r/models"

        async def state() -> str:
            status, body = await h.ask("GET", path)
            assert status == 200, body
            found: str = next(model["status"]["value"] for model in body["data"] if model["id"] == "count")
            return found

        assert await state() == "unloaded"
        for action, wanted in (("load", "loaded"), ("unload", "unloaded")):
            status, body = await h.ask("POST", f"{path}/count/{action}")
            assert (status, body) == (200, {"success": True})
            while await state() != wanted:
                await asyncio.sleep(0.05)
