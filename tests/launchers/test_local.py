"""The local launcher and its handles, with real processes: what ends, how, and that nothing is left.

`bench.run("/bin/sleep", "60")` launches any program; `bench.stub("workers=2")` launches the stub backend and waits until it
listens: from then on its whole family is known by pid. Whatever a test leaves running is ended, and looked for, afterwards.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from msgspec.structs import replace

from llamactl_py.ground.errors import StartFailed
from llamactl_py.ground.ticket import Ticket
from llamactl_py.launchers import local, logs, processes
from llamactl_py.launchers.base import Command, Listening
from llamactl_py.launchers.local import LocalHandle, LocalLauncher
from tests.support.house import STUB, is_alive

reads_proc = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")

Words = tuple[str, ...]


@dataclass
class Bench:
    """A launcher and everything that it launched."""

    folder: Path
    launcher: LocalLauncher
    handles: list[LocalHandle] = field(default_factory=list)
    recorded: list[Ticket] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.folder / "logs" / "a.log"

    async def record(self, ticket: Ticket) -> None:
        self.recorded.append(ticket)

    async def run(
        self, *argv: str, directory: Path | None = None, stop: Words = (), cleanup: Words = (), **environment: str
    ) -> LocalHandle:
        command = Command(
            "a",
            argv,
            {"PATH": os.environ["PATH"], **environment},
            self.log,
            0,
            directory,
            (lambda pid: [str(pid) if w == "PID" else w for w in stop]) if stop else None,
            cleanup,
        )
        handle = await self.launcher.launch(command, self.record)
        self.handles.append(handle)
        return handle

    async def shell(self, script: str, stop: Words = (), cleanup: Words = (), **environment: str) -> LocalHandle:
        return await self.run("/bin/sh", "-c", script, stop=stop, cleanup=cleanup, **environment)

    async def stub(self, switches: str = "", wrapper: str = "exec") -> LocalHandle:
        """The stub, listening; *wrapper* is the shell that starts it, where `exec` is none at all."""
        port_file = self.folder / "port"
        port_file.unlink(missing_ok=True)
        words = f"{switches} pids={self.folder}/pids port-file={port_file} max-life=60"
        line = f"{sys.executable} -S -E {STUB} --port 0"
        handle = await self.shell(f"{wrapper} {line}" if wrapper == "exec" else wrapper.replace("STUB", line), STUBD=words)
        await until(port_file.exists)
        self.port = int(port_file.read_text())
        return handle

    def family(self, role: str = "") -> list[int]:
        """Pids of the stub's processes; ours alone, as a stranger who got one of the numbers has another start time."""
        lines = [json.loads(line) for line in (self.folder / "pids").read_text().splitlines()]
        return [line["pid"] for line in lines if role in ("", line["role"])]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path, LocalLauncher(tmp_path, time.time, 1_000_000, 2))
    yield made
    for handle in made.handles:
        await handle.stop(grace=0)
    for ticket in made.recorded:
        assert carrying(ticket.token) == []


