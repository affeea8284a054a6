"""Forms as clients send them, and as nobody should. Pure; `form` writes one from (head line, value) pairs."""

from __future__ import annotations

import tempfile
from mmap import ACCESS_READ, mmap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamactl_py.ground.errors import BadRequest
from llamactl_py.proxy.multipart import MAX_PARTS, Buffer, boundary_of, find_model, with_model

BOUNDARY = b"x-boundary"


def part(name: str, value: bytes, rest: str = "") -> bytes:
    return f'--x-boundary\r\nContent-Disposition: form-data; name="{name}"{rest}\r\n\r\n'.encode() + value + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--x-boundary--\r\n"


AUDIO = part("file", b'RIFF\0\r\n--x-bound\r\n\r\nname="model"', '; filename="a.wav"\r\nContent-Type: audio/wav')


@pytest.mark.parametrize("memory", [bytes, bytearray, "file"])
def test_the_model_is_found_and_its_value_alone_replaced(memory: type | str) -> None:
    body = form(AUDIO, part("model", b"whisper"), part("language", b"de"))
    with tempfile.TemporaryFile() as file:
        file.write(body)
        file.flush()
        buffer: Buffer = mmap(file.fileno(), 0, access=ACCESS_READ) if memory == "file" else memory(body)  # type: ignore[operator]
        field = find_model(buffer, BOUNDARY)
        assert field.value == "whisper"
        assert b"".join(with_model(buffer, field, "large/v3")) == body.replace(b"\r\n\r\nwhisper\r\n", b"\r\n\r\nlarge/v3\r\n")
        assert b"".join(with_model(buffer, field, None)) == b"".join(with_model(buffer, field, "whisper")) == body


def test_a_name_within_a_file_name_is_none() -> None:
    assert find_model(form(part("file", b"x", '; filename="a; name=model; b.wav"'), part("model", b"a")), BOUNDARY).value == "a"


NAMES = st.sampled_from(["file", "language", "models", "Model", "x"])
VALUES = st.binary(max_size=60).filter(lambda value: b"--x-boundary" not in value)
PARTS = st.lists(st.builds(part, NAMES, VALUES), max_size=4)


@given(PARTS, PARTS, st.sampled_from(["a", "org/model:7b", "ü"]))
def test_whatever_stands_around_it(before: list[bytes], after: list[bytes], model: str) -> None:
    body = form(*before, part("model", model.encode()), *after)
    field = find_model(body, BOUNDARY)
    assert field.value == model == body[field.start : field.end].decode()


MODEL = part("model", b"a")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "does not begin with its boundary"),
        (b"preamble\r\n" + form(MODEL), "does not begin with its boundary"),
        (form(AUDIO), "has no field model"),
        (form(part("model", b"")), "has no field model"),
        (form(MODEL, MODEL), "more than once"),
        (form(MODEL, part("model", b"b")), "more than once"),
        (form(part("model", b"\xff")), "no UTF-8"),
        (form(part("model", b"a\nb")), "printable"),
        (form(part("model", b"a" * 257)), "at most 256"),
        (form(part("model", b"a" * 5000)), "at most 256"),
        (MODEL, "cut off"),
        (form(MODEL)[:-6], "cut off"),
        (b"--x-boundary \r\n" + form(MODEL), "cut off"),
        (b"--x-boundary\r\nContent-Disposition: form-data; name=model", "cut off"),
        (b"--x-boundary\r\nX: " + b"y" * 9000 + b"\r\n\r\n\r\n--x-boundary--", "cut off"),
        (form(b"--x-boundary\r\nX: y\r\n\r\na\r\n"), "no usable name"),
        (form(b'--x-boundary\r\nContent-Disposition: form-data; name="x"; name="model"\r\n\r\na\r\n'), "no usable name"),
        (
            form(
                b'--x-boundary\r\nContent-Disposition: form-data; name="x"\r\nContent-Disposition: form-data; name="model"'
                b"\r\n\r\na\r\n"
            ),
            "no usable name",
        ),
        (b"".join(part("x", b"") for _ in range(MAX_PARTS + 1)), "more than 1000 parts"),
    ],
)
def test_what_two_readers_could_read_differently_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        find_model(body, BOUNDARY)


@pytest.mark.parametrize(
    ("header", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('multipart/form-data; charset=utf-8; Boundary="a b"', b"a b"),
        ("multipart/form-data; boundary=----WebKitFormBoundary7MA4", b"----WebKitFormBoundary7MA4"),
    ],
)
def test_the_boundary_is_read_from_the_header(header: str, boundary: bytes) -> None:
    assert boundary_of(header) == boundary


@pytest.mark.parametrize(
    "header", ["multipart/form-data", "multipart/form-data; boundary=", 'x; boundary="ü"', "x; boundary=" + "a" * 71 + '"']
)
def test_a_boundary_that_is_none_is_refused(header: str) -> None:
    with pytest.raises(BadRequest, match="no usable boundary"):
        boundary_of(header)
