"""Finding and replacing `model` in raw JSON. The judge is Python's own json module, and the bytes around the value.

`Writer` spells JSON in all its ways: any character escaped or not, any white space, keys twice. What it writes is then found
exactly, or refused; the value that we route by is the one that every parser reads from the body we forward.
"""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llamactl_py.ground.errors import BadRequest
from llamactl_py.proxy.rewrite import MAX_MODEL, Model, find_model, with_model

Pairs = list[tuple[str, Any]]


class Writer:
    """Writes values as JSON; an object is a list of pairs, so that a key can be there twice."""

    def __init__(self, random: Random) -> None:
        self.random = random

    def space(self) -> str:
        return "".join(self.random.choices(" \t\r\n", k=self.random.choice((0, 0, 0, 1, 3))))

    def char(self, c: str) -> str:
        code = ord(c)
        must = c in '"\\' or code < 0x20
        if not must and self.random.random() < 0.8:
            return c
        short = {'"': '\\"', "\\": "\\\\", "/": "\\/", "\n": "\\n", "\t": "\\t", "\b": "\\b", "\f": "\\f", "\r": "\\r"}
        if c in short and self.random.random() < 0.7:
            return short[c]
        units = [code] if code < 0x10000 else [0xD800 + ((code - 0x10000) >> 10), 0xDC00 + ((code - 0x10000) & 0x3FF)]
        return "".join(f"\\u{unit:04{self.random.choice('xX')}}" for unit in units)

    def write(self, value: Any) -> str:
        space = self.space
        if isinstance(value, str):
            return f'"{"".join(map(self.char, value))}"'
        if isinstance(value, list) and value and value[0] == ("is", "an object"):
            inner = ",".join(f"{space()}{self.write(k)}{space()}:{space()}{self.write(v)}{space()}" for k, v in value[1:])
            return f"{{{inner or space()}}}"
        if isinstance(value, list):
            return f"[{','.join(space() + self.write(item) + space() for item in value) or space()}]"
        return json.dumps(value)

    def object(self, pairs: Pairs) -> bytes:
        return (self.space() + self.write([("is", "an object"), *pairs]) + self.space()).encode()


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    [
        "model",
        '"model":',
        "model\\",
        '\\"model":"x"',
        "mode",
        "models",
        "Model",
        ',"model":"x",',
        "{",
        "]",
        ":",
        "\\",
        '"',
        "ü",
        "😀",
    ]
)
KEYS = st.sampled_from(["model", "messages", "x", "", '"model', "modeL", "model\0", "a:b"]) | TEXTS
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(st.tuples(KEYS, inner), max_size=3).map(lambda p: [("is", "an object"), *p])
    ),
    max_leaves=8,
)
MODELS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.isprintable) | st.sampled_from(
    ["model", "org/model:7b", 'a"b', "a\\", "ü", "😀", "{", '":"']
)
WRITERS = st.randoms(use_true_random=False).map(Writer)
OTHERS = st.lists(st.tuples(KEYS.filter(lambda key: key != "model"), VALUES), max_size=4)


def forwarded(body: bytes, name: str) -> tuple[Model, bytes]:
    model = find_model(body)
    return model, b"".join(with_model(body, model, name))


@given(OTHERS, OTHERS, MODELS, MODELS, WRITERS)
@settings(max_examples=200, deadline=None)
def test_the_model_is_found_wherever_it_stands_and_nothing_else_is_touched(
    before: Pairs, after: Pairs, name: str, new: str, writer: Writer
) -> None:
    body = writer.object([*before, ("model", name), *after])
    model, sent = forwarded(body, new)
    start, end = model.span(body)
    assert model.name == name == json.loads(body)["model"]
    assert json.loads(body[start:end]) == name
    assert sent[:start] == body[:start]
    assert sent[len(sent) - len(body) + end :] == body[end:]
    assert json.loads(sent) == {**json.loads(body), "model": new}
    assert find_model(sent).name == new


@given(OTHERS, st.lists(MODELS | st.none(), min_size=2, max_size=3), WRITERS)
@settings(max_examples=60, deadline=None)
def test_a_model_given_twice_is_refused_however_it_is_spelled(others: Pairs, names: list[str | None], writer: Writer) -> None:
    pairs = [*others, *(("model", name) for name in names)]
    writer.random.shuffle(pairs)
    with pytest.raises(BadRequest):
        find_model(writer.object(pairs))


@given(OTHERS, VALUES.filter(lambda value: not isinstance(value, str)), WRITERS)
@settings(max_examples=40, deadline=None)
def test_a_model_that_is_no_text_is_refused(others: Pairs, value: Any, writer: Writer) -> None:
    with pytest.raises(BadRequest):
        find_model(writer.object([*others, ("model", value)]))