@pytest.fixture
async def maintained(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """The launcher's upkeep, a hundred times as often as usual."""
    monkeypatch.setattr(local, "MAINTENANCE_INTERVAL", 0.01)
    maintaining = asyncio.ensure_future(bench.launcher.maintain())
    yield
    maintaining.cancel()


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Poll until *condition* holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def carrying(token: str) -> list[int]:
    """Living processes whose environment holds *token*, found without the code under test."""
    if sys.platform != "linux":
        return []
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if token.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


@contextmanager
def bystander(**environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Somebody else's process, in a session of its own."""
    process = subprocess.Popen(["/bin/sleep", "60"], start_new_session=True, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def ticket_of(pid: int, token: str = "0" * 32) -> Ticket:
    seen = processes.look(pid)
    assert seen
    return Ticket(token, "a", processes.boot_id(), pid, seen.start_time)


# ---- the leader ends by itself


@pytest.mark.parametrize(
    ("script", "code", "last_lines"),
    [
        ("echo one; echo two >&2; exit 3", 3, ("one", "two")),
        ("exit 0", 0, ()),
        ("echo dying; kill -KILL $$", -signal.SIGKILL, ("dying",)),
        ("printf 'no end of line'; exit 127", 127, ("no end of line",)),
    ],
)
async def test_an_exit_has_the_code_and_the_last_lines(bench: Bench, script: str, code: int, last_lines: tuple[str, ...]) -> None:
    ended = await (await bench.shell(script)).exited()
    assert (ended.code, ended.last_lines) == (code, last_lines)


async def test_an_exit_is_told_to_everybody_who_waits_and_to_those_who_ask_later(bench: Bench) -> None:
    handle = await bench.shell("sleep 0.05; exit 5")
    waiting = [asyncio.ensure_future(handle.exited()) for _ in range(5)]
    waiting[0].cancel()
    assert {ended.code for ended in await asyncio.gather(*waiting[1:])} == {5}
    assert (await handle.exited()).code == 5
    assert (await handle.stop(grace=10)).code == 5


async def test_last_lines_are_the_last_twenty_of_this_run_only(bench: Bench) -> None:
    await (await bench.shell("echo of an earlier run")).exited()
    ended = await (await bench.shell("echo just this")).exited()
    assert ended.last_lines == ("just this",)
    ended = await (await bench.shell("seq 1 500")).exited()
    assert ended.last_lines == tuple(map(str, range(481, 501)))
    text = bench.log.read_text()
    assert text.count("=== Instance a started at ") == 3
    assert text.count("=== Instance a exited with code 0 at ") == 3


# ---- stop


@pytest.mark.parametrize(
    ("switches", "grace", "code"),
    [
        ("", 10.0, 0),
        ("term-delay=0.2", 10.0, 0),
        ("ignore-term", 0.2, -signal.SIGKILL),
        ("workers=2", 10.0, 0),
        ("workers=2 setsid-worker", 10.0, 0),
        ("workers=1 setsid-worker worker-ignore-term", 0.2, 0),
        ("ignore-term workers=1 setsid-worker worker-ignore-term", 0.2, -signal.SIGKILL),
        ("workers=1 setsid-worker hold-stdout", 10.0, 0),
    ],
)
async def test_stop_ends_the_whole_tree_and_returns_only_then(bench: Bench, switches: str, grace: float, code: int) -> None:
    handle = await bench.stub(switches)
    family = bench.family()
    assert len(family) == 1 + sum(map(int, re.findall(r"workers=(\d)", switches))) + len(re.findall("setsid|hold", switches))
    began = time.monotonic()
    ended = await handle.stop(grace)
    assert [pid for pid in family if is_alive(pid)] == []
    assert carrying(handle.ticket.token) == []
    assert ended.code == code
    assert time.monotonic() - began < 2.0


async def test_a_leader_that_ignores_term_has_its_whole_grace(bench: Bench) -> None:
    handle = await bench.stub("ignore-term")
    began = time.monotonic()
    await handle.stop(grace=0.3)
    assert time.monotonic() - began >= 0.3


async def test_no_grace_means_killed_at_once(bench: Bench) -> None:
    handle = await bench.stub("workers=1 last-words=bye")
    assert (await handle.stop(grace=0)).code == -signal.SIGKILL
    assert "bye" not in bench.log.read_text()


async def test_term_is_said_again_where_once_is_not_enough(bench: Bench) -> None:
    handle = await bench.shell("trap 'n=x$n; [ $n = xx ] && exit 42' TERM; echo up; while :; do sleep 0.01; done")
    await until(lambda: "up" in bench.log.read_text().splitlines())
    assert (await handle.stop(grace=10, repeat_term_after=0.05)).code == 42


async def test_hurry_ends_the_grace_of_a_stop_under_way(bench: Bench) -> None:
    handle = await bench.stub("ignore-term workers=1 worker-ignore-term")
    stopping = asyncio.ensure_future(handle.stop(grace=60))
    await asyncio.sleep(0.05)
    assert not stopping.done()
    handle.hurry()
    assert (await asyncio.wait_for(stopping, 5)).code == -signal.SIGKILL


async def test_a_stop_whose_caller_leaves_can_be_asked_for_again(bench: Bench) -> None:
    handle = await bench.stub("ignore-term workers=1")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(handle.stop(grace=60), 0.1)
    assert (await asyncio.wait_for(handle.stop(grace=0), 5)).code == -signal.SIGKILL


async def test_kill_does_not_wait_and_still_gets_everybody(bench: Bench) -> None:
    handle = await bench.stub("ignore-term workers=1 setsid-worker worker-ignore-term")
    handle.kill()
    assert (await asyncio.wait_for(handle.exited(), 5)).code == -signal.SIGKILL
    await until(lambda: not any(map(is_alive, bench.family())))


async def test_workers_of_a_killed_leader_live_until_stop_and_are_gone_after_it(bench: Bench) -> None:
    handle = await bench.stub("workers=2 setsid-worker worker-ignore-term")
    os.kill(handle.ticket.pid, signal.SIGKILL)
    assert (await asyncio.wait_for(handle.exited(), 5)).code == -signal.SIGKILL
    workers = [pid for pid in bench.family() if pid != handle.ticket.pid]
    assert [is_alive(pid) for pid in workers] == [True] * 3
    await asyncio.wait_for(handle.stop(grace=0), 2)
    assert [is_alive(pid) for pid in workers] == [False] * 3


async def test_an_orphan_that_holds_the_output_open_delays_nothing(bench: Bench) -> None:
    handle = await bench.stub("hold-stdout exit-after=0.3 exit-code=7 last-words=the-end")
    ended = await asyncio.wait_for(handle.exited(), 5)
    assert (ended.code, ended.last_lines[-1]) == (7, "the-end")
    (holder,) = bench.family("stdout-holder")
    assert is_alive(holder)
    await asyncio.wait_for(handle.stop(grace=0), 2)
    assert not is_alive(holder)


async def test_behind_a_wrapper_the_server_too_is_asked_before_it_is_killed(bench: Bench) -> None:
    handle = await bench.stub("last-words=asked-politely workers=1", wrapper="STUB & wait")
    (server,) = bench.family("leader")
    assert server != handle.ticket.pid
    await asyncio.wait_for(handle.stop(grace=10), 5)
    assert not any(map(is_alive, bench.family()))
    assert "asked-politely" in bench.log.read_text().splitlines()


async def test_a_process_that_dropped_its_mark_is_found_by_its_session(bench: Bench) -> None:
    handle = await bench.shell(f"env -i /bin/sleep 61 & echo $! > {bench.folder}/pid; exit 0")
    await handle.exited()
    pid = int((bench.folder / "pid").read_text())
    await until(lambda: carrying(handle.ticket.token) == [])  # env has become sleep
    assert is_alive(pid)
    await handle.stop(grace=0)
    assert not is_alive(pid)


# ---- who has the port


async def test_the_listener_is_ours_also_when_it_detached_itself(bench: Bench) -> None:
    handle = await bench.stub(wrapper="(setsid STUB &); sleep 60")
    (server,) = bench.family("leader")
    assert os.getsid(server) == server
    assert await handle.listening(bench.port) is Listening.OURS
    os.kill(server, signal.SIGKILL)
    await until(lambda: not is_alive(server))
    assert await handle.listening(bench.port) is Listening.NOBODY


async def test_somebody_elses_listener_is_a_stranger(bench: Bench) -> None:
    handle = await bench.run("/bin/sleep", "60")
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    async with server:
        assert await handle.listening(server.sockets[0].getsockname()[1]) is Listening.STRANGER


# ---- what cannot be started


def _not_executable(folder: Path) -> str:
    (folder / "plain").write_text("#!/bin/sh\n")
    return str(folder / "plain")


def _no_format(folder: Path) -> str:
    file = folder / "junk"
    file.write_bytes(b"\x01\x02 no program, and no #! line")
    file.chmod(0o755)
    return str(file)


def _no_interpreter(folder: Path) -> str:
    file = folder / "script"
    file.write_text("#!/there/is/no/such/interpreter\n")
    file.chmod(0o755)
    return str(file)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (lambda folder: str(folder / "missing"), "No such file or directory"),
        (_not_executable, "Permission denied"),
        (_no_format, "Exec format error"),
        (_no_interpreter, "No such file or directory"),
        (str, "Permission denied"),  # the folder itself
        (lambda folder: str(folder / "logs" / "a.log" / "x"), "Not a directory"),
        (lambda _: "/bin/" + "x" * 300, "File name too long"),
    ],
)
async def test_a_command_that_cannot_be_executed_says_why_and_leaves_nothing(
    bench: Bench, program: Callable[[Path], str], reason: str
) -> None:
    argv0 = program(bench.folder)
    descriptors = len(os.listdir("/dev/fd"))
    with pytest.raises(StartFailed, match=f"{re.escape(argv0)} could not be started: {reason}"):
        await bench.run(argv0)
    (ticket,) = bench.recorded
    assert not is_alive(ticket.pid)
    assert not Path(f"/proc/{ticket.pid}").exists()  # not even a zombie
    assert len(os.listdir("/dev/fd")) == descriptors


async def test_a_missing_working_directory_is_no_start(bench: Bench) -> None:
    with pytest.raises(StartFailed, match="No such file or directory"):
        await bench.run("/bin/sleep", "60", directory=bench.folder / "missing")
    assert not is_alive(bench.recorded[0].pid)


async def test_nul_in_an_argument_or_variable_is_no_start(bench: Bench) -> None:
    for attempt in (bench.run("/bin/sleep", "6\x000"), bench.run("/bin/sleep", "60", BAD="a\0b")):
        with pytest.raises(StartFailed, match="NUL"):
            await attempt
    assert not any(is_alive(ticket.pid) for ticket in bench.recorded)


async def test_a_log_that_cannot_be_written_is_no_start(bench: Bench) -> None:
    (bench.folder / "logs").write_text("in the way")
    with pytest.raises(StartFailed, match=r"log .*a\.log cannot be written: (Not a directory|File exists)"):
        await bench.run("/bin/sleep", "60")
    assert bench.recorded == []


async def test_a_ticket_that_cannot_be_stored_leaves_no_process(bench: Bench) -> None:
    async def full_disk(ticket: Ticket) -> None:
        bench.recorded.append(ticket)
        assert is_alive(ticket.pid)
        raise OSError(28, "No space left on device")

    ran = bench.folder / "ran"
    command = Command("a", ("/bin/sh", "-c", f"touch {ran}; sleep 60"), {"PATH": os.environ["PATH"]}, bench.log, 0)
    with pytest.raises(OSError, match="No space left"):
        await bench.launcher.launch(command, full_disk)
    assert not is_alive(bench.recorded[0].pid)
    assert not ran.exists()


async def test_nothing_runs_before_its_ticket_is_stored_and_a_cancelled_launch_leaves_no_process(bench: Bench) -> None:
    recording = asyncio.Event()

    async def for_ever(ticket: Ticket) -> None:
        bench.recorded.append(ticket)
        recording.set()
        await asyncio.Event().wait()

    ran = bench.folder / "ran"
    command = Command("a", ("/bin/sh", "-c", f"touch {ran}; sleep 60"), {"PATH": os.environ["PATH"]}, bench.log, 0)
    launching = asyncio.ensure_future(bench.launcher.launch(command, for_ever))
    await recording.wait()
    (ticket,) = bench.recorded
    assert processes.start_time(ticket.pid) == ticket.start_time
    assert not ran.exists()
    launching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launching
    assert not is_alive(ticket.pid)
    assert not ran.exists()


# ---- what a child gets


def descriptors(proc: Path) -> dict[str, str]:
    """What the process has open, by number."""
    found = {}
    for number in os.listdir(proc / "fd"):
        with suppress(FileNotFoundError):  # closed meanwhile
            found[number] = os.readlink(proc / "fd" / number)
    return found


@reads_proc
async def test_a_child_has_three_descriptors_its_own_session_and_exactly_its_environment(bench: Bench) -> None:
    secret = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(secret, True)
    os.environ["LEAKED_SECRET"] = "leaked"
    try:
        handle = await bench.run("/bin/sleep", "60", directory=bench.folder, PLAIN="v=1 \n\t é")
    finally:
        os.close(secret)
        del os.environ["LEAKED_SECRET"]
    proc = Path(f"/proc/{handle.ticket.pid}")
    await until(lambda: (proc / "cmdline").read_bytes() == b"/bin/sleep\x0060\0")  # the kernel's last step of an exec
    expected = {"0": "/dev/null", "1": str(bench.log), "2": str(bench.log)}
    await until(lambda: descriptors(proc) == expected)  # a program opens and closes some of its own while it starts
    environment = dict(pair.split("=", 1) for pair in (proc / "environ").read_text().split("\0")[:-1])
    mark = environment.pop("LLAMACTL_SPAWN")
    assert environment == {"PATH": os.environ["PATH"], "PLAIN": "v=1 \n\t é"}
    assert mark.endswith(f":{handle.ticket.token}")
    assert (proc / "cwd").readlink() == bench.folder
    assert os.getsid(handle.ticket.pid) == os.getpgid(handle.ticket.pid) == handle.ticket.pid


@reads_proc
async def test_a_child_has_the_default_signal_handlers_and_blocks_nothing(bench: Bench) -> None:
    handle = await bench.run("/bin/sleep", "60")
    await until(lambda: Path(f"/proc/{handle.ticket.pid}/cmdline").read_bytes().startswith(b"/bin/sleep"))
    status = dict(line.split(":\t") for line in Path(f"/proc/{handle.ticket.pid}/status").read_text().splitlines())
    ours_to_set = sum(1 << (number - 1) for number in signal.valid_signals())  # 32 and 33 are the C library's
    found = {name: int(status[name], 16) & ours_to_set for name in ("SigBlk", "SigIgn", "SigCgt")}
    assert found == {"SigBlk": 0, "SigIgn": 0, "SigCgt": 0}


async def test_words_reach_the_program_as_they_are(bench: Bench) -> None:
    words = ["", " ", "a b", "$HOME", "`id`", "'", '"', "\\", "*", "--port=1\n--host", "é\udcff", "x" * 100_000]
    code = "import os,sys; os.write(1, b'|'.join(map(os.fsencode, sys.argv[1:])))"
    ended = await (await bench.run(sys.executable, "-S", "-E", "-c", code, *words)).exited()
    assert ended.code == 0
    assert b"|".join(map(os.fsencode, words)) in bench.log.read_bytes()


# ---- identity: never a stranger


@pytest.mark.parametrize("shift", [-1000, -1, 1, 1000])
async def test_a_recycled_pid_is_never_signalled(bench: Bench, shift: int) -> None:
    with bystander() as stranger:
        true = ticket_of(stranger.pid)
        assert await bench.launcher.sweep([replace(true, start_time=true.start_time + shift)]) == []
        assert is_alive(stranger.pid)


async def test_a_ticket_of_another_boot_is_never_acted_on(bench: Bench) -> None:
    with bystander() as stranger:
        assert await bench.launcher.sweep([replace(ticket_of(stranger.pid), boot_id="another")]) == []
        assert is_alive(stranger.pid)


async def test_a_sweep_kills_what_a_ticket_names_and_nothing_else(bench: Bench) -> None:
    with bystander() as ours, bystander() as stranger:
        assert await bench.launcher.sweep([ticket_of(ours.pid)]) == [ours.pid]
        assert not is_alive(ours.pid)
        assert is_alive(stranger.pid)


async def test_a_sweep_finds_a_whole_tree_by_its_ticket_or_by_the_mark_alone(bench: Bench) -> None:
    for number, known in enumerate((True, False)):
        handle = await bench.stub("ignore-term workers=1 setsid-worker worker-ignore-term")
        family = bench.family()[3 * number :]
        with bystander(LLAMACTL_SPAWN=f"{'0' * 16}:{handle.ticket.token}") as of_another_data_directory:
            next_daemon = LocalLauncher(bench.folder, time.time, 0, 0)
            assert await next_daemon.sweep([handle.ticket] if known else []) == sorted(family)
            assert not any(map(is_alive, family))
            assert is_alive(of_another_data_directory.pid)
        assert (await handle.exited()).code == -signal.SIGKILL


async def test_a_sweep_finds_the_orphans_of_a_leader_that_is_gone(bench: Bench) -> None:
    handle = await bench.shell(f"env -i /bin/sleep 61 & echo $! > {bench.folder}/pid; exit 0")
    await handle.exited()
    await until(lambda: carrying(handle.ticket.token) == [])
    pid = int((bench.folder / "pid").read_text())
    assert await bench.launcher.sweep([]) == []
    assert await bench.launcher.sweep([handle.ticket]) == [pid]
    assert not is_alive(pid)


# ---- logs


async def test_logs_are_for_their_owner_alone_whatever_the_umask(bench: Bench) -> None:
    before = os.umask(0)
    try:
        await (await bench.shell("echo private")).exited()
    finally:
        os.umask(before)
    assert stat.S_IMODE(bench.log.stat().st_mode) == 0o600
    assert stat.S_IMODE(bench.log.parent.stat().st_mode) == 0o700


async def test_a_line_of_fifty_megabytes_is_no_trouble_and_the_last_words_are_kept(bench: Bench) -> None:
    handle = await bench.run(
        sys.executable, "-S", "-E", str(STUB), "--port", "0", STUBD="long-line=50000000 last-words=out-of-memory exit-code=9"
    )
    ended = await asyncio.wait_for(handle.exited(), 10)
    assert (ended.code, ended.last_lines[-1]) == (9, "out-of-memory")
    assert sum(map(len, ended.last_lines)) <= local.LAST_BYTES
    assert bench.log.stat().st_size > 50_000_000


async def test_nul_and_invalid_utf8_in_a_log_are_shown_and_stop_nothing(bench: Bench) -> None:
    ended = await (await bench.shell(r"printf 'a\000b\377\303 end\nlast'; exit 1")).exited()
    assert ended.last_lines == ("a\0b\ufffd\ufffd end", "last")
    assert b"a\0b\xff\xc3 end\nlast" in bench.log.read_bytes()


@pytest.mark.usefixtures("maintained")
async def test_a_flood_is_kept_in_few_files_of_bounded_size(bench: Bench) -> None:
    handle = await bench.shell(f"yes spew | head -c 30000000; touch {bench.folder}/written; exec sleep 60")
    await until((bench.folder / "written").exists)
    await until(lambda: bench.log.stat().st_size <= 1_000_000)
    files = sorted(file.name for file in bench.log.parent.iterdir())
    assert files == ["a.log", "a.log.1", "a.log.2"]
    for number in (1, 2):
        kept = bench.log.with_name(f"a.log.{number}")
        assert 0 < kept.stat().st_size <= 1_000_000 + logs.MEANWHILE
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    handle.kill()
    await handle.exited()
    assert "was ended by signal 9" in bench.log.read_text()  # what comes after a rotation lands in the same file


async def test_forgotten_logs_are_deleted_with_their_rotations_and_no_others(bench: Bench) -> None:
    await (await bench.shell("echo x")).exited()
    others = [bench.log.with_name(name) for name in ("b.log", "a.log.log", "a.log.1.log", "a.log.1.log.1", "aa.log.1")]
    for file in (bench.log.with_name("a.log.1"), bench.log.with_name("a.log.12"), *others):
        file.write_text("x")
    bench.launcher.forget_log(bench.log)
    assert sorted(bench.log.parent.iterdir()) == sorted(others)


# ---- nothing adds up


@reads_proc
@pytest.mark.usefixtures("maintained")
async def test_cycles_leave_no_zombie_no_descriptor_and_no_process(bench: Bench) -> None:
    async def cycle() -> None:
        handle = await bench.stub("workers=1 setsid-worker hold-stdout")
        await handle.stop(grace=5)

    await cycle()
    descriptors = sorted(os.listdir("/proc/self/fd"))
    for _ in range(5):
        await cycle()
    assert sorted(os.listdir("/proc/self/fd")) == descriptors
    family = bench.family()
    assert len(family) == 24
    assert not any(map(is_alive, family))
    await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family))  # no zombies either


