"""What lies below and inside the file: `.env`, `${VAR}` in values, and llamactl's keys that are settings no more.

`read(folder, ...)` reads *folder*/llamactl.yaml, and `.env` beside it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from llamactl_py.backends.placeholders import STOP_MEANING
from llamactl_py.config import legacy
from llamactl_py.config.dotenv import MAX_FILE_BYTES, read_dotenv
from llamactl_py.config.expand import INSTANCE_WORDS, MAX_EXPANDED, Expander
from llamactl_py.config.load import Configuration, Origin, Sources, load
from llamactl_py.config.variables import KNOWN_VARIABLES, SECTIONS, variables
from llamactl_py.ground.errors import BadConfiguration


def read(
    folder: Path, text: str = "", dotenv: str = "", environ: dict[str, str] | None = None, flags: dict[str, object] | None = None
) -> Configuration:
    (folder / "llamactl.yaml").write_text(text)
    (folder / ".env").write_text(dotenv)
    return load(Sources(folder / "llamactl.yaml", environ or {}, flags or {}))


def complaints(folder: Path, text: str = "", dotenv: str = "", environ: dict[str, str] | None = None) -> list[str]:
    """Every problem, without the name of the folder."""
    with pytest.raises(BadConfiguration) as caught:
        read(folder, text, dotenv, environ)
    return [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems]


# ---- who wins, and who said it


def test_dotenv_lies_above_the_defaults_and_below_the_file(tmp_path: Path) -> None:
    dotenv = "LLAMACTL_PORT=1\nLLAMACTL_MAX_INSTANCES=5\n"
    found = read(tmp_path, "server: {port: 2}\n", dotenv)
    assert (found.settings.server.port, found.settings.instances.max_instances) == (2, 5)
    found = read(tmp_path, "server: {port: 2}\n", dotenv, {"LLAMACTL_MAX_INSTANCES": "6"}, {"server.port": 3})
    assert (found.settings.server.port, found.settings.instances.max_instances) == (3, 6)


def test_every_setting_knows_who_said_it(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "server:\n  host: '::1'\n  body_timeout: 7\ninstances:\n  port_range: [1, 2]\n",
        "\nLLAMACTL_MAX_INSTANCES=5\n",
        {"LLAMACTL_BODY_TIMEOUT": "9s", "LLAMACTL_INSTANCE_PORT_RANGE": "3-4"},
        {"server.port": 3},
    )
    file = tmp_path / "llamactl.yaml"
    assert {name: found.origins.get(name) for name, _ in variables() if name in found.origins} == {
        "server.host": Origin("file", f"{file}:2"),
        "server.port": Origin("flag", "--port"),
        "server.body_timeout": Origin("environment", "LLAMACTL_BODY_TIMEOUT"),
        "instances.port_range": Origin("environment", "LLAMACTL_INSTANCE_PORT_RANGE"),
        "instances.max_instances": Origin(".env", f"{tmp_path}/.env:2: LLAMACTL_MAX_INSTANCES"),
    }
    assert "instances.port_range.1" not in found.origins, "what the file says of the list is hidden by the variable"


def test_a_backend_in_the_file_by_its_type_meets_its_variables(tmp_path: Path) -> None:
    found = read(tmp_path, "backends: {llama_cpp: {command: x}}\n", "LLAMACTL_LLAMACPP_ARGS=-v\nLLAMACTL_LLAMACPP_COMMAND=y")
    assert (found.settings.backends.llama_cpp.command, found.settings.backends.llama_cpp.args) == ("x", ("-v",))
    assert found.origins["backends.llama-cpp.command"].source == "file"


def test_the_file_is_looked_for_where_llamactl_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    sources = Sources(None, environ, {})
    own = tmp_path / "xdg" / "llamactl" / "config.yaml"
    own.parent.mkdir(parents=True)
    (tmp_path / "config.yaml").write_text("models: {}  # llama-swap's")
    assert sources.find() in (None, Path("/etc/llamactl/config.yaml"))
    own.write_text("server: {port: 1}")
    assert sources.find() == own
    (tmp_path / "llamactl.yaml").write_text("server: {port: 2}")
    assert load(sources).settings.server.port == 2
    (tmp_path / "named.yaml").write_text("server: {port: 3}")
    assert Sources(None, {**environ, "LLAMACTL_CONFIG_PATH": "named.yaml"}, {}).find() == tmp_path / "named.yaml"
    assert Sources(Path("other.yaml"), {"LLAMACTL_CONFIG_PATH": "named.yaml"}, {}).find() == tmp_path / "other.yaml"


def test_dotenv_is_beside_the_file_or_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("LLAMACTL_PORT=1")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "c.yaml").write_text("")
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert load(Sources(None, environ, {})).settings.server.port == 1
    assert load(Sources(Path("etc/c.yaml"), environ, {})).settings.server.port == 8080
    (tmp_path / "etc" / ".env").write_text("LLAMACTL_PORT=2")
    assert load(Sources(Path("etc/c.yaml"), environ, {})).settings.server.port == 2


def test_what_dotenv_says_of_others_reaches_the_backends_below_the_real_environment(tmp_path: Path) -> None:
    found = read(tmp_path, "", "HF_TOKEN=hf_1\nHF_HOME=/a", {"HF_HOME": "/b"})
    assert (found.environ["HF_TOKEN"], found.environ["HF_HOME"]) == ("hf_1", "/b")


# ---- .env


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=1", "1"),
        ("  export A = 1  ", "1"),
        ("A=", ""),
        ("A=a b  # comment", "a b"),
        ("A=a#b", "a#b"),
        ("A= # comment", ""),
        ("A='a # \"b\" $X \\n'", 'a # "b" $X \\n'),
        ('A="a # \\"b\\" \\$X \\n\\\\ \\d"', 'a # "b" $X \n\\ \\d'),
        ("A='x' # comment", "x"),
        ("A=$HOME/${B}", "$HOME/${B}"),
        ("A=ü=ß", "ü=ß"),
    ],
)
def test_a_line_of_dotenv_is_read_as_it_looks(tmp_path: Path, line: str, value: str) -> None:
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbf# comment\r\n\r\n" + line.encode() + b"\r\n")
    said = read_dotenv(tmp_path / ".env")
    assert (said.variables, said.lines, said.problems) == ({"A": value}, {"A": 3}, [])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("secret", "expected NAME=value"),
        ("1A=secret", "expected NAME=value"),
        ("A B=secret", "expected NAME=value"),
        ("A='secret", "A: the ' is never closed"),
        ('A="secret\\"', 'A: the " is never closed'),
        ("A='sec'ret", "A: something follows the closing '"),
        ("A=sec\0ret", "A: holds a NUL character"),
        ("B=secret\nB=2", "B is given twice"),
    ],
)
def test_a_line_of_dotenv_that_is_not_understood_is_told_without_its_value(tmp_path: Path, line: str, said: str) -> None:
    (told,) = complaints(tmp_path, dotenv=f"X=1\n{line}\n")
    assert told.startswith(f".env:{3 if 'twice' in said else 2}: {said}")
    assert "secret" not in told
    assert "ret" not in told.replace("secret", "")


def test_mistakes_in_dotenv_are_told_with_file_line_and_variable(tmp_path: Path) -> None:
    said = complaints(tmp_path, dotenv='LLAMACTL_PROT=1\nLLAMACTL_PORT=x\nLLAMACTL_CONFIG_PATH=y\nLLAMACTL_VLLM_ARGS="\'"\n')
    assert len(said) == 4
    assert any(s.startswith(".env:1: LLAMACTL_PROT: unknown (did you mean 'LLAMACTL_PORT'?)") for s in said)
    assert any(s.startswith(".env:2: LLAMACTL_PORT: expected a whole number") for s in said)
    assert any(s.startswith(".env:3: LLAMACTL_CONFIG_PATH: cannot be set here") for s in said)
    assert any(s.startswith(".env:4: LLAMACTL_VLLM_ARGS: No closing quotation") for s in said)


@pytest.mark.parametrize("content", [b"A=\xff", b"#" * (MAX_FILE_BYTES + 1)])
def test_a_dotenv_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.yaml").write_text("")
    (tmp_path / ".env").write_bytes(content)
    with pytest.raises(BadConfiguration, match=r"\.env: is (not UTF-8|over)"):
        load(Sources(tmp_path / "c.yaml", {}, {}))


def test_a_directory_called_dotenv_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("")
    (tmp_path / ".env").mkdir()
    with pytest.raises(BadConfiguration, match=r"\.env: cannot be read: Is a directory"):
        load(Sources(tmp_path / "c.yaml", {}, {}))


# ---- ${VAR}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${A}", "1"),
        ("x${A}y${A}", "x1y1"),
        ("${A:-2}", "1"),
        ("${NONE:-2}", "2"),
        ("${EMPTY:-2}", "2"),
        ("${EMPTY}", ""),
        ("${NONE:-}", ""),
        ("${NONE:-a:-b $c}", "a:-b $c"),
        ("$${A}", "${A}"),
        ("$$${A}", "$${A}"),
        ("${REF}", "${A}"),
        ("$A", None),
        ("a $ { b }", None),
        ("", None),
    ],
)
def test_variables_are_filled_in_once(text: str, value: str | None) -> None:
    assert Expander({"A": "1", "EMPTY": "", "REF": "${A}"}).expand(text) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("${NONE}", "the variable NONE is not set; set it in the environment or in .env, or give a default: ${NONE:-text}"),
        ("${A", "begins a variable"),
        ("${}", "begins a variable"),
        ("${A:-${B}}", "begins a variable"),
        ("${A-b}", "begins a variable"),
        ("${1}", "begins a variable"),
    ],
)
def test_a_reference_that_means_nothing_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("$", r"\$").replace("{", r"\{")):
        Expander({"A": "1"}).expand(text)


def test_variables_cannot_make_a_small_file_huge() -> None:
    expander = Expander({"A": "x" * (MAX_EXPANDED // 4)})
    expander.expand("${A}" * 4)
    with pytest.raises(ValueError, match="come to over"):
        expander.expand("${A}")


def test_a_variable_in_the_file_is_read_as_its_setting_and_not_by_its_looks(tmp_path: Path) -> None:
    text = """\
