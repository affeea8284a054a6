"""Finds, and where it must change replaces, the value of `model` in a raw JSON body. The rest stays byte for byte. Pure.

msgspec checks the whole body and reads the one field without building objects for the rest. Where the value stands in the
bytes is looked for when it must change: the key is nearly always written once; otherwise a scan of the top level settles it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from llamactl_py.ground.errors import BadRequest

MAX_MODEL = 256
FEW_QUOTES = 256
COPIED = 1 << 16
"""Bytes. Smaller bodies are copied when they change: one write is cheaper than three."""

Body = bytes | bytearray | memoryview


class _Head(msgspec.Struct):
    model: str | None = None


_decoder = msgspec.json.Decoder(_Head)
_KEY = re.compile(rb'"(?:m|\\u006[dD])(?:o|\\u006[fF])(?:d|\\u0064)(?:e|\\u0065)(?:l|\\u006[cC])"[ \t\r\n]*:[ \t\r\n]*')
"""The key in each of its spellings."""
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_VALUE = re.compile(_STRING, re.DOTALL)
_TOKEN = re.compile(_STRING + rb"|[\[\]{}:,]", re.DOTALL)


class Model(Struct):
    """The decoded value, and where it is."""

    name: str
    value_at: int | None = None
    """Where its value begins, quotes included; None: behind the only text in the body that reads like the key."""

    def span(self, body: bytes | bytearray) -> tuple[int, int]:
        """The bytes [start, end) of *body* that the value takes up."""
        start = self.value_at
        if start is None:
            key = _KEY.search(body)
            assert key is not None
            start = key.end()
        value = _VALUE.match(body, start)
        assert value is not None  # msgspec found text there
        return start, value.end()


def find_model(body: bytes | bytearray) -> Model:
    """The top-level `model` of *body*. Raises BadRequest: not JSON, no object, no model, no text, or the key given twice."""
    try:
        name = _decoder.decode(body).model
        if not body.isascii():
            body.decode()  # msgspec looks into no text that it skips
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(_complaint(body, error)) from None
    if not name:
        raise BadRequest("the request body has no model; set model to the name of an instance")
    if len(name) > MAX_MODEL or not name.isprintable():
        raise BadRequest(f"model is not usable: it has to be at most {MAX_MODEL} printable characters")
    if len(body) < COPIED and body.count(b'"model"') == 1 and b"\\u00" not in body:
        return Model(name)  # no spelling of the key but the plain one, and that only once
    found = _keys(body)
    return Model(name, found[0] if len(found) == 1 else _scan_top_level(body))


def _keys(body: bytes | bytearray) -> list[int]:
    """Where the value begins behind each text that reads like the key. A quotation mark is found at the speed of memory, and an
    image has none for megabytes; where there are many, a search for the key itself is faster."""
    found: list[int] = []
    at = -1
    for _ in range(FEW_QUOTES):
        if (at := body.find(b'"', at + 1)) < 0:
            return found
        if key := _KEY.match(body, at):
            found.append(key.end())
    return found + [key.end() for key in _KEY.finditer(body, at + 1)]


def with_model(body: bytes | bytearray, model: Model, name: str | None) -> Sequence[Body]:
    """The pieces of *body* with the value of `model` replaced by *name*, where that is given and another one. A large body is
    not copied for it."""
    if name is None or name == model.name:
        return (body,)
    value = msgspec.json.encode(name)
    start, end = model.span(body)
    if len(body) < COPIED:
        return (b"".join((body[:start], value, body[end:])),)
    view = memoryview(body)
    return view[:start], value, view[end:]


def _scan_top_level(body: bytes | bytearray) -> int:
    """Where the value of the one top-level key `model` begins. Raises BadRequest when the key is there twice, as we and the
    backend might then read different ones."""
    depth, before_colon, is_key = 0, b"", False
    starts = []
    for token in _TOKEN.finditer(body):
        text = token.group()
        if text in (b"{", b"["):
            depth += 1
            is_key = True
        elif text in (b"}", b"]"):
            depth -= 1
        elif depth == 1 and text == b",":
            is_key = True
        elif depth == 1 and text == b":":
            if is_key and msgspec.json.decode(before_colon) == "model":
                starts.append(token.end())
            is_key = False
        elif depth == 1 and is_key:
            before_colon = text
    if len(starts) != 1:
        raise BadRequest("the request body has the key model more than once")
    start = starts[0]
    while body[start] in b" \t\r\n":
        start += 1
    return start


def _complaint(body: bytes | bytearray, error: Exception) -> str:
    if not body:
        return "the request body is empty; send a JSON object with a model"
    if isinstance(error, RecursionError):
        return "the request body is nested too deeply"
    message = str(error)
    if "`$.model`" in message:
        return "model must be text: the name of an instance"
    if message.startswith("Expected `object`"):
        return "the request body must be a JSON object"
    return f"the request body is not valid JSON: {message}"
