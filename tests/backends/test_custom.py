"""Any other command: its options, its placeholders, and what is started in the end."""

from __future__ import annotations

from typing import Any

import pytest

from llamactl_py.backends import BACKENDS, Served, parse_command
from llamactl_py.backends.placeholders import UnknownPlaceholder, fill
from llamactl_py.config.settings import Instances
from llamactl_py.ground.errors import BadCommand, Invalid
from llamactl_py.instances.options import parse_options

CUSTOM = BACKENDS["custom"]


def started(options: dict[str, Any], environment: dict[str, str] | None = None) -> tuple[tuple[str, ...], dict[str, str]]:
    normal = CUSTOM.normalise(options).options
    words = CUSTOM.words(normal)
    assert words is not None
    line = CUSTOM.command_line(
        normal, command=words, name="mine", host="127.0.0.1", port=9000, api_key=None, environment=environment or {}
    )
    return line.argv, line.environment


def complaints(options: dict[str, Any]) -> list[str]:
    with pytest.raises(Invalid) as caught:
        CUSTOM.normalise(options)
    return [str(problem) for problem in caught.value.problems]


def test_placeholders_are_filled_in_inside_words_too() -> None:
    command = ["serve", "--listen=${HOST}:${PORT}", "-m", "${MODEL}", "${NAME}.log", "$${PORT}", "$PORT", "${PORT}${PORT}"]
    assert started({"command": command, "model": "/m/a b.gguf"}) == (
        ("serve", "--listen=127.0.0.1:9000", "-m", "/m/a b.gguf", "mine.log", "${PORT}", "$PORT", "90009000"),
        {},
    )


def test_nothing_is_appended_and_no_shell_is_involved() -> None:
    assert started({"command": ["x", "a; rm -rf /", "$(id)", "${MODEL}"], "model": "b && c `d`"})[0] == (
        "x",
        "a; rm -rf /",
        "$(id)",
        "b && c `d`",
    )


def test_the_instances_own_variables_may_hold_placeholders() -> None:
    variables = {"OLLAMA_HOST": "${HOST}:${PORT}", "PLAIN": "x", "DOLLAR": "$5"}
    assert started({"command": ["ollama", "serve"]}, variables)[1] == {"OLLAMA_HOST": "127.0.0.1:9000"}
    (problem,) = CUSTOM.environment_problems({"A": "${PROT}", "B": "${PORT}"})
    assert str(problem).startswith("environment.A: ${PROT} is no placeholder (did you mean 'PORT'?); known are ${HOST}, ")
    assert str(problem).endswith("(write $${...} for the text itself)")


def test_a_command_may_be_one_text() -> None:
    text = "vllm-wrapper serve \\\n  --listen ':${PORT}' # comment\n"
    assert CUSTOM.normalise({"command": text}).options == {"command": ["vllm-wrapper", "serve", "--listen", ":${PORT}"]}


def test_the_stop_command_knows_the_process_too() -> None:
    options = CUSTOM.normalise({"command": ["docker", "run", "x"], "stop_command": "kill -INT ${PID} ${NAME} ${PORT}"}).options
    assert CUSTOM.stop_argv(options, host="127.0.0.1", port=9000, name="mine", pid=77) == ("kill", "-INT", "77", "mine", "9000")
    assert CUSTOM.stop_argv({"command": ["x"]}, host="h", port=1) == ()
    assert all(b.stop_argv({}, host="h", port=1) == () for b in BACKENDS.values())


@pytest.mark.parametrize(
    ("said", "path"), [({}, "/health"), ({"health_path": "/v1/models"}, "/v1/models"), ({"health_path": ""}, "")]
)
def test_it_says_when_it_is_ready(said: dict[str, Any], path: str) -> None:
    assert CUSTOM.health(CUSTOM.normalise({"command": ["x"], **said}).options) == path


