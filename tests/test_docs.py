"""The documents: all that the code has is on its page, generated parts are current, links lead somewhere, and commands exist.

Names are looked for as `code`, the way the pages write them. `console_lines` are what a reader would type.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from msgspec import Struct
from msgspec.structs import replace

from llamactl_py.api.problems import TABLE
from llamactl_py.api.system import PAGES
from llamactl_py.app import API
from llamactl_py.backends import BACKENDS
from llamactl_py.cli.main import COMMANDS, cli
from llamactl_py.config.load import Sources, load
from llamactl_py.config.settings import Backend, Settings
from llamactl_py.config.variables import OTHER_VARIABLES, variables
from llamactl_py.ground.fields import fields_of
from llamactl_py.instances.options import InstanceOptions
from llamactl_py.instances.state import EDGES, State
from tests.support.daemons import daemon

ROOT = Path(__file__).parent.parent
APIDOCS = ROOT / "apidocs"
GUIDES = sorted(page.name for page in APIDOCS.glob("*.md"))
DOCUMENTS = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES_WITH_LINKS = [
    *DOCUMENTS,
    *(APIDOCS / name for name in GUIDES),
    ROOT / "llamactl_py" / "scheduler" / "design.md",
    ROOT / "llamactl_py" / "proxy" / "design.md",
    ROOT / "benchmarks" / "README.md",
]


def page(name: str) -> str:
    return (APIDOCS / name).read_text()


def missing(names: list[str], text: str) -> list[str]:
    """Those of *names* that *text* has nowhere as the beginning of a piece of code."""
    return [name for name in names if not re.search(rf"`{re.escape(name)}(?![\w-])", text)]


def settings(model: type[Struct] = Settings, prefix: str = "") -> Iterator[str]:
    for field in fields_of(model):
        if field.name == "backends":
            yield from (f"backends.KIND.{inner}" for inner in Backend.__struct_fields__)
        elif field.section:
            yield from settings(field.section, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def commands(
    command: click.Command = cli, words: tuple[str, ...] = ("llamactl",)
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with its words, groups included."""
    yield words, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            if below := command.get_command(context, name):
                yield from commands(below, (*words, name))


COMMAND_OF = dict(commands())


def spellings(option: click.Option) -> list[str]:
    """`--start` and `--no-start`, too."""
    return [*option.opts, *option.secondary_opts]


# ---- everything has its place


def test_every_setting_and_variable_is_in_the_configuration_guide() -> None:
    assert missing([*settings(), *(variable for _, variable in variables()), *OTHER_VARIABLES], page("configuration.md")) == []


def test_every_instance_option_and_state_is_in_the_instances_guide() -> None:
    assert missing([*InstanceOptions.__struct_fields__, *State], page("instances.md")) == []


def test_the_diagram_of_states_has_the_edges_of_the_code() -> None:
    drawn = {(State(a), State(b)) for a, b in re.findall(r"^    (\w+) --> (\w+):", page("instances.md"), re.MULTILINE)}
    by_a_defect_only = {(state, State.FAILED) for state in (State.STOPPED, State.READY, State.STOPPING)}
    assert drawn == {(a, b) for a, to in EDGES.items() for b in to} - by_a_defect_only


def test_every_backend_is_in_the_backends_guide() -> None:
    assert missing([name for b in BACKENDS.values() for name in (b.type, b.slug, " ".join(b.command))], page("backends.md")) == []


def test_every_error_code_is_in_the_proxy_guide() -> None:
    assert missing([name for _, name in TABLE.values()], page("proxy.md")) == []


def test_every_route_is_in_the_api_guide() -> None:
    rows = [line for line in page("api.md").splitlines() if line.startswith("| ")]
    lost = [
        f"{route.method} {route.openapi_path}"
        for route in (*API, *PAGES)
        if not any(f"`{route.openapi_path}`" in row and route.method in row.split("|")[1] for row in rows)
    ]
    assert lost == []


def test_every_command_and_option_is_in_the_guide_to_the_command_line() -> None:
    text = page("cli.md")
    sections = {match[1]: match[0] for match in re.finditer(r"^#+ (llamactl.*)\n(?:(?!^#).*\n)*", text, re.MULTILINE)}
    for words, command in COMMAND_OF.items():
        section = sections[" ".join(words)]
        options = [spelling for p in command.params if isinstance(p, click.Option) for spelling in spellings(p)]
        assert [option for option in options if option not in section] == [], words


def test_every_guide_is_in_the_index() -> None:
    assert [name for name in GUIDES if name != "README.md" and f"({name})" not in page("README.md")] == []


