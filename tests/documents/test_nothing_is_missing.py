"""What the code has and a reader may meet stands on a page: found in the code itself, so that whoever adds one is told.

tests/test_docs.py does the same for settings, options, states, backends, errors, routes, commands and metrics.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamactl_py.accounting.ledger import Outcome
from llamactl_py.api.key_forms import CODES, KeyView, NewKey
from llamactl_py.app import API
from llamactl_py.config import legacy, paths
from llamactl_py.config.variables import KNOWN_VARIABLES
from llamactl_py.ground.grant import Scope
from llamactl_py.instances.fleet import Edit
from tests.support.documents import PAGES, ROOT

PACKAGE = ROOT / "llamactl_py"
TELLERS = ("publish", "publish_passing", "Event", "send")
"""What an event's kind is the first argument of."""


def page(name: str) -> str:
    return (ROOT / "apidocs" / name).read_text()


def modules(*folders: Path) -> Iterator[ast.Module]:
    for folder in folders:
        for file in sorted(folder.rglob("*.py")):
            yield ast.parse(file.read_text())


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with the last part of what is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield (node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")), node


def constants(node: ast.AST) -> Iterator[object]:
    return (inner.value for inner in ast.walk(node) if isinstance(inner, ast.Constant))


def missing(names: set[str], text: str) -> set[str]:
    """Those that *text* has nowhere in a piece of code of their own."""
    return {name for name in names if not re.search(rf"`{re.escape(name)}`", text)}


# ---- names


def event_kinds() -> set[str]:
    told = (call.args[0] for tree in modules(PACKAGE) for name, call in calls(tree) if name in TELLERS and call.args)
    return {str(kind.value) for kind in told if isinstance(kind, ast.Constant) and isinstance(kind.value, str)} | {*Edit}


def test_every_kind_of_event_is_in_the_tables_of_the_api_guide() -> None:
    kinds = event_kinds()
    assert kinds >= {"hello", "state", "log", "request", "created"}
    _, _, section = page("api.md").partition("## Events")
    rows = "".join(re.findall(r"^\| `.*$", section, re.MULTILINE))
    assert missing(kinds - {"end"}, rows) == set()
    assert missing({"end"}, page("api.md")) == set(), "a followed log has this one alone"


def query_parameters() -> set[tuple[str, str]]:
    return {(route.openapi_path, parameter.name) for route in API for parameter in (*route.query, *route.headers)}


@pytest.mark.parametrize(("path", "name"), sorted(query_parameters()))
def test_every_parameter_of_a_query_and_header_is_in_a_guide(path: str, name: str) -> None:
    text = "".join(page(guide) for guide in ("api.md", "backends.md", "operations.md"))
    assert re.search(rf"`{name}[`=]|[?&]{name}=|`--{name}`", text), path


def test_every_outcome_of_a_request_is_in_the_guide_to_operations() -> None:
    assert missing({*Outcome}, page("operations.md")) == set()


def test_everything_about_a_key_is_in_its_guide() -> None:
    shown_only = {"id", "user_id", "prefix", "created_at", "updated_at"}
    fields = {*NewKey.__struct_fields__, *KeyView.__struct_fields__} - shown_only
    assert missing({*fields, *CODES.values(), *Scope}, page("keys.md")) == set()


def read_variables() -> set[str]:
    """Every LLAMACTL_ variable that something of ours, the tests and scripts included, takes from its environment."""
    sources = [*PACKAGE.rglob("*.py"), *(ROOT / "scripts").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py"), ROOT / "Makefile"]
    text = "".join(source.read_text() for source in (*sources, *(ROOT / "tests").rglob("*.py"), *(ROOT / "examples").iterdir()))
    asked = re.findall(
        r"""environ(?:\.get\(|\[)"(LLAMACTL_\w+)"|^\s*(LLAMACTL_\w+)="\$|\$\{?(LLAMACTL_\w+)""", text, re.MULTILINE
    )
    return {name for names in asked for name in names if name}


def test_every_variable_that_is_read_is_in_the_configuration_guide() -> None:
    found = read_variables()
    assert found >= {"LLAMACTL_TEST_LLAMA_SERVER", "LLAMACTL_TEST_VLLM", "LLAMACTL_API_KEY"}
    assert missing(found | KNOWN_VARIABLES, page("configuration.md")) == set()


def test_every_key_and_variable_of_llamactl_that_is_left_out_is_in_the_configuration_guide() -> None:
    assert missing({*legacy.KEYS, *legacy.VARIABLES}, page("configuration.md")) == set()


def test_every_exit_code_is_in_the_guide_to_the_command_line() -> None:
    codes = {
        code for tree in modules(PACKAGE / "cli") for name, call in calls(tree) if name == "exit" for code in constants(call)
    }
    numbers = {code for code in codes if isinstance(code, int)}
    assert {0, 1, 4, 130} <= numbers
    rows = set(re.findall(r"^\| (\d+) \|", page("cli.md"), re.MULTILINE))
    assert {str(number) for number in numbers} | {"2", "3"} <= rows


def test_every_file_of_the_data_directory_is_in_the_guide_to_operations() -> None:
    names = {value for name, value in vars(paths).items() if name.isupper() and isinstance(value, str)}
    assert len(names) >= 4
    assert missing(names, page("operations.md")) == set()


def test_every_example_is_shown_by_a_page() -> None:
    text = "".join(name.read_text() for name in PAGES)
    assert [file.name for file in (ROOT / "examples").iterdir() if f"examples/{file.name})" not in text] == []


# ---- messages


def said_by_the_code() -> str:
    """All text in the package, what is put into it left out."""
    return "\n".join("".join(value for value in constants(node) if isinstance(value, str)) for node in texts())


def texts() -> Iterator[ast.AST]:
    for tree in modules(PACKAGE):
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
                yield node


def quoted() -> list[str]:
    """What troubleshooting.md says that one may be told: the first column of its tables."""
    cells = re.findall(r"^\| ([^|]*) \|", page("troubleshooting.md"), re.MULTILINE)
    pieces = [
        piece for cell in cells for code in re.findall(r"`([^`]*)`", cell) for piece in re.split(r"\.\.\.|\b[A-Z]\b| \(", code)
    ]
    return sorted({piece.strip(" ():") for piece in pieces if len(piece.strip(" ():")) > 6 and " " in piece.strip()})


def test_the_messages_in_troubleshooting_are_those_of_the_code() -> None:
    text = said_by_the_code()
    assert len(quoted()) > 8
    assert [piece for piece in quoted() if piece not in text] == []