@given(OTHERS, WRITERS)
@settings(max_examples=40, deadline=None)
def test_a_model_inside_something_else_is_not_the_model(others: Pairs, writer: Writer) -> None:
    with pytest.raises(BadRequest, match="has no model"):
        find_model(writer.object([*others, ("x", [("is", "an object"), ("model", "a")])]))


@given(OTHERS, MODELS, WRITERS, st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_body_is_refused_or_read_as_every_parser_reads_it(
    others: Pairs, name: str, writer: Writer, data: st.DataObject
) -> None:
    body = bytearray(writer.object([*others, ("model", name)]))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.sampled_from(PIECES))
        if not body:
            return
    assert_refused_or_exact(bytes(body))


@given(
    st.binary(max_size=40)
    | st.lists(st.sampled_from([b'"model"', b'"a"', b'"x"', b"{", b"}", b"[", b"]", b":", b",", b" "])).map(b"".join)
)
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_refused_or_read_as_every_parser_reads_them(body: bytes) -> None:
    assert_refused_or_exact(body)


PIECES = [
    b"", b'"', b"\\", b"{", b"}", b"[", b"]", b":", b",", b" ", b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\\u006d",
    b"\\ud800", b"NaN", b"1e999", b'"model":', b'"model":"b",', b'"mode\\u006C":"b",', b"//", b"'", b"\n", b"-", b"01",
    b"\xef\xbb\xbf",
]  # fmt: skip


