"""The lexer, as a table: what a person pastes, and the words that come out, or the complaint."""

from __future__ import annotations

import shlex
import string
from contextlib import suppress
from time import perf_counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamactl_py.backends.lexer import MAX_LENGTH, split
from llamactl_py.ground.errors import Invalid


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b", ["a", "b"]),
        ("  a \t b  ", ["a", "b"]),
        ("'a b' \"c d\"", ["a b", "c d"]),
        ("a'b'\"c\"d", ["abcd"]),
        ("''", [""]),
        ('a ""', ["a", ""]),
        (r"a\ b", ["a b"]),
        (r"it\'s", ["it's"]),
        ('"it\'s"', ["it's"]),
        (r'"say \"hi\" \\ \n"', ['say "hi" \\ \\n']),
        ("'\\n'", ["\\n"]),
        (r"$'a\tb\'c'", ["a\tb'c"]),
        (r"-r $'\n'", ["-r", "\n"]),
        ("--x='{\"a\": true}'", ['--x={"a": true}']),
        ("a # a comment", ["a"]),
        ("a b#c", ["a", "b#c"]),
        ("a \\\n  -b", ["a", "-b"]),
        ("a \\ \n  -b", ["a", "-b"]),
        ("a \\\r\n -b", ["a", "-b"]),
        ("a ^\r\n -b ^\n -c", ["a", "-b", "-c"]),
        ("a `\r\n -b `\n -c", ["a", "-b", "-c"]),
        ("a \\\n# one\n  # two\n  -b", ["a", "-b"]),
        ("# first\na -b\n\n", ["a", "-b"]),
        ("a\n-b\n--c", ["a", "-b", "--c"]),
        ("X=1\nY=2\na -b", ["X=1", "Y=2", "a", "-b"]),
        ("a -b \\", ["a", "-b"]),
        ("ab\\\ncd", ["abcd"]),
        (r"C:\llama\llama-server.exe -m C:\models\x.gguf", [r"C:\llama\llama-server.exe", "-m", r"C:\models\x.gguf"]),
        (r'"C:\Program Files\x\llama-server.exe" -v', [r"C:\Program Files\x\llama-server.exe", "-v"]),
        (r"--model=D:\m\x.gguf", [r"--model=D:\m\x.gguf"]),
        (r".\llama-server.exe ..\x.gguf \\host\share", [r".\llama-server.exe", r"..\x.gguf", r"\\host\share"]),
        ("'$HOME' 'a;b' \"a|b\" 'x > y'", ["$HOME", "a;b", "a|b", "x > y"]),
        ("cost$ 5$", ["cost$", "5$"]),
        ("a^b", ["a^b"]),
        ("{a,b} *.gguf [x] (y)", ["{a,b}", "*.gguf", "[x]", "(y)"]),
        ("--name=größe 模型", ["--name=größe", "模型"]),
    ],
)
def test_words_are_split_as_a_shell_splits_them(text: str, words: list[str]) -> None:
    assert list(split(text).words) == words


@pytest.mark.parametrize(
    ("text", "position", "spot"),
    [
        ("a && b", 3, "»&&«"),
        ("a || b", 3, "»||«"),
        ("a | tee log", 3, "»|«"),
        ("a; b", 2, "»;«"),
        ("a &", 3, "»&«"),
        ("a > log", 3, "»>«"),
        ("a 2>&1", 4, "»>«"),
        ("a >> log", 3, "»>>«"),
        ("a < b", 3, "»<«"),
        ("a $(ls)", 3, "»$(ls)«"),
        ("a `ls`", 3, "»`«"),
        ('a "`ls`"', 4, "»`«"),
        ("a $MODEL", 3, "»$MODEL«"),
        ('a "${MODEL}"', 4, "»${MODEL}«"),
        ("a 'b", 3, "»'«"),
        ('a "b', 3, '»"«'),
        ("a $'b", 3, "»$'«"),
        ("a -b\nrm -rf x", 6, "»rm -rf x«"),
        ("a -b\n\n# note\n  echo", 16, "»echo«"),
    ],
)
def test_what_a_shell_would_do_is_refused_at_its_position(text: str, position: int, spot: str) -> None:
    with pytest.raises(Invalid) as caught:
        split(text)
    (problem,) = caught.value.problems
    assert problem.where == "command"
    assert problem.what.startswith(f"character {position}: ")
    assert spot in problem.what


@pytest.mark.parametrize("text", ["", "  \n\t ", "# only a comment", "\\\n"])
def test_an_empty_command_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="is empty"):
        split(text)


def test_a_variable_comes_with_its_remedy() -> None:
    with pytest.raises(Invalid, match="write the value itself, or put it in environment"):
        split("llama-server -m $HOME/x.gguf")


def test_a_tilde_is_kept_and_warned_about() -> None:
    lexed = split("a ~/x.gguf '~/y'")
    assert lexed.words == ("a", "~/x.gguf", "~/y")
    assert lexed.warnings == ("~ is not expanded: write the whole path",)


def test_over_64_ki_characters_are_refused() -> None:
    assert len(split("a" * MAX_LENGTH).words) == 1
    with pytest.raises(Invalid, match="at most 65536"):
        split("a" * (MAX_LENGTH + 1))


def test_a_nul_character_is_refused() -> None:
    with pytest.raises(Invalid, match="NUL character at position 2"):
        split("a\0b")


@pytest.mark.parametrize("unit", ["a ", "A=\n", "\\\n", "'a'", '"\\""', "-a\n", "# x\n", "^", "a\\\n", "\n", "$'a'", "~ "])
def test_time_grows_with_length_only(unit: str) -> None:
    text = unit * ((MAX_LENGTH - 1) // len(unit)) + "x"
    began = perf_counter()
    with suppress(Invalid):
        split(text)
    assert perf_counter() - began < 2  # it takes some 20 ms; a quadratic lexer needs minutes


@given(st.lists(st.text(string.printable + "äß模", max_size=12), min_size=1, max_size=8))
@settings(max_examples=200, deadline=None)
def test_quoted_words_come_back_unchanged(words: list[str]) -> None:
    assert list(split(shlex.join(words)).words) == words


@given(st.text(st.sampled_from(list("ab-= \n\\'\"$`^#~&;|<>(){}C:.\r\t")), max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_text_gives_words_or_invalid(text: str) -> None:
    try:
        words = split(text).words
    except Invalid:
        return
    assert words
