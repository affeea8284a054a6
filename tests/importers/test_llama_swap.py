"""A file of llama-swap becomes one of ours that our own reader takes, and nothing is lost without a word.

`swap.yaml` beside this file has a bit of everything; `made(text)` imports a text, `declared` reads the result as the daemon does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamactl_py.config.load import Configuration, Sources, load
from llamactl_py.ground.errors import BadRequest
from llamactl_py.importers import read
from llamactl_py.importers.llama_swap import NEVER
from llamactl_py.importers.llama_swap_model import CUSTOM
from llamactl_py.importers.write import Imported
from llamactl_py.instances.declared import Declaration, read_declared

FILE = Path(__file__).with_name("swap.yaml")


def notes(found: Imported, beginning: str = "") -> list[str]:
    return [str(note) for note in found.sorted_notes() if note.key.startswith(beginning)]


def configuration(folder: Path, found: Imported) -> Configuration:
    (folder / "c.yaml").write_text(found.text())
    return load(Sources(folder / "c.yaml", {"SECRET_TOKEN": "hf_1"}, {}))


def declared(folder: Path, found: Imported) -> dict[str, Declaration]:
    return {one.name: one for one in read_declared(configuration(folder, found))}


def one(cmd: str, **keys: Any) -> tuple[dict[str, Any], list[str]]:
    """The entry and the notes for a model with that command."""
    found = read(yaml.safe_dump({"models": {"m": {"cmd": cmd, **keys}}}))
    return found.instances["m"], notes(found, "models.m")


# ---- the whole file


def test_settings_are_carried_over(tmp_path: Path) -> None:
    instances = configuration(tmp_path, read(FILE.read_text())).settings.instances
    assert instances.default_idle_timeout == 1800
    assert (instances.default_start_timeout, instances.default_stop_timeout) == (300, 20)
    assert instances.port_range == (9100, 10100)
    assert instances.max_running_instances == 3, "one of the large ones, or one without a group, and both small ones"


def test_servers_that_we_know_become_what_our_own_parser_reads(tmp_path: Path) -> None:
    found = declared(tmp_path, read(FILE.read_text()))
    chat, coder, vision = found["chat"].options, found["coder"].options, found["Qwen-Qwen3-VL-32b"].options
    assert (chat.backend_options["model"], chat.backend_options["ctx_size"]) == ("/srv/models/my model.gguf", 16384)
    assert chat.command_override == "/opt/llama.cpp/llama-server"
    assert chat.environment == {"CUDA_VISIBLE_DEVICES": "0", "HF_TOKEN": "hf_1"}
    assert chat.aliases == ("gpt-4o", "chat-latest")
    assert (chat.idle_timeout, chat.autostart, chat.group) == (600, True, "large")
    assert (coder.backend_options["ctx_size"], coder.idle_timeout) == (4096, 365 * 86400)
    assert (vision.backend_type, vision.aliases, vision.idle_timeout) == ("vllm", ("Qwen/Qwen3-VL:32b",), 1800)
    assert not any("--port" in warning or "--host" in warning for one in found.values() for warning in one.warnings)


def test_the_whole_file_passes_our_own_check(tmp_path: Path) -> None:
    names = ["chat", "coder", "Qwen-Qwen3-VL-32b", "speech", "contained", "elsewhere"]
    assert list(declared(tmp_path, read(FILE.read_text()))) == names


def test_commands_that_we_do_not_know_become_custom_ones() -> None:
    made = read(FILE.read_text()).instances
    assert made["speech"] == {
        "backend_type": CUSTOM,
        "command": "python -m tts.server --listen '0.0.0.0:${PORT}' --voice 'one two'",
        "backend_options": {"health_path": "/ready", "served_model_name": "kokoro"},
        "group": "small-ones",
        "idle_timeout": 0,
    }
    assert made["contained"]["backend_options"] == {"health_path": "", "stop_command": ["docker", "stop", "swapped-contained"]}
    assert "-p '${PORT}:8080'" in made["contained"]["command"]


def test_what_is_other_than_it_was_is_told_with_its_line() -> None:
    found = read(FILE.read_text())
    lines = FILE.read_text().splitlines()
    for key in ("models.chat.concurrencyLimit", "models.chat.unlisted", "models.chat.filters", "apiKeys", "logLevel"):
        (told,) = notes(found, key)
        assert told.startswith(
            f"line {1 + next(i for i, line in enumerate(lines) if key.rpartition('.')[2] in line)}: {key}: was left out"
        )
    told_too = (
        "models.chat.env.2 models.coder.cmd models.nothing models.Qwen/Qwen3-VL:32b models.elsewhere.proxy models.speech.proxy"
    )
    for key in (*told_too.split(), "hooks.on_startup.preload.1", "groups.large.exclusive", "groups.small ones.persistent"):
        assert notes(found, key), key
    assert [note.line for note in found.sorted_notes()] == sorted(note.line for note in found.notes)
    assert "nothing" not in found.instances


def test_no_secret_is_copied_and_variables_stay_variables() -> None:
    text = read(FILE.read_text()).text()
    assert "sk-secret" not in text
    assert "${SECRET_TOKEN}" in text
    assert "${env." not in text


def test_the_notes_stand_at_the_head_of_the_file() -> None:
    text = read(FILE.read_text()).text()
    assert "\n#   line 6: logLevel: was left out: llamactl serve --log-level says what is logged\n" in text
    assert text.index("instances:") > text.rindex("\n#   line")


# ---- macros


def test_macros_hold_those_before_them_and_a_models_own_take_their_place() -> None:
    text = """\
