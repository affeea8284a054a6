"""Bodies that are large: forms with audio, and what all bodies together may take."""

from __future__ import annotations

import asyncio
import hashlib
import os
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from tests.support.house import House, eventually, house
from tests.support.narrow import narrow, puppets

AUDIO = os.urandom(1 << 20)


def form(model: str, audio: bytes = AUDIO) -> aiohttp.MultipartWriter:
    writer = aiohttp.MultipartWriter("form-data", boundary="xyz")
    writer.append(audio, {"Content-Type": "audio/wav"}).set_content_disposition("form-data", name="file", filename="a.wav")
    writer.append(model).set_content_disposition("form-data", name="model")
    return writer


async def transcribe(h: House, model: str, audio: bytes = AUDIO) -> tuple[int, object]:
    return await h.ask("POST", "/v1/audio/transcriptions", data=form(model, audio))


@pytest.mark.parametrize("spool_size", [0, 1 << 16, 1 << 26])
async def test_audio_is_led_by_its_model_and_arrives_exactly(tmp_path: Path, spool_size: int) -> None:
    async with house(tmp_path, server={"spool_size": spool_size}) as h:
        await h.create("whisper")
        await transcribe(h, "whisper")  # the stub has no such route; what counts is what reaches it
        (seen,) = await h.recorded("whisper")
        expected = await form("whisper").as_bytes()
        assert (seen["length"], seen["sha256"]) == (len(expected), hashlib.sha256(expected).hexdigest())
        assert seen["target"] == "/v1/audio/transcriptions"
        assert h.daemon.services.bodies.held == 0


async def test_an_alias_in_a_form_becomes_the_name_that_the_backend_knows(tmp_path: Path) -> None:
    async with house(tmp_path, server={"spool_size": 1000}) as h:
        await h.create("whisper", backend_type="mlx_lm", aliases=["ears"])
        await transcribe(h, "ears")
        (seen,) = await h.recorded("whisper")
        expected = await form("default_model").as_bytes()
        assert (seen["length"], seen["sha256"]) == (len(expected), hashlib.sha256(expected).hexdigest())


async def test_a_form_without_a_model_or_for_nobody_is_told_so(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        await h.create("whisper")
        status, answer = await transcribe(h, "wisper", b"RIFF")
        assert (status, answer["error"]["code"]) == (404, "model_not_found")  # type: ignore[index]
        assert "whisper" in answer["error"]["message"]  # type: ignore[index]
        headers = {"Content-Type": "multipart/form-data; boundary=xyz"}
        status, answer = await h.ask("POST", "/v1/audio/transcriptions", data=b"--xyz--\r\n", headers=headers)
        assert (status, answer["error"]["code"]) == (400, "invalid_request")  # type: ignore[index]


async def test_a_form_over_the_limit_is_413(tmp_path: Path) -> None:
    async with house(tmp_path, server={"max_body_size": 1 << 19, "spool_size": 1000}) as h:
        await h.create("whisper")
        assert (await transcribe(h, "whisper"))[0] == 413
        assert h.requests("whisper") == []


@pytest.mark.parametrize("fast_path", [True, False])
async def test_bodies_that_are_too_many_together_are_refused_for_now_and_then_taken(tmp_path: Path, fast_path: bool) -> None:
    body = b'{"model":"a","x":"' + b"y" * 700_000 + b'"}'
    async with house(tmp_path, server={"max_buffered_bodies": 1 << 20, "fast_path": fast_path}) as h:
        await h.create("a")
        await h.ask("POST", "/api/v1/instances/a/start")
        await h.until("a", "ready")
        head = h.head("POST", "/v1/chat/completions", "Content-Type: application/json", f"Content-Length: {len(body)}")
        async with h.connection() as (reader, writer):
            writer.write(head + body[:-1])
            await eventually(lambda: h.daemon.services.bodies.held >= len(body) - 70_000)
            async with asyncio.timeout(5):
                answer = await h.raw(head + body)
            assert answer.startswith(b"HTTP/1.1 503 "), answer[:200]
            assert b"server.max_buffered_bodies" in answer
            assert b"Retry-After: 1\r\n" in answer
            writer.write(body[-1:])
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        await eventually(lambda: h.daemon.services.bodies.held == 0)
        assert (await h.raw(head + body)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("fast_path", [True, False])
async def test_small_bodies_count_for_as_long_as_they_are_answered(tmp_path: Path, fast_path: bool) -> None:
    async with puppets(tmp_path, server={"max_buffered_bodies": 1 << 20, "fast_path": fast_path}) as h:
        request, plain = narrow(h, ["left"], x="y" * 60_000), narrow(h, x="y" * 60_000, keep=False)
        bodies = h.daemon.services.bodies
        async with AsyncExitStack() as stack:
            for number in range(1, 18):
                _, writer = await stack.enter_async_context(h.connection())
                writer.write(request)
                await eventually(lambda number=number: bodies.held > number * 60_000)  # type: ignore[misc]
            answer = await h.raw(plain)
            assert answer.startswith(b"HTTP/1.1 503 "), answer[:200]
            assert b"server.max_buffered_bodies" in answer
        await eventually(lambda: bodies.held == 0)
        assert (await h.raw(plain)).startswith(b"HTTP/1.1 200 ")
        await eventually(lambda: bodies.held == 0)


@pytest.mark.parametrize("fast_path", [True, False])
async def test_clients_that_leave_in_the_middle_of_a_body_hold_nothing(tmp_path: Path, fast_path: bool) -> None:
    async with house(tmp_path, server={"fast_path": fast_path}) as h:
        head = h.head("POST", "/v1/chat/completions", "Content-Type: application/json", "Content-Length: 900000")
        async with h.connection() as (_, writer):
            writer.write(head + b"x" * 400_000)
            await eventually(lambda: h.daemon.services.bodies.held > 300_000)
        await eventually(lambda: h.daemon.services.bodies.held == 0)


async def test_who_only_says_that_a_body_is_large_takes_no_room_from_others(tmp_path: Path) -> None:
    async with house(tmp_path, server={"max_buffered_bodies": 1 << 20, "max_body_size": 1 << 20}) as h:
        await h.create("a")
        head = h.head("POST", "/v1/chat/completions", "Content-Type: application/json", "Content-Length: 1048576")
        async with h.connection() as (_, one), h.connection() as (_, other):
            one.write(head + b"x" * 100)
            other.write(head + b"x" * 100)
            await eventually(lambda: h.daemon.services.bodies.held == 200)
            assert (await h.chat("a", x="y" * 200_000))[0] == 200
            assert (await h.ask("GET", "/api/v1/instances"))[0] == 200


async def test_management_has_room_when_inference_has_none(tmp_path: Path) -> None:
    async with house(tmp_path, server={"max_buffered_bodies": 1 << 20}) as h:
        h.daemon.services.bodies.take(1 << 20)
        assert (await h.ask("POST", "/api/v1/instances/b", json=h.stub_options("b")))[0] == 201
        assert (await h.ask("POST", "/v1/chat/completions", data=form("b")))[0] == 503
        h.daemon.services.bodies.give_back(1 << 20)
