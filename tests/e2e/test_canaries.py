"""Secrets stay where they belong. A canary is put into every place where a user may put a secret; then a real daemon lives
through a whole day at once, and everything that it, its children and its API said is searched.

Something is only proved absent where it could have been: so each canary is also looked for in the one place where it must be.
"""

from __future__ import annotations

import http.client
import json
import re
import secrets
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from llamactl_py.app import API
from tests.support.daemons import Daemon, daemon, wait_for
from tests.support.house import STUB


def canary(what: str) -> str:
    return f"canary-{what}-{secrets.token_hex(8)}"


@dataclass
class Day:
    """Everything that was said, and by whom."""

    running: Daemon
    answers: list[str] = field(default_factory=list)
    argv: set[str] = field(default_factory=set)
    statuses: set[int] = field(default_factory=set)
    environments: dict[str, str] = field(default_factory=dict)
    """Of each instance's leader."""

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
        """(status, text); an answer that goes on is left after a moment. *body*: JSON, or bytes as they are."""
        said = {"Authorization": f"Bearer {self.running.key}", "Content-Type": "application/json"}
        said |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection(urlsplit(self.running.client.url).netloc, timeout=10)
        text = b""
        with closing(connection):
            connection.request(method, path, data, {name: value for name, value in said.items() if value})
            sock, answer = connection.sock, connection.getresponse()
            sock.settimeout(1.0)
            with suppress(TimeoutError):
                while part := answer.read1(1 << 16):
                    text += part
        self.statuses.add(answer.status)
        told = text.decode(errors="replace")
        self.answers.append(f"{method} {path.partition('?')[0]} {answer.status} {answer.headers.as_string()}{told}")
        return answer.status, told

    def start(self, name: str, *states: str) -> None:
        """Start it, and look into the environment of its process."""
        self.ask("POST", f"/api/v1/instances/{name}/start")
        if (pid := self.running.until(name, *states).get("pid")) is not None:
            self.environments[name] = Path(f"/proc/{pid}/environ").read_text()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note the command line of the daemon and of every process below it, all the time."""
        over = threading.Event()
        top = psutil.Process(self.running.process.pid)

        def look() -> None:
            while not over.wait(0.005):
                with suppress(psutil.Error):
                    for process in (top, *top.children(recursive=True)):
                        with suppress(psutil.Error):
                            self.argv.add("\0".join(process.cmdline()))

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()


def options(switches: str = "", **more: Any) -> dict[str, Any]:
    environment = {"STUBD": f"{switches} max-life=60", **more.pop("environment", {})}
    command = [sys.executable, "-S", "-E", str(STUB)]
    fields = {"command_override": command, "environment": environment, "stop_timeout": 2, "restart_delay": "50ms"}
    return {"backend_type": "llama_cpp", "backend_options": {"model": "/dev/null"}, **fields, **more}


def create_everything(day: Day, secret: dict[str, str]) -> None:
    hidden = {"HF_TOKEN": secret["environment"], "MY_API_KEY": secret["own name"], "DB_PASSWORD": secret["password"]}
    backend_options = {"model": "/dev/null", "hf_token": secret["option"], "api_key": secret["owned option"]}
    assert day.ask("POST", "/api/v1/instances/a", options(environment=hidden))[0] == 201
    assert day.ask("POST", "/api/v1/instances/b", options(backend_options=backend_options))[0] == 201
    assert day.ask("POST", "/api/v1/instances/failing", options("exit-code=3 last-words=no", environment=hidden))[0] == 201
    vllm = {"model": "m", "api_key": secret["vllm key"], "hf_token": secret["vllm token"]}
    assert (
        day.ask("POST", "/api/v1/instances/v", options(backend_type="vllm", backend_options=vllm, on_demand_start=False))[0]
        == 201
    )
    draft = options(environment=hidden, backend_options=backend_options)
    assert day.ask("POST", "/api/v1/instances/command", {"name": "draft", "options": draft})[0] == 200
    assert day.ask("PATCH", "/api/v1/instances/b", {"environment": {"WANDB_API_KEY": secret["own name"]}})[0] == 200
    shown = json.loads(day.ask("GET", "/api/v1/instances/a")[1])["options"]
    assert day.ask("PUT", "/api/v1/instances/a", shown)[0] == 200  # secrets come back as masks, and stay what they were
    for scope in ("inference", "read", "management"):
        secret[f"{scope} key"] = make_key(day, scope=scope)
    secret["revoked key"] = make_key(day)
    assert day.ask("DELETE", "/api/v1/auth/keys/4")[0] == 204


def make_key(day: Day, **fields: str) -> str:
    """The one answer that tells a secret, and the only one."""
    status, text = day.ask("POST", "/api/v1/auth/keys", {"name": "k", **fields})
    assert status == 201
    told = day.answers.pop()
    key: str = json.loads(text)["key"]
    day.answers.append(told.replace(key, ""))
    return key


def use_everything(day: Day, secret: dict[str, str]) -> None:
    for name in ("a", "b"):
        day.start(name, "ready")
    day.start("failing", "failed", "backoff")
    body = {"messages": [{"role": "user", "content": secret["prompt"]}]}
    keys = ("inference key", "management key", "configured key", "made key", "read key", "revoked key", "wrong key")
    for key in (secret[name] for name in keys if name in secret):
        for path in ("/v1/chat/completions", "/v1/chat/completions?x=" + secret["query"]):
            for fields in ({"model": "a"}, {"model": "failing"}, {"model": "none"}, {"model": "a", "stream": True}, {}):
                day.ask("POST", path, {**fields, **body}, Authorization=f"Bearer {key}", Cookie=secret["cookie"])
        for path in ("/v1/models", "/api/v1/instances", "/metrics", "/nowhere?x=" + secret["query"]):
            day.ask("GET", path, X_API_Key=key, Authorization="")
    day.ask("GET", f"/api/v1/version?api_key={secret['management key']}")
    day.ask("GET", f"/api/v1/instances/a/proxy/props?token={secret['query']}")
    day.ask("GET", f"/api/v1/instances/a/proxy/x?a={secret['inference key']}")


def go_wrong(day: Day, secret: dict[str, str]) -> None:
    token = secret["environment"]
    for bad in (
        {"environment": {"HF_TOKEN": [token]}},
        {"environment": {"HF_TOKEN": token + "\0"}},
        {"environment": {"HF_TOKEN": token, "A=B": token}},
        {"backend_options": {"model": "m", "hf_token": [token]}},
        {"backend_options": {"model": "m", "hf_token": {"x": token}}},
        {"environment": token},
        {"backend_options": {"extra_args": ["--hf-token", token]}},
    ):
        status, _ = day.ask("POST", "/api/v1/instances/wrong", options() | bad)
        assert status == 422, bad
    for raw in (b'{"environment": {"HF_TOKEN": "' + token.encode() + b'"', token.encode(), b"\xff" + token.encode()):
        day.ask("POST", "/api/v1/instances/wrong", raw)
        day.ask("POST", "/v1/chat/completions", raw)
    day.ask("POST", "/api/v1/instances/a", options())
    day.ask("DELETE", "/api/v1/instances/a")
    day.ask("POST", "/api/v1/auth/keys", {"name": "k", "expires_at": 1})
    day.ask("PATCH", "/api/v1/auth/keys/1", {"name": "renamed"})
    psutil.Process(day.running.client.instance("b")["pid"]).kill()
    day.running.until("b", "ready")
    day.ask("POST", "/api/v1/instances/a/restart")
    day.running.until("a", "ready")


def look_at_everything(day: Day) -> None:
    for route in API:
        if route.method == "GET" and "{path}" not in route.path:
            for name in ("a", "b", "failing"):
                values = {"name": name, "id": "1", "backend": "llama-cpp", "model": name, "native": "props"}
                day.ask("GET", re.sub(r"\{(\w+)\}", lambda m, v=values: v.get(m[1], "x"), route.openapi_path))  # type: ignore[misc]
    for path in ("/api/v1/instances?stats=1", "/api/v1/events?logs=a&requests=1", "/api/v1/instances/a/logs?download=1"):
        day.ask("GET", path)
    day.ask("GET", "/metrics", Accept="application/openmetrics-text; version=1.0.0")


def test_no_secret_shows_where_it_does_not_belong(tmp_path: Path) -> None:
    told = ("daemon", "private", "configured", "environment", "own name", "password", "option", "owned option", "vllm key",
            "vllm token", "of all", "prompt", "query", "cookie", "wrong key")  # fmt: skip
    secret = {what: canary(what.replace(" ", "-")) for what in told}
    secret["configured key"] = secret.pop("configured")
    config = tmp_path / "config.yaml"
    config.write_text(f"backends:\n  llama-cpp:\n    environment:\n      WANDB_API_KEY: {secret['of all']}\n")
    surroundings = {
        "HF_TOKEN": secret["daemon"],
        "SOME_SECRET": secret["private"],
        "LLAMACTL_MANAGEMENT_KEYS": secret["configured key"],
        "LLAMACTL_CONFIG_PATH": str(config),
    }
    with daemon(tmp_path, "--log-level", "debug", environment={**surroundings, "LLAMACTL_ACCESS_LOG": "true"}) as running:
        day = Day(running)
        secret["management key"] = running.key
        with day.watched():
            create_everything(day, secret)
            use_everything(day, secret)
            go_wrong(day, secret)
            look_at_everything(day)
            wait_for(lambda: "POST /v1/chat/completions 200" in running.log, 10)
            assert running.end() == 0

    where_they_must_be(day, secret)
    secret["backend key"] = next(v for v in day.environments["a"].split("\0") if v.startswith("LLAMA_API_KEY=")).partition("=")[2]
    places = {
        "answers": "\n".join(day.answers),
        "command lines": "\n".join(day.argv),
        "log": running.log,
        **{str(file): file.read_bytes().decode("latin-1") for file in running.data.rglob("*") if file.is_file()},
    }
    may_stand = {
        ("management key", "management.key"),
        *((what, "llamactl.db") for what in ("environment", "own name", "password", "option", "vllm token")),
    }
    leaks = [
        (what, place)
        for what, value in secret.items()
        for place, text in places.items()
        if value in text and (what, Path(place).name.removesuffix("-wal")) not in may_stand
    ]
    assert leaks == []
    assert day.statuses >= {200, 201, 204, 400, 401, 403, 404, 409, 422, 503}


def where_they_must_be(day: Day, secret: dict[str, str]) -> None:
    """The canaries were alive, and those who had to get them did."""
    in_a, in_b = day.environments["a"], day.environments["b"]
    for what in ("environment", "own name", "password", "of all"):
        assert secret[what] in in_a, what
    assert secret["option"] in in_b
    assert secret["daemon"] not in in_a, "the instance's own goes before the daemon's"
    assert secret["private"] not in in_a + in_b
    assert secret["owned option"] not in in_a + in_b
    assert any(str(STUB) in argv for argv in day.argv)
    assert "POST /v1/chat/completions 200" in day.running.log
    assert any('"problems"' in answer for answer in day.answers)
