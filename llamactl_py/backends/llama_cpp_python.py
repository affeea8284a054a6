"""llama-cpp-python's `python -m llama_cpp.server`.

Read in its source and measured with 0.3.36. Every setting is also a variable of the same name: a key given as API_KEY works, so
none is ever on the command line. HOST and PORT overrule --host and --port, and also what a --config_file says: both are set.

The port opens when the model is loaded. There is no /health; /v1/models wants the key and waits for an answer that runs; /docs
does neither. One request is answered at a time, and unless told otherwise the server cuts a stream off, without an error, as
soon as another request comes: behind a proxy every client would lose answers, so we let it make them wait.

It ignores the request's `model`, unless a config file lists several: those it loads by alias. A bad path ends it with 1, a taken
port with 3. SIGTERM ends it within a second, also mid-stream, with -15.
"""

from __future__ import annotations

from llamactl_py.backends.backend import Backend, Options, Served


def _serves(_kind: Backend, options: Options, name: str) -> Served:
    alias = str(options.get("model_alias", ""))
    return Served(default=None, names=(alias,) if alias not in ("", name) else (), open=bool(options.get("config_file")))


LLAMA_CPP_PYTHON = Backend(
    type="llama_cpp_python",
    slug="llama-cpp-python",
    title="llama-cpp-python",
    command=("python3", "-m", "llama_cpp.server"),
    executables=(),
    modules=(("llama_cpp.server",),),
    images=("llama-cpp-python",),
    install_hint="Install llama-cpp-python (pip install 'llama-cpp-python[server]'), "
    "and set the full path of that environment's python as the command.",
    serves=_serves,
    name_key="model_alias",
    api_key_variable="API_KEY",
    health_path="/docs",
    default_environment=(("INTERRUPT_REQUESTS", "false"),),
    address_variables=("HOST", "PORT"),
    version_arguments=(),
    distributions=("llama-cpp-python",),
)