def assert_refused_or_exact(body: bytes) -> None:
    try:
        model, sent = forwarded(body, "new")
    except BadRequest:
        return
    assert json.loads(body)["model"] == model.name
    assert json.loads(sent) == {**json.loads(body), "model": "new"}
    start, end = model.span(body)
    assert (sent[:start], sent[start + 5 :]) == (body[:start], body[end:])


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"model":"a"}', "a"),
        (b' \t\r\n{ "model" \n:\t"a" } \n', "a"),
        (b'{"mod\\u0065l":"a"}', "a"),
        (b'{"\\u006D\\u006F\\u0064\\u0065\\u006C":"a"}', "a"),
        (b'{"\\u006d\\u006f\\u0064\\u0065\\u006c":"a","x":{"model":"b"}}', "a"),
        (b'{"x":{"model":"b"},"model":"a"}', "a"),
        (b'{"x":[{"model":"b"},{"model":"c"}],"model":"a","y":{"model":"d"}}', "a"),
        (b'{"x":"\\"model\\":\\"b\\"","model":"a"}', "a"),
        (b'{"a\\"model":"b","model":"a"}', "a"),
        (b'{"a\\"model":"b","mo\\u0064el":"a"}', "a"),
        (b'{"x\\\\":"model","model":"a"}', "a"),
        (b'{"":"model","model":"a","x":{"model":1}}', "a"),
        (b'{"Model":"b","MODEL":"c","model":"a"}', "a"),
        (b'{"model":"\\u0061\\/b\\ud83d\\ude00"}', "a/b😀"),
        ('{"model":"ü","é":"😀"}'.encode(), "ü"),
        (b'{"model":"a","seed":9007199254740993,"t":0.10000000000000001,"big":1e999}', "a"),
        (b'{"model":"' + b"a" * MAX_MODEL + b'"}', "a" * MAX_MODEL),
    ],
)
def test_spellings_that_are_easily_got_wrong(body: bytes, name: str) -> None:
    model, sent = forwarded(body, 'n"ü')
    start, end = model.span(body)
    assert model.name == name
    assert sent == body[:start] + b'"n\\"\xc3\xbc"' + body[end:]
    assert json.loads(sent)["model"] == 'n"ü'


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "the request body is empty; send a JSON object with a model"),
        (b" ", "the request body is not valid JSON: "),
        (b"{}", "the request body has no model; set model to the name of an instance"),
        (b'{"model":""}', "the request body has no model"),
        (b'{"model":null}', "the request body has no model"),
        (b'{"x":{"model":"a"}}', "the request body has no model"),
        (b'{"model":1}', "model must be text: the name of an instance"),
        (b'{"model":["a"]}', "model must be text"),
        (b'{"model":{"model":"a"}}', "model must be text"),
        (b'[{"model":"a"}]', "the request body must be a JSON object"),
        (b'"model"', "the request body must be a JSON object"),
        (b"null", "the request body must be a JSON object"),
        (b"1", "the request body must be a JSON object"),
        (b'{"model":"a","model":"a"}', "the request body has the key model more than once"),
        (b'{"model":"a","mode\\u006C":"b"}', "the request body has the key model more than once"),
        (b'{"model":null,"model":"b"}', "the request body has the key model more than once"),
        (b'{"model":"a","x":{"model":1},"\\u006dodel":"b"}', "the request body has the key model more than once"),
        (b'{"model":"a\\u0000b"}', "model is not usable: it has to be at most 256 printable characters"),
        (b'{"model":"a\\nb"}', "model is not usable"),
        (b'{"model":"a\\u007f"}', "model is not usable"),
        ('{"model":"a\u202eb"}'.encode(), "model is not usable"),
        (b'{"model":"' + b"a" * (MAX_MODEL + 1) + b'"}', "model is not usable"),
        (b'\xef\xbb\xbf{"model":"a"}', "the request body is not valid JSON"),
        ('{"model":"a"}'.encode("utf-16"), "the request body is not valid JSON"),
        ('{"model":"a"}'.encode("utf-16-le"), "the request body is not valid JSON"),
        ('{"model":"a"}'.encode("utf-32"), "the request body is not valid JSON"),
        (b'{"model":"\xff"}', "the request body is not valid JSON"),
        (b'{"model":"a","x":"\xff"}', "the request body is not valid JSON"),
        (b'{"model":"a","\xff":1,"x":{"model":1}}', "the request body is not valid JSON"),
        (b'{"model":"a","x":"\xed\xa0\x80"}', "the request body is not valid JSON"),
        (b'{"model":"\\ud800"}', "the request body is not valid JSON"),
        (b'{"model":"a","x":"\\udc00"}', "the request body is not valid JSON"),
        (b'{"model":"a","\\ud800":1,"x":{"model":1}}', "the request body is not valid JSON"),
        (b'{"model":"a","x":NaN}', "the request body is not valid JSON"),
        (b'{"model":"a","x":-Infinity}', "the request body is not valid JSON"),
        (b'{"model":"a","x":01}', "the request body is not valid JSON"),
        (b'{"model":"a","x":.5}', "the request body is not valid JSON"),
        (b'{"model":"a",}', "the request body is not valid JSON"),
        (b'{"model":"a"}{"model":"b"}', "the request body is not valid JSON"),
        (b'{"model":"a"}\0', "the request body is not valid JSON"),
        (b'{"model":"a"', "the request body is not valid JSON"),
        (b"{'model':'a'}", "the request body is not valid JSON"),
        (b'{model:"a"}', "the request body is not valid JSON"),
        (b'{/**/"model":"a"}', "the request body is not valid JSON"),
        (b'{"model":"a","x":"\n"}', "the request body is not valid JSON"),
        (b"model=a&x=y", "the request body is not valid JSON"),
        (b"<html>", "the request body is not valid JSON"),
        (b'{"model":"a","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "the request body is nested too deeply"),
        (b'{"a":' * 100_000, "the request body is nested too deeply"),
    ],
)
def test_what_cannot_be_routed_is_refused_with_the_reason(body: bytes, said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        find_model(body)
    assert str(caught.value).startswith(said)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


def test_a_number_of_5000_digits_passes_untouched() -> None:
    """Python's json module cannot read it; that is for the backend to say."""
    body = b'{"n":' + b"9" * 5000 + b',"model":"a"}'
    assert forwarded(body, "b")[1] == body.replace(b'"a"', b'"b"')


@pytest.mark.parametrize(
    "body",
    [
        b"\xff" * 10_000_000,
        b"[" * 10_000_000,
        b'"' * 10_000_000,
        b'{"model' * 1_000_000,
        b'{"x":"' + b"a" * 10_000_000,
        b'{"model":"a","x":"' + b"\\u0061" * 2_000_000,
        b'{"model":"a"' + b',"model":"a"' * 500_000 + b"}",
    ],
    ids=["noise", "brackets", "quotes", "keys", "an open text", "escapes", "the key again and again"],
)
def test_ten_megabytes_of_junk_are_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        find_model(body)


@pytest.mark.parametrize(
    "filling",
    [
        b'"' + b"\\u0061" * 1_000_000 + b'"',  # each could begin a key
        b'"' + b"\\\\" * 2_000_000 + b'"',
        b'"' + b'\\"model\\":' * 200_000 + b'"',
        b"[" + b'{"model":1},' * 100_000 + b"1]",
        b'{"model" : ' * 500 + b"1" + b"}" * 500,
        b'"' + b"a" * 10_000_000 + b'"',
        b" " * 5_000_000 + b"1",
    ],
    ids=["escapes", "backslashes", "quoted keys", "keys below", "keys far below", "text", "space"],
)
@pytest.mark.parametrize("twice", [b"", b',"z":{"model":1}'], ids=["written once", "written twice"])
def test_time_grows_with_the_body_and_not_with_its_square(filling: bytes, twice: bytes) -> None:
    """With the square of these sizes this would not end while anybody waits for it."""
    body = b'{"x":' + filling + twice + b',"model":"a"}'
    model, sent = forwarded(body, "bc")
    assert (model.name, *model.span(body)) == ("a", len(body) - 4, len(body) - 1)
    assert sent == body[:-4] + b'"bc"}'


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
@settings(max_examples=50, deadline=None)
@example('"\\\n\0\u2028😀')
def test_any_name_is_written_as_json(new: str) -> None:
    _, sent = forwarded(b'{"model":"a"}', new)
    assert json.loads(sent) == {"model": new}
