"""What programs say about themselves: asked once, remembered, and harmless whatever they do. Real processes, a store in memory.

A program is a shell script called `llama-server`; each time it is started it adds a line to `asked`.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from msgspec.structs import replace

from llamactl_py.backends import BACKENDS
from llamactl_py.ground.errors import StorageFailed
from llamactl_py.instances import programs as module
from llamactl_py.instances.programs import Answer, Program, Programs, interpreter, version_of, ways
from llamactl_py.launchers.errands import Errands
from tests.backends.test_installed import LLAMA, help_of
from tests.support.house import eventually

ENVIRONMENT = {"PATH": os.environ["PATH"]}


@dataclass
class Memory:
    answers: dict[str, str] = field(default_factory=dict)
    is_broken: bool = False

    async def get(self, key: str) -> str | None:
        if self.is_broken:
            raise StorageFailed("the disk is full")
        return self.answers.get(key)

    async def put(self, key: str, answer: str) -> None:
        if self.is_broken:
            raise StorageFailed("the disk is full")
        self.answers[key] = answer


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def programs(memory: Memory) -> Programs:
    return new(memory)


def new(memory: Memory, timeout: float = 10.0) -> Programs:
    return Programs(Errands(f"test-{secrets.token_hex(4)}").run, memory, timeout)


Make = Callable[..., Program]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(script: str = "", name: str = "llama-server", **flags: str) -> Program:
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        (tmp_path / "help.txt").write_text(help_of(LLAMA))
        usual = (
            f"case $1 in --version) echo version: 5 '(abc)';; --help) cat {tmp_path}/help.txt;; --list-devices) echo none;; esac"
        )
        file.write_text(f"#!/bin/sh\necho $1 >> {tmp_path}/asked\n{script or usual}\n")
        file.chmod(0o755)
        return Program(BACKENDS["llama_cpp"], (str(file),), ENVIRONMENT)

    return make


def asked(folder: Path) -> list[str]:
    return (folder / "asked").read_text().split() if (folder / "asked").exists() else []


async def test_it_is_asked_once_and_the_answer_is_remembered(programs: Programs, make: Make, tmp_path: Path) -> None:
    program = make()
    for _ in range(3):
        assert version_of((await programs.answer(program, "version")).text) == "5 (abc)"
        assert (await programs.answer(program, "help")).trouble == ""
    assert asked(tmp_path) == ["--version", "--help"]
    found = programs.installed(program)
    assert found
    assert (found.version, found.lacking) == ("5 (abc)", ())


async def test_the_next_daemon_need_not_ask_again(programs: Programs, memory: Memory, make: Make, tmp_path: Path) -> None:
    program = make()
    await programs.answer(program, "version")
    await programs.answer(program, "help")
    later = new(memory)
    assert (await later.answer(program, "version")).text == "version: 5 (abc)\n"
    await later.answer(program, "help")
    assert later.installed(program)
    assert asked(tmp_path) == ["--version", "--help"]


async def test_a_program_that_was_replaced_is_asked_again(programs: Programs, make: Make, tmp_path: Path) -> None:
    program = make()
    await programs.answer(program, "version")
    make("echo version: 6")
    assert (await programs.answer(program, "version")).text == "version: 6\n"
    os.utime(program.words[0], (1, 1))
    await programs.answer(program, "version")
    assert asked(tmp_path) == ["--version"] * 3


async def test_a_package_beside_it_that_was_upgraded_counts_as_a_change(programs: Programs, make: Make, tmp_path: Path) -> None:
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    program = make()
    await programs.answer(program, "version")
    os.utime(packages, (1, 1))
    await programs.answer(program, "version")
    assert asked(tmp_path) == ["--version"] * 2


async def test_asked_afresh_it_is_asked_in_any_case_and_devices_always(programs: Programs, make: Make, tmp_path: Path) -> None:
    program = make()
    for _ in range(2):
        await programs.answer(program, "version", afresh=True)
        await programs.answer(program, "devices")
    assert asked(tmp_path) == ["--version", "--list-devices"] * 2


async def test_one_program_gets_one_question_at_a_time(programs: Programs, make: Make, tmp_path: Path) -> None:
    program = make(f"mkdir {tmp_path}/alone || echo two > {tmp_path}/crowd; sleep 0.1; rmdir {tmp_path}/alone; echo version: 1")
    answers = await asyncio.gather(*(programs.answer(program, "version", afresh=True) for _ in range(4)))
    assert {answer.text for answer in answers} == {"version: 1\n"}
    assert not (tmp_path / "crowd").exists()


@pytest.mark.parametrize(
    ("script", "trouble"),
    [
        ("sleep 60", "did not end within 0.5 seconds"),
        ("yes", "wrote more than"),
        ("echo dead; kill -SEGV $$", "was ended by signal 11: dead"),
        ("echo cannot load libcuda.so >&2; exit 127", "exited with code 127: cannot load libcuda.so"),
        ("echo something else", "gave a help that is not that of llama.cpp"),
        ("true", "gave a help that is not that of llama.cpp"),
        ("head -c 300000 /dev/urandom", "gave a help that is not that of llama.cpp"),
    ],
    ids=["hangs", "floods", "crashes", "fails", "is another", "is silent", "is noise"],
)
async def test_whatever_it_does_instead_of_helping_is_a_note(
    memory: Memory, make: Make, monkeypatch: pytest.MonkeyPatch, script: str, trouble: str
) -> None:
    programs = new(memory, timeout=0.5)
    program = make(script)
    began = time.monotonic()
    answer = await programs.answer(program, "help")
    assert answer.trouble.startswith(trouble)
    assert programs.installed(program) is None
    assert time.monotonic() - began < 20


async def test_trouble_is_not_kept_for_the_next_daemon(programs: Programs, memory: Memory, make: Make) -> None:
    program = make("exit 1")
    assert (await programs.answer(program, "version")).trouble
    assert memory.answers == {}


async def test_a_program_that_vanished_is_a_note(programs: Programs, make: Make) -> None:
    program = make()
    Path(program.words[0]).unlink()
    assert "No such file" in (await programs.answer(program, "version")).trouble


async def test_a_store_that_fails_costs_a_question_and_no_more(programs: Programs, memory: Memory, make: Make) -> None:
    memory.is_broken = True
    assert (await programs.answer(make(), "version")).text == "version: 5 (abc)\n"


async def test_what_is_wanted_is_asked_in_the_background(
    programs: Programs, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_QUESTION_AFTER", 0.0)
    program, wrapper = make(), make(name="my-wrapper.sh")
    running = asyncio.ensure_future(programs.run())
    programs.want(wrapper)
    for _ in range(3):
        programs.want(program)
    await eventually(lambda: programs.installed(program))
    running.cancel()
    assert asked(tmp_path) == ["--version", "--help"], "nobody knows what a wrapper does when it is asked for its help"


async def test_more_wishes_than_anybody_has_servers_are_dropped(programs: Programs, make: Make) -> None:
    for _ in range(module.MOST_WAITING * 2):
        programs.want(make())


async def test_what_is_remembered_is_bounded(programs: Programs, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_KNOWN", 3)
    made = [make(name=f"llama-server-{number}") for number in range(5)]
    for program in made:
        await programs.answer(program, "version")
    assert [programs.told(program, "version") is not None for program in made] == [False, False, True, True, True]


async def test_a_python_server_whose_package_is_missing_says_which(programs: Programs, tmp_path: Path) -> None:
    script = tmp_path / "mlx_lm.server"
    script.write_text(f"#!{sys.executable}\nraise SystemExit('started')\n")
    kind = replace(BACKENDS["mlx_lm"], distributions=("no-such-server", "nor-this"))
    answer = await programs.answer(Program(kind, (str(script),), ENVIRONMENT), "version")
    assert answer.trouble == "exited with code 1: no package is installed there that is named no-such-server or nor-this"


class TestWays:
    def test_a_python_server_tells_its_version_without_being_started(self, tmp_path: Path) -> None:
        script = tmp_path / "mlx_lm.server"
        script.write_text(f"#!{sys.executable}\nraise SystemExit('started')\n")
        (way,) = ways(Program(BACKENDS["mlx_lm"], (str(script),), {}), "version")
        assert way[0] == sys.executable
        assert way[-1] == "mlx-lm"

    def test_vllm_is_asked_without_its_sub_command(self) -> None:
        program = Program(BACKENDS["vllm"], ("/bin/sh", "serve"), {})
        assert ways(program, "version") == [("/bin/sh", "--version")]
        assert ways(program, "help") == [("/bin/sh", "serve", "--help=all")]

    @pytest.mark.parametrize(
        ("beginning", "expected"),
        [
            ("#!/opt/venv/bin/python3.11\n", "/opt/venv/bin/python3.11"),
            ("#!/opt/venv/bin/python\nimport x\n", "/opt/venv/bin/python"),
            ("#!/bin/sh\n'''exec' \"/a b/bin/python3\" \"$0\" \"$@\"\n' '''\n", "/a b/bin/python3"),
            ("#!/bin/sh\n'''exec' /long/bin/python3 \"$0\" \"$@\"\n' '''\n", "/long/bin/python3"),
            ("#!/bin/sh\nexec vllm\n", None),
            ("#!/usr/bin/env bash\n", None),
            ("\x7fELF", None),
            ("", None),
        ],
    )
    def test_the_python_of_a_script_is_named_in_its_first_lines(
        self, tmp_path: Path, beginning: str, expected: str | None
    ) -> None:
        script = tmp_path / "vllm"
        script.write_text(beginning)
        assert interpreter(str(script)) == expected
        assert interpreter(str(tmp_path / "nope")) is None
        assert interpreter("/usr/bin/python3.11") == "/usr/bin/python3.11"

    async def test_a_package_that_is_not_there_makes_it_ask_the_program_itself(self, programs: Programs, tmp_path: Path) -> None:
        script = tmp_path / "vllm"
        script.write_text(f"#!{sys.executable}\nprint('0.99.0')\n")
        script.chmod(0o755)
        program = Program(BACKENDS["vllm"], (str(script), "serve"), ENVIRONMENT)
        assert await programs.answer(program, "version") == Answer("0.99.0\n")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("version: 0.6.0-dev (build 0, commit unknown)\nbuilt with GNU", "0.6.0-dev (build 0, commit unknown)"),
        ("ggml_cuda_init: found 1 device\nversion: 6789 (abcdef1)\n", "6789 (abcdef1)"),
        ("INFO importing\n0.32.0\n", "0.32.0"),
        ("", ""),
        ("x" * 1000, "x" * 100),
    ],
)
def test_the_version_is_found_in_what_is_said(text: str, version: str) -> None:
    assert version_of(text) == version
