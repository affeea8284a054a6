"""A request to a stopped llama-server until its first token, beside the server alone: exec to healthy, and its answer.

The difference is our share. Nobody is pinned here: a daemon and what it starts have the machine to themselves.
"""

from __future__ import annotations

import http.client
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks import processes
from benchmarks.candidates.base import NotMeasured
from benchmarks.names import OURS
from benchmarks.results import Sample
from llamactl_py.client import Client
from llamactl_py.demo import tiny_gguf

NAME = "tiny"


def measure(folder: Path, rounds: int) -> Iterator[Sample]:
    """Samples of the case `cold-start`. Raises NotMeasured without a llama-server."""
    command = server(folder)
    port = processes.free_port()
    serve = (*(sys.executable, "-m", "llamactl_py", "serve"), *("--port", str(port), "--data-dir", str(folder / "cold")))
    with processes.timed(serve, cpu=None, log=folder / "cold.log"):
        processes.until(lambda: processes.answers(port, "/health"), "llamactl serve")
        client = Client(f"http://127.0.0.1:{port}", (folder / "cold" / "management.key").read_text().strip())
        options = client.parse_command(shlex.join(command))
        options.pop("warnings", None)
        client.create(NAME, options)
        headers = {"Authorization": f"Bearer {client.create_key('bench')['key']}"}
        for round_ in range(rounds):
            healthy, answer = alone(command, folder)
            through = first_byte(port, headers)
            client.stop(NAME)
            figures = {"healthy_ms": healthy, "answer_ms": answer, "through_ms": through, "share_ms": through - healthy - answer}
            yield Sample(OURS, "cold-start", round_, figures)


def server(folder: Path) -> Sequence[str]:
    """The command of a llama-server with a tiny model."""
    program = os.environ.get("LLAMACTL_TEST_LLAMA_SERVER") or shutil.which("llama-server")
    if not program:
        raise NotMeasured("no llama-server; `make bench` builds one, or name yours in LLAMACTL_TEST_LLAMA_SERVER")
    model = tiny_gguf.write(folder / "tiny.gguf")
    return (program, "-m", str(model), "-c", "2048", "-t", "1", "--threads-http", "2")


def alone(command: Sequence[str], folder: Path) -> tuple[float, float]:
    """Milliseconds from exec to healthy, and from a first request to its first token."""
    port = processes.free_port()
    with processes.timed((*command, "--port", str(port)), cpu=None, log=folder / "alone.log") as (_, elapsed):
        processes.until(lambda: processes.answers(port, "/health"), "llama-server")
        return elapsed(), first_byte(port, {})


def first_byte(port: int, headers: Mapping[str, str]) -> float:
    """Milliseconds from connecting to the first byte of a streamed chat's body."""
    body = {"model": NAME, "messages": [{"role": "user", "content": "Count."}], "max_tokens": 1, "stream": True}
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"{NAME} answered {answer.status}: {answer.read()[:200]!r}")
        answer.read(1)
        return (time.perf_counter() - began) * 1e3
    finally:
        connection.close()
