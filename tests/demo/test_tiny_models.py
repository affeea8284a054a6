"""The tiny models: the files first, then what real servers say when they run them (marked `real`)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from llamactl_py.demo import cycle, tiny_gguf, tiny_hf
from llamactl_py.ground.errors import DaemonRefused

COUNTED_TWICE = f" {cycle.SENTENCE} {cycle.SENTENCE}"
WRITERS = (tiny_gguf.write, tiny_hf.write)


# ---- the files


@pytest.mark.parametrize("write", WRITERS)
def test_the_same_arguments_give_the_same_bytes(write: Callable[..., Path], tmp_path: Path) -> None:
    assert digests(write(tmp_path / "first")) == digests(write(tmp_path / "second"))


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("other", [{"stop": True}, {"mode": "random"}, {"layers": 3}, {"dim": 256}, {"ctx": 512}])
def test_each_knob_changes_the_model(write: Callable[..., Path], other: dict[str, Any], tmp_path: Path) -> None:
    assert digests(write(tmp_path / "default")) != digests(write(tmp_path / "other", **other))


@pytest.mark.parametrize("write", WRITERS)
def test_another_seed_gives_other_noise(write: Callable[..., Path], tmp_path: Path) -> None:
    assert digests(write(tmp_path / "one", mode="random", seed=1)) != digests(write(tmp_path / "two", mode="random", seed=2))


@pytest.mark.parametrize("write", WRITERS)
def test_a_model_may_be_written_over_an_older_one(write: Callable[..., Path], tmp_path: Path) -> None:
    write(tmp_path / "model", mode="random")
    assert digests(write(tmp_path / "model")) == digests(write(tmp_path / "fresh"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "model"]


@pytest.mark.parametrize(("dim", "heads", "kv_heads"), [(10, 1, 1), (64, 3, 1), (64, 4, 3)])
def test_impossible_sizes_are_refused(dim: int, heads: int, kv_heads: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"dim (is )?{dim}"):
        tiny_gguf.write(tmp_path / "model.gguf", dim=dim, heads=heads, kv_heads=kv_heads)


@pytest.mark.parametrize(("write", "library"), [(tiny_gguf.write, "gguf"), (tiny_hf.write, "safetensors.numpy")])
def test_a_missing_library_is_named_with_the_way_to_get_it(
    write: Callable[..., Path], library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)  # the import system's own sign for "there is no such module"
    with pytest.raises(DaemonRefused, match=rf"{library.partition('.')[0]}.* and numpy; .*pip install '\.\[demo\]'"):
        write(tmp_path / "model")


def test_importing_the_writers_imports_no_library() -> None:
    program = "import sys, llamactl_py.demo.tiny_gguf, llamactl_py.demo.tiny_hf; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"gguf", "numpy", "safetensors", "tokenizers"} & set(modules)


def test_merges_join_each_word_into_one_piece() -> None:
    assert cycle.learn_merges(["abab", "ab"]) == [("a", "b"), ("ab", "ab")]


# ---- what servers make of them


@pytest.fixture
def llama_server() -> str:
    path = os.environ.get("LLAMACTL_TEST_LLAMA_SERVER")
    if not path:
        pytest.skip("LLAMACTL_TEST_LLAMA_SERVER does not name a llama-server")
    return path


@pytest.fixture
def mlx_server() -> str:
    path = shutil.which("mlx_lm.server", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if not path:
        pytest.skip("mlx_lm.server is not installed")
    return path


@pytest.mark.real
async def test_llama_server_counts(llama_server: str, tmp_path: Path) -> None:
    model = tiny_gguf.write(tmp_path / "tiny.gguf")
    async with running(llama_server, "--model", str(model)) as ask:
        completion = await ask("/v1/completions", prompt="hello", max_tokens=20)
        assert completion["choices"][0]["text"] == COUNTED_TWICE
        chat = await ask("/v1/chat/completions", messages=[{"role": "user", "content": "Grüß Gott!"}], max_tokens=3)
        assert chat["choices"][0]["message"]["content"].split() == ["one", "two", "three"]


@pytest.mark.real
async def test_llama_server_goes_on_from_the_prompt_and_stops_after_ten(llama_server: str, tmp_path: Path) -> None:
    model = tiny_gguf.write(tmp_path / "tiny.gguf", stop=True, dim=128, layers=3, ftype="f32")
    async with running(llama_server, "--model", str(model)) as ask:
        choice = (await ask("/v1/completions", prompt="six seven", max_tokens=99, temperature=1.5))["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == (" eight nine ten", "stop")


@pytest.mark.real
async def test_llama_server_runs_random_weights(llama_server: str, tmp_path: Path) -> None:
    model = tiny_gguf.write(tmp_path / "tiny.gguf", mode="random")
    async with running(llama_server, "--model", str(model), "--embeddings", "--pooling", "mean") as ask:
        vectors = [(await ask("/v1/embeddings", input=text))["data"][0]["embedding"] for text in ("hello", "world")]
        assert len(vectors[0]) == 64
        assert vectors[0] != vectors[1]


@pytest.mark.real
async def test_mlx_server_counts(mlx_server: str, tmp_path: Path) -> None:
    model = tiny_hf.write(tmp_path / "tiny", stop=True)
    async with running(mlx_server, "--model", str(model)) as ask:
        completion = await ask("/v1/completions", prompt="hello", max_tokens=20)
        assert completion["choices"][0]["text"].lstrip() == cycle.SENTENCE  # mlx_lm drops the space before the first word
        chat = await ask("/v1/chat/completions", messages=[{"role": "user", "content": "Grüß Gott!"}], max_tokens=3)
        assert chat["choices"][0]["message"]["content"].split() == ["one", "two", "three"]


# ---- helpers


def digests(path: Path) -> dict[str, str]:
    """The hash of each file at or below *path*, by its place there."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@asynccontextmanager
async def running(*command: str) -> AsyncIterator[Callable[..., Any]]:
    """Run a server on a free port until the block is left; gives a function that posts JSON to a path of it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # Without a compiler in PATH mlx does not spend seconds on compiling kernels; without network nobody looks for models.
    environment = {"PATH": "/nowhere", "HF_HUB_OFFLINE": "1", "HF_HOME": command[2] + ".home", "LC_ALL": "C.UTF-8"}
    process = await asyncio.create_subprocess_exec(
        *command, "--host", "127.0.0.1", "--port", str(port), stdout=asyncio.subprocess.DEVNULL, env=environment
    )

    def request(path: str, body: bytes | None) -> Any:
        url = f"http://127.0.0.1:{port}{path}"
        headers = {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=20) as response:
            return json.load(response)

    async def ask(path: str, **body: Any) -> Any:
        return await asyncio.to_thread(request, path, json.dumps(body).encode())

    try:
        await asyncio.to_thread(wait_until_healthy, lambda: request("/health", None))
        yield ask
    finally:
        process.kill()
        await process.wait()


def wait_until_healthy(check: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            check()
        except OSError as error:  # refused, or 503 while the model loads
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
