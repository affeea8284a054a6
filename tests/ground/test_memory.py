"""Memory that was used for a while, in a process of its own: what is left of it there is what the system says."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource
from pathlib import Path
from llamactl_py.ground.memory import give_memory_back

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

give_memory_back()
before = resident()
kept = [bytearray(100_000) for _ in range(500)]  # each below what malloc asks the system for by itself
last = bytearray(100_000)  # behind them, so that they cannot simply be cut off
del kept
freed = resident()
give_memory_back()
print(freed - before, resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc keeps what was freed, and can be asked for it")
def test_what_was_freed_goes_back_to_the_system_when_asked() -> None:
    done = subprocess.run((sys.executable, "-c", PROGRAM), capture_output=True, text=True, check=True)
    kept, left = map(int, done.stdout.split())
    assert kept > 40_000_000
    assert left < 5_000_000


def test_between_the_beginning_and_the_end_of_a_start_nothing_is_collected() -> None:
    start = "hold(); print(gc.isenabled()); settle(); print(gc.isenabled())"
    program = f"import gc; from llamactl_py.ground.memory import hold, settle; {start}"
    done = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
