"""llama.cpp's `llama-server`.

Measured with 0.6.0-dev: in single-model mode it ignores the request's `model`. Without a model it is a router that loads models
by name. SIGTERM while a stream runs ends the tokens at once, but the process only at the next keep-alive comment, up to 30 s
later; a second SIGTERM ends it immediately. Its port is open while it loads, and answers 503 until ready. Each connection
holds one of its few HTTP threads (slots + 4, or --threads-http) for as long as it is open, so only two may rest, or half of
those that were asked for.
"""

from __future__ import annotations

from llamactl_py.backends.backend import Backend, Options, Served, StopRule


def _serves(kind: Backend, options: Options, name: str) -> Served:
    said = options.get("alias")
    return Served(default=None, names=_aliases(str(said), name) if said else (), open=kind.is_router(options))


def _aliases(said: str, name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(alias for each in said.split(",") if (alias := each.strip()) not in ("", name)))


LLAMA_CPP = Backend(
    type="llama_cpp",
    slug="llama-cpp",
    title="llama.cpp",
    command=("llama-server",),
    executables=(("llama-server",), ("llama", "serve")),
    modules=(),
    images=("llama.cpp", "llama-cpp", "llama-server"),
    image_commands=("--server",),
    install_hint="Install llama.cpp (brew install llama.cpp, a release from github.com/ggml-org/llama.cpp, or your own build), "
    "or set the full path of llama-server as the command.",
    serves=_serves,
    model_keys=(
        "model",
        "model_url",
        "hf_repo",
        "docker_repo",
        "embd_gemma_default",
        "fim_qwen_14b_spec",
        "fim_qwen_1_5b_default",
        "fim_qwen_1b",
        "fim_qwen_30b_default",
        "fim_qwen_3b_default",
        "fim_qwen_7b_default",
        "fim_qwen_7b_spec",
        "gpt_oss_120b_default",
        "gpt_oss_20b_default",
        "vision_gemma_12b_default",
        "vision_gemma_4b_default",
    ),
    has_router=True,
    name_key="alias",
    api_key_variable="LLAMA_API_KEY",
    stop=StopRule(repeat_term_after=2.0),
    socket_flag="--host",
    devices_arguments=("--list-devices",),
    docker_image="ghcr.io/ggml-org/llama.cpp:server",
    resting_connections=2,
    connection_threads="threads_http",
)
