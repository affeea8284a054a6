"""Command lines to options: first what comes out wrong elsewhere, then the forms, then the complaints."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamactl_py.backends import BACKENDS, parse_command
from llamactl_py.backends.parse import Parsed
from llamactl_py.ground.errors import Invalid, Problem


def llama(arguments: str) -> dict[str, object]:
    return dict(parse_command(f"llama-server {arguments}").backend_options)


def complaint(command: str | list[str], backend_type: str | None = None) -> Problem:
    with pytest.raises(Invalid) as caught:
        parse_command(command, backend_type)
    return caught.value.problems[0]


# --- Defects of other parsers, each by name ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ("-n -1", {"predict": -1}),
        ("--seed -1", {"seed": -1}),
        ("--seed=-1", {"seed": -1}),
        ("--temp -1", {"temp": -1.0}),
        ("--reasoning-budget -1", {"reasoning_budget": -1}),
        ("-ngl -1", {"gpu_layers": -1}),
    ],
)
def test_a_negative_number_is_a_value(arguments: str, option: dict[str, object]) -> None:
    assert llama(arguments) == option


def test_quoted_values_keep_their_spaces() -> None:
    assert llama("""--chat-template-kwargs '{"a": true}' --alias "my model" -m '/models/my model.gguf'""") == {
        "chat_template_kwargs": '{"a": true}',
        "alias": "my model",
        "model": "/models/my model.gguf",
    }


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ("--alias 7", {"alias": "7"}),
        ("--tensor-split 3", {"tensor_split": "3"}),
        ("--fit-target 1024", {"fit_target": "1024"}),
        ("--device 0", {"device": "0"}),
        ("--alias 1.50", {"alias": "1.50"}),
        ("--alias true", {"alias": "true"}),
    ],
)
def test_a_text_that_looks_like_a_number_stays_text(arguments: str, option: dict[str, object]) -> None:
    assert llama(arguments) == option


def test_a_numeric_api_key_is_no_error() -> None:
    assert llama("-m x --api-key 12345") == {"model": "x"}


@pytest.mark.parametrize(
    ("arguments", "value"),
    [("-fa", "on"), ("-fa -m x", "on"), ("-fa off", "off"), ("-fa auto", "auto"), ("-fa 1", "on"), ("--flash-attn=0", "off")],
)
def test_flash_attention_works_bare_and_with_a_value(arguments: str, value: str) -> None:
    assert llama(arguments)["flash_attn"] == value


def test_bare_flash_attention_does_not_swallow_the_model() -> None:
    assert llama("-fa model.gguf") == {"flash_attn": "on", "model": "model.gguf"}


def test_lookup_caches_are_files() -> None:
    assert llama("--lookup-cache-static A -lcd B") == {"lookup_cache_static": "A", "lookup_cache_dynamic": "B"}


@pytest.mark.parametrize("flag", ["--lora-modules", "--prompt-adapters"])
def test_vllm_lists_of_modules_are_lists(flag: str) -> None:
    key = flag[2:].replace("-", "_")
    assert parse_command(f"vllm serve m {flag} a=b c=d").backend_options[key] == ["a=b", "c=d"]


def test_a_switch_with_a_value_is_read_and_warned_about() -> None:
    parsed = parse_command("llama-server --verbose 1 -m x")
    assert parsed.backend_options == {"verbose": True, "model": "x"}
    assert parsed.warnings == ("--verbose is a switch: '1' behind it was read as true",)
    assert llama("--mmproj-auto false") == {"mmproj_auto": False}


def test_unknown_flags_are_kept_verbatim_and_in_order() -> None:
    parsed = parse_command("llama-server --foo-bar -m y --weird=1 x --two a b --snake_case 1e3 -c 5")
    assert parsed.backend_options["extra_args"] == ["--foo-bar", "--weird=1", "x", "--two", "a", "b", "--snake_case", "1e3"]
    assert parsed.backend_options["model"] == "y"
    assert parsed.backend_options["ctx_size"] == 5


@pytest.mark.parametrize("value", ["1048576", "1000000000000", "inf", "nan", "0x10", "1e6", "true", "-5"])
def test_values_of_unknown_flags_are_not_retyped(value: str) -> None:
    assert llama(f"--new {value} -m x") == {"extra_args": ["--new", value], "model": "x"}


def test_words_before_the_program_are_understood() -> None:
    parsed = parse_command("CUDA_VISIBLE_DEVICES=0,1 env A='b c' sudo nohup exec /opt/llama.cpp/llama-server -m x")
    assert parsed == Parsed(
        "llama_cpp",
        {"model": "x"},
        {"CUDA_VISIBLE_DEVICES": "0,1", "A": "b c"},
        "/opt/llama.cpp/llama-server",
        ("sudo was left out: the server runs as the daemon's user",),
    )


def test_a_windows_path_ends_in_a_known_program() -> None:
    parsed = parse_command(r"C:\llama\Llama-Server.EXE -m C:\models\x.gguf")
    assert (parsed.backend_type, parsed.command_override) == ("llama_cpp", r"C:\llama\Llama-Server.EXE")
    assert parsed.backend_options == {"model": r"C:\models\x.gguf"}


@pytest.mark.parametrize(
    "command", ["vllm serve --dtype half MODEL", "vllm serve MODEL --dtype half", "vllm serve --enforce-eager MODEL"]
)
def test_a_positional_model_may_stand_anywhere(command: str) -> None:
    assert parse_command(command).backend_options["model"] == "MODEL"


def test_flags_with_two_values_keep_both() -> None:
    assert llama("--control-vector-layer-range 10 20") == {"control_vector_layer_range": [10, 20]}


def test_host_and_port_of_the_pasted_command_are_not_kept() -> None:
    parsed = parse_command("LLAMA_ARG_PORT=1 llama-server -m x --host 0.0.0.0 --port=8080 --api-key k --api-key-file f")
    assert parsed.backend_options == {"model": "x"}
    assert parsed.environment == {}
    assert [w.split(" was left out: ")[0] for w in parsed.warnings] == [
        "--host",
        "--port",
        "--api-key",
        "--api-key-file",
        "LLAMA_ARG_PORT",
    ]


def test_variables_that_overrule_the_address_are_not_kept() -> None:
    parsed = parse_command("HOST=0.0.0.0 PORT=1 API_KEY=k N_CTX=512 python3 -m llama_cpp.server --model x --api_k k")
    assert parsed.environment == {"N_CTX": "512"}
    assert [w.split(" was left out: ")[0] for w in parsed.warnings] == ["--api_key", "HOST", "PORT", "API_KEY"]


# --- Forms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "backend_type", "override"),
    [
        ("llama-server -v", "llama_cpp", None),
        ("llama serve -v", "llama_cpp", ("llama", "serve")),
        ("./build/bin/llama-server -v", "llama_cpp", "./build/bin/llama-server"),
        ("llama-server-cuda -v", "llama_cpp", "llama-server-cuda"),
        ("llama-server.exe -v", "llama_cpp", "llama-server.exe"),
        ("numactl --interleave=all llama-server -v", "llama_cpp", ("numactl", "--interleave=all", "llama-server")),
        ("python3 -m llama_cpp.server --verbose false", "llama_cpp_python", None),
        ("python -m llama_cpp.server --verbose false", "llama_cpp_python", ("python", "-m", "llama_cpp.server")),
        (
            "/opt/venv/bin/python3 -m llama_cpp.server --verbose false",
            "llama_cpp_python",
            ("/opt/venv/bin/python3", "-m", "llama_cpp.server"),
        ),
        ("mlx_lm.server --pipeline", "mlx_lm", None),
        ("mlx_lm server --pipeline", "mlx_lm", ("mlx_lm", "server")),
        ("python -m mlx_lm.server --pipeline", "mlx_lm", ("python", "-m", "mlx_lm.server")),
        ("/usr/bin/python3.11 -u -m mlx_lm server", "mlx_lm", ("/usr/bin/python3.11", "-u", "-m", "mlx_lm", "server")),
        ("uvx --from mlx-lm mlx_lm.server", "mlx_lm", ("uvx", "--from", "mlx-lm", "mlx_lm.server")),
        ("vllm serve m", "vllm", None),
        ("/opt/venv/bin/vllm serve m", "vllm", ("/opt/venv/bin/vllm", "serve")),
        ("uv run vllm serve m", "vllm", ("uv", "run", "vllm", "serve")),
        (
            "python -m vllm.entrypoints.openai.api_server --model m",
            "vllm",
            ("python", "-m", "vllm.entrypoints.openai.api_server"),
        ),
    ],
)
def test_the_program_tells_the_backend(command: str, backend_type: str, override: str | tuple[str, ...] | None) -> None:
    parsed = parse_command(command)
    assert (parsed.backend_type, parsed.command_override) == (backend_type, override)
    assert "extra_args" not in parsed.backend_options


def test_words_may_come_already_split() -> None:
    parsed = parse_command(["llama-server", "-m", "my $HOME; model", "--alias", "a && b"])
    assert parsed.backend_options == {"model": "my $HOME; model", "alias": "a && b"}


def test_arguments_alone_need_the_backend() -> None:
    assert parse_command("-m x", "llama-cpp").backend_options == {"model": "x"}
    assert complaint("-m x") == Problem(
        "backend_type",
        f"is needed for a line that names no program; one of {', '.join(BACKENDS)}",
    )


def test_a_forgotten_sub_command_is_added() -> None:
    parsed = parse_command("vllm --model m")
    assert parsed.command_override is None
    assert parsed.warnings == ("'serve' was added: vllm alone starts no server",)


@pytest.mark.parametrize(
    "form", ["-ngl 99", "--ngl 99", "-gpu-layers 99", "--n-gpu-layers=99", "--n_gpu_layers 99", "--gpu-layers 99"]
)
def test_every_spelling_is_the_same_option(form: str) -> None:
    assert llama(form) == {"gpu_layers": 99}


def test_upper_and_lower_case_differ() -> None:
    assert llama("-c 1 -C 3 -Cb 4") == {"ctx_size": 1, "cpu_mask": "3", "cpu_mask_batch": "4"}


@pytest.mark.parametrize(
    ("form", "value"),
    [
        ("--warmup", True),
        ("--no-warmup", False),
        ("--warmup --no-warmup", False),
        ("--no-warmup --warmup", True),
        ("--warmup=false", False),
    ],
)
def test_a_negatable_switch_has_three_states(form: str, value: bool) -> None:
    assert llama(form) == {"warmup": value}


def test_a_repeatable_flag_adds_up_and_another_one_is_replaced_with_a_warning() -> None:
    parsed = parse_command("llama-server --lora a --lora b,c -c 1 -c 2")
    assert parsed.backend_options == {"lora": ["a", "b,c"], "ctx_size": 2}
    assert parsed.warnings == ("-c is given more than once; the last one counts",)


def test_multi_value_flags_end_at_the_next_flag() -> None:
    options = parse_command("vllm serve m --served-model-name a b --cudagraph-capture-sizes 1 2 4 --seed -1").backend_options
    assert options == {"model": "m", "served_model_name": ["a", "b"], "cudagraph_capture_sizes": [1, 2, 4], "seed": -1}


def test_a_model_that_the_server_would_take_for_a_second_key_is_not_the_model() -> None:
    parsed = parse_command("vllm serve --api-key k1 org/model")
    assert parsed.backend_options == {}
    assert parsed.warnings[0] == "--api-key takes every word up to the next flag: 2 here, none of them the model"


def test_vllm_shorthands_that_only_vllm_understands_stay_as_they_are() -> None:
    options = parse_command("vllm serve -O3 m --compilation-config.mode 3 --hf-overrides.rope.factor=2").backend_options
    assert options == {"model": "m", "extra_args": ["-O3", "--compilation-config.mode", "3", "--hf-overrides.rope.factor=2"]}


def test_zero_and_empty_are_values() -> None:
    assert llama("--temp 0 -ngl 0 --api-prefix ''") == {"temp": 0.0, "gpu_layers": 0, "api_prefix": ""}


def test_risky_flags_are_kept_with_a_warning() -> None:
    parsed = parse_command("vllm serve m --trust-remote-code")
    assert parsed.backend_options["trust_remote_code"] is True
    assert parsed.warnings == ("--trust-remote-code runs Python code from the model's repository",)
    assert parse_command("llama-server --agent").warnings
    assert parse_command("llama-server --webui-mcp-proxy").warnings
    assert not parse_command("llama-server --no-agent").warnings


def test_removed_flags_are_kept_with_what_replaces_them() -> None:
    parsed = parse_command("llama-server --no-mmap --mlock --draft 16")
    assert parsed.backend_options == {"mmap": False, "mlock": True, "draft_max": 16}
    assert [w.split("; ")[1] for w in parsed.warnings] == [
        "use --load-mode mmap, or none for --no-mmap",
        "use --load-mode mlock",
        "use --spec-draft-n-max or --spec-ngram-mod-n-max",
    ]


def test_a_value_that_this_version_does_not_know_is_only_warned_about() -> None:
    parsed = parse_command("llama-server -ctk q3_0 --chat-template-kwargs {oops")
    assert parsed.backend_options == {"cache_type_k": "q3_0", "chat_template_kwargs": "{oops"}
    assert parsed.warnings[0].startswith("--cache-type-k: 'q3_0' is none of f32, f16,")
    assert parsed.warnings[1] == "--chat-template-kwargs: the value is not JSON"


def test_a_second_bare_word_is_kept_and_warned_about() -> None:
    parsed = parse_command("llama-server one two")
    assert parsed.backend_options == {"model": "one", "extra_args": ["two"]}
    assert parsed.warnings == ("'two' belongs to no flag; it was kept in extra_args",)


def test_an_abbreviated_flag_of_the_daemon_does_not_slip_through() -> None:
    parsed = parse_command("mlx_lm.server --model m --hos 0.0.0.0 --por 1")
    assert parsed.backend_options == {"model": "m"}
    assert len(parsed.warnings) == 2


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("vllm serve m --max-model-l 5", {"model": "m", "max_model_len": 5}),
        ("vllm serve m --no-enable-prefix-c", {"model": "m", "enable_prefix_caching": False}),
        ("sglang serve --model-path m --tp 2", {"model": "m", "tp_size": 2}),
        ("sglang serve --model-path m --tp=2 --dp 4", {"model": "m", "tp_size": 2, "dp_size": 4}),
        ("llama-server -m m --ctx-si 5", {"model": "m", "extra_args": ["--ctx-si", "5"]}),
    ],
)
def test_the_beginning_of_a_flag_is_that_flag_where_the_server_reads_it_so(command: str, options: dict[str, object]) -> None:
    assert parse_command(command).backend_options == options


def test_behind_two_dashes_there_is_only_the_model() -> None:
    assert parse_command("vllm serve --seed 1 -- org/model").backend_options == {"seed": 1, "model": "org/model"}
    assert complaint("vllm serve -- m --seed 1").what == "'--seed' behind '--' is no flag; put flags before it"


def test_flags_that_only_print_are_left_out() -> None:
    parsed = parse_command("llama-server -m x --version -h --list-devices")
    assert parsed.backend_options == {"model": "x"}
    assert parsed.warnings[0] == "--version was left out: it only prints and exits"


# --- Complaints -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "where", "what"),
    [
        ("llama-server -c abc", "ctx_size", "takes a whole number, got 'abc'"),
        ("llama-server -c 1.5", "ctx_size", "takes a whole number, got '1.5'"),
        ("llama-server --temp warm", "temp", "takes a number, got 'warm'"),
        ("llama-server --temp inf", "temp", "takes a number, got 'inf'"),
        ("llama-server -m", "model", "-m needs a value, and nothing follows it"),
        ("llama-server -m -c 4096", "model", "takes a path, got the flag '-c': was its value forgotten?"),
        (
            "llama-server --control-vector-layer-range 1",
            "control_vector_layer_range",
            "--control-vector-layer-range needs a value, and nothing follows it",
        ),
        ("llama-server --flash-attn=maybe", "flash_attn", "takes one of on, off, auto, got 'maybe'"),
        ("llama-server --warmup=maybe", "warmup", "is a switch: true or false, got 'maybe'"),
        ("vllm serve m --served-model-name", "served_model_name", "needs at least one value"),
        (
            "vllm serve m --dtype --seed 1",
            "dtype",
            "--dtype needs a value, and the flag '--seed' follows it; if it is the value, write --dtype=--seed",
        ),
        ("python3 -m llama_cpp.server --embedding", "embedding", "--embedding needs a value, and nothing follows it"),
        ("python3 -m llama_cpp.server --use_mmap maybe", "use_mmap", "is a switch: true or false, got 'maybe'"),
        ("llama-server ---x", "command", "'---x' has more dashes than a flag can have"),
        (
            "llama-serve -m x",
            "command",
            (
                "'llama-serve' is no server program that is known here (did you mean 'llama-server'?); "
                "known are llama-server, python3 -m llama_cpp.server, lmdeploy serve api_server, mlx_lm.server, sglang serve, "
                "vllm serve; give the backend_type custom to run any other program, or the options alone with their backend_type"
            ),
        ),
        ("vllm bench throughput", "command", "'vllm bench' starts no server; did you mean 'vllm serve'?"),
        ("A=1", "command", "names no program and no option; paste the line that starts the server"),
        ("env -S 'llama-server -v'", "command", "env -S is not understood; leave it out"),
        ("uv pip install vllm", "command", "'uv pip' starts no program; 'uv run or uv tool run' does"),
        ("docker compose up", "command", "'docker compose' starts no server; 'docker run ... IMAGE ...' is understood"),
        ("docker run --rm", "command", "'docker run' names no image"),
        ("docker run -v", "command", "-v of docker run needs a value, and nothing follows it"),
        (
            "docker run vllm/vllm-openai bash -c 'vllm serve m'",
            "command",
            "'bash' in the container would run a shell's script; give the server's own command behind the image",
        ),
        (
            "docker run img -m x",
            "backend_type",
            f"is needed for a line whose image 'img' is none that is known; one of {', '.join(BACKENDS)}",
        ),
        (
            "llama-server -m x --log-file ${PORT}.log",
            "command",
            "'${PORT}.log' holds a placeholder; only commands of backend_type custom have them, write the value itself",
        ),
    ],
)
def test_what_cannot_be_understood_is_named(command: str, where: str, what: str) -> None:
    assert complaint(command) == Problem(where, what)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(Invalid) as caught:
        parse_command("llama-server -c a -ngl b --temp c")
    assert [p.where for p in caught.value.problems] == ["ctx_size", "temp"]  # -ngl takes words too


def test_a_program_of_another_backend_is_refused() -> None:
    what = "the command starts vLLM, but backend_type is 'llama_cpp'; change one of the two"
    assert complaint("vllm serve m", "llama_cpp") == Problem("command", what)


def test_an_unknown_backend_gets_a_hint() -> None:
    known = "llama-cpp (llama_cpp), llama-cpp-python (llama_cpp_python), lmdeploy, mlx (mlx_lm), sglang, vllm, custom"
    assert complaint("-m x", "lama_cpp").what == f"unknown backend 'lama_cpp' (did you mean 'llama_cpp'?); known are {known}"


# --- Anything at all --------------------------------------------------------------------------------------------------

_WORDS = st.one_of(
    st.sampled_from([s for b in BACKENDS.values() for f in b.catalogue for s in (*f.spellings, *f.negations)]),
    st.sampled_from(
        [
            "llama-server",
            "vllm",
            "serve",
            "mlx_lm",
            "llama_cpp.server",
            "python",
            "-m",
            "--",
            "-",
            "-1",
            "1",
            "=",
            "A=b",
            "env",
            "uv",
            "'",
            "$",
            "\\\n",
        ]
    ),
    st.text(max_size=6),
)


@given(st.one_of(st.text(max_size=80), st.lists(_WORDS, max_size=12).map(" ".join)), st.sampled_from([None, *BACKENDS]))
@settings(max_examples=500, deadline=None)
def test_any_text_is_parsed_or_invalid(text: str, backend_type: str | None) -> None:
    try:
        parsed = parse_command(text, backend_type)
    except Invalid:
        return
    backend = BACKENDS[parsed.backend_type]
    assert backend.normalise(parsed.backend_options).options == parsed.backend_options


@given(st.lists(_WORDS, max_size=12), st.sampled_from(list(BACKENDS)))
@settings(max_examples=500, deadline=None)
def test_any_words_are_parsed_or_invalid(words: list[str], backend_type: str) -> None:
    try:
        parsed = parse_command(["-v", *words], backend_type)
    except Invalid:
        return
    assert BACKENDS[backend_type].normalise(parsed.backend_options).options == parsed.backend_options


# ---- unknown flags


@pytest.mark.parametrize(
    ("line", "told"),
    [
        pytest.param(
            "llama-server --ctx-sise 5", "--ctx-sise is not known to llama-server; {} (did you mean --ctx-size?)", id="near"
        ),
        pytest.param(
            "llama-server --ctx_sise=5", "--ctx_sise is not known to llama-server; {} (did you mean --ctx-size?)", id="="
        ),
        pytest.param("llama-server --frobnicate", "--frobnicate is not known to llama-server; {}", id="near nothing"),
        pytest.param("llama-server -zz 1", "-zz is not known to llama-server; {}", id="short"),
        pytest.param(
            "vllm serve m --max-modl-len 5", "--max-modl-len is not known to vllm serve; {} (did you mean --max-model-len?)"
        ),
        pytest.param("vllm serve m --max 5", None, id="an ambiguous beginning, which the server will refuse"),
        pytest.param("vllm serve m --compilation-config.mode 3", None, id="dotted"),
        pytest.param("vllm serve m -cc.mode=3", None, id="short and dotted"),
        pytest.param("vllm serve m -O3", None, id="with its value in it"),
    ],
)
def test_an_unknown_flag_is_kept_with_a_warning_that_names_the_nearest(line: str, told: str | None) -> None:
    parsed = parse_command(line)
    assert parsed.backend_options["extra_args"]
    assert parsed.warnings == ((told.format("it is passed on as it is"),) if told else ())


def test_a_removed_flag_is_told_with_the_last_version_that_took_it_and_what_to_use() -> None:
    assert parse_command("llama-server --mlock").warnings == (
        "newer llama-server refuses --mlock (that of llama-cpp-python 0.3.28 still took it); use --load-mode mlock",
    )
    assert parse_command("vllm serve m --num-scheduler-steps 8").warnings == (
        "newer vllm serve refuses --num-scheduler-steps (0.8.5 still took it)",
    )


def test_a_program_that_is_far_from_all_others_gets_no_hint() -> None:
    for word, hint in (("ollama", ""), ("lama-server", " (did you mean 'llama-server'?)")):
        with pytest.raises(Invalid) as error:
            parse_command(f"{word} serve x")
        assert f"'{word}' is no server program that is known here{hint}; known are" in str(error.value)
