"""The machine: which processor who runs on, and what processes have used of its time and memory.

The candidate has processor 0 to itself; the backend, the clients and this program are on processor 1.
"""

from __future__ import annotations

import math
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

CANDIDATES_CPU = 0
OTHERS_CPU = 1
WORK, LOOKS = 20_000, 5
SLOWED = 1.35
"""Times as long as at best: whoever shares a core with another busy virtual machine takes 1.7 to 2 times as long."""


def settle() -> None:
    """Move this program off the candidates' processor, and let everybody open as many sockets as there may be."""
    if sys.platform != "linux" or not {CANDIDATES_CPU, OTHERS_CPU} <= os.sched_getaffinity(0):
        raise SystemExit("the benchmarks need Linux and two processors: one for the proxy alone, one for everything else")
    os.sched_setaffinity(0, {OTHERS_CPU})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def started_on(cpu: int | None) -> Iterator[None]:
    """What is started meanwhile runs on that processor (None: on either); a wrapper such as taskset would be measured with it."""
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {CANDIDATES_CPU, OTHERS_CPU} if cpu is None else {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, ours)


class Speed:
    """How fast the candidates' processor is just now, as known work shows: neighbours that nobody sees slow it for a while."""

    def __init__(self) -> None:
        self._best = math.inf
        for _ in range(100):
            self.is_slowed()

    def is_slowed(self) -> bool:
        with started_on(CANDIDATES_CPU):
            took = statistics.median(_work() for _ in range(LOOKS))
        self._best = min(self._best, took)
        return took > SLOWED * self._best


def _work() -> float:
    began, total = time.perf_counter(), 0
    for number in range(WORK):
        total += number & 3
    return time.perf_counter() - began


def tree(pid: int) -> list[psutil.Process]:
    """That process and all below it, as far as they have not ended."""
    found = []
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for one in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                found += [one] if one.status() != psutil.STATUS_ZOMBIE else []
    return found


def runs(process: psutil.Process, program: Path) -> bool:
    try:
        return process.exe() == str(program)
    except psutil.Error:
        return False


def cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    """Time on a processor of all their threads, also of those that have ended. A process that has ended counts no more."""
    nanoseconds = 0
    for process in processes:
        with suppress(OSError):
            # The clock of another process: what clock_getcpuclockid(3) gives, and Python has no name for.
            nanoseconds += time.clock_gettime_ns(~process.pid << 3 | 2)
    return nanoseconds / 1e9


def waited_seconds(processes: Sequence[psutil.Process]) -> float:
    """Time that their first threads were ready to run, and others had the processor."""
    nanoseconds = 0
    for process in processes:
        with suppress(OSError):
            nanoseconds += int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[1])
    return nanoseconds / 1e9


def resident_mb(processes: Sequence[psutil.Process]) -> float:
    return sum(process.memory_info().rss for process in processes) / 1e6


def description() -> str:
    names = (
        line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    )
    processors = f"{psutil.cpu_count()} x {next(names, platform.machine())}"
    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GiB"
    return f"{processors}, {memory}, {platform.system()} {platform.release()}, Python {platform.python_version()}"
