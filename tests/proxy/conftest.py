"""Both ways in, and the event loop of the daemon for what depends on how transports behave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

ON_UVLOOP = ("test_front.py", "test_passage.py", "test_pump.py", "test_tunnel.py")


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Which event loop a test runs on."""
    if item.path.name in ON_UVLOOP:
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture(params=[True, False], ids=["front", "aiohttp"])
def fast_path(request: pytest.FixtureRequest) -> bool:
    """By which of the two ways narrow requests come in."""
    chosen: bool = request.param
    return chosen