server:
  port: ${PORT}
  host: ${HOST}
  access_log: ${LOG:-yes}
  body_timeout: ${TIMEOUT:-90s}
instances: {port_range: ["${LOW}", 9000], max_instances: "${MANY:-7}", max_running_instances: }
backends: {vllm: {environment: {NUMBER: "${PORT}", TOKEN: "${EMPTY}", PRICE: "$${5}"}}}
auth:
  management_keys: ["${KEY}"]
  require_inference_auth: ${EMPTY}
"""
    environ = {"PORT": "8081", "HOST": "::1", "LOW": "8100", "EMPTY": "", "KEY": "1234567890123456"}
    settings = read(tmp_path, text, environ=environ).settings
    assert (settings.server.port, settings.server.host, settings.server.access_log) == (8081, "::1", True)
    assert settings.server.body_timeout == 90
    assert settings.instances.port_range == (8100, 9000)
    assert settings.instances.max_instances == 7
    assert settings.auth.require_inference_auth, "empty counts as unset"
    assert settings.backends.vllm.environment == {"NUMBER": "8081", "TOKEN": "", "PRICE": "${5}"}
    assert settings.auth.management_keys == ("1234567890123456",)


def test_what_dotenv_says_can_be_used_in_the_file(tmp_path: Path) -> None:
    assert read(tmp_path, "server: {port: '${MY_PORT}'}", "MY_PORT=81").settings.server.port == 81
    assert read(tmp_path, "server: {port: '${MY_PORT}'}", "MY_PORT=81", {"MY_PORT": "82"}).settings.server.port == 82


def test_every_unset_variable_is_told_with_its_line_beside_all_other_mistakes(tmp_path: Path) -> None:
    text = "server:\n  port: ${A}\n  host: ${B}\n  prot: 1\n  port: 2\nbackends:\n  mlx: {args: ['${C']}\n"
    said = complaints(tmp_path, text, environ={"LLAMACTL_MAX_INSTANCES": "x"})
    wanted = ("llamactl.yaml:2: server.port: the variable A", "llamactl.yaml:3: server.host: the variable B")
    for where in (
        *wanted,
        "llamactl.yaml:4: server.prot",
        "llamactl.yaml:5: port is given twice",
        "llamactl.yaml:7: backends.mlx",
    ):
        assert any(s.startswith(where) for s in said), where
    assert any(s.startswith("environment variable LLAMACTL_MAX_INSTANCES") for s in said)


def test_names_and_comments_are_not_expanded(tmp_path: Path) -> None:
    found = read(tmp_path, "# ${NONE}\nbackends: {vllm: {environment: {'${NONE}': x}}}\n")
    assert found.settings.backends.vllm.environment == {"${NONE}": "x"}


def test_what_an_instance_fills_in_at_its_start_is_left_to_it(tmp_path: Path) -> None:
    text = "declared_instances: {a: {command: 'x --port ${PORT} ${HOST} ${MODEL} ${A} ${PORT:-1}'}}\nserver: {host: '${HOST}'}\n"
    found = read(tmp_path, text, environ={"A": "1", "PORT": "2", "HOST": "::1"})
    assert found.declared == {"a": {"command": "x --port ${PORT} ${HOST} ${MODEL} 1 2"}}
    assert found.settings.server.host == "::1"


def test_the_words_left_to_instances_are_those_that_custom_commands_know() -> None:
    assert set(STOP_MEANING) == INSTANCE_WORDS


# ---- llamactl's keys

SECTION_7 = """\
server:
  {host: 127.0.0.1, port: 1, allowed_origins: ["*"], allowed_headers: ["*"], enable_swagger: false, response_headers: {A: b}}
