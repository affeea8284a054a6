"""Where settings come from: defaults < file < LLAMACTL_* variables < flags, and who is named when one of them is wrong.

`load_text` loads a file of that text. What is wrong with YAML itself is in test_yaml.py.
"""

from __future__ import annotations

import os
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from llamactl_py.config.load import Sources
from llamactl_py.config.load import load as read
from llamactl_py.config.settings import Settings
from llamactl_py.config.variables import KNOWN_VARIABLES, variables
from llamactl_py.ground.errors import BadConfiguration

KEY = "0123456789abcdef"


def load(file: Path | None, environ: dict[str, str], flags: dict[str, object]) -> Settings:
    """The settings. Without a file, none of this machine is looked for either."""
    return read(Sources(file or Path(os.devnull), environ, flags)).settings


def load_text(folder: Path, text: str, environ: dict[str, str] | None = None, flags: dict[str, object] | None = None) -> Settings:
    file = folder / "llamactl.yaml"
    file.write_text(text)
    return load(file, environ or {}, flags or {})


def value_of(settings: Settings, name: str) -> Any:
    return reduce(lambda part, step: getattr(part, step.replace("-", "_")), name.split("."), settings)


def complaint(folder: Path, text: str, environ: dict[str, str] | None = None, flags: dict[str, object] | None = None) -> str:
    """What is said, without the name of the folder."""
    with pytest.raises(BadConfiguration) as caught:
        load_text(folder, text, environ, flags)
    return str(caught.value).replace(f"{folder}/", "")


def test_without_a_file_the_door_is_on_loopback_and_locked() -> None:
    settings = load(None, {}, {})
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8080)
    assert settings.server.allowed_hosts == ()
    assert settings.auth.require_inference_auth
    assert settings.auth.require_management_auth
    assert settings.data_dir.is_absolute()
    assert settings.logs_dir == settings.data_dir / "logs"


@pytest.mark.parametrize(
    ("text", "environ", "flags", "port"),
    [
        ("", {}, {}, 8080),
        ("server: {port: 1}", {}, {}, 1),
        ("server: {port: 1}", {"LLAMACTL_PORT": "2"}, {}, 2),
        ("server: {port: 1}", {"LLAMACTL_PORT": "2"}, {"server.port": 3}, 3),
        ("server: {port: 1}", {}, {"server.port": 3}, 3),
        ("server: {port: 1}", {"LLAMACTL_PORT": ""}, {"server.port": None}, 1),
        ("", {"LLAMACTL_PORT": "2"}, {}, 2),
        ("instances: {max_instances: 5}", {"LLAMACTL_PORT": "2"}, {}, 2),
    ],
)
def test_flags_win_over_variables_over_the_file_over_defaults(
    tmp_path: Path, text: str, environ: dict[str, str], flags: dict[str, object], port: int
) -> None:
    assert load_text(tmp_path, text, environ, flags).server.port == port


