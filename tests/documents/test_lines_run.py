"""What the pages tell a reader to type is typed: in the order of the page, into one shell, beside a real daemon, unchanged.

A block of a page is left out only by a word behind its language that NOT_RUN gives a reason for. PREPARED is what a page takes
for granted. A line has to succeed, unless the page shows an error below it; each request of curl has to be answered with the
status that is shown (`HTTP/1.1 404 ...`), or else with that of the table of routes.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from llamactl_py.api.system import PAGES as WEB
from llamactl_py.app import API
from tests.support.documents import ADDRESS, PAGES, ROOT, Answer, Block, Line, Shell, blocks, lines, shell, stub

NOT_RUN = {
    "setup": "installs or builds programs: the test has them already",
    "root": "changes the machine",
    "two": "needs two machines",
}
RUNNABLE = [page for page in PAGES if any(block.language in ("console", "sh") for block in blocks(page))]
GETTING_STARTED = ROOT / "apidocs" / "getting-started.md"


def is_run(block: Block) -> bool:
    return block.language in ("console", "sh", "python") and block.word not in NOT_RUN


# ---- what a page takes for granted


def instances(*names: str) -> Callable[[Shell], None]:
    def prepare(at: Shell) -> None:
        (at.home / "model.gguf").touch()
        for name in names:
            assert at.run(Line(f"llamactl create {name} -- llama-server -m model.gguf", "")).code == 0

    return prepare


def the_files(at: Shell) -> None:
    (at.home / "wrong.yaml").write_text("instances:\n  max_runing_instances: 1\n")
    (at.home / "llamactl.yaml").write_text("instances:\n  max_running_instances: 1\n")


def the_old_ones(at: Shell) -> None:
    (at.home / "config.yaml").write_text("models: {qwen: {cmd: 'llama-server --port ${PORT} -m model.gguf', ttl: 300}}\n")
    (at.home / "llamactl-old").mkdir()
    with closing(sqlite3.connect(at.home / "llamactl-old" / "llamactl.db")) as theirs:
        theirs.executescript(
            "CREATE TABLE instances (id INTEGER PRIMARY KEY, name TEXT, options_json TEXT); CREATE TABLE api_keys (id INTEGER);"
            'INSERT INTO instances VALUES (1, \'coder\', \'{"backend_type":"llama_cpp","nodes":["main"]}\');'
        )


def a_model(at: Shell) -> None:
    (at.home / "qwen3-8b.gguf").touch()


PREPARED: dict[str, Callable[[Shell], None]] = {
    "README.md": a_model,
    "api.md": instances("qwen"),
    "backends.md": a_model,
    "configuration.md": the_files,
    "keys.md": instances("qwen", "gemma"),
    "migrating.md": the_old_ones,
    "operations.md": instances("qwen"),
    "proxy.md": instances("qwen"),
    "troubleshooting.md": instances("qwen"),
}


# ---- the test


def route_of(method: str, path: str) -> int:
    """The status that the table of routes has for a request: of the most exact of those that fit."""
    found = []
    for route in (*API, *WEB):
        pattern = re.sub(r"\\{path\\}", ".*", re.sub(r"\\{(?!path)\w+\\}", "[^/]+", re.escape(route.openapi_path)))
        if route.method == method and re.fullmatch(pattern, path):
            found.append((route.openapi_path.count("{"), route.status))
    assert found, f"there is no route {method} {path}"
    return min(found)[1]


def check(line: Line, answer: Answer) -> None:
    said = f"{line.typed}\n{answer.text}"
    assert (answer.code != 0) == line.is_refused, said
    requests = len(re.findall(r"(?<![\w.-])curl ", line.typed))
    if line.goes_on:
        return
    assert len(answer.curled) == requests, said
    shown = [int(status) for status in re.findall(r"^HTTP/1\.1 (\d+)", line.shown, re.MULTILINE)]
    for (method, status, url), expected in zip(answer.curled, shown or [None] * requests, strict=True):
        assert status == (expected or route_of(method, urlsplit(url).path)), said


def plain(text: str, home: Path) -> str:
    """*text* without what is another one each time: numbers, keys, how long ago, the width of tables."""
    text = re.sub(r"-[0-9a-f]{4,64}(?:\.\.\.)?", "-KEY", text.replace(str(home), "/home/me"))
    text = re.sub(r"\b\d+[smhd] ago\b|\bnever\b", "TIME", text)
    return re.sub(r"\s+", " ", re.sub(r"\d+(\.\d+)?", "0", text)).strip()


def unsaid(line: Line, answer: Answer, home: Path) -> list[str]:
    """Lines that the page shows and that were not said; after `...` anything may follow."""
    said = [plain(one, home) for one in answer.text.splitlines()]
    shown = [plain(one, home).partition("...") for one in line.shown.splitlines()]
    return [one for one, cut, _ in shown if not any(s.startswith(one.rstrip()) if cut else s == one for s in said)]


def run_page(page: Path, at: Shell) -> None:
    for block in filter(is_run, blocks(page)):
        if block.language == "python":
            check(Line("python", ""), at.run(Line(f"python - <<'END'\n{block.text}END", "")))
            continue
        for line in lines(block):
            check(line, answer := at.run(line))
            assert line.goes_on or unsaid(line, answer, at.home) == [], answer.text


@pytest.mark.parametrize(
    "page", [page for page in RUNNABLE if page != GETTING_STARTED], ids=lambda page: str(page.relative_to(ROOT))
)
def test_what_a_page_tells_to_type_works(tmp_path: Path, page: Path) -> None:
    (tmp_path / "home").mkdir()
    with shell(tmp_path / "home", stub(tmp_path / "programs")) as at:
        if page.name in PREPARED:
            PREPARED[page.name](at)
        run_page(page, at)


@pytest.mark.real
def test_getting_started_works_with_a_real_server(tmp_path: Path, llama_server: Path) -> None:
    (tmp_path / "home").mkdir()
    with shell(tmp_path / "home", llama_server.parent) as at:
        run_page(GETTING_STARTED, at)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_curl_of_a_page_is_one_that_is_run(page: Path) -> None:
    for block in blocks(page):
        if "curl " in block.text:
            assert is_run(block) or block.word in NOT_RUN, block.text
    inside = sum(block.text.count("curl ") for block in blocks(page))
    assert len(re.findall(r"curl (?:-|http)", page.read_text())) <= inside, "a request outside of a block is not run"


def test_every_block_that_is_left_out_has_a_reason() -> None:
    words = {block.word for page in PAGES for block in blocks(page) if block.language in ("console", "sh") and block.word}
    assert words <= NOT_RUN.keys()


def test_pages_write_the_usual_address_or_the_variables_that_the_commands_know() -> None:
    for page in PAGES:
        for block in blocks(page):
            if is_run(block):
                hosts = set(re.findall(r"http://([\w.:]+)", block.text)) - {ADDRESS, "localhost:8080"}
                assert hosts <= {"127.0.0.1", "$LLAMACTL_URL"}, (page.name, hosts)
                assert not re.search(r"\$\{?(URL|MANAGEMENT_KEY|LLAMACTL_KEY)\b", block.text), page.name


# ---- the tests' own eyes


def test_the_check_sees_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    with shell(tmp_path / "home", stub(tmp_path / "programs")) as at:
        for typed, shown in (
            ("llamactl strat x", ""),
            ("llamactl ps", "error: no"),
            (f"curl -s http://{ADDRESS}/api/v1/instances", ""),
            (f"curl -s http://{ADDRESS}/health", "HTTP/1.1 404 Not Found"),
            (f"curl -s http://{ADDRESS}/nowhere", ""),
            (f"curl -s -w x http://{ADDRESS}/health", ""),
        ):
            line = Line(typed, shown)
            with pytest.raises(AssertionError):
                check(line, at.run(line))
        line = Line(f"curl -s http://{ADDRESS}/health", "")
        check(line, at.run(line))
