"""Short programs beside the instances: whatever they do, `run` comes back, tells what happened, and nothing of them is left.

Each script is a line for sh; `pids` is a file into which it writes who must be gone afterwards.
"""

from __future__ import annotations

import asyncio
import os
import resource
import secrets
import time
from pathlib import Path

import pytest

from llamactl_py.launchers.errands import Errands, Outcome
from tests.support.house import eventually, is_alive

ENVIRONMENT = {"PATH": os.environ["PATH"]}


@pytest.fixture
def errands() -> Errands:
    return Errands(f"test-{secrets.token_hex(4)}")


async def shell(errands: Errands, script: str, timeout: float = 10.0, most: int = 1 << 20) -> Outcome:
    return await errands.run(("/bin/sh", "-c", script), ENVIRONMENT, timeout, most)


async def test_both_outputs_and_the_exit_code_are_told(errands: Errands) -> None:
    outcome = await shell(errands, "echo out; echo err >&2; exit 3")
    assert (outcome.text, outcome.code, outcome.trouble, outcome.is_good) == ("out\nerr\n", 3, "", False)
    assert (await shell(errands, "true")).is_good


async def test_one_that_hangs_is_ended_at_its_deadline_with_its_children(errands: Errands, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = (
        f"echo begun; trap '' TERM; sleep 60 & echo $! >> {pids}; setsid sleep 60 & echo $! >> {pids}; echo $$ >> {pids}; wait"
    )
    began = time.monotonic()
    outcome = await shell(errands, script, timeout=0.5)
    assert (outcome.text, outcome.code, outcome.trouble) == ("begun\n", None, "did not end within 0.5 seconds")
    assert time.monotonic() - began < 8
    found = [int(pid) for pid in pids.read_text().split()]
    assert len(found) == 3
    assert not any(map(is_alive, found))
    assert errands.leaders == set()


async def test_one_that_floods_is_ended_at_its_limit(errands: Errands) -> None:
    outcome = await shell(errands, "yes", most=100_000)
    assert (len(outcome.text), outcome.trouble) == (100_000, "wrote more than 100000 bytes")


async def test_one_that_crashes_is_told_by_its_signal(errands: Errands) -> None:
    assert (await shell(errands, "echo x; kill -SEGV $$")).trouble == "was ended by signal 11"


async def test_what_it_leaves_behind_is_ended_with_it(errands: Errands, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    outcome = await shell(errands, f"setsid sleep 60 >/dev/null 2>&1 & echo $! > {pids}; echo done")
    assert outcome.is_good
    assert not is_alive(int(pids.read_text()))


async def test_a_program_that_cannot_run_is_a_reason_and_no_exception(errands: Errands, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no program")
    assert "Permission denied" in (await errands.run((str(tmp_path / "data"),), {}, 5.0)).trouble
    assert "No such file" in (await errands.run((str(tmp_path / "nope"),), {}, 5.0)).trouble
    assert "NUL" in (await errands.run(("/bin/echo", "a\0b"), {}, 5.0)).trouble
    assert errands.leaders == set()


async def test_output_that_is_no_text_is_told_all_the_same(errands: Errands) -> None:
    assert (await shell(errands, r"printf 'a\377\0b'")).text == "a\ufffd\0b"


async def test_it_gets_the_environment_that_it_is_given_and_the_mark_of_ours(errands: Errands) -> None:
    outcome = await errands.run(("/usr/bin/env",), {"A": "b"}, 5.0)
    names = {line.partition("=")[0] for line in outcome.text.splitlines()}
    assert {"A", "LLAMACTL_SPAWN"} <= names
    assert "HOME" not in names


async def test_who_does_not_want_to_know_any_more_leaves_nothing_running(errands: Errands, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    asking = asyncio.ensure_future(shell(errands, f"echo $$ > {pids}; exec sleep 60", timeout=60))
    pid = await eventually(lambda: pids.exists() and pids.read_text().strip())
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert not is_alive(int(pid))


async def test_many_at_once_do_not_mix_what_they_say(errands: Errands) -> None:
    outcomes = await asyncio.gather(*(shell(errands, f"echo {number}") for number in range(20)))
    assert [outcome.text for outcome in outcomes] == [f"{number}\n" for number in range(20)]


async def test_without_descriptors_it_is_a_reason_and_no_exception(errands: Errands) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    for room in range(8):
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + room, hard))
        try:
            outcome = await shell(errands, "exit 3")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert outcome.code == 3 or "Too many open files" in outcome.trouble, (room, outcome)
    assert errands.leaders == set()