def test_one_layer_does_not_hide_what_another_says_beside_it(tmp_path: Path) -> None:
    settings = load_text(tmp_path, "server: {port: 1, host: '::1'}", {"LLAMACTL_BODY_TIMEOUT": "7s"}, {"server.port": 3})
    assert (settings.server.port, settings.server.host, settings.server.body_timeout) == (3, "::1", 7.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sever:\n  port: 1\n", "llamactl.yaml:1: sever: unknown key (did you mean 'server'?)"),
        ("# a comment\n\nserver:\n  prot: 1\n", "llamactl.yaml:4: server.prot: unknown key (did you mean 'port'?)"),
        ("server: {port: 1,\n hots: x}\n", "llamactl.yaml:2: server.hots: unknown key (did you mean 'host'?)"),
        ("server.port: 1\n", "llamactl.yaml:1: server.port: unknown key (did you mean 'server'?)"),
        ("qqqqqqq: 1\n", "llamactl.yaml:1: qqqqqqq: unknown key"),
        ("backends:\n  lama-cpp: {}\n", "llamactl.yaml:2: backends.lama-cpp: unknown key (did you mean 'llama-cpp'?)"),
        ("backends:\n  llama-cpp: {}\n  llama_cpp: {}\n", "llamactl.yaml:3: backends.llama_cpp: unknown key (did you mean"),
        ("backends:\n  vllm:\n    comand: x\n", "llamactl.yaml:3: backends.vllm.comand: unknown key (did you mean 'command'?)"),
        ("server:\n  port: 99999\n", "llamactl.yaml:2: server.port: expected a whole number from 0 to 65535, got 99999"),
        ("server:\n  port: true\n", "llamactl.yaml:2: server.port: expected a whole number from 0 to 65535, got true"),
        ("server:\n  host: no\n", "llamactl.yaml:2: server.host: expected text, got false"),
        ("server:\n  host: 2024-01-01\n", "llamactl.yaml:2: server.host: expected text, got date"),
        ("server: 5\n", "llamactl.yaml:1: server: expected an object with named fields, got a number"),
        ("server:\nserver:\n", "llamactl.yaml:2: server is given twice"),
        (
            "server:\n  body_timeout: soon\n",
            "llamactl.yaml:2: server.body_timeout: 'soon' is not a duration; write a number or a string such as '90s',",
        ),
        ("instances:\n\n  port_range: [9000, 8000]\n", "llamactl.yaml:3: instances.port_range: [9000, 8000] must be ascending"),
        ("instances:\n  log_rotation_max_size: .inf\n", "llamactl.yaml:2: instances.log_rotation_max_size: expected a num"),
        ("backends:\n  vllm:\n    environment:\n      A: 1\n", "llamactl.yaml:4: backends.vllm.environment.A: expected text"),
        (
            "backends:\n  vllm:\n    args:\n    - a\n    - 1\n",
            "llamactl.yaml:5: backends.vllm.args.1: expected text, got 1",
        ),
        ("data_dir: ''\n", "llamactl.yaml:1: data_dir: is empty or holds a NUL character"),
        ('data_dir: "a\\0b"\n', "llamactl.yaml:1: data_dir: is empty or holds a NUL character"),
        ("- server\n", "llamactl.yaml:1: expected settings by name, got a list"),
        ("server\n", "llamactl.yaml:1: expected settings by name, got text"),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    assert complaint(tmp_path, text).startswith(said)


@pytest.mark.parametrize("name", ["llama-cpp", "llama_cpp"])
def test_a_backend_is_known_by_its_slug_and_by_its_type(tmp_path: Path, name: str) -> None:
    settings = load_text(tmp_path, f"backends: {{{name}: {{command: /opt/llama-server}}}}\n")
    assert settings.backends.of("llama-cpp").command == "/opt/llama-server"
    assert settings.backends.of("mlx").command == ""


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    said = complaint(tmp_path, "sever: 1\nserver:\n  port: x\n  body_timeout: y\n", {"LLAMACTL_MAX_INSTANCES": "many"})
    for where in ("llamactl.yaml:1: sever", "llamactl.yaml:3: server.port", "llamactl.yaml:4: server.body_timeout"):
        assert where in said
    assert "environment variable LLAMACTL_MAX_INSTANCES: expected a whole number of at least -1, got 'many'" in said


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"LLAMACTL_PROT": "1"}, "environment variable LLAMACTL_PROT: unknown (did you mean 'LLAMACTL_PORT'?)"),
        ({"LLAMACTL_": "1"}, "environment variable LLAMACTL_: unknown"),
        ({"LLAMACTL_PORT": "x"}, "environment variable LLAMACTL_PORT: expected a whole number from 0 to 65535, got 'x'"),
        ({"LLAMACTL_PORT": "9" * 5000}, "environment variable LLAMACTL_PORT: expected a whole number from 0 to 65535, got text"),
        ({"LLAMACTL_PORT": "70000"}, "environment variable LLAMACTL_PORT: expected a whole number from 0 to 65535, got '70000'"),
        ({"LLAMACTL_BODY_TIMEOUT": "forever"}, "environment variable LLAMACTL_BODY_TIMEOUT: 'forever' is not a duration"),
        (
            {"LLAMACTL_REQUIRE_MANAGEMENT_AUTH": "maybe"},
            "environment variable LLAMACTL_REQUIRE_MANAGEMENT_AUTH: expected true or false, got 'maybe'",
        ),
        (
            {"LLAMACTL_INSTANCE_PORT_RANGE": "9000-8000"},
            "environment variable LLAMACTL_INSTANCE_PORT_RANGE: [9000, 8000] must be",
        ),
        ({"LLAMACTL_INSTANCE_PORT_RANGE": "8000"}, "environment variable LLAMACTL_INSTANCE_PORT_RANGE: "),
        (
            {"LLAMACTL_MANAGEMENT_KEYS": "short"},
            "environment variable LLAMACTL_MANAGEMENT_KEYS: takes a list of keys, each of 16",
        ),
        ({"LLAMACTL_DATA_DIRECTORY": " "}, "environment variable LLAMACTL_DATA_DIRECTORY: is empty"),
        ({"LLAMACTL_VLLM_ARGS": "a 'b"}, "environment variable LLAMACTL_VLLM_ARGS: No closing quotation"),
        ({"LLAMACTL_MLX_ENV": "A=1,B"}, "environment variable LLAMACTL_MLX_ENV: expected NAME=value,NAME=value"),
    ],
)
def test_a_mistake_in_a_variable_is_told_with_its_name(tmp_path: Path, environ: dict[str, str], said: str) -> None:
    assert complaint(tmp_path, "server: {port: 1}", environ).startswith(said)


def test_variables_of_others_are_none_of_our_business() -> None:
    assert load(None, {"LLAMA_CACHE": "x", "llamactl_port": "1", "PORT": "2"}, {}).server.port == 8080


