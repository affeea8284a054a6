"""`llamactl import` as a user runs it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.test_cli import Said, surroundings
from tests.cli.test_config import PROGRAM, ROOT, run

SWAP = "macros: {m: /m}\nmodels: {a: {cmd: 'llama-server -m ${m}/a.gguf --port ${PORT}', unlisted: true}}\n"


def test_a_file_is_turned_into_one_that_passes_the_check(tmp_path: Path) -> None:
    (tmp_path / "swap.yaml").write_text(SWAP)
    said = run(tmp_path, "import", "swap.yaml", "--output", "ours.yaml")
    assert (said.code, said.out) == (0, "")
    assert said.err.splitlines() == [
        "note: line 2: models.a.unlisted: was left out: every model is listed in /v1/models",
        "1 instance carried over to ours.yaml",
    ]
    assert run(tmp_path, "config", "check", "ours.yaml").out == f"{tmp_path}/ours.yaml is good; it declares 1 instance\n"
    assert run(tmp_path, "import", "swap.yaml").out == (tmp_path / "ours.yaml").read_text()


def test_what_is_there_is_replaced_only_by_force(tmp_path: Path) -> None:
    (tmp_path / "swap.yaml").write_text(SWAP)
    (tmp_path / "ours.yaml").write_text("mine")
    said = run(tmp_path, "import", "swap.yaml", "-o", "ours.yaml")
    assert (said.code, (tmp_path / "ours.yaml").read_text()) == (2, "mine")
    assert "ours.yaml exists; replace it with --force" in said.err
    assert run(tmp_path, "import", "swap.yaml", "-o", "ours.yaml", "--force").code == 0
    assert run(tmp_path, "import", "swap.yaml", "-o", "no/such/folder.yaml").code == 2


def test_stdin_is_read_for_a_dash(tmp_path: Path) -> None:
    done = subprocess.run(
        (*PROGRAM, "import", "-"),
        input='[{"name": "a", "options": {"backend_type": "mlx_lm"}}]',
        cwd=tmp_path, env=surroundings(PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, sys.executable
    assert "declared_instances:\n  a:\n    backend_type: mlx_lm\n" in Said(0, done.stdout, done.stderr).out


THEIRS = """
CREATE TABLE instances (id INTEGER PRIMARY KEY, name TEXT, status TEXT, options_json TEXT);
CREATE TABLE api_keys (id INTEGER PRIMARY KEY, key_hash TEXT, name TEXT);
INSERT INTO api_keys (key_hash, name) VALUES ('x', 'notebook');
INSERT INTO instances (name, status, options_json) VALUES
  ('qwen', 'running', '{"nodes":["main"],"backend_type":"llama_cpp","backend_options":{"model":"/m.gguf","port":8001}}');
"""
"""What import reads of llamactl's database."""


def test_the_database_of_llamactl_is_read_and_not_changed(tmp_path: Path) -> None:
    file = tmp_path / "its own" / "llamactl.db"
    file.parent.mkdir()
    with closing(sqlite3.connect(file)) as theirs:
        theirs.executescript(THEIRS)
    content = file.read_bytes()
    said = run(tmp_path, "import", str(file), "--output", "ours.yaml")
    assert said.code == 0
    assert "note: api_keys: 1 were left out" in said.err
    assert (file.read_bytes(), list(file.parent.iterdir())) == (content, [file])
    assert run(tmp_path, "config", "check", "ours.yaml").out.endswith("it declares 1 instance\n")


def test_a_database_that_is_not_llamactls_is_told_so(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db")) as other:
        other.execute("CREATE TABLE notes (id INTEGER)")
    said = run(tmp_path, "import", "a.db")
    assert said.code == 2
    assert "a.db: this is no database of llamactl: no such table: instances" in said.err


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"server: {}", "it has no section 'models'"), (b"\xff", "invalid start byte"), (None, "No such file or directory")],
)
def test_what_cannot_be_imported_is_told_in_one_line(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "x").write_bytes(content)
    told = run(tmp_path, "import", "x")
    assert (told.code, told.out) == (2, "")
    assert said in told.err.splitlines()[-1]
