"""A candidate is started, asked and ended as in a run; here ourselves, with the real daemon and the benchmarks' own backend."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import build, machine, start_up
from benchmarks.candidates.base import Bench, NotMeasured
from benchmarks.candidates.llama_swap import LlamaSwap
from benchmarks.candidates.llamactl import Llamactl
from benchmarks.candidates.ours import Ours
from benchmarks.cases import CASES
from benchmarks.load import Door, Load, Wrong
from benchmarks.processes import free_port, listens
from benchmarks.results import combine
from tests.support.daemons import wait_for

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="epoll: the benchmarks are for Linux")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("bench")
    return Bench(build.programs(folder), folder, free_port())


def test_the_daemon_starts_the_backend_and_every_byte_comes_through(bench: Bench) -> None:
    clients = Load(bench.programs, bench.folder)
    ours = Ours("llamactl-py", instances=3)
    assert ours.prepare(bench).startswith("0.")
    with ours.open() as opened:
        clients.warm_up(opened.door)
        assert opened.start_up_ms > 0
        (daemon,) = clients.processes(opened.door)
        assert machine.resident_mb([daemon]) > 10
        figures = {
            case.name: case.measure(clients, opened.door, 0.5) for case in CASES if case.name in ("c8", "paced100", "upload")
        }
        daemon.kill()
        wait_for(lambda: not clients.processes(opened.door), 10)
        with pytest.raises(Wrong, match="ended by itself"):
            clients.resident_mb(opened.door)
    assert figures["c8"]["rps"] > 10
    assert figures["c8"]["cpu_us"] > 1
    assert (figures["paced100"]["events"], figures["paced100"]["unfinished"]) == (5000, 0)
    assert figures["upload"]["p50_ms"] > 0
    assert not listens(ours.port)
    phases = start_up.phases(bench.folder, ours)
    assert 0 < phases["interpreter_ms"] < phases["listening_ms"] <= phases["answered_ms"]
    assert phases["interpreter_ms"] < phases["imported_ms"]
    assert {"msgspec", "llamactl_py"} <= start_up.imports(bench.folder, ours).keys()


def test_a_run_writes_its_figures_and_its_page(tmp_path: Path) -> None:
    """A process of its own, as a run moves itself to another processor."""
    words = ("--rounds", "2", "--seconds", "0.5", "--candidates", "direct,llamactl-py,llamactl", "--only", "c8,paced100")
    done = subprocess.run(
        (sys.executable, "-m", "benchmarks", *words, "--json", str(tmp_path / "raw.json"), "--output", str(tmp_path)),
        cwd=ROOT,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run = combine([tmp_path / "raw.json"])
    assert run.candidates("c8") == ["direct", "llamactl-py"]
    assert set(run.rounds("llamactl-py", "paced100", "unfinished").values()) == {0}
    assert run.rounds("llamactl-py", "after", "mb").keys() == {0, 1}
    assert run.missing.keys() == {"llamactl"}
    assert not run.failures()
    assert "![medians and ranges](results.svg)" in (tmp_path / "RESULTS.md").read_text()
    assert (tmp_path / "results.svg").read_text().startswith("<svg")


def test_a_door_with_nobody_behind_is_told(bench: Bench) -> None:
    with pytest.raises(Wrong, match="Connection refused"):
        Load(bench.programs, bench.folder).requests(Door(free_port()), 1, 0.1)


@pytest.mark.parametrize(("candidate", "flag"), [(LlamaSwap(None), "--llama-swap"), (Llamactl(None), "--llamactl")])
def test_a_peer_without_a_binary_says_how_to_give_it(bench: Bench, candidate: LlamaSwap | Llamactl, flag: str) -> None:
    with pytest.raises(NotMeasured, match=f"{flag} PATH"):
        candidate.prepare(bench)


def test_a_peer_that_does_not_start_is_told_with_its_last_words(bench: Bench, tmp_path: Path) -> None:
    program = tmp_path / "llama-swap"
    program.write_text("#!/bin/sh\necho no such flag >&2\nexit 3\n")
    program.chmod(0o755)
    swap = LlamaSwap(program)
    assert swap.prepare(bench) == "no such flag"
    with pytest.raises(NotMeasured, match=r"ended with 3: no such flag"), swap.open():
        pass
