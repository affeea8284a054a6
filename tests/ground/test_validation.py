"""What is wrong with what comes from outside: the dotted field, what it takes, what was given, the nearest known name."""

from __future__ import annotations

from typing import Annotated

import pytest
from msgspec import field

from llamactl_py.ground.errors import Invalid, Problem
from llamactl_py.ground.fields import Frozen, about
from llamactl_py.ground.readers import kind
from llamactl_py.ground.validation import parse


class Wheel(Frozen):
    spokes: Annotated[int, about("How many hold it.", ge=0)] = 32
    pressure: float = 4.5
    label: str = ""
    tubeless: bool = False


class Bicycle(Frozen):
    name: str
    front: Wheel = Wheel()
    rear_wheel: Wheel = field(default=Wheel(), name="rear-wheel")
    gears: tuple[int, ...] = ()


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ({}, Problem("name", "is required")),
        ({"name": "x", "fornt": {}}, Problem("fornt", "unknown key (did you mean 'front'?)")),
        ({"name": "x", "zzz": 1}, Problem("zzz", "unknown key")),
        ({"name": "x", "front": {"spoke": 1}}, Problem("front.spoke", "unknown key (did you mean 'spokes'?)")),
        ({"name": "x", "rear-wheel": {"labl": ""}}, Problem("rear-wheel.labl", "unknown key (did you mean 'label'?)")),
        ({"name": "x", "rear_wheel": {}}, Problem("rear_wheel", "unknown key (did you mean 'rear-wheel'?)")),
        ({"name": 5}, Problem("name", "expected text, got 5")),
        ({"name": None}, Problem("name", "expected text, got nothing")),
        ({"name": ["x"]}, Problem("name", "expected text, got a list")),
        (
            {"name": "x", "front": []},
            Problem("front", "expected an object with named fields, got a list"),
        ),
        ({"name": "x", "front": {"spokes": -1}}, Problem("front.spokes", "expected a whole number of at least 0, got -1")),
        (
            {"name": "x", "gears": [1, "two"]},
            Problem("gears.1", "expected a whole number, without quotes, got 'two'"),
        ),
        ({"name": "x", "front": {"spokes": True}}, Problem("front.spokes", "expected a whole number of at least 0, got true")),
        ({"name": "x", "front": {"pressure": False}}, Problem("front.pressure", "expected a number, got false")),
        (
            {"name": "x", "front": {"spokes": "32"}},
            Problem("front.spokes", "expected a whole number of at least 0, without quotes, got '32'"),
        ),
        *(
            ({"name": "x", "front": {"tubeless": value}}, Problem("front.tubeless", f"expected true or false{said}"))
            for value, said in (("yes", ", without quotes, got 'yes'"), (1, ", got 1"), (0.0, ", got 0.0"))
        ),
    ],
)
def test_a_problem_names_its_field_and_says_what_to_do(raw: object, problem: Problem) -> None:
    with pytest.raises(Invalid) as caught:
        parse(Bicycle, raw)
    assert caught.value.problems == (problem,)


def test_text_from_variables_may_stand_for_numbers_and_for_true_and_false() -> None:
    wheel = parse(Bicycle, {"name": "x", "front": {"spokes": "36", "tubeless": "yes"}}, from_text=True).front
    assert (wheel.spokes, wheel.tubeless) == (36, True)


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(Invalid) as caught:
        parse(Bicycle, {"front": {"spokes": "many", "lable": 1}, "gears": 3})
    assert {p.where for p in caught.value.problems} == {"name", "front.spokes", "front.lable", "gears"}


class Lock(Frozen):
    pin: dict[str, int] = field(default_factory=dict)
    owner_token: int = 0
    api_keys: dict[str, int] = field(default_factory=dict)


@pytest.mark.parametrize(
    "raw", [{"owner_token": "hush"}, {"api_keys": {"a": "hush"}}, {"pin": {"MY_SECRET": "hush"}}, {"pin": "hush"}]
)
def test_what_may_be_a_secret_is_not_repeated(raw: object) -> None:
    with pytest.raises(Invalid, match=r"got text$") as caught:
        parse(Lock, raw)
    assert "hush" not in str(caught.value)


def test_long_values_are_not_repeated() -> None:
    with pytest.raises(Invalid) as caught:
        parse(Wheel, {"spokes": "9" * 200 + "x"})
    assert "999" not in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "what"), [([], "a list"), ("x", "text"), (None, "nothing"), (1, "a number"), (True, "true or false")]
)
def test_only_an_object_has_named_fields(raw: object, what: str) -> None:
    with pytest.raises(Invalid, match=f"^options: expected an object with named fields, got {what}$"):
        parse(Bicycle, raw, prefix="options")


def test_a_prefix_stands_before_every_field() -> None:
    with pytest.raises(Invalid) as caught:
        parse(Bicycle, {"nam": 1}, prefix="bicycle")
    assert [p.where for p in caught.value.problems] == ["bicycle.name", "bicycle.nam"]


def test_what_was_parsed_never_changes() -> None:
    wheel = parse(Wheel, {"spokes": 3})
    with pytest.raises(AttributeError, match="immutable"):
        wheel.spokes = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "nothing"), (True, "true or false"), (1, "a number"), (1.5, "a number"), ("", "text"), ([], "a list"),
        ({}, "an object"), ((), "tuple"),
    ],
)  # fmt: skip
def test_kinds_of_values_have_plain_words(value: object, words: str) -> None:
    assert kind(value) == words
