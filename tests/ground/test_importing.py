"""What is imported later is imported once, whole, by whichever thread asks first."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llamactl_py.ground.importing import lazily

THREADS = 8
SLOW = """
import time
first = 1
time.sleep(0.2)
runs = []
runs.append(1)
last = 2
"""


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module that takes long to be imported."""
    (tmp_path / "slowly_imported.py").write_text(SLOW)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "slowly_imported"
    sys.modules.pop("slowly_imported", None)


def test_nothing_is_imported_before_it_is_asked_for(slow: str) -> None:
    module = lazily(slow)
    assert slow not in sys.modules
    assert module.last == 2
    assert slow in sys.modules
    assert lazily(slow) is sys.modules[slow]


def test_threads_that_ask_at_once_all_get_the_whole_module(slow: str) -> None:
    module, together = lazily(slow), threading.Barrier(THREADS)

    def ask(_: int) -> tuple[int, int, int]:
        together.wait()
        return module.first, module.last, len(module.runs)

    with ThreadPoolExecutor(THREADS) as pool:
        assert set(pool.map(ask, range(THREADS))) == {(1, 2, 1)}


def test_what_is_not_there_is_told_at_once_and_what_is_not_in_it_when_asked(slow: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        lazily("no_such_module")
    with pytest.raises(AttributeError, match="nothing"):
        _ = lazily(slow).nothing
