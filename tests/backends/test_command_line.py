"""What is started, word by word, and what a backend says about itself."""

from __future__ import annotations

from typing import Any

import pytest

from llamactl_py.backends import BACKENDS, CommandLine, Served
from llamactl_py.backends.backend import Backend

LLAMA, PYTHON, MLX, VLLM = (BACKENDS[name] for name in ("llama_cpp", "llama_cpp_python", "mlx_lm", "vllm"))
ADDRESS = ("--host", "127.0.0.1", "--port", "9000")


def built(
    backend: Backend, options: dict[str, Any], command: tuple[str, ...] | None = None, key: str | None = None
) -> CommandLine:
    return backend.command_line(
        options, command=command or backend.command, name="mine", host="127.0.0.1", port=9000, api_key=key
    )


def test_llama_cpp_gets_the_model_first_its_name_and_the_address_last() -> None:
    options = {
        "temp": 0.0,
        "model": "/m.gguf",
        "extra_args": ["--new", "x"],
        "warmup": False,
        "lora": ["a", "b"],
        "jinja": True,
        "ctx_size": 0,
    }
    assert built(LLAMA, options).argv == (
        "llama-server",
        *("--model", "/m.gguf"),
        *("--alias", "mine"),
        *("--ctx-size", "0"),
        "--jinja",
        *("--lora", "a", "--lora", "b"),
        *("--temp", "0"),
        "--no-warmup",
        *("--new", "x"),
        *ADDRESS,
    )


def test_order_does_not_depend_on_the_order_of_options() -> None:
    options = {"temp": 0.5, "model": "m", "ctx_size": 1, "alias": "x"}
    assert built(LLAMA, options) == built(LLAMA, dict(reversed(options.items())))


def test_an_alias_of_the_user_is_kept_and_a_router_gets_none() -> None:
    assert built(LLAMA, {"model": "m", "alias": "a,b"}).argv == ("llama-server", "--model", "m", "--alias", "a,b", *ADDRESS)
    assert built(LLAMA, {"models_dir": "/models"}).argv == ("llama-server", "--models-dir", "/models", *ADDRESS)
    assert built(LLAMA, {"hf_repo": "a/b"}).argv == ("llama-server", "--alias", "mine", "--hf-repo", "a/b", *ADDRESS)


def test_vllm_gets_its_model_bare_behind_serve_only() -> None:
    options = {"model": "org/model", "seed": -1, "enable_prefix_caching": False}
    flags = ("--no-enable-prefix-caching", "--seed=-1", "--served-model-name", "mine", *ADDRESS)
    assert built(VLLM, options).argv == ("vllm", "serve", "org/model", *flags)
    module = ("python", "-m", "vllm.entrypoints.openai.api_server")
    assert built(VLLM, options, module).argv == (*module, "--model", "org/model", *flags)


def test_mlx_has_no_name_and_no_key() -> None:
    line = built(MLX, {"model": "/m", "max_tokens": 10, "trust_remote_code": True}, key="secret")
    assert line == CommandLine(("mlx_lm.server", "--model", "/m", "--max-tokens", "10", "--trust-remote-code", *ADDRESS), {})


def test_llama_cpp_python_gets_underscores_values_for_switches_and_its_address_twice() -> None:
    options = {
        "model": "/m.gguf",
        "n_ctx": 0,
        "seed": -1,
        "use_mmap": False,
        "embedding": True,
        "tensor_split": [0.5, 0.5],
        "chat_template_kwargs": "{}",
        "extra_args": ["--new_one", "x"],
    }
    assert built(PYTHON, options, key="secret") == CommandLine(
        (
            *("python3", "-m", "llama_cpp.server"),
            *("--model", "/m.gguf"),
            *("--chat_template_kwargs", "{}"),
            *("--embedding", "true"),
            *("--model_alias", "mine"),
            *("--n_ctx", "0"),
            "--seed=-1",
            *("--tensor_split", "0.5", "0.5"),
            *("--use_mmap", "false"),
            *("--new_one", "x"),
            *ADDRESS,
        ),
        {"API_KEY": "secret", "HOST": "127.0.0.1", "PORT": "9000", "INTERRUPT_REQUESTS": "false"},
    )


def test_llama_cpp_python_runs_under_the_python_that_has_it() -> None:
    line = built(PYTHON, {"model": "m", "model_alias": "x"}, ("/opt/venv/bin/python", "-m", "llama_cpp.server"))
    assert line.argv == (
        *("/opt/venv/bin/python", "-m", "llama_cpp.server"),
        *("--model", "m", "--model_alias", "x"),
        *ADDRESS,
    )


def test_values_that_look_like_flags_are_given_as_each_server_takes_them() -> None:
    assert "--chat-template=-x" in built(VLLM, {"model": "m", "chat_template": "-x"}).argv
    assert built(LLAMA, {"model": "-x"}).argv[:3] == ("llama-server", "--model", "-x")
    assert built(VLLM, {"model": "-x"}).argv[:3] == ("vllm", "serve", "--model=-x")


