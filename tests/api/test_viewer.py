"""The page at /docs, which shows the API's description: it has all that it needs here, and asks nobody else for anything.

Where there is a Chromium, it is looked at with that. What is tried from the page itself was tried by hand.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llamactl_py.app import API
from tests.support.house import House, house

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TYPES = {".js": ("text/javascript", "application/javascript"), ".css": ("text/css",)}
"""Python 3.12 and 3.11 have different words for the same."""
WEBUI = Path(__file__).parents[2] / "webui"


@pytest.fixture
async def h(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as running:
        yield running


async def page(h: House) -> str:
    async with h.session.get(f"{h.url}/docs", headers={"Authorization": ""}) as answer:
        assert (answer.status, answer.content_type) == (200, "text/html")
        policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        return await answer.text()


async def test_the_page_and_every_file_that_it_names_are_served_to_everybody_with_their_types(h: House) -> None:
    named = re.findall(r'(?:src|href)="([^"]+)"', await page(h))
    files = [name for name in named if name != "data:,"]
    assert len(files) == 4
    for file in files:
        assert re.fullmatch(r"ui/docs/[\w./-]+", file), "relative, and our own"
        async with h.session.get(f"{h.url}/{file}", headers={"Authorization": ""}) as answer:
            assert answer.status == 200
            assert answer.content_type in TYPES[Path(file).suffix]
            assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
            assert "sourceMappingURL" not in await answer.text()


async def test_nothing_on_the_page_is_inline(h: House) -> None:
    text = await page(h)
    assert re.findall(r"<script>|<script (?!src=)|<style|\sstyle=|\son\w+=", text) == []


def test_what_is_vendored_has_its_licence_and_calls_nobody() -> None:
    vendored = WEBUI / "docs" / "swagger-ui"
    assert "Apache License" in (vendored / "LICENSE").read_text()
    assert {file.name for file in vendored.iterdir()} == {
        "LICENSE", "NOTICE", "README.md", "swagger-ui-bundle.js", "swagger-ui-bundle.js.LICENSE.txt", "swagger-ui.css",
    }  # fmt: skip
    assert re.findall(r"url\(\s*(?!['\"]?data:)|@import", (vendored / "swagger-ui.css").read_text()) == []
    assert "validatorUrl: null" in (WEBUI / "docs" / "viewer.js").read_text()


def test_the_key_that_is_typed_is_kept_nowhere() -> None:
    ours = (WEBUI / "docs" / "viewer.js").read_text()
    assert re.findall(r"localStorage|sessionStorage|indexedDB|document\.cookie|innerHTML", ours) == []
    assert "persistAuthorization: false" in ours


async def seen(h: House, folder: Path) -> tuple[str, str]:
    """(the page as Chromium made it, what its console said). It can reach nothing but this machine."""
    assert CHROMIUM
    process = await asyncio.create_subprocess_exec(
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/chromium", "--enable-logging=stderr",
        "--v=0", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "--virtual-time-budget=20000", "--dump-dom",
        f"{h.url}/docs", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return out.decode(), "\n".join(line for line in err.decode().splitlines() if "CONSOLE" in line)


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on PATH to look at the page with")
async def test_a_browser_shows_every_operation_and_has_nothing_to_complain_about(tmp_path: Path) -> None:
    async with house(tmp_path, auth={"require_management_auth": False}) as h:
        dom, console = await seen(h, tmp_path)
    assert console == ""
    assert len(re.findall(r'class="opblock opblock-', dom)) == len(API)


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on PATH to look at the page with")
async def test_a_browser_asks_for_the_key_where_one_is_needed(h: House, tmp_path: Path) -> None:
    dom, console = await seen(h, tmp_path)
    assert re.search(r'<form id="key-form" class="notice">', dom)
    assert "opblock" not in dom
    assert all("401" in line for line in console.splitlines()), console