data_dir: /tmp/x
backends:
  llama-cpp:
    command: llama-server
    args: []
    environment: {}
    docker: {enabled: false, image: i, args: [run], environment: {}}
    response_headers: {A: b}
    cache_dir: /tmp/cache
    download_timeout: 1h
  vllm:
    command: vllm
    args: [serve]
    environment: {}
    docker: {enabled: false, image: i, args: [run], environment: {}}
    response_headers: {A: b}
  mlx: {command: mlx_lm.server, args: [], environment: {}, response_headers: {A: b}}
instances:
  port_range: [8000, 9000]
  auto_create_dirs: true
  max_instances: -1
  max_running_instances: -1
  group_limits: {a: 1}
  enable_lru_eviction: true
  default_idle_timeout: 30
  default_auto_restart: true
  default_max_restarts: 3
  default_restart_delay: 5
  default_on_demand_start: true
  on_demand_start_timeout: 120
  timeout_check_interval: 5
  logs_dir: /tmp/logs
  instances_dir: /tmp/instances
  configs_dir: /tmp/instances
  log_rotation_enabled: true
  log_rotation_max_size: 100
  log_rotation_compress: false
database: {path: /tmp/x.db, max_open_connections: 25, max_idle_connections: 5, connection_max_lifetime: 5m}
auth: {require_inference_auth: true, require_management_auth: true, management_keys: []}
local_node: main
nodes: {main: {}}
"""
"""Every key of llamactl's configuration file."""

