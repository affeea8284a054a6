"""Every exit code of the guide can be had, in the way that the guide says; and no other stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.commands import Llamactl, run

GUIDE = Path(__file__).parents[2] / "apidocs" / "cli.md"
SERVER = ("llama-server", "-m", "/dev/null")

EXAMPLES = [
    (0, ("ps",)),
    (0, ("start", "good")),
    (0, ("stop", "good", "bad")),
    (0, ("config", "check")),
    (1, ("start", "bad")),
    (1, ("restart", "good", "bad")),
    (1, ("command", "bad")),
    (2, ("ps", "--no-such-option")),
    (2, ("strat", "good")),
    (2, ("start",)),
    (2, ("rm", "good", "bad")),
    (2, ("config", "check", "/no/such.yaml")),
    (2, ("serve", "--config", "/no/such.yaml")),
    (3, ("--url", "http://127.0.0.1:1", "ps")),
    (3, ("--url", "http://127.0.0.1:1", "stop", "good")),
    (4, ("show", "nobody")),
    (4, ("start", "bad", "nobody")),
    (4, ("edit", "good", "--set", "idle_timeout=soon")),
    (4, ("chat", "bad", "Hello")),
]


@pytest.fixture
def both(llamactl: Llamactl) -> Llamactl:
    llamactl("create", "good", "--", *SERVER)
    llamactl("create", "bad", "--", "llama-server", "-m", "/no/such.gguf")
    return llamactl


@pytest.mark.parametrize(
    ("code", "words"), EXAMPLES, ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value)
)
def test_a_command_ends_with_the_code_that_the_guide_promises(
    both: Llamactl, code: int, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert both(*words).code == code


def test_the_guide_names_these_codes_and_the_one_of_ctrl_c() -> None:
    section = GUIDE.read_text().partition("## Exit codes")[2].partition("\n## ")[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)} == {code for code, _ in EXAMPLES} | {130}


def test_a_key_that_may_not_is_refused_with_4(both: Llamactl) -> None:
    key = both("keys", "create", "k", "--scope", "read").out.strip()
    for words in (("stop", "good"), ("edit", "good", "--set", "group=g"), ("parse", "llama-server -m x")):
        assert both(*words, LLAMACTL_API_KEY=key).code == 4
    assert both("show", "good", LLAMACTL_API_KEY=key).code == 0
    assert run("ps", LLAMACTL_API_KEY=key, LLAMACTL_URL="http://127.0.0.1:1").code == 3
