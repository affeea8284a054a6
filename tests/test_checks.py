"""The tools that everybody runs before a commit hold here too, and a wheel has everything that the program needs when it runs."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BESIDE_US = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("ruff", "check", "."), id="ruff check"),
        pytest.param(("ruff", "format", "--check", "."), id="ruff format"),
        pytest.param(("mypy",), id="mypy"),
        pytest.param(("lint-imports", "--no-cache"), id="lint-imports"),
    ],
)
def test_the_tree_passes(command: tuple[str, ...]) -> None:
    done = subprocess.run(
        (str(BESIDE_US / command[0]), *command[1:]),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)), cwd=ROOT, check=True, capture_output=True
    )
    return next(folder.glob("llamactl_py-*.whl"))


def test_a_wheel_holds_every_file_of_the_package_and_the_web_page(wheel: Path) -> None:
    package = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "llamactl_py").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    page = {f"llamactl_py/{file.relative_to(ROOT)}" for file in (ROOT / "webui").rglob("*") if file.is_file()}
    with zipfile.ZipFile(wheel) as opened:
        held = {name for name in opened.namelist() if ".dist-info/" not in name}
    assert {"llamactl_py/webui/index.html", "llamactl_py/scheduler/design.md", "llamactl_py/backends/data/vllm.json"} <= held
    assert held == package | page


def test_an_unpacked_wheel_finds_its_page_and_its_catalogues(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(tmp_path)
    program = (
        "from llamactl_py.daemon import webui_folder; from llamactl_py.backends import BACKENDS;"
        "print(webui_folder() / 'index.html', all(len(b.catalogue.flags) for b in BACKENDS.values()))"
    )
    done = subprocess.run(
        (sys.executable, "-c", program),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [str(tmp_path / "llamactl_py" / "webui" / "index.html"), "True"], done.stderr
