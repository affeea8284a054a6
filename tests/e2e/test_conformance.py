"""The API keeps what its description promises: schemathesis asks a real daemon whatever the description allows and forbids.

All of its checks are on, and its scenarios follow the links: made, seen, changed, started, deleted. `ALLOWANCES` is everything
that is let pass, and why. The examples are the same in every run; LLAMACTL_TEST_SCHEMATHESIS_EXAMPLES=100 makes more of them
for each operation (6 here; 100 take 15 minutes). What is promised is made in `llamactl_py/api/openapi`.

Scenarios end early and by chance: Hypothesis gives up where the same beginning leads elsewhere, and what was made before is there
the second time. So they are begun anew from several seeds, and the links of all of them are counted.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamactl_py.api.openapi.components import operation_id
from llamactl_py.app import API
from tests.support.daemons import Daemon, daemon
from tests.support.house import STUB

EXAMPLES = int(os.environ.get("LLAMACTL_TEST_SCHEMATHESIS_EXAMPLES", "6"))
FEWEST, FEWEST_LINKS = 3000, 40
SEEDS = range(4)
DESCRIPTION = Path(__file__).parents[2] / "apidocs" / "openapi.json"
KINDS = ("llama-cpp", "llama-cpp-python", "lmdeploy", "mlx", "sglang", "vllm")
SETTINGS = {
    # Instances that are made up get started, too: no server of this machine is to run for them. One program tells its "help".
    "backends": {kind: {"command": "echo" if kind == "mlx" else "/nonexistent/server", "args": []} for kind in KINDS},
}

OFF = {"enabled": False}
WELL_FORMED = ["2xx", "3xx", "401", "403", "404", "409", "429", "5xx"]
"""What schemathesis takes for a right answer to what the description allows; 404 and 409 are about what there is."""


def also(*statuses: str) -> dict[str, Any]:
    """Such answers to what the description allows are right, too."""
    return {"positive_data_acceptance": {"expected-statuses": [*WELL_FORMED, *statuses]}}


@dataclass(frozen=True)
class Allowance:
    """*checks* and *parameters*: what differs for *operations* (METHOD PATH, regular expression), as schemathesis has it."""

    operations: str
    why: str
    checks: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)


ALLOWANCES = (
    Allowance(
        r"^(POST|PUT|PATCH) /api/v1/instances/(command|\{name\}|\{name\}/command)$",
        "What backend_options, environment and docker may hold depends on the server (GET /api/v1/backends/{backend}/options).",
        also("400", "412", "422"),
    ),
    Allowance(
        r"^(GET|DELETE) /api/v1/instances/\{name\}$",
        "If-Match and If-None-Match are lists of tags, which no pattern describes well, and may name what is not there.",
        also("400", "412"),
    ),
    Allowance(
        r"^(POST|PATCH) /api/v1/auth/keys", "No key is for an instance that is not there, or ends in the past.", also("422")
    ),
    Allowance(r"parse-command$", "Whether text is a command line is no question for a schema.", also("400", "422")),
    Allowance(
        r"^GET /api/v1/requests$",
        "`before` is an id of this daemon; `key` is a name, and a key itself in its place is refused.",
        also("400", "422"),
    ),
    Allowance(
        r"^\w+ (/v1/\{path\}|/llama-cpp/.*|/api/v1/llama-cpp/.*|.*/proxy/\{path\})$",
        "The backend decides what is right; and of a path only what is plain is passed on.",
        {**also("400", "405", "415"), "negative_data_rejection": OFF},
    ),
    Allowance(
        r"^\w+ /api/v1/instances/(start|stop|restart|command)$",
        "GET, PUT, ... take these words for the name of an instance, as one of a configuration file may be called so.",
        {"allow_header_conformance": OFF},
    ),
    Allowance(
        r"^\w+ (/api/v1/backends/parse-command|/v1/models.*|/llama-cpp/\{name\}/\{native\})$",
        "Another route takes the same path for another method: GET .../backends/{backend}, POST /v1/{path}.",
        {"allow_header_conformance": OFF, "unsupported_method": OFF},
    ),
    Allowance(
        r"^GET /api/v1/instances/\{name\}/logs$", "Nobody waits for the end of what has none.", parameters={"follow": False}
    ),
    Allowance(r"^GET /api/v1/events$", "As for logs.", parameters={"limit": 1}),
)
EVERYWHERE = {
    "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", "502", "503", "504"]},
    "negative_data_rejection": {"expected-statuses": ["400", "401", "403", "404", "405", "409", "412", "413", "415", "422"]},
}
"""502 to 504, where they are documented, say that a backend could not be started or has failed; any other 5xx is a defect.
413: what is too large is refused before it is looked into."""


def configuration(key: str) -> str:
    """schemathesis.toml."""
    lines = ["[auth.openapi.managementKey]", f"bearer = {json.dumps(key)}"]
    lines += ["[phases.fuzzing.generation]", f"max-examples = {EXAMPLES}"]
    lines += ["[phases.stateful]", "max-steps = 12", "[phases.stateful.generation]", f"max-examples = {EXAMPLES * 10}"]
    for check, content in EVERYWHERE.items():
        lines += [f"[checks.{check}]", *_pairs(content)]
    for allowance in ALLOWANCES:
        lines += ["[[operations]]", f"include-name-regex = {json.dumps(allowance.operations)}"]
        if allowance.parameters:
            lines.append(f"parameters = {{ {', '.join(_pairs(allowance.parameters))} }}")
        for check, content in allowance.checks.items():
            lines += [f"[operations.checks.{check}]", *_pairs(content)]
    return "\n".join(lines)


def _pairs(content: dict[str, Any]) -> list[str]:
    return [f"{name} = {json.dumps(value)}" for name, value in content.items()]


def prepare(running: Daemon) -> None:
    """An instance that answers, and a key, as the examples of the description name them."""
    stub = [sys.executable, "-S", "-E", str(STUB)]
    options = {
        "backend_type": "llama_cpp",
        "backend_options": {"model": "/dev/null"},
        "command_override": stub,
        "stop_timeout": 1,
    }
    running.client.create("qwen", options)
    running.client.start("qwen")
    running.until("qwen", "ready")
    running.client.create_key("first")


def ask(running: Daemon, folder: Path, *how: str) -> tuple[str, dict[str, Any]]:
    """(what schemathesis says, its report) when told *how* to ask. The key stands in a file: arguments are for all to see."""
    (folder / "schemathesis.toml").write_text(configuration(running.key))
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    ran = subprocess.run(
        (
            Path(sys.executable).with_name("schemathesis"), "--config-file", "schemathesis.toml",
            "run", DESCRIPTION, "--url", running.client.url, *how, "--continue-on-failure", "--no-shrink",
            "--request-timeout", "20", "--report", "json", "--report-json-path", report, "--no-color",
        ),
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert report.exists(), ran.stdout + ran.stderr
    told = json.loads(report.read_text())
    assert told["exit_code"] == 0, ran.stdout[-30_000:]
    assert told["complete"]
    return ran.stdout, told


def links_covered(said: str) -> int:
    covered = re.search(r"API Links: +(\d+) covered", said)
    assert covered, said
    return int(covered[1])


def test_whatever_is_asked_the_daemon_keeps_what_its_description_promises(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(json.dumps(SETTINGS))
    with daemon(tmp_path, "--config", str(tmp_path / "config.yaml")) as running:
        prepare(running)
        _, report = ask(running, tmp_path, "--phases", "examples,coverage,fuzzing", "--generation-deterministic")
        scenarios = [ask(running, tmp_path, "--phases", "stateful", "--seed", str(seed)) for seed in SEEDS]
        assert "Traceback" not in running.log, running.log[-10_000:]
    assert report["operations"]["tested"] == report["operations"]["total"] == len(API)
    assert report["test_cases"]["generated"] >= FEWEST
    assert sum(links_covered(said) for said, _ in scenarios) >= FEWEST_LINKS


def test_every_allowance_is_for_operations_that_there_are() -> None:
    operations = [f"{route.method} {route.openapi_path}" for route in API]
    for allowance in ALLOWANCES:
        assert any(re.search(allowance.operations, operation) for operation in operations), allowance.operations
    assert len({operation_id(route) for route in API}) == len(API)
