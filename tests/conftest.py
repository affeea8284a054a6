"""Fixtures for every ring of the suite. Real servers are required, never skipped: a missing one fails with its remedy."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from llamactl_py.demo import tiny_gguf, tiny_hf


@pytest.fixture(scope="session")
def llama_server() -> Path:
    """A real llama-server."""
    found = os.environ.get("LLAMACTL_TEST_LLAMA_SERVER") or shutil.which("llama-server")
    if not found:
        pytest.fail("no llama-server: run the suite with `make test`, which builds one, or set LLAMACTL_TEST_LLAMA_SERVER")
    return Path(found)


@pytest.fixture(scope="session")
def mlx_server() -> Path:
    """A real mlx_lm.server."""
    beside_us = Path(sys.executable).parent / "mlx_lm.server"
    if not beside_us.exists():
        pytest.fail("no mlx_lm.server: install it with: pip install -e '.[mlx]'")
    return beside_us


@pytest.fixture(scope="session")
def vllm() -> Path:
    """A real vLLM that runs on the CPU."""
    found = os.environ.get("LLAMACTL_TEST_VLLM")
    if not found:
        pytest.fail("no vLLM for the CPU: run these tests with `make test-vllm`, which installs one, or set LLAMACTL_TEST_VLLM")
    return Path(found)


@pytest.fixture(scope="session")
def llama_cpp_python() -> Path:
    """The Python of an environment with a real llama-cpp-python server."""
    found = os.environ.get("LLAMACTL_TEST_LLAMA_CPP_PYTHON")
    if not found:
        pytest.fail("no llama-cpp-python: run `make test-llama-cpp-python`, or set LLAMACTL_TEST_LLAMA_CPP_PYTHON")
    return Path(found)


@pytest.fixture(scope="session")
def tiny_gguf_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file for llama-server that counts from one to ten, over and over."""
    return tiny_gguf.write(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="session")
def slow_gguf_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, but 40 MB and a few hundred words a second: a stream of it lasts for tens of seconds."""
    folder = tmp_path_factory.mktemp("slow")
    return tiny_gguf.write(folder / "slow.gguf", dim=512, layers=6, heads=8, kv_heads=8, ffn=1536, ctx=16384)


@pytest.fixture(scope="session")
def tiny_hf_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as a directory, for mlx_lm.server and vLLM."""
    return tiny_hf.write(tmp_path_factory.mktemp("hf") / "tiny-hf")