SECTION_7_VARIABLES = """\
HOST=127.0.0.1 PORT=8080 ALLOWED_ORIGINS=a,b ENABLE_SWAGGER=true DATA_DIRECTORY=/tmp/x LLAMACPP_COMMAND=x LLAMACPP_ARGS=-a
LLAMACPP_ENV=A=b LLAMACPP_DOCKER_ENABLED=true LLAMACPP_DOCKER_IMAGE=i LLAMACPP_DOCKER_ARGS=run LLAMACPP_DOCKER_ENV=A=b
LLAMACPP_RESPONSE_HEADERS=A=b VLLM_RESPONSE_HEADERS=A=b MLX_RESPONSE_HEADERS=A=b LLAMACPP_CACHE_DIR=/x
LLAMACPP_DOWNLOAD_TIMEOUT=5 VLLM_COMMAND=x VLLM_ARGS=serve VLLM_ENV=A=b VLLM_DOCKER_ENABLED=true VLLM_DOCKER_IMAGE=i
VLLM_DOCKER_ARGS=run VLLM_DOCKER_ENV=A=b MLX_COMMAND=x MLX_ARGS=a MLX_ENV=A=b INSTANCE_PORT_RANGE=8000-9000
AUTO_CREATE_DATA_DIR=true MAX_INSTANCES=1 MAX_RUNNING_INSTANCES=1 GROUP_LIMITS=a=1 ENABLE_LRU_EVICTION=true
DEFAULT_IDLE_TIMEOUT=30 DEFAULT_AUTO_RESTART=true DEFAULT_MAX_RESTARTS=3 DEFAULT_RESTART_DELAY=5 DEFAULT_ON_DEMAND_START=true
ON_DEMAND_START_TIMEOUT=120 TIMEOUT_CHECK_INTERVAL=5 LOGS_DIR=/tmp/l INSTANCES_DIR=/tmp/i LOG_ROTATION_ENABLED=true
LOG_ROTATION_MAX_SIZE=100 LOG_ROTATION_COMPRESS=false DATABASE_PATH=/x DATABASE_MAX_OPEN_CONNECTIONS=1
DATABASE_MAX_IDLE_CONNECTIONS=1 DATABASE_CONN_MAX_LIFETIME=5m REQUIRE_INFERENCE_AUTH=true REQUIRE_MANAGEMENT_AUTH=true
MANAGEMENT_KEYS=0123456789abcdef LOCAL_NODE=main LOG_LEVEL=info CONFIG_PATH=
"""


