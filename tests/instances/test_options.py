"""Options of an instance as clients send them: what they become, what is said of bad ones, and that no secret is shown.

`made` parses with default settings. The server's own options (`backend_options`) are tested in tests/backends.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamactl_py.backends import backend
from llamactl_py.config.settings import Instances
from llamactl_py.ground.errors import Invalid, Problem
from llamactl_py.ground.validation import parse
from llamactl_py.instances.options import MASK, InstanceOptions, parse_options, restore_options


def made(old: InstanceOptions | None = None, **raw: Any) -> InstanceOptions:
    return parse_options({"backend_type": "llama_cpp", **raw}, Instances(), old)[0]


def problems(raw: object) -> list[Problem]:
    with pytest.raises(Invalid) as caught:
        parse_options(raw, Instances())
    return list(caught.value.problems)


def test_what_is_not_said_is_filled_in_from_the_settings() -> None:
    defaults = Instances(
        default_auto_restart=False,
        default_max_restarts=7,
        default_restart_delay=1.5,
        default_on_demand_start=False,
        default_idle_timeout=90.0,
        default_start_timeout=1000.5,
        default_stop_timeout=0.00001,
    )
    options, warnings = parse_options({"backend_type": "llama_cpp"}, defaults)
    assert warnings == ()
    assert (options.auto_restart, options.max_restarts, options.on_demand_start) == (False, 7, False)
    assert (options.restart_delay, options.idle_timeout, options.start_timeout, options.stop_timeout) == (1.5, 90, 1000.5, 1e-5)


def test_null_means_the_default_and_false_and_zero_mean_themselves() -> None:
    assert made(auto_restart=None, idle_timeout=None, environment=None, command_override=None) == made()
    options = made(auto_restart=False, max_restarts=0, idle_timeout=0)
    assert (options.auto_restart, options.max_restarts, options.idle_timeout) == (False, 0, 0)


def test_numbers_keep_llamactls_units_and_text_says_its_own() -> None:
    options = made(idle_timeout=15, start_timeout=15, restart_delay="2m", stop_timeout="500ms")
    assert (options.idle_timeout, options.start_timeout, options.restart_delay, options.stop_timeout) == (900, 15, 120, 0.5)
    shown = options.public()
    assert [shown[name] for name in ("idle_timeout", "start_timeout", "restart_delay", "stop_timeout")] == [15, 15, 120, "500ms"]


def test_what_llamactl_stored_is_taken_as_it_is() -> None:
    """Its names, its map of extra arguments, the port that it gave."""
    stored = {
        "auto_restart": True,
        "max_restarts": 3,
        "restart_delay": 5,
        "on_demand_start": True,
        "idle_timeout": 30,
        "environment": {"CUDA_VISIBLE_DEVICES": "0"},
        "backend_type": "llama_cpp",
        "backend_options": {
            "model": "/models/q.gguf",
            "n_gpu_layers": 99,
            "no_mmap": True,
            "flash_attn": "on",
            "lora": ["a", "b"],
            "host": "0.0.0.0",
            "port": 8001,
            "extra_args": {"new-flag": "", "other": "1"},
        },
        "command_override": "/opt/llama.cpp/llama-server",
    }
    options, warnings = parse_options(stored, Instances())
    assert options.backend_options == {
        "model": "/models/q.gguf",
        "gpu_layers": 99,
        "mmap": False,
        "flash_attn": "on",
        "lora": ["a", "b"],
        "extra_args": ["--new-flag", "--other", "1"],
    }
    assert (options.idle_timeout, options.command_override) == (1800, "/opt/llama.cpp/llama-server")
    assert [warning.split()[0] for warning in warnings] == ["--host", "--port", "newer"]


@pytest.mark.parametrize("name", ["llama_cpp", "llama-cpp", "LLAMA_CPP", "Llama-Cpp"])
def test_a_backend_has_one_name_inside(name: str) -> None:
    assert made(backend_type=name).backend_type == "llama_cpp"


def test_the_servers_options_are_brought_into_their_one_form_with_warnings() -> None:
    options, warnings = parse_options(
        {"backend_type": "llama_cpp", "backend_options": {"n-gpu-layers": "7", "port": 80, "alias": None}}, Instances()
    )
    assert options.backend_options == {"gpu_layers": 7}
    assert warnings == ("--port was left out: the daemon gives each instance its own port",)


@pytest.mark.parametrize(
    ("raw", "where", "what"),
    [
        ({"idel_timeout": 5}, "idel_timeout", "unknown key (did you mean 'idle_timeout'?)"),
        ({"ctx_size": 5}, "ctx_size", "is an option of the server: write backend_options.ctx_size"),
        ({"kontext": 5}, "kontext", "unknown key"),
        ({"backend_type": None}, "backend_type", "is required"),
        ({"backend_type": 5}, "backend_type", "expected text, got 5"),
        ({"backend_type": "vlm"}, "backend_type", "unknown backend 'vlm' (did you mean 'vllm'?)"),
        ({"backend_options": []}, "backend_options", "expected an object with named values, got a list"),
        ({"backend_options": {"ctx_sise": 5}}, "backend_options.ctx_sise", "unknown option (did you mean 'ctx_size'?)"),
        ({"idle_timeout": "soon"}, "idle_timeout", "'soon' is not a duration"),
        ({"idle_timeout": -1}, "idle_timeout", "-1 is out of range"),
        ({"idle_timeout": 10**400}, "idle_timeout", "1000"),
        ({"start_timeout": 0}, "start_timeout", "expected a number over 0, got 0"),
        ({"max_restarts": -1}, "max_restarts", "expected a whole number from 0 to 1000, got -1"),
        ({"max_restarts": 1001}, "max_restarts", "expected a whole number from 0 to 1000, got 1001"),
        ({"max_restarts": True}, "max_restarts", "expected a whole number from 0 to 1000, got true"),
        ({"max_restarts": 1.5}, "max_restarts", "expected a whole number from 0 to 1000, got 1.5"),
        ({"auto_restart": "maybe"}, "auto_restart", "expected true or false, without quotes, got 'maybe'"),
        ({"environment": ["A=b"]}, "environment", "expected an object with named values, got a list"),
        ({"environment": {"A": 1}}, "environment.A", "expected text of at most 131072 characters"),
        ({"environment": {"A": "x\0"}}, "environment.A", "expected text of at most 131072 characters matching ^["),
        ({"environment": {"A": MASK}}, "environment.A", "holds only the mask; send the value itself"),
        ({"backend_options": {"hf_token": MASK}}, "backend_options.hf_token", "holds only the mask; send the value itself"),
        ({"group": "../x"}, "group", "'../x' is not usable"),
        ({"aliases": ["a\nb"]}, "aliases.0", "holds U+000A at position 2"),
        ({"aliases": [""]}, "aliases.0", "expected text of 1 to 256 characters, got ''"),
        ({"aliases": ["a"] * 101}, "aliases", "expected a list of at most 100 items, got one of 101"),
        ({"aliases": "abc"}, "aliases", ""),
    ],
)
def test_a_bad_option_is_named(raw: dict[str, Any], where: str, what: str) -> None:
    (problem,) = problems({"backend_type": "llama_cpp", **raw})
    assert problem.where == where
    assert problem.what.startswith(what)


@pytest.mark.parametrize("name", ["", "A=B", "A B", "1A", "A\n", "A\0", "ä", "A-B", "x" * 300])
def test_a_variables_name_is_one_that_every_shell_takes(name: str) -> None:
    assert problems({"backend_type": "llama_cpp", "environment": {name: "x"}})


@pytest.mark.parametrize("command", ["", "a\0b", "x" * 5000, [], [""], ["a", ""], ["a", "b\0"], [1], 1, {}])
def test_a_command_is_a_word_or_some_words(command: object) -> None:
    assert problems({"backend_type": "llama_cpp", "command_override": command})


@pytest.mark.parametrize(
    ("command", "kept"), [("/opt/llama server", "/opt/llama server"), (["nice", "-n", "5", "x"], ("nice", "-n", "5", "x"))]
)
def test_a_command_is_kept_word_for_word(command: object, kept: object) -> None:
    assert made(command_override=command).command_override == kept


def test_every_bad_option_is_told_at_once() -> None:
    found = problems({"backend_type": "llama_cpp", "idel_timeout": 5, "start_timeout": "x", "aliases": [""]})
    assert {problem.where for problem in found} == {"idel_timeout", "start_timeout", "aliases.0"}


@pytest.mark.parametrize("raw", [None, [], "x", 5, True])
def test_options_are_an_object(raw: object) -> None:
    (problem,) = problems(raw)
    assert problem.what.startswith("expected an object with named fields")


SECRETS = {
    "environment": {"HF_TOKEN": "canary-1", "my_api_key": "canary-2", "DB_PASSWORD": "canary-3", "PLAIN": "shown"},
    "backend_options": {"hf_token": "canary-4", "model": "m.gguf"},
}


def test_secrets_are_masked_and_everything_else_is_shown() -> None:
    options = made(**SECRETS)
    shown = options.public()
    assert "canary" not in json.dumps(shown)
    assert shown["environment"] == {"HF_TOKEN": MASK, "my_api_key": MASK, "DB_PASSWORD": MASK, "PLAIN": "shown"}
    assert shown["backend_options"] == {"hf_token": MASK, "model": "m.gguf"}
    assert options.environment["HF_TOKEN"] == "canary-1"


def test_what_was_shown_can_be_sent_back_and_changes_nothing() -> None:
    options = made(**SECRETS, aliases=["x"], command_override=["a", "b"], idle_timeout="90s", group="g")
    again, _ = parse_options(options.public(), Instances(), options)
    assert again == options


def test_a_secret_is_replaced_by_a_new_value_and_dropped_by_leaving_it_out() -> None:
    old = made(**SECRETS)
    new = made(old, environment={"HF_TOKEN": "new", "my_api_key": MASK})
    assert new.environment == {"HF_TOKEN": "new", "my_api_key": "canary-2"}
    assert "hf_token" not in new.backend_options


def test_a_mask_stands_for_nothing_but_the_same_secret_of_before() -> None:
    with pytest.raises(Invalid, match=r"environment\.OTHER: holds only the mask"):
        made(made(**SECRETS), environment={"OTHER": MASK})


OPTIONS = st.fixed_dictionaries(
    {"backend_type": st.just("llama_cpp")},
    optional={
        "backend_options": st.fixed_dictionaries(
            {}, optional={"ctx_size": st.integers(0, 10**6), "temp": st.floats(0, 5), "extra_args": st.just(["--zz-new", "x"])}
        ),
        "auto_restart": st.booleans(),
        "max_restarts": st.integers(0, 1000),
        "restart_delay": st.floats(0, 1e6),
        "idle_timeout": st.floats(0, 1e5) | st.integers(0, 10_000),
        "start_timeout": st.floats(0, 1e6, exclude_min=True),
        "stop_timeout": st.integers(0, 5000).map(lambda n: f"{n}ms"),
        "environment": st.dictionaries(
            st.from_regex(r"[A-Z_][A-Z0-9_]{0,9}", fullmatch=True),
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
        ),
        "command_override": st.text("ab/ ", min_size=1) | st.lists(st.text("a -", min_size=1), min_size=1),
        "group": st.sampled_from(["", "team-a"]),
        "aliases": st.lists(st.text("ab/:", min_size=1), max_size=3),
    },
)


@given(OPTIONS)
@settings(max_examples=150, deadline=None)
def test_what_is_stored_is_restored_exactly(raw: dict[str, Any]) -> None:
    options, _ = parse_options(raw, Instances())
    assert restore_options(options.stored()) == options
    assert parse_options(options.public(), Instances(), options)[0] == options


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "null", "[]", "5", '"x"', "{}", '{"backend_type": "llama_cpp"}', "\0", '{"a": 1e999}', "[" * 100_000,
        '{"a":' + "9" * 5000 + "}", '{"backend_type": NaN}',
    ],
)  # fmt: skip
def test_damaged_text_is_refused_and_nothing_worse(text: str) -> None:
    with pytest.raises(Invalid):
        restore_options(text)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"backend_type": "gone"}, "unknown backend 'gone'"),
        ({"later_option": 1}, "later_option: unknown key"),
        ({"max_restarts": "many"}, "max_restarts: expected a whole number from 0 to 1000, without quotes, got 'many'"),
        ({"backend_options": None}, "backend_options: expected an object with named values, got nothing"),
    ],
)
def test_a_row_that_this_version_cannot_run_is_refused_with_the_reason(change: dict[str, Any], what: str) -> None:
    with pytest.raises(Invalid, match=what):
        restore_options(json.dumps({**json.loads(made().stored()), **change}))


ODD = (
    None, True, 0, 1, -1, 3.0, 0.5, 1e300, 10**30, "", "a", "a\n", "90s", "9 parsecs", "\u200b", "\0", [], ["a"], ["a\n"], [1],
    {}, {"A": "b"}, {"A": 1}, {"A\n": "b"}, {"image": "-x"}, {"image": "x\n"}, {"engine": "", "args": ["v"]}, {"engine": "a\0"},
)  # fmt: skip


def the_long_way(text: str) -> InstanceOptions:
    options = parse(InstanceOptions, json.loads(text))
    backend(options.backend_type)
    return options


def outcome(read: Callable[[str], InstanceOptions], text: str) -> object:
    try:
        options = read(text)
    except Invalid as error:
        return str(error)
    return options, options.stored()


@given(OPTIONS)
@settings(max_examples=50, deadline=None)
def test_what_is_stored_is_read_the_short_way_as_by_the_long_one(raw: dict[str, Any]) -> None:
    text = parse_options(raw, Instances())[0].stored()
    assert outcome(restore_options, text) == outcome(the_long_way, text)


@pytest.mark.parametrize("name", [*InstanceOptions.__struct_fields__, "later_option"])
def test_the_short_way_takes_and_refuses_what_the_long_one_does(name: str) -> None:
    stored = json.loads(made().stored())
    for value in ODD:
        text = json.dumps({**stored, name: value}, ensure_ascii=False)
        assert outcome(restore_options, text) == outcome(the_long_way, text), (name, value)
    without = json.dumps({key: value for key, value in stored.items() if key != name})
    assert outcome(restore_options, without) == outcome(the_long_way, without)


@pytest.mark.parametrize("value", ["NaN", "-0", "1e999", "1E2", "1" * 400, "18446744073709551616", '{"a":1,"a":2}'])
@pytest.mark.parametrize("name", ["idle_timeout", "max_restarts", "backend_options", "auto_restart", "aliases"])
def test_values_that_json_libraries_disagree_on_are_read_alike(name: str, value: str) -> None:
    text = f'{made().stored()[:-1]},"{name}":{value}}}'  # said twice: the last one holds
    assert outcome(restore_options, text) == outcome(the_long_way, text)


# ---- what llamactl has and we have not


@pytest.mark.parametrize("raw", [{"nodes": ["main"]}, {"nodes": []}, {"nodes": None, "preset_ini": None}, {"preset_ini": ""}])
def test_llamactls_options_that_change_nothing_here_are_left_out(raw: dict[str, Any]) -> None:
    options, warnings = parse_options({"backend_type": "llama_cpp", **raw}, Instances())
    assert options == made()
    assert [warning.split()[0] for warning in warnings] == (["nodes"] if raw.get("nodes") else [])


@pytest.mark.parametrize("raw", [{"nodes": ["gpu1"]}, {"nodes": ["main", "gpu1"]}, {"nodes": "main"}, {"preset_ini": "[x]"}])
def test_llamactls_options_that_ask_for_what_is_not_here_are_refused_with_what_to_do(raw: dict[str, Any]) -> None:
    (problem,) = problems({"backend_type": "llama_cpp", **raw})
    assert problem.where in raw
    assert "run a daemon on each machine" in problem.what or "models_preset" in problem.what