@reads_proc
@pytest.mark.usefixtures("maintained")
async def test_orphans_that_end_while_their_tree_lives_on_are_buried(bench: Bench) -> None:
    await bench.stub("setsid-worker")
    (orphan,) = bench.family("setsid-worker")
    os.kill(orphan, signal.SIGKILL)
    await until(lambda: not Path(f"/proc/{orphan}").exists())


async def test_a_stop_command_is_run_to_its_end_before_any_signal(bench: Bench) -> None:
    """It waits until the leader has done as it was asked; a signal before that would be told as well."""
    told = bench.folder / "told"
    waits = f"while ! [ -e {told}.end ]; do sleep 0.01; done"
    handle = await bench.shell(
        f"trap 'echo term >> {told}' TERM; echo up > {told}; {waits}; echo asked >> {told}",
        stop=("/bin/sh", "-c", f"touch {told}.end; while ! grep -q asked {told}; do sleep 0.01; done"),
    )
    await until(lambda: told.exists() and told.read_text())
    assert (await handle.stop(5.0)).code == 0
    assert told.read_text().startswith("up\nasked\n")


async def test_a_stop_command_is_told_the_pid_of_the_leader(bench: Bench) -> None:
    handle = await bench.shell("trap 'exit 7' USR1; while true; do sleep 0.01; done", stop=("/bin/kill", "-USR1", "PID"))
    await asyncio.sleep(0)
    ended = await handle.stop(5.0)
    assert ended.code in (7, -10, -15), "USR1 before its trap is set ends it as well"


