"""What is wrong with what comes from outside: the dotted field, what it takes, what was given, the nearest known name."""

from __future__ import annotations

import math
from enum import Enum
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from msgspec import Meta, field

from llamactl_py.ground.errors import Invalid, Problem
from llamactl_py.ground.fields import Frozen, about
from llamactl_py.ground.json_schema import schemas
from llamactl_py.ground.readers import MOST_PROBLEMS, kind
from llamactl_py.ground.validation import parse, plain


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


Word = Annotated[str, Meta(min_length=1, max_length=5, pattern=r"^[a-z]*$")]


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Paint(Frozen):
    """Has one field of each kind."""

    words: Annotated[tuple[Word, ...], Meta(max_length=2)] = ()
    line: Word | Annotated[tuple[Word, ...], Meta(min_length=1)] | None = None
    coats: Annotated[int | None, about("How many.")] = None
    share: Annotated[float, about("Of the whole.", gt=0, lt=1)] = 0.5
    colour: Colour = Colour.RED
    finish: Literal["matt", "gloss"] = "matt"
    sizes: tuple[int, int] = (1, 2)
    made: dict[Word, Annotated[int, Meta(ge=-1)]] = field(default_factory=dict)
    more: Any = None


TAKEN: list[tuple[dict[str, Any], Any]] = [
    ({"words": ["a", "b"]}, ("a", "b")),
    ({"line": "abc"}, "abc"),
    ({"line": ["a"]}, ("a",)),
    ({"line": None}, None),
    ({"coats": 3.0}, 3),
    ({"coats": None}, None),
    ({"share": 0.25}, 0.25),
    ({"colour": "blue"}, Colour.BLUE),
    ({"finish": "gloss"}, "gloss"),
    ({"sizes": [3, 4]}, (3, 4)),
    ({"made": {"x": -1}}, {"x": -1}),
    ({"more": {"any": ["thing"]}}, {"any": ["thing"]}),
]
REFUSED: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"words": "a"}, ("words: expected a list, got text",)),
    ({"words": ["a", "b", "c"]}, ("words: expected a list of at most 2 items, got one of 3",)),
    (
        {"words": ["", "B"]},
        tuple(f"words.{i}: expected text of 1 to 5 characters matching ^[a-z]*$, got {w!r}" for i, w in enumerate(("", "B"))),
    ),
    ({"words": ["a\n"]}, ("words.0: expected text of 1 to 5 characters matching ^[a-z]*$, got 'a\\n'",)),
    ({"line": ["a", 5]}, ("line.1: expected text of 1 to 5 characters matching ^[a-z]*$, got 5",)),
    ({"line": []}, ("line: expected text of 1 to 5 characters matching ^[a-z]*$ or a list of at least 1 item, got a list",)),
    ({"line": 5}, ("line: expected text of 1 to 5 characters matching ^[a-z]*$ or a list of at least 1 item, got 5",)),
    ({"coats": 1.5}, ("coats: expected a whole number, got 1.5",)),
    ({"share": 1}, ("share: expected a number over 0 under 1, got 1",)),
    ({"share": math.nan}, ("share: expected a number over 0 under 1, got nan",)),
    ({"colour": "green"}, ("colour: expected one of 'red', 'blue', got 'green'",)),
    ({"finish": None}, ("finish: expected one of 'matt', 'gloss', got nothing",)),
    ({"sizes": [1, 2, 3]}, ("sizes: expected a list of 2, got one of 3",)),
    ({"made": {"X": 1}}, ("made.X: expected text of 1 to 5 characters matching ^[a-z]*$, got 'X'",)),
    ({"made": {"x": -2}}, ("made.x: expected a whole number of at least -1, got -2",)),
    ({"made": []}, ("made: expected an object with named values, got a list",)),
]


@pytest.mark.parametrize(("raw", "value"), TAKEN)
def test_what_a_type_takes_becomes_its_value(raw: dict[str, Any], value: Any) -> None:
    (name,) = raw
    assert getattr(parse(Paint, raw), name) == value


@pytest.mark.parametrize(("raw", "said"), REFUSED)
def test_what_it_does_not_take_is_told_with_what_it_takes(raw: dict[str, Any], said: tuple[str, ...]) -> None:
    with pytest.raises(Invalid) as caught:
        parse(Paint, raw)
    assert tuple(map(str, caught.value.problems)) == said


def test_the_json_schema_takes_and_refuses_the_same() -> None:
    validator = jsonschema.Draft202012Validator({"$ref": "#/$defs/Paint", "$defs": schemas([Paint], "#/$defs/{}")})
    assert [raw for raw, _ in TAKEN if not validator.is_valid(raw)] == []
    kept = [raw for raw, _ in REFUSED if validator.is_valid(raw)]
    assert [*map(str, kept)] == ["{'words': ['a\\n']}", "{'share': nan}"], "its patterns are searched for; JSON has no NaN"


def test_what_was_parsed_is_shown_as_it_was_written() -> None:
    raw = {"words": ["a"], "coats": 3, "colour": "blue", "sizes": [3, 4], "made": {"x": 1}}
    assert parse(Paint, plain(parse(Paint, raw))) == parse(Paint, raw)
    assert plain(parse(Paint, raw)).items() >= raw.items()
    assert plain(parse(Paint, {"more": "\udcff"}))["more"] == "\udcff", "half a character, as names of files may have"


@pytest.mark.parametrize(
    ("text", "value"),
    [("36", 36), (" 7 ", 7), ("yes", None), ("1e3", None), ("0x10", None), ("٣", None), ("1_000", None), ("", None)],
)
def test_text_stands_for_a_number_only_where_it_is_one(text: str, value: int | None) -> None:
    if value is not None:
        assert parse(Paint, {"coats": text}, from_text=True).coats == value
    else:
        with pytest.raises(Invalid, match=r"^coats: expected a whole number, got "):
            parse(Paint, {"coats": text}, from_text=True)


def test_of_many_problems_the_first_are_told_and_how_many_more_there_are() -> None:
    with pytest.raises(Invalid) as caught:
        parse(Paint, {f"x{i}": 1 for i in range(MOST_PROBLEMS + 5)})
    assert len(caught.value.problems) == MOST_PROBLEMS + 1
    assert caught.value.problems[-1] == Problem("", "and 5 more")
    with pytest.raises(Invalid, match=f"; and {30 - MOST_PROBLEMS} more$"):
        parse(Paint, {"line": [0] * 30})


def test_no_value_is_in_a_repr() -> None:
    assert repr(parse(Lock, {"pin": {"a": 1234}})) == "Lock(...)"


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
