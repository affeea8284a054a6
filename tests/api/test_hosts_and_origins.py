"""Loopback is no border: a browser can be made to speak for anybody. Requests are raw: no client library would send these."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from llamactl_py.app import API
from llamactl_py.auth.hosts import names_us
from llamactl_py.config.load import Configuration
from llamactl_py.config.settings import Auth, Server, Settings
from llamactl_py.daemon import refuse_open_door, running
from llamactl_py.ground.errors import BadConfiguration
from tests.support.house import House, house


@pytest.fixture
async def h(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path, server={"allowed_hosts": ["models.example.org", "MyBox"]}) as running_house:
        yield running_house


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


OURS = [
    "127.0.0.1", "127.0.0.1:8080", "127.9.9.9", "localhost", "LOCALHOST:1", "localhost.", "[::1]", "[::1]:8080",
    "192.168.1.5:8080", "[fe80::1]", "[::ffff:127.0.0.1]:80", "0.0.0.0:8080", "models.example.org",
    "Models.Example.Org:443", "models.example.org.", "mybox", "MYBOX:8080",
]  # fmt: skip
NOT_OURS = [
    "", " ", ":8080", "evil.com", "evil.com:8080", "evil.com.", "127.evil.com", "127.0.0.1.evil.com", "localhost.evil.com",
    "evil-localhost", "localhost.localdomain", "x.models.example.org", "models.example.org.evil.com", "127.0.0.1@evil.com",
    "evil.com@127.0.0.1", "user:pass@127.0.0.1", "@127.0.0.1", "127.0.0.1/evil.com", "evil.com/127.0.0.1",
    "127.0.0.1#evil.com", "127.0.0.1?evil.com", "127.0.0.1\\evil.com", "127.1", "2130706433", "0x7f000001", "0177.0.0.1",
    "127.0.0.1..", "127.0.0.1:8080:80", "127.0.0.1:x", "127.0.0.1:99999999", "[::1", "::1]", "[::1]evil.com", "[evil.com]",
    "[::1%25eth0.evil.com]", "xn--evil", "e\u0301vil", "\uff11\uff12\uff17.0.0.1", "*", "null", "file://",
    "127.0.0.1, evil.com", "evil.com, 127.0.0.1", "%31%32%37.0.0.1", "localhost%00.evil.com", "127.0.0.1 evil.com",
]  # fmt: skip


@pytest.mark.parametrize("host", OURS)
def test_these_hosts_are_ours(host: str) -> None:
    assert names_us(host, Server(allowed_hosts=("models.example.org", "MyBox")))


@pytest.mark.parametrize("host", NOT_OURS)
def test_these_hosts_are_not_ours(host: str) -> None:
    assert not names_us(host, Server(allowed_hosts=("models.example.org", "MyBox")))


def test_the_listen_address_itself_is_ours_when_it_is_a_name() -> None:
    assert names_us("GPU-box:8080", Server(host="gpu-box"))
    assert names_us("gpu-box:8080", Server(host="GPU-Box"))
    assert not names_us("gpu-box.evil.com", Server(host="gpu-box"))


async def test_a_foreign_host_is_refused_on_every_route_with_and_without_a_key(h: House) -> None:
    paths = {(route.method, route.openapi_path.replace("{name}", "a")) for route in API} | {
        ("GET", "/"),
        ("GET", "/ui/app.js"),
        ("OPTIONS", "/"),
        ("OPTIONS", "/v1/models"),
        ("GET", "/nothing"),
    }
    for method, path in sorted(paths):
        for more in ((), ("Authorization: Bearer x",)):
            answer = await h.raw(h.head(method, path, "Host: evil.com", *more))
            assert status(answer) == 403, (method, path)
            assert b"server.allowed_hosts" in answer or method == "HEAD"


async def test_a_foreign_host_is_refused_over_the_wire_in_each_form(h: House) -> None:
    for host in NOT_OURS:
        answer = await h.raw(h.head("GET", "/api/v1/version", "Host: " + host.encode().decode("latin-1")))
        assert status(answer) in (400, 403), (host, answer)
        assert b"Version" not in answer
    for host in OURS:
        assert status(await h.raw(h.head("GET", "/api/v1/version", f"Host: {host}"))) == 200, host


@pytest.mark.parametrize(
    "head",
    [
        "GET /api/v1/version HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.com\r\n",
        "GET /api/v1/version HTTP/1.1\r\nHost: evil.com\r\nHost: 127.0.0.1\r\n",
        "GET /api/v1/version HTTP/1.1\r\n",
        "GET /api/v1/version HTTP/1.0\r\n",
        "GET http://127.0.0.1/api/v1/version HTTP/1.1\r\nHost: evil.com\r\n",
        "GET http://evil.com/api/v1/version HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        "GET http://evil.com/api/v1/version HTTP/1.1\r\nHost: evil.com\r\n",
        "GET http://127.0.0.1/api/v1/version HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        "GET //evil.com/api/v1/version HTTP/1.1\r\nHost: evil.com\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        "CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        "CONNECT evil.com:80 HTTP/1.1\r\nHost: evil.com\r\n",
        "TRACE /api/v1/version HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        "GET api/v1/version HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        "PRI * HTTP/2.0\r\n",
        "GET /api/v1/version\r\n",
    ],
)
async def test_a_request_that_names_no_host_or_two_or_another_way_is_refused(h: House, head: str) -> None:
    key = "" if head.startswith("PRI") or head.endswith("version\r\n") else f"Authorization: Bearer {h.daemon.management_key}\r\n"
    answer = await h.raw(f"{head}{key}Connection: close\r\n\r\n".encode())
    assert b"Version:" not in answer
    assert status(answer) in (400, 403, 405, 505), answer


# ---- pages of other sites


def netloc(h: House) -> str:
    return h.url.removeprefix("http://")


FOREIGN = [
    "Origin: http://evil.com",
    "Origin: https://127.0.0.1.evil.com",
    "Origin: null",
    "Origin: file://",
    "Origin: http://127.0.0.1:1",
    "Origin: http://localhost:{port}",
    "Origin: http://127.0.0.1:{port}.evil.com",
    "Origin: http://127.0.0.1:{port}@evil.com",
    "Origin: http://evil.com?://127.0.0.1:{port}",
    "Origin: evil://x://127.0.0.1:{port}",
    "Origin:",
    "Sec-Fetch-Site: cross-site",
    "Sec-Fetch-Site: same-site",
    "Sec-Fetch-Site: Same-Origin, cross-site",
]
OWN = [
    "X-Nothing: 1",
    "Origin: http://127.0.0.1:{port}",
    "Sec-Fetch-Site: none",
    "Sec-Fetch-Site: same-origin",
]


@pytest.mark.parametrize("header", FOREIGN)
async def test_what_another_sites_page_sends_is_refused_with_any_method_that_changes_something(h: House, header: str) -> None:
    header = header.replace("{port}", netloc(h).partition(":")[2])
    body = b'{"backend_type": "mlx_lm"}'
    for method in ("POST", "PUT", "DELETE", "PATCH", "QUERY"):
        for kind in ("application/json", "text/plain"):
            more = (header, f"Content-Type: {kind}", f"Content-Length: {len(body)}")
            answer = await h.raw(h.head(method, "/api/v1/instances/a", *more) + body)
            assert status(answer) == 403, (method, answer)
            assert b"access-control" not in answer.lower()
    assert await h.ask("GET", "/api/v1/instances") == (200, [])


@pytest.mark.parametrize("header", OWN)
async def test_programs_and_our_own_page_may(h: House, header: str) -> None:
    header = header.replace("{port}", netloc(h).partition(":")[2])
    body = b'{"backend_type": "mlx_lm"}'
    answer = await h.raw(h.head("POST", "/api/v1/instances/a", header, f"Content-Length: {len(body)}") + body)
    assert status(answer) == 201


async def test_no_answer_lets_another_site_read_it(h: House) -> None:
    for method, path in (
        ("GET", "/v1/models"),
        ("GET", "/health"),
        ("OPTIONS", "/v1/chat/completions"),
        ("OPTIONS", "/api/v1/instances"),
    ):
        answer = await h.raw(h.head(method, path, "Origin: http://evil.com", "Access-Control-Request-Method: POST"))
        assert b"access-control" not in answer.lower(), (method, path)


async def test_our_page_forbids_framing_sniffing_and_whatever_comes_from_elsewhere(h: House) -> None:
    async with h.session.get(f"{h.url}/") as answer:
        assert answer.status == 200
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize(
    "path",
    [
        "../llamactl_py/app.py",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e/README.md",
        "/etc/passwd",
        "%2fetc/passwd",
        "x%00",
        "",
        ".",
        "..",
        "a" * 5000,
    ],
)
async def test_our_page_has_no_way_to_other_files(h: House, path: str) -> None:
    answer = await h.raw(h.head("GET", f"/ui/{path}"))
    assert status(answer) == 404, answer


# ---- doors that others can reach


@pytest.mark.parametrize(
    ("host", "auth", "is_refused"),
    [
        ("127.0.0.1", {}, False),
        ("127.0.0.1", {"require_inference_auth": False, "require_management_auth": False}, False),
        ("127.3.2.1", {"require_management_auth": False}, False),
        ("localhost", {"require_management_auth": False}, False),
        ("::1", {"require_management_auth": False}, False),
        ("0.0.0.0", {}, False),
        ("0.0.0.0", {"require_inference_auth": False}, True),
        ("0.0.0.0", {"require_management_auth": False}, True),
        ("::", {"require_inference_auth": False}, True),
        ("192.168.1.5", {"require_management_auth": False}, True),
        ("::ffff:192.168.1.5", {"require_management_auth": False}, True),
        ("gpu-box", {"require_inference_auth": False}, True),
        ("localhost.evil.com", {"require_inference_auth": False}, True),
        ("", {"require_inference_auth": False}, True),
    ],
)
def test_a_door_that_others_can_reach_needs_both_locks(tmp_path: Path, host: str, auth: dict[str, Any], is_refused: bool) -> None:
    settings = Settings(data_dir=tmp_path, server=Server(host=host), auth=Auth(**auth))
    if not is_refused:
        refuse_open_door(settings)
        return
    with pytest.raises(BadConfiguration, match=r"refusing to listen on .* without keys: set auth.require_inference_auth"):
        refuse_open_door(settings)


async def test_the_refusal_comes_before_anything_is_touched(tmp_path: Path) -> None:
    data = tmp_path / "data"
    settings = Settings(data_dir=data, server=Server(host="0.0.0.0", port=0), auth=Auth(require_inference_auth=False))
    async with AsyncExitStack() as stack:
        with pytest.raises(BadConfiguration):
            await stack.enter_async_context(running(Configuration(settings, {})))
    assert not data.exists()


@pytest.mark.parametrize(
    ("path", "more", "allowed"),
    [
        ("/api/v1/instances", (), True),
        ("/v1/models", (), False),
        ("/llama-cpp/a/props", (), False),
        ("/api/v1/instances/a/proxy/x", (), False),
        ("/health", ("Connection: close, Upgrade", "Upgrade: websocket"), False),
    ],
)
async def test_a_page_of_another_site_may_cause_reading_only(h: House, path: str, more: tuple[str, ...], allowed: bool) -> None:
    """An image of it can start a model, and its WebSocket can be read by it, whatever the same-origin policy says."""
    answer = await h.raw(h.head("GET", path, "Sec-Fetch-Site: cross-site", *more))
    assert status(answer) == (200 if allowed else 403), answer
