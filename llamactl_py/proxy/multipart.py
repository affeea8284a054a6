"""Finds, and where it must change replaces, the field `model` of a `multipart/form-data` body (RFC 7578): audio to transcribe
comes that way. The body may be a mapped file; only the heads of its parts are looked at. Pure.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator, Sequence

from msgspec import Struct

from llamactl_py.ground.errors import BadRequest
from llamactl_py.proxy.rewrite import MAX_MODEL

MAX_PARTS = 1000
MAX_PART_HEAD = 1 << 13

Buffer = bytes | bytearray | mmap.mmap

_BOUNDARY = re.compile(
    r""";[ \t]*boundary=(?:"([0-9A-Za-z'()+_,./:=? -]{1,70})"|([0-9A-Za-z'()+_./:=?-]{1,70}))[ \t]*(?:;|$)""", re.IGNORECASE
)
_PARAMETER = re.compile(rb';[ \t]*([A-Za-z*]+)=(?:"((?:[^"\\\r\n]|\\.)*+)"|([^";\s]++))[ \t]*')
_DISPOSITION = re.compile(rb"\r\ncontent-disposition:[ \t]*form-data([^\r\n]*)", re.IGNORECASE)


class Field(Struct, frozen=True):
    """The value of a field and the bytes [start, end) that it takes up."""

    value: str
    start: int
    end: int


def boundary_of(content_type: str) -> bytes:
    """The boundary that a Content-Type names. Raises BadRequest."""
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise BadRequest("the Content-Type of the request has no usable boundary")
    return (found[1] or found[2]).encode("ascii")


def find_model(body: Buffer, boundary: bytes) -> Field:
    """The one field `model`. Raises BadRequest: no such field, given twice, no plain text, or the body is no multipart."""
    found: Field | None = None
    for name, start, end in _parts(body, boundary):
        if name != b"model":
            continue
        if found is not None:
            raise BadRequest("the form has the field model more than once")
        if end - start > 4 * MAX_MODEL:
            raise BadRequest(f"model is not usable: it has to be at most {MAX_MODEL} printable characters")
        try:
            value = body[start:end].decode()
        except UnicodeDecodeError:
            raise BadRequest("model is not usable: it is no UTF-8 text") from None
        found = Field(value, start, end)
    if found is None or not found.value:
        raise BadRequest("the form has no field model; set model to the name of an instance")
    if len(found.value) > MAX_MODEL or not found.value.isprintable():
        raise BadRequest(f"model is not usable: it has to be at most {MAX_MODEL} printable characters")
    return found


def with_model(body: Buffer, field: Field, value: str | None) -> Sequence[memoryview | bytes]:
    """The pieces of *body* with that of *field* replaced by *value*, where that is given and another one."""
    view = memoryview(body)
    if value is None or value == field.value:
        return (view,)
    return view[: field.start], value.encode(), view[field.end :]


def _parts(body: Buffer, boundary: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, end) of the value of each part."""
    delimiter = b"--" + boundary
    if body[: len(delimiter)] != delimiter:
        raise BadRequest("the form does not begin with its boundary")
    at = 0
    for _ in range(MAX_PARTS):
        after = at + len(delimiter)
        if body[after : after + 2] == b"--":
            return
        head_end = body.find(b"\r\n\r\n", after, after + MAX_PART_HEAD)
        following = body.find(b"\r\n" + delimiter, head_end + 2) if head_end >= 0 else -1
        if body[after : after + 2] != b"\r\n" or following < 0:
            raise BadRequest("the form is cut off, or a part of it has no usable head")
        yield _name(bytes(body[after : head_end + 2])), head_end + 4, max(following, head_end + 4)
        at = following + 2
    raise BadRequest(f"the form has more than {MAX_PARTS} parts")


def _name(head: bytes) -> bytes:
    """The name of the part with that *head*. Raises BadRequest where two readers could find different ones."""
    dispositions = _DISPOSITION.findall(head)
    rest = dispositions[0].strip() if len(dispositions) == 1 else b""
    names = []
    while parameter := _PARAMETER.match(rest):
        rest = rest[parameter.end() :]
        if parameter[1].lower() in (b"name", b"name*"):
            names.append((parameter[2], parameter[3]))
    if rest:
        names.clear()  # what is no parameter could hold another name
    if len(names) != 1:
        raise BadRequest("a part of the form has no usable name: it needs one Content-Disposition with one name")
    quoted, plain = names[0]
    return bytes(quoted or plain)
