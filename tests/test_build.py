"""What of the package is compiled when it is installed: where that fails, the installation does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

import hatch_build


@pytest.fixture
def hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(hatch_build, "ROOT", tmp_path)
    monkeypatch.setattr(hatch_build, "MADE", tmp_path / "_pump.abi3.so")
    made = hatch_build.Hook(str(tmp_path), {}, Mock(), Mock(), str(tmp_path), "wheel", Mock())
    monkeypatch.setattr(type(made), "app", Mock())
    return made


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false", "true", "cc --no-such-option", "cc '"])
def test_a_compiler_that_makes_nothing_leaves_a_package_of_python(
    hook: Any, monkeypatch: pytest.MonkeyPatch, compiler: str
) -> None:
    monkeypatch.setattr(hatch_build.sysconfig, "get_config_var", lambda name: compiler)
    hatch_build.MADE.write_bytes(b"of yesterday")
    data: dict[str, Any] = {"artifacts": []}
    hook.initialize("standard", data)
    assert data == {"artifacts": []}
    assert not hatch_build.MADE.exists()
    assert hook.app.display_warning.call_count == 1


def test_where_nothing_can_be_written_or_removed_the_package_is_all_python(hook: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hatch_build, "MADE", Path("/proc/self/fd/none.so"))  # also root may write nothing there
    data: dict[str, Any] = {"artifacts": []}
    hook.initialize("standard", data)
    assert data == {"artifacts": []}
    assert hook.app.display_warning.call_count == 1
