"""The access log, whichever way a request comes in; read from where a daemon writes it."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from llamactl_py.api.access_log import MOST_LINES, AccessLog
from tests.support.house import house

LINE = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d\d\dZ 127\.0\.0\.1 ([A-Z]+) (\S+) (\d+) (\d+) (\d+\.\d\d\d)")


@pytest.mark.parametrize("fast_path", [True, False])
async def test_each_request_has_its_line_without_its_query(
    tmp_path: Path, fast_path: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    async with house(tmp_path, server={"access_log": True, "fast_path": fast_path}) as h:
        await h.create("a")
        assert (await h.chat("a"))[0] == 200
        assert (await h.chat("nobody"))[0] == 404
        await h.ask("GET", "/api/v1/instances?search=canary")
    lines = [LINE.fullmatch(line) for line in capsys.readouterr().err.splitlines() if line.startswith("20") and "Z " in line]
    told = [(line[1], line[2], line[3]) for line in lines if line]
    assert ("POST", "/v1/chat/completions", "200") in told
    assert ("POST", "/v1/chat/completions", "404") in told
    assert ("GET", "/api/v1/instances", "200") in told
    assert len(told) == len(lines)


async def test_a_line_cannot_be_forged_and_says_when(tmp_path: Path) -> None:
    out = io.StringIO()
    log = AccessLog(lambda: datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp() + 0.0625, out)
    log.add(None, "GET", "/x\n2026 y\u202e" + "z" * 1000, 200, 5, 0.03449)
    log.flush()
    assert out.getvalue() == "2026-11-21T12:00:00.062Z - GET /x?2026?y?" + "z" * 246 + " 200 5 0.034\n"


async def test_many_lines_are_written_at_once_and_none_is_kept_for_ever() -> None:
    out = io.StringIO()
    log = AccessLog(lambda: 0.0, out)
    for _ in range(MOST_LINES - 1):
        log.add("::1", "GET", "/", 200, 0, 0.0)
    assert not out.getvalue()
    log.add("::1", "GET", "/", 200, 0, 0.0)
    assert out.getvalue().count("\n") == MOST_LINES
