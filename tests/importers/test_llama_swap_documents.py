"""llama-swap's documented configuration: each key is carried over, or named in a note, and our own check takes the result.

`documented.yaml` has every key of its example of a configuration. CARRIED says what has become of those without a note.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from llamactl_py.config.load import Configuration, Sources, load
from llamactl_py.importers import read
from llamactl_py.instances.declared import read_declared

TEXT = Path(__file__).with_name("documented.yaml").read_text()
GUIDE = (Path(__file__).parents[2] / "apidocs" / "migrating.md").read_text()
MODEL = "models.gpt-oss"
CARRIED = {
    "healthCheckTimeout", "globalTTL", "unloadTimeout", "macros", "models", "hooks", "routing",
    *(f"{MODEL}.{key}" for key in ("macros", "cmd", "env", "proxy", "ttl", "unloadTimeout", "aliases")),
}  # fmt: skip
"""Keys without a note. `proxy` is one where the command has ${PORT}; `hooks` and `routing` have notes on what is in them."""


def made(folder: Path, text: str) -> Configuration:
    (folder / "made.yaml").write_text(read(text).text())
    return load(Sources(folder / "made.yaml", {"HOME": "/home/me"}, {}))


def keys() -> set[str]:
    tree = yaml.safe_load(TEXT)
    return {*tree, *(f"{MODEL}.{key}" for key in tree["models"]["gpt-oss"])}


@pytest.mark.parametrize("key", sorted(keys()))
def test_a_documented_key_is_carried_over_or_named(key: str) -> None:
    named = {note.key for note in read(TEXT).notes}
    assert (key in named) != (key in CARRIED)


@pytest.mark.parametrize("key", sorted(keys()))
def test_a_documented_key_is_in_the_guide(key: str) -> None:
    name = key.rpartition(".")[2]
    assert f"`{name}`" in GUIDE or f"`{key.replace(MODEL, 'models.*')}`" in GUIDE


def test_what_is_carried_over_is_in_force(tmp_path: Path) -> None:
    found = made(tmp_path, TEXT)
    settings = found.settings.instances
    assert (settings.default_start_timeout, settings.default_stop_timeout, settings.port_range[0]) == (500, 10, 10001)
    assert (settings.default_idle_timeout, settings.group_limits) == (365 * 86400, {"one": 1})
    gpt, unlisted, contained, wrong = (one.options for one in read_declared(found))
    assert (gpt.backend_options["model"], gpt.backend_options["ctx_size"]) == ("/home/me/models/gpt-oss.gguf", 16384)
    assert (gpt.aliases, gpt.idle_timeout, gpt.stop_timeout, gpt.autostart) == (("gpt-4o-mini",), 60, 10, True)
    assert gpt.environment == {"CUDA_VISIBLE_DEVICES": "0,1,2"}
    assert (unlisted.backend_type, unlisted.group, contained.group) == ("custom", "one", "two")
    assert (contained.backend_type, contained.docker_enabled) == ("llama_cpp", True)
    assert (wrong.backend_type, wrong.backend_options["command"][1:3]) == ("custom", ["--PORT", "${PORT}"])


@pytest.mark.parametrize(
    "cmd",
    [
        "llama-server --port ${PORT} --model /path/to/model.gguf",
        "llama-server --PORT ${PORT} -m /path/to/model.gguf\n--ctx-size 8192\n--jinja\n--cache-type-k q8_0\n--cache-type-v q8_0",
        "/path/to/llama-server\n--host 127.0.0.1 --port 8999 --flash-attn --slots -ngl 99 -ngld 99\n--draft-max 16 --draft-min 4",
        "/app/llama-server\n-hf bartowski/SmolLM2-135M-Instruct-GGUF:Q4_K_M\n--port 9999",
        "whisper-server\n--port ${PORT}\n--m /models/whisper.bin --request-path /v1/audio/transcriptions --inference-path ''",
        "/app/sd-server\n--listen-port 9999\n--diffusion-fa\n--vae /models/ae.safetensors --steps 8",
        "docker run --init --rm --name vllm-coder --runtime=nvidia --gpus all -p ${PORT}:8000 vllm/vllm-openai:v0.10.0",
    ],
)
def test_a_documented_command_becomes_what_our_own_check_takes(tmp_path: Path, cmd: str) -> None:
    found = made(tmp_path, yaml.safe_dump({"models": {"m": {"cmd": cmd}}}))
    assert [one.name for one in read_declared(found)] == ["m"]
