"""The lexer, as a table: what a person pastes, and the words that come out, or the complaint."""

from __future__ import annotations

import shlex
import string
from contextlib import suppress
from time import perf_counter

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llamactl_py.backends.lexer import MAX_LENGTH, dialect, split
from llamactl_py.ground.errors import BadCommand, Invalid


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
    ("text", "place", "spot"),
    [
        ("a && b", (1, 3), "&&"),
        ("a || b", (1, 3), "||"),
        ("a | tee log", (1, 3), "|"),
        ("a; b", (1, 2), ";"),
        ("a &", (1, 3), "&"),
        ("a > log", (1, 3), ">"),
        ("a 2>&1", (1, 4), ">"),
        ("a >> log", (1, 3), ">>"),
        ("a < b", (1, 3), "<"),
        ("a $(ls)", (1, 3), "$(ls)"),
        ("a `ls`", (1, 3), "`"),
        ('a "`ls`"', (1, 4), "`"),
        ("a $MODEL", (1, 3), "$MODEL"),
        ('a "${MODEL}"', (1, 4), "${MODEL}"),
        ("a 'b", (1, 3), "'"),
        ('a "b', (1, 3), '"'),
        ("a $'b", (1, 3), "$'"),
        ("a \\\n  -b | c", (2, 6), "|"),
        ("a -b\nrm -rf x", (2, 1), "rm -rf x"),
        ("a -b\n\n# note\n  echo", (4, 3), "echo"),
        ("a ^\n -b & c", (2, 5), "&"),
        ("a.exe %MODEL%", (1, 7), "%MODEL%"),
        ('a.exe "b', (1, 7), '"'),
        ("a `\n -b; c", (2, 4), ";"),
        ("a `\n $env:X", (2, 2), "$env:X"),
        ("a `\n (ls)", (2, 2), "("),
        ("a `\n @'\nx\n'@", (2, 2), "@'"),
        ("a `\n 'b", (2, 2), "'"),
    ],
)
def test_what_a_shell_would_do_is_refused_at_its_place(text: str, place: tuple[int, int], spot: str) -> None:
    with pytest.raises(BadCommand) as caught:
        split(text)
    (problem,) = caught.value.problems
    assert problem.where == "command"
    said, line, caret = problem.what.split("\n")
    assert said.startswith(f"line {place[0]}, column {place[1]}: {spot} ")
    assert line[caret.index("^") :].startswith(spot)
    assert caret.count("^") == len(spot)


def test_a_long_line_is_shown_around_the_place() -> None:
    with pytest.raises(BadCommand) as caught:
        split("a " * 1000 + "| " + "b " * 1000)
    _, line, caret = caught.value.problems[0].what.split("\n")
    assert len(line) < 140
    assert line[caret.index("^")] == "|"


@pytest.mark.parametrize(
    ("text", "shell"),
    [
        ("llama-server -m x", "sh"),
        ("llama-server -m 'x y'", "sh"),
        ("a \\\n -b", "sh"),
        ("$ llama-server -m x", "sh"),
        ("me@box:~/models$ llama-server -m x", "sh"),
        ("a ^\r\n -b", "cmd"),
        ("set X=1\nllama-server -m x", "cmd"),
        ("@echo off\nllama-server", "cmd"),
        ("C:\\Users\\me>llama-server -m x", "cmd"),
        ("llama-server.exe -m x", "cmd"),
        ("C:\\llama\\llama-server -m x", "cmd"),
        ("a `\r\n -b", "powershell"),
        ("PS C:\\Users\\me> llama-server -m x", "powershell"),
        ("& 'C:\\Program Files\\x.exe' -m x", "powershell"),
        ("$env:X = 1; llama-server", "powershell"),
        (".\\llama-server.exe -m 'x y'", "powershell"),
    ],
)
def test_the_shell_is_told_by_the_text(text: str, shell: str) -> None:
    assert dialect(text) == shell


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("$ a -b", ["a", "-b"]),
        ("me@box:~$ a -b", ["a", "-b"]),
        ("export X=1\nexport Y='2 3'\na -b", ["X=1", "Y=2 3", "a", "-b"]),
        ("a --export X=1", ["a", "--export", "X=1"]),
        # cmd: what Windows programs make of their line
        (r"C:\me>a.exe -b", ["a.exe", "-b"]),
        ("a.exe it's fine", ["a.exe", "it's", "fine"]),
        (r'a.exe "{\"a\": true}"', ["a.exe", '{"a": true}']),
        ('a.exe "{""a"": true}"', ["a.exe", '{"a": true}']),
        (r"a.exe C:\dir\ \\host\share", ["a.exe", "C:\\dir\\", r"\\host\share"]),
        (r'a.exe "C:\dir\\" -b', ["a.exe", "C:\\dir\\", "-b"]),
        ("a.exe x^&y ^^ 50% #1 ; $5", ["a.exe", "x&y", "^", "50%", "#1", ";", "$5"]),
        ('a.exe "" -b', ["a.exe", "", "-b"]),
        ('@echo off\nrem start\nset X=1\nset "Y=2 3"\n:: now\na.exe rem -b', ["X=1", "Y=2 3", "a.exe", "rem", "-b"]),
        # PowerShell
        ("PS C:\\me> a -b", ["a", "-b"]),
        ("& 'C:\\Program Files\\a.exe' -b", ["C:\\Program Files\\a.exe", "-b"]),
        ('$env:X = "1 2"; $env:Y=3\n& a -b', ["X=1 2", "Y=3", "a", "-b"]),
        ('a `\n -b \'it\'\'s\' "say `"hi`" ""x"""', ["a", "-b", "it's", 'say "hi" "x"']),
        ("a `\n '{\\\"a\\\": true}'", ["a", '{"a": true}']),
        ("a `\n 'C:\\dir\\' `$x `  # note\n -b", ["a", "C:\\dir\\", "$x", " ", "-b"]),
        ("<# how\nto #>\n& a -b", ["a", "-b"]),
    ],
)
def test_each_shell_splits_as_it_does(text: str, words: list[str]) -> None:
    assert list(split(text).words) == words


