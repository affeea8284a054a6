"""backend_options as a client sends them: what they become, and what is said about the bad ones."""

from __future__ import annotations

from typing import Any

import pytest

from llamactl_py.backends import BACKENDS, Backend, backend
from llamactl_py.ground.errors import Invalid, Problem

LLAMA, PYTHON, MLX, VLLM = (BACKENDS[name] for name in ("llama_cpp", "llama_cpp_python", "mlx_lm", "vllm"))


@pytest.mark.parametrize(
    ("raw", "options"),
    [
        ({"ctx_size": 4096, "ctx-size": 4096}, {"ctx_size": 4096}),
        ({"n-gpu-layers": 7}, {"gpu_layers": 7}),
        ({"ngl": "7"}, {"gpu_layers": 7}),
        ({"--n-gpu-layers": "all"}, {"gpu_layers": "all"}),
        ({"gpu_layers": 4.0, "ctx_size": 8192.0}, {"gpu_layers": 4, "ctx_size": 8192}),
        ({"ctx_size": "7", "temp": "0.5", "top_p": 1}, {"ctx_size": 7, "temp": 0.5, "top_p": 1.0}),
        ({"alias": 7, "tensor_split": 3.5}, {"alias": "7", "tensor_split": "3.5"}),
        ({"alias": ["a", "b"], "tensor_split": [3, 1.5], "device": []}, {"alias": "a,b", "tensor_split": "3,1.5"}),
        ({"lora": "a", "logit_bias": ["1+1", "2-1"]}, {"lora": ["a"], "logit_bias": ["1+1", "2-1"]}),
        ({"control_vector_layer_range": "1 2"}, {"control_vector_layer_range": [1, 2]}),
        ({"chat_template_kwargs": {"a": True, "ü": [1]}}, {"chat_template_kwargs": '{"a": true, "ü": [1]}'}),
        ({"json_schema": '{"a":  1}'}, {"json_schema": '{"a":  1}'}),
        ({"flash_attn": True, "log_colors": False}, {"flash_attn": "on", "log_colors": "off"}),
        ({"jinja": "true", "slots": "off"}, {"jinja": True, "slots": False}),
    ],
)
def test_values_are_brought_into_one_form(raw: dict[str, Any], options: dict[str, Any]) -> None:
    assert LLAMA.normalise(raw).options == options


@pytest.mark.parametrize(
    ("raw", "options"),
    [
        ({}, {}),
        ({"ctx_size": None, "lora": [], "extra_args": [], "temp": None}, {}),
        ({"temp": 0, "ctx_size": 0, "alias": ""}, {"temp": 0.0, "ctx_size": 0, "alias": ""}),
        ({"warmup": False, "mmap": False}, {"warmup": False, "mmap": False}),
        ({"no_warmup": True, "no_kv_offload": True, "nkvo": True}, {"warmup": False, "kv_offload": False}),
        ({"no_warmup": False}, {}),
        ({"verbose": False, "metrics": True}, {"metrics": True}),
    ],
)
def test_unset_zero_empty_and_false_differ(raw: dict[str, Any], options: dict[str, Any]) -> None:
    assert LLAMA.normalise(raw).options == options


@pytest.mark.parametrize(
    ("raw", "options"),
    [
        ({"use_mmap": False, "embedding": "true", "verbose": "off"}, {"use_mmap": False, "embedding": True, "verbose": False}),
        ({"n-ctx": "0", "tensor_split": 1}, {"n_ctx": 0, "tensor_split": [1.0]}),
        ({"use_mmap": None, "tensor_split": []}, {}),
    ],
)
def test_a_switch_that_takes_a_value_has_three_states_without_a_negation(raw: dict[str, Any], options: dict[str, Any]) -> None:
    assert PYTHON.normalise(raw).options == options


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (["--foo-bar", "--weird=1", "x"], ["--foo-bar", "--weird=1", "x"]),
        ({"foo": "", "bar_baz": "v", "--n": 7, "t": True}, ["--foo", "--bar_baz", "v", "--n", "7", "--t", "true"]),
    ],
)
def test_extra_args_are_words_or_a_map(raw: object, words: list[str]) -> None:
    assert LLAMA.normalise({"extra_args": raw}).options == {"extra_args": words}


def test_vllms_json_lists_are_written_as_json() -> None:
    assert VLLM.normalise({"allowed_origins": ["*"]}).options == {"allowed_origins": '["*"]'}
    assert VLLM.normalise({"hf_token": True, "lora_modules": "a=b"}).options == {"hf_token": True, "lora_modules": ["a=b"]}


def test_what_the_daemon_decides_is_left_out_with_a_warning() -> None:
    normalised = LLAMA.normalise({"host": "0.0.0.0", "port": 8080, "api_key": "k", "model": "x"})
    assert normalised.options == {"model": "x"}
    assert normalised.warnings == (
        "--host was left out: the daemon gives each instance its own address",
        "--port was left out: the daemon gives each instance its own port",
        "--api-key was left out: the daemon makes a key for each start and hands it over in the environment",
    )


def test_a_known_flag_among_extra_args_is_mentioned() -> None:
    assert LLAMA.normalise({"extra_args": ["-c", "5"]}).warnings == (
        "extra_args: -c is known; as the option 'ctx_size' it would be checked",
    )


