"""One daemon for all tests of a file, which is emptied after each of them; the stub is `llama-server` on its PATH."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.commands import Llamactl, run, stub_on_path
from tests.support.daemons import Daemon, daemon


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("cli")
    with daemon(folder, environment={"PATH": stub_on_path(folder)}) as running:
        yield running


@pytest.fixture
def served(shared: Daemon) -> Iterator[Daemon]:
    yield shared
    for instance in shared.client.instances():
        shared.client.delete(instance["name"], force=True)
    made = shared.client.keys()
    for key in made:
        shared.client.delete_key(key["id"])


@pytest.fixture
def llamactl(served: Daemon) -> Llamactl:
    """Runs a command against the daemon."""
    return lambda *words, **environment: run("--data-dir", str(served.data), *words, **environment)
