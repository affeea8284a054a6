"""A real llama-cpp-python server: flags with underscores, no health path, and variables that win over the command line.

Run with `make test-llama-cpp-python`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import openai
import pytest

from tests.support.daemons import Daemon, daemon, of_tree
from tests.support.real import COUNTED, Sdk, count, stream

pytestmark = pytest.mark.llama_cpp_python


@pytest.fixture
def command(llama_cpp_python: Path, tiny_gguf_model: Path) -> Callable[..., str]:
    def line(*flags: str, model: Path = tiny_gguf_model) -> str:
        return " ".join([str(llama_cpp_python), "-m llama_cpp.server --model", str(model), "--n_ctx 2048", *flags])

    return line


def test_a_parsed_command_is_served_with_a_key_and_an_alias(
    served: Daemon, command: Callable[..., str], sdk: Sdk, tiny_gguf_model: Path
) -> None:
    line = command("--api_key mine --host 0.0.0.0 --port 9 --model_alias my-tiny")
    warnings = served.client.parse_command(line)["warnings"]
    assert {warning.split()[0] for warning in warnings if "left out" in warning} == {"--api_key", "--host", "--port"}
    served.create("tiny", line)
    client = sdk(served)
    assert count(client, "tiny") == COUNTED
    assert "".join(stream(client, "tiny", 10)).split() == COUNTED.split()
    port = served.client.instance("tiny")["port"]
    with pytest.raises(openai.AuthenticationError):
        count(openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="mine", max_retries=0), "tiny")
    served.client.stop("tiny")
    assert of_tree(str(tiny_gguf_model)) == []


def test_embeddings_come_through(served: Daemon, command: Callable[..., str], sdk: Sdk) -> None:
    served.create("embed", command("--embedding true"))
    answer = sdk(served).embeddings.create(model="embed", input="one two", encoding_format="float")
    assert len(answer.data) == 1


def test_it_is_asked_for_its_version_and_its_help(tmp_path: Path, llama_cpp_python: Path) -> None:
    config = tmp_path / "llamactl.yaml"
    config.write_text(f"backends: {{llama-cpp-python: {{command: {llama_cpp_python}}}}}\n")
    with daemon(tmp_path, "--config", str(config)) as running:
        found = running.client.backend("llama-cpp-python")
        assert (found["found"], found["help_is_read"], found["version"][0].isdigit()) == (True, True, True)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ("--no_such_flag_at_all 1", "unrecognized arguments: --no_such_flag_at_all"),
        ("", r"Failed to load model from file: \S+garbage.gguf"),
    ],
    ids=["unknown flag", "garbage model"],
)
def test_what_it_says_about_a_bad_command_reaches_the_user(
    served: Daemon, command: Callable[..., str], sdk: Sdk, tmp_path: Path, flags: str, reason: str
) -> None:
    garbage = tmp_path / "garbage.gguf"
    garbage.write_bytes(b"GARBAGE!" * 100)
    served.create("bad", command(flags) if flags else command(model=garbage), max_restarts=0)
    with pytest.raises(openai.APIStatusError, match=reason):
        count(sdk(served), "bad")
