"""The files in examples/ hold for the programs that they are for: systemd, nginx, Prometheus. Where such a program is not
installed its test is skipped: nothing of ours needs it.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from llamactl_py.accounting.metrics import Figures
from llamactl_py.accounting.sums import Sums
from tests.support.daemons import wait_for
from tests.support.documents import ROOT
from tests.support.house import House, house

EXAMPLES = ROOT / "examples"
OPERATIONS = (ROOT / "apidocs" / "operations.md").read_text()


# ---- systemd


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = (EXAMPLES / "llamactl.service").read_text()
    (tmp_path / "llamactl.service").write_text(text.replace("/opt/llamactl/bin/llamactl", sys.executable))
    command = ("systemd-analyze", "verify", str(tmp_path / "llamactl.service"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "llamactl" in line]) == (0, [])


# ---- nginx


@contextmanager
def nginx(folder: Path, port: int) -> Iterator[int]:
    """The example in front of a daemon on *port*, with a certificate of its own; gives the port that it listens on."""
    certificate, key, front = folder / "cert.pem", folder / "key.pem", free_port()
    subprocess.run(
        ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate),
         "-subj", "/CN=llm.example", "-addext", "subjectAltName=DNS:llm.example"),
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    server = (EXAMPLES / "nginx.conf").read_text()
    for theirs, ours in (
        ("listen 443 ssl;", f"listen 127.0.0.1:{front} ssl;"),
        ("/etc/ssl/llm.example.pem", str(certificate)),
        ("/etc/ssl/llm.example.key", str(key)),
        ("http://127.0.0.1:8080", f"http://127.0.0.1:{port}"),
    ):
        assert theirs in server
        server = server.replace(theirs, ours)
    places = "".join(f"{what}_temp_path {folder}/{what};\n" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    process_wide = f"pid {folder}/pid;\ndaemon off;\nerror_log {folder}/error.log;\nevents {{}}\n"
    whole = f"{process_wide}http {{\naccess_log off;\n{places}{server}}}\n"
    (folder / "nginx.conf").write_text(whole)
    process = subprocess.Popen(("nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")), stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: answers(front) or process.poll() is not None, 20)
        assert process.poll() is None, (folder / "error.log").read_text()
        yield front
    finally:
        process.terminate()
        process.wait(20)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Here(aiohttp.abc.AbstractResolver):
    """Every name is this machine."""

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[Any]:
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}]

    async def close(self) -> None: ...


def client(h: House, folder: Path) -> aiohttp.ClientSession:
    """Trusts the certificate alone, and has the management key."""
    context = ssl.create_default_context(cafile=str(folder / "cert.pem"))
    connector = aiohttp.TCPConnector(ssl=context, resolver=Here())
    return aiohttp.ClientSession(headers={"Authorization": f"Bearer {h.daemon.management_key}"}, connector=connector)


@pytest.mark.skipif(not shutil.which("nginx") or not shutil.which("openssl"), reason="no nginx here")
async def test_nginx_passes_streams_on_word_by_word_and_large_bodies_whole(tmp_path: Path) -> None:
    async with house(tmp_path, server={"allowed_hosts": ["llm.example"]}) as h:
        await h.create("a", stub="hang-after=2")
        await h.create("b")
        with nginx(tmp_path, int(h.url.rpartition(":")[2])) as front:
            async with asyncio.timeout(30), client(h, tmp_path) as session:
                chat: dict[str, Any] = {"model": "a", "messages": [{"role": "user", "content": "hi"}], "stream": True}
                async with session.post(f"https://llm.example:{front}/v1/chat/completions", json=chat) as answer:
                    assert answer.status == 200
                    seen = b""
                    while b"two" not in seen:  # the answer never ends: a proxy that waits for its end would show nothing
                        seen += await answer.content.readany()
                large = json.dumps({"model": "b", "messages": [{"role": "user", "content": "x" * 3_000_000}]}).encode()
                headers = {"Content-Type": "application/json"}
                url = f"https://llm.example:{front}/v1/chat/completions"
                async with session.post(url, data=io.BytesIO(large), headers=headers) as answer:
                    assert answer.status == 200


@pytest.mark.skipif(not shutil.which("nginx") or not shutil.which("openssl"), reason="no nginx here")
async def test_a_host_that_is_not_allowed_is_refused_behind_nginx_too(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        with nginx(tmp_path, int(h.url.rpartition(":")[2])) as front:
            async with client(h, tmp_path) as session, session.get(f"https://llm.example:{front}/v1/models") as answer:
                assert (answer.status, "server.allowed_hosts" in await answer.text()) == (403, True)


# ---- Prometheus


def known() -> dict[str, set[str]]:
    """Every sample that we have, and the labels of it."""
    sums = Sums()
    sums.answers[200, "answered"] = 1
    for histogram in (sums.queue, sums.load, sums.first_byte, sums.duration):
        histogram.add([1.0])
    found: dict[str, set[str]] = {}
    for family in Figures("", [("", "", sums)], [("", "", 0)], [""]).collect():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def expressions() -> list[str]:
    rules = yaml.safe_load((EXAMPLES / "prometheus-rules.yaml").read_text())
    alerts = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    queries = [line for line in OPERATIONS.splitlines() if re.match(r"(sum|histogram_quantile)\b.*\(", line)]
    assert (len(alerts), len(queries)) == (5, 2)
    return alerts + queries


@pytest.mark.parametrize("expression", expressions())
def test_alerts_and_queries_ask_for_what_there_is(expression: str) -> None:
    samples = known()
    for name, conditions in re.findall(r"\b(llamactl_\w+)(?:\{([^}]*)\})?", expression):
        assert name in samples
        assert set(re.findall(r"(\w+)=", conditions)) <= samples[name]
    for labels in re.findall(r"by \(([^)]*)\)", expression):
        assert set(labels.split(", ")) <= {label for labels in samples.values() for label in labels}


def test_the_values_of_labels_in_alerts_are_those_that_there_are() -> None:
    text = (EXAMPLES / "prometheus-rules.yaml").read_text()
    assert set(re.findall(r'outcome=~"([^"]*)"', text)) == {"failed|cut"}
    assert all(f"`{outcome}`" in OPERATIONS for outcome in ("failed", "cut"))
