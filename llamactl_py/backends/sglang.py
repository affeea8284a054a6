"""`sglang serve`, or `python -m sglang.launch_server` as it was called before 0.5.

Read in its source and its help, version 0.5.23; it was never run here, as it serves nothing without an accelerator. Keys are
taken on the command line only, so it gets none: they would show in the process list. /health answers 503 while it starts. It
ignores the request's `model` but for `model:adapter`, which picks a LoRA adapter.
"""

from __future__ import annotations

from llamactl_py.backends.backend import Backend, Options, Served


def _serves(_kind: Backend, options: Options, name: str) -> Served:
    served = str(options.get("served_model_name", ""))
    return Served(default=None, names=(served,) if served not in ("", name) else (), open=False)


SGLANG = Backend(
    type="sglang",
    slug="sglang",
    title="SGLang",
    command=("sglang", "serve"),
    executables=(("sglang", "serve"),),
    modules=(("sglang.launch_server",), ("sglang", "serve")),
    images=("sglang",),
    install_hint="Install SGLang in an environment of its own (uv venv; uv pip install sglang), "
    "and set the full path of its sglang program as the command.",
    serves=_serves,
    name_key="served_model_name",
    version_arguments=(),
    distributions=("sglang",),
)
