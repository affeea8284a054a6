"""Names of instances: what is accepted is harmless in paths, URLs, logs and command lines; the tables show both sides.

`HOSTILE` is a collection of what has broken programs that used names as they came; each entry must be refused.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamactl_py.ground.errors import InvalidName
from llamactl_py.ground.names import MAX_NAME, GroupName, KeyName, ModelName, instance_name
from llamactl_py.ground.readers import Reading, reader

ACCEPTED = [
    "a", "Z", "0", "_", "a.b", "a-b", "a_b", "qwen3-8b", "Qwen3-8B.Q4_K_M", "_private", "1", "007", "a..b", "a--", "a_", "__",
    "0.5b", "con", "null", "true", "localhost", "127.0.0.1", "v1", "proxy", "new", "a" * MAX_NAME,
]  # fmt: skip

HOSTILE = {
    "nothing": "", "dot": ".", "dot dot": "..", "three dots": "...", "hidden": ".hidden", "trailing dot": "a.",
    "two at the end": "a..", "option": "-", "short option": "-rf", "long option": "--help", "slash": "a/b", "root": "/",
    "absolute": "/etc/passwd", "up": "../a", "up inside": "a/../b", "trailing slash": "a/", "backslash": "a\\b",
    "windows path": "C:\\x", "drive": "C:", "nul": "\0", "nul inside": "a\0b", "nul at the end": "a\0", "newline": "a\nb",
    "newline at the end": "a\n", "return": "a\rb", "header": "a\r\nX-Evil: 1", "tab": "a\tb", "vertical tab": "a\x0b",
    "bell": "a\x07", "escape": "\x1b[31m", "delete": "a\x7f", "c1 control": "a\x85", "space": "a b", "leading space": " a",
    "trailing space": "a ", "only a space": " ", "no-break space": "a\u00a0b", "ideographic space": "a\u3000b",
    "zero width space": "a\u200bb", "zero width joiner": "a\u200db", "byte order mark": "\ufeffa",
    "right to left mark": "a\u200fb", "right to left override": "a\u202egpj.exe", "right to left isolate": "a\u2067b",
    "line separator": "a\u2028b", "combining accent": "a\u0301", "umlaut": "ä", "sharp s": "ß", "cyrillic a": "\u0430bc",
    "greek o": "f\u03bf\u03bf", "full width a": "\uff21", "full width dot": "a\uff0eb", "full width slash": "a\uff0fb",
    "division slash": "a\u2215b", "arabic digits": "\u0661\u0662\u0663", "superscript digit": "a\u00b2",
    "thai digit": "\u0e51", "bold letter": "\U0001d400", "kelvin sign": "\u212a", "dotless i": "\u0131", "han": "模型",
    "emoji": "a😀", "lone surrogate": "a\ud800", "escaped byte": "a\udcff", "replacement": "\ufffd", "percent": "%2e%2e",
    "encoded slash": "a%2fb", "encoded nul": "a%00", "percent sign": "a%", "question mark": "a?b", "fragment": "a#b",
    "user": "a@b", "colon": "a:b", "semicolon": "a;b", "comma": "a,b", "ampersand": "a&b", "pipe": "a|b", "dollar": "$HOME",
    "command": "$(reboot)", "backquote": "`id`", "quote": "a'b", "double quote": 'a"b', "sql": "a'; DROP TABLE instances;--",
    "star": "*", "tilde": "~", "home of root": "~root", "bang": "!!", "brackets": "[a]", "braces": "{name}",
    "template": "{{7*7}}", "markup": "<img src=x>", "plus": "a+b", "equals": "a=b", "caret": "a^b",
    "one too long": "a" * (MAX_NAME + 1), "300 characters": "a" * 300, "a megabyte": "a" * 1_000_000,
}  # fmt: skip


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_plain_name_is_accepted_as_it_is(name: str) -> None:
    assert instance_name(name) == name


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_name_is_refused_in_one_short_printable_line(name: str) -> None:
    with pytest.raises(InvalidName) as caught:
        instance_name(name)
    (problem,) = caught.value.problems
    assert problem.where == "name"
    assert problem.what.isprintable()
    assert len(problem.what) < 300


@given(st.text(max_size=60) | st.from_regex(r"[A-Za-z0-9_.-]{1,52}"))
@settings(deadline=None)
def test_what_is_accepted_is_harmless_everywhere(text: str) -> None:
    try:
        name = instance_name(text)
    except InvalidName:
        return
    assert name.isascii()
    assert quote(name, safe="") == name, "unchanged in a URL"
    assert PurePosixPath("logs", f"{name}.log").parent == PurePosixPath("logs")
    assert PurePosixPath(name).name == name, "one file name, and no other directory"
    assert name[0] not in ".-"


@pytest.mark.parametrize(("name", "is_accepted"), [("", True), ("team-a", True), ("../x", False), ("-a", False), ("a\n", False)])
def test_a_group_is_named_like_an_instance_or_not_at_all(name: str, is_accepted: bool) -> None:
    assert is_valid(GroupName, name) is is_accepted


@pytest.mark.parametrize("kind", [ModelName, KeyName])
@pytest.mark.parametrize(
    ("name", "is_accepted"),
    [
        ("org/model:7b@q4 (new)", True),
        ("模型 😀", True),
        ("../x", True),  # never used as a path
        ("", False),
        ("a\nb", False),
        ("a\n", False),
        ("a\0", False),
        ("\x1b[31m", False),
        ("a\x7f", False),
        ("a" * 300, False),
    ],
)
def test_names_for_people_are_any_text_without_control_characters(kind: object, name: str, is_accepted: bool) -> None:
    assert is_valid(kind, name) is is_accepted


def is_valid(kind: object, text: str) -> bool:
    reading = Reading(from_text=False)
    return reader(kind)(text, "name", reading) == text and reading.count == 0