def test_requests_may_be_given_another_model_name() -> None:
    assert CUSTOM.served({"command": ["x"]}, "mine") == Served(None, (), open=False)
    assert CUSTOM.served({"command": ["x"], "served_model_name": "qwen3:8b"}, "mine") == Served("qwen3:8b", (), open=False)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "backend_options.command: is needed: the program and its arguments, with ${PORT} where its port belongs"),
        ({"command": []}, "backend_options.command: is needed: the program"),
        ({"command": [""]}, "backend_options.command: is needed: the program"),
        ({"command": ["${MODEL}"]}, "backend_options.command: begins with '${MODEL}': the program itself can be no placeholder"),
        (
            {"command": ["x", "${PROT}"]},
            "backend_options.command: ${PROT} is no placeholder (did you mean 'PORT'?); known are ${HOST}",
        ),
        ({"command": ["x", "${PID}"]}, "backend_options.command: ${PID} is no placeholder"),
        ({"command": ["x", "${PORT:-1}"]}, "backend_options.command: ${PORT:-1} is no placeholder"),
        ({"command": ["x"], "stop_command": ["y", "${X}"]}, "backend_options.stop_command: ${X} is no placeholder"),
        ({"command": "x && y"}, "backend_options.command: line 1, column 3: &&"),
        ({"command": "x ${Y}"}, "backend_options.command: line 1, column 3: ${Y} is no placeholder"),
        ({"command": ["x", 3.5, None]}, "backend_options.command: takes text"),
        ({"command": ["x"], "health_path": "health"}, "backend_options.health_path: takes a path such as /health"),
        ({"command": ["x"], "health_path": "/a\r\nB: c"}, "backend_options.health_path: takes a path such as /health"),
        ({"command": ["x"], "comand": 1}, "backend_options.comand: unknown option (did you mean 'command'?)"),
    ],
)
def test_what_cannot_be_run_is_refused(options: dict[str, Any], complaint: str) -> None:
    assert any(said.startswith(complaint) for said in complaints(options))


def test_a_line_of_another_tools_configuration_becomes_one() -> None:
    said = parse_command("A=1 nohup /opt/tabby/start --port ${PORT} --model '${MODEL} x' $${Y}", "custom")
    assert said.backend_options == {"command": ["/opt/tabby/start", "--port", "${PORT}", "--model", "${MODEL} x", "$${Y}"]}
    assert (said.backend_type, said.environment, said.docker) == ("custom", {"A": "1"}, None)


def test_a_container_that_is_asked_for_as_custom_stays_one_command() -> None:
    command = "docker run --name ${NAME} --init --rm -p ${PORT}:8080 some/image --ctx 4096"
    said = parse_command(command, "custom")
    assert said.backend_options == {"command": command.split()}
    assert CUSTOM.arguments(said.backend_options) == command.split()


def test_unknown_placeholders_of_a_line_are_told_with_their_place() -> None:
    with pytest.raises(BadCommand, match=r"line 1, column 10: \$\{MODEL_ID\} is no placeholder; known are \$\{HOST\}"):
        parse_command("x --name ${MODEL_ID}", "custom")


def test_a_line_that_names_no_program_of_its_own_is_refused() -> None:
    with pytest.raises(BadCommand, match=r"^command: begins with .*: the program itself can be no placeholder"):
        parse_command("${MODEL} --x", "custom")


def test_other_servers_have_no_placeholders() -> None:
    assert parse_command("llama-server --port ${PORT} --host ${HOST} -m x").backend_options == {"model": "x"}
    with pytest.raises(BadCommand, match="only commands of backend_type custom have them"):
        parse_command("llama-server --alias x${PORT}")


def test_filling_in_is_done_once() -> None:
    assert fill("${A}${B}", {"A": "${B}", "B": "$${A}"}) == "${B}$${A}"
    assert fill("${", {}) == "${"
    with pytest.raises(UnknownPlaceholder):
        fill("${}", {"A": "x"})


@pytest.mark.parametrize(
    ("command", "environment", "is_doubted"),
    [
        ("sleep 1000", {}, True),
        ("serve ${PORT}", {}, False),
        ("serve", {"ADDRESS": "${HOST}:${PORT}"}, False),
        ("serve $${PORT}", {}, True),
    ],
)
def test_a_command_that_is_not_told_its_port_is_doubted(command: str, environment: dict[str, str], is_doubted: bool) -> None:
    raw = {"backend_type": "custom", "backend_options": {"command": command}, "environment": environment}
    _, warnings = parse_options(raw, Instances())
    assert any("never gets ready" in warning for warning in warnings) is is_doubted