@pytest.mark.parametrize("variable", ["LLAMACTL_CONFIG_PATH", "LLAMACTL_URL", "LLAMACTL_API_KEY", "LLAMACTL_SPAWN"])
def test_our_variables_that_are_no_settings_are_known(variable: str) -> None:
    assert load(None, {variable: "x"}, {}) == load(None, {}, {})


@pytest.mark.parametrize(
    ("flag", "said"), [("x", "--port: expected a whole number from 0"), (70000, "--port: expected a whole number from 0")]
)
def test_a_mistake_in_a_flag_is_told_with_its_name(tmp_path: Path, flag: object, said: str) -> None:
    assert complaint(tmp_path, "server: {port: 1}", {"LLAMACTL_PORT": "2"}, {"server.port": flag}).startswith(said)


@pytest.mark.parametrize("text", ["server: 5\n", "server: x\n", "server: []\n"])
def test_a_variable_on_top_of_a_wrong_section_does_not_hide_the_mistake(tmp_path: Path, text: str) -> None:
    said = complaint(tmp_path, text, {"LLAMACTL_PORT": "2"})
    assert said.startswith("llamactl.yaml:1: server: expected an object with named fields, got ")


def test_nothing_behind_a_colon_means_the_default(tmp_path: Path) -> None:
    """As when everything below it is commented out."""
    file = tmp_path / "llamactl.yaml"
    file.write_text("server:\n  # port: 1\ninstances:\n  logs_dir:\n  max_instances: 3\n")
    settings = load(file, {}, {})
    assert (settings.server, settings.instances.max_instances) == (load(None, {}, {}).server, 3)


A_AND_B = {"A": "1", "B": "x=y"}
SAMPLES: dict[str, tuple[str, object]] = {
    "server.host": ("::1", "::1"),
    "server.allowed_hosts": ("a.example, b.example,", ("a.example", "b.example")),
    "instances.port_range": ("21000-21010", (21000, 21010)),
    "auth.management_keys": (f"{KEY},{KEY[::-1]}", (KEY, KEY[::-1])),
    "server.max_body_size": ("2048", 2048),
    "server.max_buffered_bodies": ("2097152", 2097152),
    "instances.group_limits": ("a=1, b=2", {"a": 1, "b": 2}),
    "data_dir": ("~/models", Path.home() / "models"),
    "instances.logs_dir": ("/var/log/x", Path("/var/log/x")),
    "instances.sockets_dir": ("/run/x", Path("/run/x")),
}


@pytest.mark.parametrize(("name", "variable"), list(variables()))
def test_every_variable_sets_its_setting(name: str, variable: str) -> None:
    default = value_of(load(None, {}, {}), name)
    by_type = {bool: (str(not default), not default), int: ("11", 11), float: ("11", 660.0 if "idle_timeout" in name else 11.0)}
    by_last_name = {
        "command": ("/opt/x", "/opt/x"),
        "engine": ("podman", "podman"),
        "image": ("a/b", "a/b"),
        "args": ("-a 'b c'", ("-a", "b c")),
        "environment": ("A=1,B=x=y", A_AND_B),
    }
    text, expected = SAMPLES.get(name) or by_last_name.get(name.rpartition(".")[2]) or by_type[type(default)]
    assert value_of(load(None, {variable: text}, {}), name) == expected != default


def test_no_two_settings_share_a_variable() -> None:
    names = [variable for _, variable in variables()]
    assert len(names) == len(set(names)) > 25
    assert KNOWN_VARIABLES.issuperset(names)


@pytest.mark.parametrize(
    "text",
    [
        f"auth:\n  management_keys: canary-{KEY}\n",
        f"auth:\n  management_keys: [canary-{KEY}, 5]\n",
        "auth:\n  management_keys: [canary-short]\n",
        f"auth:\n  management_keys: {{canary-{KEY}: 1}}\n",
        f"auth:\n  management_keys: ['canary-{KEY} {KEY}']\n",
        f"auth:\n  management_keys: ['canary-{KEY}ü']\n",
        f"auth:\n  management_keys: ['canary-{KEY * 40}']\n",
    ],
)
def test_a_key_that_is_not_usable_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    said = complaint(tmp_path, text)
    assert said.startswith("llamactl.yaml:2: auth.management_keys: takes a list of keys")
    assert "canary" not in said


def test_home_is_understood_in_paths(tmp_path: Path) -> None:
    settings = load_text(tmp_path, "data_dir: ~/llamactl\ninstances: {logs_dir: /var/log/llamactl}\n")
    assert settings.data_dir == Path.home() / "llamactl"
    assert settings.logs_dir == Path("/var/log/llamactl")


def test_a_missing_file_is_told_and_not_made_up_for(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match=r"none\.yaml: cannot be read: No such file or directory"):
        load(tmp_path / "none.yaml", {}, {})
    with pytest.raises(BadConfiguration, match="cannot be read: Is a directory"):
        load(tmp_path, {}, {})
