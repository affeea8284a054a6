"""Backends as they are on this machine, over HTTP. `llama-server` is a script that tells a help without --ctx-size and with
--brand-new, and otherwise runs the stub; the other servers are not on the PATH of this daemon.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from llamactl_py.backends import BACKENDS
from llamactl_py.instances import programs
from tests.backends.test_installed import LLAMA, help_of
from tests.support.house import STUB, House, eventually, house

BASE = "/api/v1/backends"


def server(folder: Path, help_script: str = "") -> dict[str, str]:
    """The environment of a daemon that finds this llama-server."""
    file = folder / "bin" / "llama-server"
    file.parent.mkdir()
    (folder / "help.txt").write_text(help_of(LLAMA, less=("ctx_size",), more="--brand-new N   does new things\n"))
    file.write_text(
        "#!/bin/sh\n"
        f'echo "$1" >> {folder}/asked\n'
        "case $1 in\n"
        "--version) echo 'version: 42 (abc)'; exit;;\n"
        f"--help) {help_script or f'cat {folder}/help.txt'}; exit;;\n"
        "--list-devices) echo 'Available devices:'; echo '  CUDA0: imagined'; exit;;\n"
        f'esac\nexec {sys.executable} -S -E {STUB} "$@"\n'
    )
    file.chmod(0o755)
    return {"PATH": f"{file.parent}{os.pathsep}/usr/bin{os.pathsep}/bin"}


@pytest.fixture
async def h(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path, server(tmp_path)) as running:
        yield running


async def get(h: House, path: str) -> Any:
    status, body = await h.ask("GET", path)
    assert status == 200, body
    return body


async def test_the_list_says_what_is_found_where_and_how_to_get_the_rest(h: House, tmp_path: Path) -> None:
    found = {row["type"]: row for row in await get(h, BASE)}
    assert list(found) == list(BACKENDS)
    llama = found["llama_cpp"]
    assert (llama["found"], llama["version"], llama["path"]) == (True, "42 (abc)", str(tmp_path / "bin" / "llama-server"))
    assert llama["options_version"] == LLAMA.version
    vllm = found["vllm"]
    assert (vllm["found"], vllm.get("version"), vllm["command"]) == (False, None, ["vllm", "serve"])
    assert vllm["searched"][:2] == [str(tmp_path / "bin"), "/usr/bin"]
    assert "uv pip install vllm" in vllm["install"]
    python = found["llama_cpp_python"]
    assert (python["found"], python["path"]) == (
        False,
        shutil.which("python3", path=h.daemon.services.fleet.workshop.environ["PATH"]),
    )
    assert "its version is not known" in python["note"], "a python is there, and lacks the package"


@pytest.mark.parametrize("name", ["llama_cpp", "llama-cpp", "LLAMA-CPP"])
async def test_one_of_them_by_any_of_its_names(h: House, name: str) -> None:
    one = await get(h, f"{BASE}/{name}")
    assert (one["slug"], one["help_is_read"]) == ("llama-cpp", True)
    assert one["new_flags"] == [{"flags": ["--brand-new"], "help": "does new things"}]
    assert [flag["flags"][-1] for flag in one["missing_flags"]] == ["-c"] or "--ctx-size" in one["missing_flags"][0]["flags"]


async def test_a_server_that_is_not_there_is_told_with_where_it_was_looked_for(h: House) -> None:
    one = await get(h, f"{BASE}/vllm")
    assert (one["found"], one["help_is_read"]) == (False, False)
    for what in ("help", "version"):
        status, body = await h.ask("GET", f"{BASE}/vllm/{what}")
        assert (status, body["error"]) == (404, "not_found")
        assert "vllm serve was not found; Install vLLM" in body["details"]


async def test_an_unknown_kind_is_404_with_the_nearest_name(h: House) -> None:
    for path in ("", "/options", "/help", "/version", "/devices"):
        status, body = await h.ask("GET", f"{BASE}/lama-cpp{path}")
        assert (status, body["error"]) == (404, "not_found")
        assert "did you mean 'llama-cpp'?" in body["details"]


@pytest.mark.parametrize("base", [f"{BASE}/llama-cpp", f"{BASE}/llama_cpp", "/api/v1/server"])
async def test_what_it_says_itself_is_plain_text_also_under_the_older_names(h: House, base: str) -> None:
    assert await get(h, f"{base}/version") == "version: 42 (abc)\n"
    assert "--brand-new" in await get(h, f"{base}/help")
    assert await get(h, f"{base}/devices") == "Available devices:\n  CUDA0: imagined\n"
    async with h.session.get(f"{h.url}{base}/version") as answer:
        assert answer.content_type == "text/plain"


async def test_only_llama_cpp_lists_devices(h: House) -> None:
    status, body = await h.ask("GET", f"{BASE}/mlx/devices")
    assert (status, body["error"]) == (404, "not_found")
    assert "MLX has no way to list devices" in body["details"]


async def test_a_refresh_asks_again(h: House, tmp_path: Path) -> None:
    for query in ("", "?refresh=true", "?refresh=0"):
        await get(h, f"{BASE}/llama-cpp{query}")
    assert sorted((tmp_path / "asked").read_text().split()) == ["--help", "--help", "--version", "--version"]
    status, body = await h.ask("GET", f"{BASE}/llama-cpp?refresh=maybe")
    assert (status, body["problems"][0]["field"]) == (422, "refresh")


async def test_options_are_narrowed_as_soon_as_the_help_was_read_and_nobody_is_asked_for_them(h: House, tmp_path: Path) -> None:
    before = await get(h, f"{BASE}/llama-cpp/options")
    assert (before["x-is-installed-version"], "deprecated" in before["properties"]["ctx_size"]) == (False, False)
    assert not (tmp_path / "asked").exists()
    await get(h, f"{BASE}/llama-cpp")
    after = await get(h, f"{BASE}/llama-cpp/options")
    assert (after["x-version"], after["properties"]["ctx_size"]["deprecated"]) == ("42 (abc)", True)
    assert after["x-new-flags"][0]["spellings"] == ["--brand-new"]


async def test_a_refused_flag_is_told_when_it_is_parsed_stored_shown_and_started(
    h: House, caplog: pytest.LogCaptureFixture
) -> None:
    await get(h, f"{BASE}/llama-cpp")
    said = "llama-server 42 (abc), which is the one installed, refuses --ctx-size; leave it out"
    command = {"command": "llama-server -m /dev/null -c 4096 --brand-new 7 --newer 8"}
    status, parsed = await h.ask("POST", f"{BASE}/parse-command", json=command)
    assert status == 200
    warnings = parsed.pop("warnings")
    assert said in warnings
    assert not [warning for warning in warnings if warning.startswith("--brand-new is not known")]
    assert [warning for warning in warnings if warning.startswith("--newer is not known")]
    status, created = await h.ask("POST", "/api/v1/instances/a", json=parsed)
    assert status == 201
    assert said in created["warnings"]
    assert said in (await h.get("a"))["warnings"]
    assert (await h.chat("a"))[0] == 200
    assert f"a: {said}" in caplog.text
    other = {"backend_type": "llama_cpp", "backend_options": {"model": "/dev/null"}}
    assert "warnings" not in (await h.ask("POST", "/api/v1/instances/b", json=other))[1]


async def test_another_program_of_an_instance_is_another_version(h: House, tmp_path: Path) -> None:
    await get(h, f"{BASE}/llama-cpp")
    wish = {"backend_type": "llama_cpp", "backend_options": {"ctx_size": 1}, "command_override": "/opt/other/llama-server"}
    assert "warnings" not in (await h.ask("POST", "/api/v1/instances/a", json=wish))[1]
    boxed = {"backend_type": "llama_cpp", "backend_options": {"ctx_size": 1}, "docker_enabled": True}
    assert "warnings" not in (await h.ask("POST", "/api/v1/instances/b", json=boxed))[1]


async def test_the_first_start_does_not_wait_and_afterwards_it_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program takes a minute to tell its help; requests are answered meanwhile."""
    monkeypatch.setattr(programs, "FIRST_QUESTION_AFTER", 0.0)
    async with house(
        tmp_path, server(tmp_path, f"while ! [ -e {tmp_path}/go ]; do sleep 0.01; done; cat {tmp_path}/help.txt")
    ) as h:
        await h.create("a", command_override=None, backend_options={"ctx_size": 7})
        assert (await h.chat("a"))[0] == 200
        await eventually(lambda: "--help" in (tmp_path / "asked").read_text())
        assert "warnings" not in await h.get("a")
        assert (await h.chat("a"))[0] == 200
        (tmp_path / "go").touch()
        async with h.session.get(f"{h.url}{BASE}/llama-cpp") as answer:
            assert answer.status == 200
        assert "refuses --ctx-size" in (await h.get("a"))["warnings"][0]


@pytest.mark.parametrize(
    ("script", "trouble"),
    [("exec sleep 60", "did not end within 0.5 seconds"), ("exec yes", "wrote more than"), ("kill -9 $$", "ended by signal 9")],
    ids=["hangs", "floods", "crashes"],
)
async def test_a_program_that_misbehaves_is_a_note_and_the_daemon_goes_on(tmp_path: Path, script: str, trouble: str) -> None:
    async with house(tmp_path, server(tmp_path, script), instances={"program_timeout": "500ms"}) as h:
        one = await get(h, f"{BASE}/llama-cpp")
        assert (one["found"], one["help_is_read"], one["version"]) == (True, False, "42 (abc)")
        assert trouble in one["note"]
        status, body = await h.ask("GET", f"{BASE}/llama-cpp/help")
        assert (status, body["error"]) == (502, "backend_failed")
        assert trouble in body["details"]
        await h.create("a", command_override=None)
        assert (await h.chat("a"))[0] == 200