@pytest.mark.parametrize(
    ("raw", "where", "what"),
    [
        (
            {"ctx_sise": 1},
            "ctx_sise",
            "unknown option (did you mean 'ctx_size'?); put flags the catalogue does not know into extra_args",
        ),
        (
            {"gpulayers": 1},
            "gpulayers",
            "unknown option (did you mean 'gpu_layers'?); put flags the catalogue does not know into extra_args",
        ),
        ({"qqqqqq": 1}, "qqqqqq", "unknown option; put flags the catalogue does not know into extra_args"),
        ({"ctx_size": "many"}, "ctx_size", "takes a whole number, got 'many'"),
        ({"ctx_size": True}, "ctx_size", "takes a whole number, got true"),
        ({"ctx_size": 1.5}, "ctx_size", "takes a whole number, got '1.5'"),
        ({"ctx_size": ""}, "ctx_size", "takes a whole number, got ''"),
        ({"ctx_size": [1]}, "ctx_size", "takes a whole number, got a list"),
        ({"ctx_size": {"a": 1}}, "ctx_size", "takes a whole number, got an object"),
        ({"ctx_size": 10**40}, "ctx_size", "takes a whole number, got a number of over 30 digits"),
        ({"temp": float("nan")}, "temp", "takes a number, got 'nan'"),
        ({"temp": "inf"}, "temp", "takes a number, got 'inf'"),
        ({"alias": True}, "alias", "takes text, got true"),
        ({"model": "-c"}, "model", "takes a path, got the flag '-c': was its value forgotten?"),
        ({"model": "a\0b"}, "model", "holds a NUL character, which no command line can carry"),
        ({"warmup": 2}, "warmup", "is a switch: true or false, got '2'"),
        ({"flash_attn": "x"}, "flash_attn", "takes one of on, off, auto, got 'x'"),
        ({"control_vector_layer_range": ["1"]}, "control_vector_layer_range", "takes two values, got 1"),
        ({"warmup": True, "no_warmup": True}, "no_warmup", "contradicts 'warmup', which is the same option; give one of the two"),
        ({"ngl": 1, "gpu_layers": 2}, "gpu_layers", "contradicts 'ngl', which is the same option; give one of the two"),
        ({"chat_template_kwargs": {"a": float("inf")}}, "chat_template_kwargs", "takes JSON"),
        ({"extra_args": "--x"}, "extra_args", 'takes a list of words, such as ["--new-flag", "value"]'),
        ({"extra_args": [1]}, "extra_args", 'takes a list of words, such as ["--new-flag", "value"]'),
        ({"extra_args": ["--host"]}, "extra_args", "'--host' cannot be set here: the daemon gives each instance its own address"),
        ({"extra_args": ["--port=1"]}, "extra_args", "'--port' cannot be set here: the daemon gives each instance its own port"),
        ({"extra_args": {"port": "1"}}, "extra_args", "'--port' cannot be set here: the daemon gives each instance its own port"),
        (
            {"extra_args": ["-hft", "hf_secret"]},
            "extra_args",
            "'-hft' would show a secret on the command line; give it as the option 'hf_token'",
        ),
    ],
)
def test_a_bad_option_is_named_with_its_remedy(raw: dict[str, Any], where: str, what: str) -> None:
    with pytest.raises(Invalid) as caught:
        LLAMA.normalise(raw)
    assert caught.value.problems == (Problem(f"backend_options.{where}", what),)


@pytest.mark.parametrize(
    ("backend", "word"),
    [
        *((VLLM, word) for word in ("--hos", "--host=0.0.0.0", "--uds", "--api_key", "--hf-tok=x")),
        *((PYTHON, word) for word in ("--api_k", "--api_key=k", "--por")),
    ],
)
def test_abbreviations_of_guarded_flags_are_seen_where_the_server_takes_them(backend: Backend, word: str) -> None:
    with pytest.raises(Invalid):
        backend.normalise({"extra_args": [word]})


def test_a_list_item_that_argparse_would_take_for_a_flag_is_refused() -> None:
    with pytest.raises(Invalid, match="begins with '-', so the server would read it as a flag"):
        VLLM.normalise({"served_model_name": ["a", "-b"]})


def test_two_dashes_cannot_hide_what_the_daemon_puts_behind_them() -> None:
    with pytest.raises(Invalid, match="the server would not see the flags"):
        VLLM.normalise({"extra_args": ["--new", "--"]})


def test_every_bad_option_is_told() -> None:
    with pytest.raises(Invalid) as caught:
        MLX.normalise({"temp": "x", "modle": 1, "top_k": "y"})
    assert [p.where for p in caught.value.problems] == ["backend_options.temp", "backend_options.modle", "backend_options.top_k"]


@pytest.mark.parametrize("name", ["llama_cpp", "llama-cpp", "LLAMA_CPP", "Llama-Cpp"])
def test_a_backend_has_a_type_and_a_slug(name: str) -> None:
    assert backend(name) is LLAMA
    assert backend("mlx") is backend("mlx_lm") is MLX


def test_an_unknown_backend_gets_a_hint() -> None:
    with pytest.raises(Invalid, match=r"unknown backend 'vlm' \(did you mean 'vllm'\?\)"):
        backend("vlm")
