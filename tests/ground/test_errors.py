"""The words of our errors: hints name the nearest known word or nothing, and problems name their field."""

from __future__ import annotations

import pytest

from llamactl_py.ground.errors import Invalid, LlamactlError, Problem, nearest

KNOWN = ("idle_timeout", "start_timeout", "Qwen3-8B", "port")


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("idel_timeout", " (did you mean 'idle_timeout'?)"),
        ("IDLE_TIMEOUT", " (did you mean 'idle_timeout'?)"),
        ("qwen3-8b", " (did you mean 'Qwen3-8B'?)"),
        ("prot", " (did you mean 'port'?)"),
        ("tpor", " (did you mean 'port'?)"),
        ("zzz", ""),
        ("", ""),
        ("\0", ""),
        ("p" * 100_000, ""),
    ],
)
def test_a_hint_names_the_nearest_known_word_as_it_is_written(word: str, hint: str) -> None:
    assert nearest(word, KNOWN) == hint


def test_there_is_no_hint_where_nothing_is_known() -> None:
    assert nearest("anything", ()) == ""


def test_problems_name_their_field_where_there_is_one() -> None:
    error = Invalid(iter([Problem("a.b", "is required"), Problem("", "expected an object")]))
    assert str(error) == "a.b: is required; expected an object"
    assert error.problems == (Problem("a.b", "is required"), Problem("", "expected an object"))


def test_every_error_says_in_its_docstring_what_happened() -> None:
    classes = [LlamactlError]
    for error in classes:
        classes += [sub for sub in error.__subclasses__() if sub.__module__ == LlamactlError.__module__]
    assert len(classes) > 20
    assert [error.__name__ for error in classes if not (error.__doc__ or "").strip()] == []