# ---- generated parts


@pytest.mark.parametrize("script", ["docs.py", "openapi.py", "config_schema.py"])
def test_generated_documents_are_current(script: str) -> None:
    done = subprocess.run(
        (sys.executable, str(ROOT / "scripts" / script), "--check"), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_generated_part_has_its_place() -> None:
    source = (ROOT / "scripts" / "docs.py").read_text()
    known = next(
        {ast.literal_eval(key) for key in node.value.keys if key}
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict) and ast.unparse(node.target) == "PARTS"
    )
    placed = [name for guide in GUIDES for name in re.findall(r"<!-- generated: ([\w-]+) -->", page(guide))]
    assert sorted(placed) == sorted(known)


# ---- links


def anchors(text: str) -> set[str]:
    """What GitHub makes of headings."""
    without_code = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", without_code, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", PAGES_WITH_LINKS, ids=lambda document: str(document.relative_to(ROOT)))
def test_relative_links_and_anchors_lead_somewhere(document: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            broken.append(target)
    assert broken == []


def test_the_check_of_links_sees_what_is_broken() -> None:
    assert anchors("# A `b` c-d\n```\n# no heading\n```\n## E_f: g\n") == {"a-b-c-d", "e_f-g"}


# ---- commands


def console_lines(text: str) -> Iterator[str]:
    """What stands behind a prompt in console blocks, lines that end in a backslash joined."""
    for block in re.findall(r"```console[^\n]*\n(.*?)```", text, re.DOTALL):
        yield from (line[2:] for line in block.replace("\\\n", " ").splitlines() if line.startswith(("$ ", "# ")))


def llamactl_calls(line: str) -> Iterator[list[str]]:
    """The words behind each `llamactl` in *line*, as far as they are its own."""
    for call in re.findall(r"(?<![\w/.-])llamactl (.*)", line):
        words = shlex.split(call.partition(")")[0] if "$(" in line else call, comments=True)
        yield words[: words.index("--")] if "--" in words else words


def resolved(words: list[str]) -> click.Command:
    """The command that *words* call; fails for an unknown command or option."""
    command: click.Command = cli
    path: tuple[str, ...] = ("llamactl",)
    rest = iter(words)
    for word in rest:
        options = {spelling: p for p in command.params if isinstance(p, click.Option) for spelling in spellings(p)}
        if word.startswith("-") and word != "-":  # that stands for stdin
            assert word in options, f"{' '.join(path)} has no option {word}"
            if not options[word].is_flag:
                next(rest)
        elif isinstance(command, click.Group):
            path = (*path, word)
            assert path in COMMAND_OF, f"there is no command {' '.join(path)}"
            command = COMMAND_OF[path]
    return command


@pytest.mark.parametrize("document", [*DOCUMENTS, *(APIDOCS / name for name in GUIDES)], ids=lambda document: document.name)
def test_commands_in_documents_exist(document: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in console_lines(document.read_text()):
        for words in llamactl_calls(line):
            assert isinstance(resolved(words), click.Command)
        if line.startswith("make "):
            target = next(word for word in line.split()[1:] if "=" not in word)
            assert target in targets, line


def test_the_readme_has_the_two_commands_and_a_quick_start() -> None:
    lines = list(console_lines((ROOT / "README.md").read_text()))
    assert [line.split("#")[0].strip() for line in lines[:2]] == ["make demo", "make test"]
    assert {words[0] for line in lines for words in llamactl_calls(line)} <= set(COMMANDS)
    assert any(words[0] == "create" for line in lines for words in llamactl_calls(line))


def test_the_check_of_commands_sees_what_is_wrong() -> None:
    for bad in ("llamactl strat x", "llamactl ps --jsno", "llamactl keys make x"):
        with pytest.raises(AssertionError, match=r"has no option|there is no command"):
            [resolved(words) for words in llamactl_calls(bad)]
    assert resolved(next(llamactl_calls("KEY=$(llamactl keys create x)"))).name == "create"


def test_commands_in_the_changelog_exist() -> None:
    line = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("- Command line:"))
    assert set(re.findall(r"`(\w+)`", line)) == set(COMMANDS)


# ---- examples


def test_the_example_of_a_configuration_says_the_defaults() -> None:
    example = load(Sources(ROOT / "examples" / "llamactl.yaml", {}, {})).settings
    default = load(Sources(Path(os.devnull), {}, {})).settings
    assert replace(example, backends=default.backends) == default
    for kind in BACKENDS.values():
        if kind.takes_any_command:
            continue
        said = example.backends.of(kind.slug)
        assert kind.command[0] == said.command
        assert said.args in (None, kind.command[1:])


def test_the_example_of_a_configuration_names_every_setting() -> None:
    text = (ROOT / "examples" / "llamactl.yaml").read_text()
    names = {name.rpartition(".")[2] for name in settings()}
    assert [name for name in sorted(names) if not re.search(rf"^\s*(# )?{name}:", text, re.MULTILINE)] == []


def test_the_example_of_a_unit_calls_a_command_with_settings_that_exist() -> None:
    unit = (ROOT / "examples" / "llamactl.service").read_text()
    call = re.search(r"^ExecStart=\S+/llamactl (.*)$", unit, re.MULTILINE)
    assert call
    assert resolved(call[1].split()).name == "serve"
    known = {variable for _, variable in variables()} | set(OTHER_VARIABLES)
    assert set(re.findall(r"^(?:# )?Environment=(\w+)=", unit, re.MULTILINE)) <= known


@pytest.mark.real
def test_the_example_of_curl_works(tmp_path: Path, llama_server: Path, tiny_gguf_model: Path) -> None:
    with daemon(tmp_path, environment={"PATH": f"{llama_server.parent}{os.pathsep}{os.environ['PATH']}"}) as running:
        environment = {**os.environ, "LLAMACTL_URL": running.client.url, "LLAMACTL_API_KEY": running.key}
        command = ("bash", str(ROOT / "examples" / "curl.sh"), str(tiny_gguf_model))
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert '"content":" one"' in done.stdout
        assert "\nready\n" in done.stdout
        assert "\nstopped\n" in done.stdout
        assert (running.client.instances(), running.client.keys()) == ([], [])


def test_the_example_of_curl_says_what_is_wrong_and_leaves_nothing_of_its_own(tmp_path: Path) -> None:
    example = ("bash", str(ROOT / "examples" / "curl.sh"), "/no/such model.gguf")

    def said(**more: str) -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LLAMACTL_")} | more
        done = subprocess.run(example, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode != 0
        return done.stdout + done.stderr

    with daemon(tmp_path) as running:
        url = running.client.url
        assert "LLAMACTL_API_KEY: is not set" in said(LLAMACTL_URL=url)
        assert "this route needs a management key" in said(LLAMACTL_URL=url, LLAMACTL_API_KEY="wrong")
        assert "does not exist" in said(LLAMACTL_URL=url, LLAMACTL_API_KEY=running.key)
        assert (running.client.instances(), running.client.keys()) == ([], [])
        running.create("curl-example", "llama-server -m /other.gguf")
        assert "curl-example" in said(LLAMACTL_URL=url, LLAMACTL_API_KEY=running.key)
        (kept,) = running.client.instances()
        assert kept["options"]["backend_options"]["model"] == "/other.gguf"


def test_the_example_with_the_openai_sdk_says_what_is_wrong(tmp_path: Path) -> None:
    example = (sys.executable, str(ROOT / "examples" / "openai_client.py"), "tiny")

    def said(**more: str) -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("LLAMACTL_", "OPENAI_"))} | more
        done = subprocess.run(example, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        return done.stderr

    with daemon(tmp_path) as running:
        url = running.client.url
        assert "llamactl keys create NAME" in said(LLAMACTL_URL=url)
        assert said(LLAMACTL_URL=url, OPENAI_API_KEY="wrong").startswith("401: ")
    assert said(LLAMACTL_URL=url, OPENAI_API_KEY="any").startswith(f"no answer from {url}: ")


@pytest.mark.real
def test_the_example_with_the_openai_sdk_works(tmp_path: Path, llama_server: Path, tiny_gguf_model: Path) -> None:
    with daemon(tmp_path) as running:
        running.create("tiny", f"{llama_server} -m {tiny_gguf_model} -c 2048 -t 1")
        key = running.client.create_key("example")["key"]
        environment = {**os.environ, "LLAMACTL_URL": running.client.url, "OPENAI_API_KEY": key}
        example = (sys.executable, str(ROOT / "examples" / "openai_client.py"))
        done = subprocess.run((*example, "tiny"), env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout.splitlines()[0]) == (0, "models: tiny"), done.stderr
        assert "one two three" in done.stdout
        wrong = subprocess.run((*example, "tinny"), env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert wrong.returncode == 1
        assert "did you mean 'tiny'" in wrong.stderr
        assert "Traceback" not in wrong.stderr