macros: {a: x, b: "${a}y", n: 8192, t: true}
models:
  one: {cmd: "llama-server -m /${b} -c ${n}", ttl: "${n}"}
  two: {macros: {a: z, own: "${b}!"}, cmd: "llama-server -m /${own}"}
"""
    made = read(text).instances
    assert made["one"] == {"command": "llama-server -m /xy -c 8192", "idle_timeout": "8192s"}
    assert made["two"] == {"command": "llama-server -m '/zy!'"}


def test_an_unknown_macro_is_told_and_is_no_variable_of_ours(tmp_path: Path) -> None:
    found = read('models: {m: {cmd: "llama-server -m /x/${nope}.gguf"}}')
    assert notes(found, "models.m.cmd")[0].endswith("${nope} is no macro that is defined; it stays as it is")
    assert declared(tmp_path, found)["m"].options.backend_options["model"] == "/x/${nope}.gguf"


def test_macros_cannot_make_a_small_file_huge() -> None:
    doubling = {f"m{i}": f"${{m{i - 1}}}" * 10 for i in range(1, 12)}
    with pytest.raises(BadRequest, match="makes over"):
        read(yaml.safe_dump({"macros": {"m0": "x", **doubling}, "models": {"a": {"cmd": "${m11}"}}}, sort_keys=False))


def test_aliases_of_yaml_cannot_make_a_small_file_huge() -> None:
    text = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdef", "bcdefg", strict=True)
    )
    with pytest.raises(BadRequest, match="aliases counted"):
        read(text + "models: {}\n")


# ---- single keys


@pytest.mark.parametrize(
    ("cmd", "command"),
    [
        ("llama-server --port ${PORT} -m /a", "llama-server -m /a"),
        ("llama-server --port=${PORT} --host 0.0.0.0 -m /a", "llama-server -m /a"),
        ("llama-server \\\n  -m /a \\\n -c 4096\n", "llama-server -m /a -c 4096"),
        ("llama-server\n-m /a\n# -c 4096\n-ngl 9", "llama-server -m /a -ngl 9"),
        ('llama-server -m "/a b" --port ${PORT}', "llama-server -m '/a b'"),
        ("env A=1 llama-server -m /a --port ${PORT}", "env A=1 llama-server -m /a"),
    ],
)
def test_a_command_is_split_as_llama_swap_does_and_rid_of_its_port(cmd: str, command: str) -> None:
    entry, told = one(cmd)
    assert (entry, told) == ({"command": command}, [])


def test_a_long_command_has_its_flags_on_lines_of_their_own(tmp_path: Path) -> None:
    found = read(yaml.safe_dump({"models": {"m": {"cmd": f"llama-server -m /{'x' * 90}.gguf -c 4096 --jinja"}}}))
    assert " \\\n        -c 4096 \\\n        --jinja\n" in found.text()
    assert declared(tmp_path, found)["m"].options.backend_options["ctx_size"] == 4096


@pytest.mark.parametrize(
    ("keys", "entry"),
    [
        ({"ttl": 0}, {"idle_timeout": NEVER}),
        ({"ttl": 60}, {"idle_timeout": "60s"}),
        ({"ttl": -1}, {}),
        ({"unloadTimeout": 5}, {"stop_timeout": "5s"}),
        ({"unloadTimeout": 0}, {}),
        ({"env": []}, {}),
        ({"env": ["A=b=c"]}, {"environment": {"A": "b=c"}}),
        ({"aliases": ["x"]}, {"aliases": ["x"]}),
    ],
)
def test_a_key_of_a_model_becomes_an_option(keys: dict[str, Any], entry: dict[str, Any]) -> None:
    made, told = one("llama-server -m /a", **keys)
    assert (made, told) == ({"command": "llama-server -m /a", **entry}, [])


@pytest.mark.parametrize(
    ("groups", "limit"),
    [
        ({}, 1),
        ({"g": {"members": ["a", "b", "c"]}}, 1),
        ({"g": {"swap": False, "members": ["a", "b", "c"]}}, 3),
        ({"g": {"swap": False, "members": ["a", "b"]}}, 2),
        ({"g": {"swap": False, "exclusive": False, "members": ["a", "b"]}}, 3),
        ({"g": {"members": ["a"]}, "h": {"members": ["b", "c"]}}, 1),
        ({"g": {"persistent": True, "swap": False, "members": ["a"]}, "h": {"members": ["b", "c"]}}, 2),
    ],
)
@pytest.mark.parametrize("place", ["groups", "routing"])
def test_groups_become_the_number_that_could_be_up_at_once(place: str, groups: dict[str, Any], limit: int) -> None:
    section = {"groups": groups} if place == "groups" else {"routing": {"router": {"settings": {"groups": groups}}}}
    found = read(yaml.safe_dump({"models": {name: {"cmd": "llama-server"} for name in "abc"}, **section}))
    assert found.settings["instances"]["max_running_instances"] == limit


def test_names_that_no_instance_may_have_are_changed_and_stay_as_aliases(tmp_path: Path) -> None:
    ids = ["a/b:c", "a b c", "-rf", "..", "x" * 80]
    found = read(yaml.safe_dump({"models": {name: {"cmd": "llama-server"} for name in ids}}, sort_keys=False))
    assert list(found.instances) == ["a-b-c", "a-b-c-2", "rf", "unnamed", "x" * 50]
    assert {one.options.aliases for one in declared(tmp_path, found).values()} == {(name,) for name in ids}


# ---- files that are none


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no names stand in it"),
        ("- a", "no names stand in it"),
        ("server: {port: 1}", "it has no section 'models'"),
        ("models: [a]", "it has no section 'models'"),
        ("models: {", "line 1: not valid YAML"),
        ('{"a": 1}', "this JSON holds no instances"),
        ("[1]", "this JSON holds no instances"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_such_file_is_refused(text: str, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        read(text)


@pytest.mark.parametrize(
    "model",
    ["x", "5", "[a]", "{cmd: 5}", '{cmd: "\'"}', "{cmd: llama-server, env: x, aliases: 5, ttl: soon, macros: 5, proxy: 5}", ""],
)
def test_odd_models_are_told_and_stop_nothing(model: str) -> None:
    found = read(f"models:\n  odd: {model}\n  good: {{cmd: llama-server}}\n")
    assert "good" in found.instances
    assert yaml.safe_load(found.text())["declared_instances"]["good"] == {"command": "llama-server"}


# ---- llamactl's JSON


def test_instances_of_llamactl_become_declared_ones(tmp_path: Path) -> None:
    options = {
        "backend_type": "llama_cpp", "backend_options": {"model": "/a.gguf", "ctx_size": 4096}, "idle_timeout": 15,
        "environment": {"HF_TOKEN": "********", "A": "b"}, "nodes": ["main"], "preset_ini": "[x]",
    }  # fmt: skip
    tree = [
        {"id": 1, "name": "a", "status": "running", "options": options},
        {"name": "-b", "options": {"backend_type": "mlx_lm"}},
    ]
    found = read(json.dumps(tree))
    assert sorted(notes(found))[0].startswith("-b: is called b here")
    assert {note.key for note in found.notes} == {"-b", "a.nodes", "a.preset_ini", "a.environment.HF_TOKEN"} - {
        f"a.{name}" for name in found.instances["a"]
    }
    del found.instances["a"]["environment"]
    a = declared(tmp_path, found)["a"].options
    assert (a.backend_options["ctx_size"], a.idle_timeout) == (4096, 900)
    assert list(read(json.dumps(tree[0])).instances) == ["a"]
