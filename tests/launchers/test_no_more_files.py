"""Where we may open no more files for a while, /proc cannot be looked at: the daemon lives on, and ends when it is told to."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from llamactl_py.instances.state import State
from llamactl_py.launchers import local, processes
from tests.support.house import eventually, house, is_alive

Full = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Full:
    """A block in which processes cannot be listed."""

    def fails(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    @contextmanager
    def block() -> Iterator[None]:
        with monkeypatch.context() as changed:
            for name in ("below", "snapshot"):
                changed.setattr(processes, name, fails)
            yield

    return block


async def test_maintenance_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: Full, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(local, "MAINTENANCE_INTERVAL", 0.01)
    async with asyncio.timeout(30), house(tmp_path) as h:
        await h.create("a")
        await h.chat("a")
        with full():
            await eventually(lambda: "Too many open files" in caplog.text)
        assert (await h.chat("a"))[0] == 200


async def test_an_owner_that_is_cancelled_kills_its_backend_and_ends(tmp_path: Path, full: Full) -> None:
    """Else the daemon would wait for it for ever, whatever signal it gets."""
    async with asyncio.timeout(30), house(tmp_path) as h:
        await h.create("a")
        await h.chat("a")
        leader, *_ = h.spawned("a")
        services = h.daemon.services
        owner = services.fleet._owners[services.fleet.get("a")]
        with full():
            owner.cancel()
            await asyncio.wait([owner], timeout=10)
        assert owner.cancelled()
        await eventually(lambda: not is_alive(leader))
        instance = services.fleet.get("a")  # nobody else says now that it is down
        instance.state = State.STOPPED
        instance._at_rest.set(True)