def test_an_empty_text_is_an_empty_word() -> None:
    assert built(LLAMA, {"model": "m", "api_prefix": ""}).argv[3:7] == ("--alias", "mine", "--api-prefix", "")


@pytest.mark.parametrize(
    ("number", "word"),
    [(0.0, "0"), (1.0, "1"), (0.1, "0.1"), (1e-7, "0.0000001"), (1e22, "10000000000000000000000"), (-2.5, "-2.5")],
)
def test_numbers_are_written_without_exponents(number: float, word: str) -> None:
    assert LLAMA.arguments({"temp": number}) == ["--temp", word]


@pytest.mark.parametrize(("backend", "variable"), [(LLAMA, "LLAMA_API_KEY"), (VLLM, "VLLM_API_KEY")])
def test_secrets_are_in_the_environment_and_never_in_the_words(backend: Backend, variable: str) -> None:
    line = built(backend, {"model": "m", "hf_token": "CANARY-1"}, key="CANARY-2")
    assert line.environment == {"HF_TOKEN": "CANARY-1", variable: "CANARY-2"}
    assert "CANARY" not in " ".join(line.argv)


def test_the_given_options_are_not_changed() -> None:
    options: dict[str, Any] = {"model": "m", "hf_token": "t"}
    built(LLAMA, options)
    assert options == {"model": "m", "hf_token": "t"}


@pytest.mark.parametrize(
    ("backend", "options", "served"),
    [
        (LLAMA, {"model": "m"}, Served(None, (), open=False)),
        (LLAMA, {"model": "m", "alias": "a, b,mine,,a"}, Served(None, ("a", "b"), open=False)),
        (LLAMA, {"gpt_oss_20b_default": True}, Served(None, (), open=False)),
        (LLAMA, {"extra_args": ["-hf", "a/b"]}, Served(None, (), open=False)),
        (LLAMA, {"models_dir": "/m"}, Served(None, (), open=True)),
        (LLAMA, {}, Served(None, (), open=True)),
        (PYTHON, {"model": "m"}, Served(None, (), open=False)),
        (PYTHON, {"model": "m", "model_alias": "mine"}, Served(None, (), open=False)),
        (PYTHON, {"model": "m", "model_alias": "x"}, Served(None, ("x",), open=False)),
        (PYTHON, {"config_file": "c.json"}, Served(None, (), open=True)),
        (MLX, {"model": "m"}, Served("default_model", (), open=False)),
        (VLLM, {"model": "m"}, Served(None, (), open=False)),
        (VLLM, {"model": "m", "served_model_name": ["a", "b"]}, Served("a", ("a", "b"), open=False)),
        (VLLM, {"model": "m", "served_model_name": ["a", "mine"]}, Served(None, ("a",), open=False)),
        (
            VLLM,
            {"model": "m", "lora_modules": ["x=/p", '{"name": "y", "path": "/q"}', '[{"name": "z"}]', "{oops", "=a"]},
            Served(None, ("x", "y", "z"), open=False),
        ),
    ],
)
def test_each_server_answers_to_names_of_its_own(backend: Backend, options: dict[str, Any], served: Served) -> None:
    assert backend.served(options, "mine") == served


@pytest.mark.parametrize(
    ("model", "is_path"),
    [
        ("/m/x.gguf", True),
        ("./x.gguf", True),
        ("../x", True),
        ("~/x", True),
        (r"C:\m\x.gguf", True),
        ("org/model", False),
        ("x.gguf", False),
        ("", False),
    ],
)
def test_a_local_path_is_told_from_a_repository(model: str, is_path: bool) -> None:
    assert VLLM.model_path({"model": model}) == (model if is_path else None)
    assert VLLM.model_path({}) is None


def test_the_facts_that_others_rely_on() -> None:
    facts = {b.type: (b.slug, b.command, b.health_path, b.has_api_key, b.stop.repeat_term_after) for b in BACKENDS.values()}
    assert facts == {
        "llama_cpp": ("llama-cpp", ("llama-server",), "/health", True, 2.0),
        "llama_cpp_python": ("llama-cpp-python", ("python3", "-m", "llama_cpp.server"), "/docs", True, None),
        "lmdeploy": ("lmdeploy", ("lmdeploy", "serve", "api_server"), "/health", False, None),
        "mlx_lm": ("mlx", ("mlx_lm.server",), "/health", False, None),
        "sglang": ("sglang", ("sglang", "serve"), "/health", False, None),
        "vllm": ("vllm", ("vllm", "serve"), "/health", True, 3.0),
        "custom": ("custom", (), "/health", False, None),
    }
    assert all(b.install_hint.startswith("Install ") for b in BACKENDS.values() if not b.takes_any_command)


@pytest.mark.parametrize(
    ("options", "resting"), [({}, 2), ({"threads_http": 3}, 2), ({"threads_http": 128}, 64), ({"threads_http": "x"}, 2)]
)
def test_connections_that_hold_a_thread_each_rest_in_half_of_them(options: dict[str, Any], resting: int) -> None:
    assert BACKENDS["llama_cpp"].may_rest(options) == resting
    assert BACKENDS["vllm"].may_rest(options) == 64
