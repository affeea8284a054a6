"""The place for a body grows as the body does: who only announces one gets next to none."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from llamactl_py.proxy.intake import LEAST_ROOM, ROOM, Intake


class Owner:
    def __init__(self) -> None:
        self.held, self.body = 0, b""

    def holds(self, size: int) -> bool:
        self.held += size
        return True

    def whole(self, body: bytearray) -> None:
        self.body = bytes(body)

    def connection_lost(self, exc: Exception | None) -> None:
        raise AssertionError


class Transport:
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol


@pytest.mark.parametrize("piece", [1, 1000, LEAST_ROOM, 1 << 20])
@pytest.mark.parametrize("length", [2, LEAST_ROOM + 1, 1_000_000])
def test_there_is_never_room_for_much_more_than_is_there(length: int, piece: int) -> None:
    body = bytes(range(256)) * (length // 256 + 1)
    body = body[:length]
    owner = Owner()
    intake = Intake(owner, cast(asyncio.Transport, Transport()), body[:1], length)
    at = 1
    while at < length:
        room = intake.get_buffer(-1)
        assert 0 < len(room) <= min(length - at, max(at, LEAST_ROOM), len(ROOM))
        size = min(len(room), piece)
        room[:size] = body[at : at + size]
        room.release()
        intake.buffer_updated(size)
        at += size
    assert owner.body == body
    assert owner.held == length - 1