STOP_COMMANDS = {"fails": ("/bin/false",), "hangs": ("/bin/sleep", "60"), "is not there": ("/no-such-place-as-this",)}


@pytest.mark.parametrize("case", STOP_COMMANDS)
async def test_whatever_becomes_of_its_stop_command_the_tree_is_ended(bench: Bench, case: str) -> None:
    handle = await bench.shell("exec sleep 60", stop=STOP_COMMANDS[case])
    await handle.stop(0.5)
    assert not is_alive(handle.ticket.pid)


async def test_a_stop_without_grace_runs_no_stop_command(bench: Bench) -> None:
    told = bench.folder / "told"
    handle = await bench.shell("exec sleep 60", stop=("/usr/bin/touch", str(told)))
    await handle.stop(0.0)
    assert not told.exists()


async def test_a_stop_command_that_hangs_gives_way_to_a_hurry(bench: Bench) -> None:
    handle = await bench.shell("exec sleep 60", stop=("/bin/sleep", "60"))
    stopping = asyncio.ensure_future(handle.stop(60.0))
    await asyncio.sleep(0)
    handle.hurry()
    await asyncio.wait_for(stopping, 10)


async def test_what_no_signal_reaches_is_cleaned_up_when_the_tree_is_gone(bench: Bench) -> None:
    told = bench.folder / "told"
    cleanup = ("/bin/sh", "-c", f"kill -0 $1 2>/dev/null || echo gone > {told}", "sh")
    handle = await bench.shell("exec sleep 60", cleanup=(*cleanup, "4194304"))
    assert handle.ticket.cleanup == bench.recorded[-1].cleanup == (*cleanup, "4194304")
    await handle.stop(0.0)
    assert told.read_text() == "gone\n"


async def test_a_sweep_cleans_up_for_every_ticket_also_of_another_boot(bench: Bench) -> None:
    told = [bench.folder / name for name in ("a", "b")]
    tickets = [Ticket(file.name, "a", "another boot", 2, 0, ("/usr/bin/touch", str(file))) for file in told]
    assert await bench.launcher.sweep(tickets) == []
    assert all(file.exists() for file in told)


async def test_a_cleanup_that_fails_is_told_in_the_log_and_ends_all_the_same(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    handle = await bench.shell("exec sleep 60", cleanup=("/bin/sh", "-c", "echo no engine; exit 1"))
    await handle.stop(0.0)
    assert "what it ran in may still be there" in caplog.text
    assert "no engine" in caplog.text
    caplog.clear()
    handle = await bench.shell("exec sleep 60", cleanup=("/bin/sh", "-c", "echo Error: No such container: x; exit 1"))
    await handle.stop(0.0)
    assert caplog.text == ""
