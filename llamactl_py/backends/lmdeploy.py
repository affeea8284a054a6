"""`lmdeploy serve api_server`.

Read in its source and its help, version 0.18.0; it was never run here, as it serves nothing without an accelerator. The model
stands bare, no flag names it. It listens on 0.0.0.0:23333 unless told otherwise. Keys are taken on the command line only, so it
gets none: they would show in the process list. /health answers 503 until its engine runs. It serves one name, `--model-name`.
"""

from __future__ import annotations

from llamactl_py.backends.backend import Backend, Options, Served


def _serves(_kind: Backend, options: Options, name: str) -> Served:
    served = str(options.get("model_name", "")) or name
    return Served(default=None, names=(), open=False) if served == name else Served(default=served, names=(served,), open=False)


LMDEPLOY = Backend(
    type="lmdeploy",
    slug="lmdeploy",
    title="LMDeploy",
    command=("lmdeploy", "serve", "api_server"),
    executables=(("lmdeploy", "serve", "api_server"),),
    modules=(("lmdeploy", "serve", "api_server"), ("lmdeploy.cli", "serve", "api_server")),
    images=("lmdeploy",),
    install_hint="Install LMDeploy in an environment of its own (uv venv; uv pip install lmdeploy), "
    "and set the full path of its lmdeploy program as the command.",
    serves=_serves,
    name_key="model_name",
    address_flags=("--server-name", "--server-port"),
    version_arguments=(),
    distributions=("lmdeploy",),
)
