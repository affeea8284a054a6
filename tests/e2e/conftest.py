"""What every test with real servers starts from: a daemon, the servers' command lines, and the OpenAI SDK."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import openai
import pytest

from tests.support.daemons import Daemon, daemon
from tests.support.real import Commands


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Daemon]:
    with daemon(tmp_path) as running:
        yield running


@pytest.fixture
def commands(request: pytest.FixtureRequest) -> Commands:
    """The command line of each real server, its parts made when asked for."""

    def of_llama_server() -> str:
        program, model = request.getfixturevalue("llama_server"), request.getfixturevalue("tiny_gguf_model")
        return f"{program} -m {model} -c 2048 -t 1 --threads-http 4 -np 4"

    def of_mlx() -> str:
        # Without a compiler on PATH, MLX does not spend seconds on compiling kernels for 20 tokens.
        program, model = request.getfixturevalue("mlx_server"), request.getfixturevalue("tiny_hf_model")
        return f"HF_HUB_OFFLINE=1 PATH={program.parent} {program} --model {model}"

    def of_slow_model() -> str:
        program, model = request.getfixturevalue("llama_server"), request.getfixturevalue("slow_gguf_model")
        return f"{program} -m {model} -c 65536 -t 1 --threads-http 4 -np 4"

    return {"llama-server": of_llama_server, "mlx_lm.server": of_mlx, "slow": of_slow_model}


@pytest.fixture
def sdk() -> Iterator[Callable[[Daemon], openai.OpenAI]]:
    """Makes OpenAI clients of a daemon."""
    with ExitStack() as clients:

        def make(running: Daemon) -> openai.OpenAI:
            key = running.client.create_key("sdk")["key"]
            return clients.enter_context(
                openai.OpenAI(base_url=f"{running.client.url}/v1", api_key=key, max_retries=0, timeout=60)
            )

        yield make