def test_the_placeholders_of_the_address_are_no_variables() -> None:
    assert split("a --port ${PORT} --url=http://${HOST}:${PORT}").words == (
        "a",
        "--port",
        "${PORT}",
        "--url=http://${HOST}:${PORT}",
    )
    assert split("a.exe --port ${PORT}").words == ("a.exe", "--port", "${PORT}")
    assert split('a `\n --port "${PORT}"').words == ("a", "--port", "${PORT}")


def test_placeholders_that_are_asked_for_are_checked_and_can_be_escaped() -> None:
    assert split('a "${X}" $${Y}', placeholders=["X"]).words == ("a", "${X}", "$${Y}")
    with pytest.raises(BadCommand, match=r"column 3: \$\{Y\} is no placeholder; known are \$\{X\}"):
        split("a ${Y}", placeholders=["X"])


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


@pytest.mark.parametrize(
    "unit",
    [
        "a ",
        "A=\n",
        "\\\n",
        "'a'",
        '"\\""',
        "-a\n",
        "# x\n",
        "^",
        "a\\\n",
        "\n",
        "$'a'",
        "~ ",
        "^\n",
        "`\n",
        "\\ ",
        "^ ",
        "(a) ",
        "A=1\n(a)  ",
        "a@a a ",
        "PS \n",
        "% ",
        "a`\n'",
    ],
)
def test_time_grows_with_length_only(unit: str) -> None:
    text = unit * ((MAX_LENGTH - 1) // len(unit)) + "x"
    began = perf_counter()
    with suppress(Invalid):
        split(text)
    assert perf_counter() - began < 2  # it takes some 20 ms; a quadratic lexer needs minutes


@pytest.mark.parametrize(
    ("text", "shell", "words"),
    [
        ("$ export A=1\n$ a -b", "sh", ["A=1", "a", "-b"]),
        ("(venv) $ a -b", "sh", ["a", "-b"]),
        ("(venv) me@host:~$ export A=1\n(venv) me@host:~$ a -b", "sh", ["A=1", "a", "-b"]),
        ("root@box:/srv# a -b", "sh", ["a", "-b"]),
        ("\n  root@box:/srv# A=1\r\n\n  root@box:/srv# a -b\r\n", "sh", ["A=1", "a", "-b"]),
        ("[me@box models]$ a -b", "sh", ["a", "-b"]),
        ("user@host ~ % export A=1\nuser@host ~ % a \\\n -b", "sh", ["A=1", "a", "-b"]),
        ("# first\n$ a -b", "sh", ["a", "-b"]),
        ('PS C:\\Users\\me> $env:A="0"\nPS C:\\Users\\me> a -b', "powershell", ["A=0", "a", "-b"]),
        ("PS> a -b", "powershell", ["a", "-b"]),
        ("(venv) PS /home/me> a -b", "powershell", ["a", "-b"]),
        ("C:\\llama>set A=0\nC:\\llama>a.exe -b", "cmd", ["A=0", "a.exe", "-b"]),
        ("C:\\llama> a.exe -b", "cmd", ["a.exe", "-b"]),
        ("(venv) C:\\llama>a.exe -b", "cmd", ["a.exe", "-b"]),
        ("a -b '\n$ c'", "sh", ["a", "-b", "\n$ c"]),
    ],
)
def test_prompts_are_no_words_on_any_line_before_the_command(text: str, shell: str, words: list[str]) -> None:
    assert dialect(text) == shell
    assert list(split(text).words) == words


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("$ a -b\n$ c", "line 2, column 1: $ c begins a second command"),
        ("C:\\me>a.exe -b\nC:\\me>c.exe", "line 2, column 1: C:\\me>c.exe begins a second command"),
        ("C:\\llama\\a.exe> log.txt", "line 1, column 15: > is for a shell"),
    ],
)
def test_a_prompt_behind_the_command_is_that_of_a_second_one(text: str, said: str) -> None:
    with pytest.raises(BadCommand) as caught:
        split(text)
    assert caught.value.problems[0].what.startswith(said)


@pytest.mark.parametrize("blank", [" ", "\t", " \t"])
def test_blanks_behind_an_assignment_of_cmd_are_read_once(blank: str) -> None:
    began = perf_counter()
    with suppress(Invalid):
        split("set A=1\nset X=" + blank * (60_000 // len(blank)) + "&")
    assert perf_counter() - began < 2  # giving them back one by one took half a minute


@given(st.lists(st.text(string.printable + "äß模", max_size=12), min_size=1, max_size=8))
@settings(max_examples=200, deadline=None)
def test_quoted_words_come_back_unchanged(words: list[str]) -> None:
    assume(dialect(shlex.join(words)) == "sh")
    assert list(split(shlex.join(words)).words) == words


@given(st.text(st.sampled_from(list("ab-= \n\\'\"$`^#~&;|<>(){}C:.\r\t%@")), max_size=40))
@settings(max_examples=500, deadline=None)
def test_any_text_gives_words_or_invalid(text: str) -> None:
    try:
        words = split(text).words
    except Invalid:
        return
    assert words