def leaves(tree: object, prefix: str = "") -> list[str]:
    """Every dotted name; a map that is no section of settings is one."""
    if not isinstance(tree, dict) or (prefix and prefix not in SECTIONS):
        return [prefix]
    return [leaf for key, value in tree.items() for leaf in leaves(value, f"{prefix}.{key}" if prefix else key)]


def test_every_key_of_llamactl_is_a_setting_or_is_told_what_replaces_it(tmp_path: Path) -> None:
    found = read(tmp_path, SECTION_7)
    settings = {name for name, _ in variables()}
    for leaf in leaves(yaml.safe_load(SECTION_7)):
        told = [warning for warning in found.warnings if f": {leaf} is not used: " in warning]
        assert (leaf in settings) != bool(told), leaf
        assert all(warning.startswith(f"{tmp_path}/llamactl.yaml:") for warning in told)


def test_every_variable_of_llamactl_is_a_setting_or_is_told_what_replaces_it(tmp_path: Path) -> None:
    given = {f"LLAMACTL_{name}": value for name, _, value in (pair.partition("=") for pair in SECTION_7_VARIABLES.split())}
    del given["LLAMACTL_CONFIG_PATH"]
    found = read(tmp_path, environ=given)
    for variable in given:
        told = [warning for warning in found.warnings if warning.startswith(f"environment variable {variable}: is not used: ")]
        assert (variable in KNOWN_VARIABLES) != bool(told), variable


def test_a_key_of_llamactl_that_became_a_setting_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(legacy, "KEYS", {"server.port": "nothing", "backends.*.command": "nothing"})
    found = read(tmp_path, "server: {port: 1}\nbackends: {llama-cpp: {command: x}, llama_cpp_python: {command: y}}\n")
    assert (found.warnings, found.settings.server.port, found.settings.backends.llama_cpp.command) == ((), 1, "x")


def test_what_was_left_out_with_a_warning_hides_no_mistake_beside_it(tmp_path: Path) -> None:
    (said,) = complaints(tmp_path, "database: {path: x}\nserver:\n  allowed_originz: []\n")
    assert said.startswith("llamactl.yaml:3: server.allowed_originz: unknown key")


def test_nothing_is_read_that_nobody_named(tmp_path: Path) -> None:
    assert load(Sources(Path(os.devnull), {}, {})).file == Path(os.devnull)
