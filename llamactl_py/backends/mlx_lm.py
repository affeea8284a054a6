"""mlx-lm's `mlx_lm.server`.

Read in its source and measured with 0.32.2: `default_model` stands for the model of its command line; any other local path in a
request would make it load that model instead, so no other name may reach it. It has no key. With a model that cannot be loaded it
does not exit: /health stays 503, so only a start deadline ends that. `/v1/models` fails unless the Hugging Face cache directory
exists. SIGTERM ends it at once.
"""

from __future__ import annotations

from llamactl_py.backends.backend import Backend, Options, Served


def _serves(_kind: Backend, _options: Options, _name: str) -> Served:
    return Served(default="default_model", names=(), open=False)


MLX_LM = Backend(
    type="mlx_lm",
    slug="mlx",
    title="MLX",
    command=("mlx_lm.server",),
    executables=(("mlx_lm.server",), ("mlx_lm", "server")),
    modules=(("mlx_lm.server",), ("mlx_lm", "server")),
    install_hint="Install mlx-lm (pip install mlx-lm; on Linux also 'mlx[cpu]'), "
    "or set the full path of mlx_lm.server as the command.",
    serves=_serves,
    version_arguments=(),
    distributions=("mlx-lm",),
)
