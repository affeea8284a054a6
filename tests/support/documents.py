"""The pages of the documentation as what a reader would type, and a shell to type it into.

`blocks(page)` are its fenced blocks; `lines(block)` what stands behind the prompts of a console block, each with the output that
is shown below it. `Shell` runs them one after the other as one bash does, with a home of its own.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.daemons import RANGE, wait_for

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "apidocs").glob("*.md")])
FENCE = re.compile(r"^( *)```(\w*) ?([^\n]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
ADDRESS = "127.0.0.1:8080"
"""Where a daemon listens by default, as the pages have it; curl is led to the one of the test by its own settings."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the word behind that, and what stands in it."""

    language: str
    word: str
    text: str


@dataclass(frozen=True)
class Line:
    """What is typed at a prompt, and the output that the page shows for it."""

    typed: str
    shown: str

    @property
    def is_refused(self) -> bool:
        """Does the page show an error as its output?"""
        return re.search(r"^(error|llamactl): |^\w+ is (backoff|failed): ", self.shown, re.MULTILINE) is not None

    @property
    def goes_on(self) -> bool:
        """Does it end only when it is told to?"""
        return re.search(r"logs -f|curl -sN|llamactl serve", self.typed) is not None and not self.is_refused


def blocks(page: Path) -> list[Block]:
    return [Block(found[2], found[3].strip(), found[4]) for found in FENCE.finditer(page.read_text())]


def lines(block: Block) -> list[Line]:
    """A block for sh is one line, as it stands. Output ends at an empty line, or where it is cut with `...`."""
    if block.language == "sh":
        return [Line(block.text, "")]
    found: list[list[str]] = []
    for line in block.text.replace("\\\n", "\\\0").splitlines():
        if line.startswith("$ "):
            found.append([line[2:].replace("\\\0", "\\\n")])
        elif found:
            found[-1].append(line)
    return [Line(typed, "\n".join(shown).strip()) for typed, *shown in found]


@dataclass
class Answer:
    """What became of a line: exit code, and stdout and stderr together. *curled* are method, status and address of each curl."""

    code: int
    text: str

    @property
    def curled(self) -> list[tuple[str, int, str]]:
        return [(m[1], int(m[2]), m[3]) for m in re.finditer(r"^\[curl (\w+) (\d+) (.*)\]$", self.text, re.MULTILINE)]


class Shell:
    """One bash. Lines that go on are left running until the end, from their first output on."""

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self.home = home
        self.data = home / ".local" / "share" / "llamactl"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LLAMACTL_", "XDG_"))}
        own = {
            "HOME": str(home),
            "CURL_HOME": str(home),
            "LLAMACTL_DATA_DIRECTORY": str(self.data),
            "LLAMACTL_PORT": "0",
            "LLAMACTL_INSTANCE_PORT_RANGE": RANGE,
            "LLAMACTL_DEFAULT_STOP_TIMEOUT": "3s",
        }
        self._bash = subprocess.Popen(
            ("bash", "--noprofile", "--norc"),
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            cwd=home, env={**inherited, **own, **environment}, text=True, start_new_session=True,
        )  # fmt: skip
        self._step = 0
        self._type("set -m")

    def _type(self, line: str) -> None:
        assert self._bash.stdin
        self._bash.stdin.write(f"{line}\n")
        self._bash.stdin.flush()

    def run(self, line: Line, timeout: float = 60) -> Answer:
        """Have it typed; its answer, for one that goes on that to its first output, with exit code 0."""
        self._step += 1
        script, out, done = (self.home / f".step-{self._step}.{kind}" for kind in ("sh", "out", "code"))
        script.write_text(line.typed)
        if line.goes_on:
            if line.typed.startswith("llamactl serve"):
                self.end_the_rest()
            self._type(
                f"{{ trap : TERM; . {script}; }} </dev/null >{out} 2>&1 &"
            )  # the trap: it outlives what it runs, and reaps it
            awaited = "listens on" if line.typed.startswith("llamactl serve") else "\n"
            wait_for(lambda: out.exists() and awaited in out.read_text(), timeout)
            if line.typed.startswith("llamactl serve"):
                elsewhere = re.search(r"--data-dir ~/(\S+)", line.typed)
                self.find_the_daemon(self.home / elsewhere[1] if elsewhere else self.data)
            return Answer(0, out.read_text())
        self._type(f". {script} </dev/null >{out} 2>&1; echo $? >{done}.part; mv {done}.part {done}")
        wait_for(done.exists, timeout)
        return Answer(int(done.read_text()), out.read_text(errors="replace"))

    def find_the_daemon(self, data: Path) -> None:
        """What a reader has at hand: where the daemon listens, and its management key. curl is led there from where it listens
        by default, and says on a line of its own what it was answered."""
        url = (data / "address").read_text().strip()
        there = url.removeprefix("http://")
        redirected = "".join(f"connect-to = {host}:8080:{there}\n" for host in ("127.0.0.1", "localhost"))
        (self.home / ".curlrc").write_text(
            f'{redirected}write-out = "%{{stderr}}\\n[curl %{{method}} %{{http_code}} %{{url}}]\\n"\n'
        )
        key = (data / "management.key").read_text().strip()
        self._type(f"export LLAMACTL_URL={url} LLAMACTL_API_KEY={key} OLD_KEY={key}")

    def end_the_rest(self) -> None:
        """End what goes on, the daemon last, and wait for it."""
        self.run(Line("for job in $(jobs -p | tac); do kill -- -$job; wait $job; done", ""))

    def close(self) -> None:
        try:
            self.end_the_rest()
        finally:
            assert self._bash.stdin
            self._bash.stdin.close()
            self._bash.wait(20)


@contextmanager
def shell(home: Path, programs: Path, environment: Mapping[str, str] | None = None) -> Iterator[Shell]:
    """A shell in *home*, with a daemon; *programs* has a llama-server. `~/llamactl` is the environment of the tests."""
    (home / "llamactl").symlink_to(sys.prefix)
    path = os.pathsep.join((str(programs), str(Path(sys.executable).parent), os.environ["PATH"]))
    found = Shell(home, {"PATH": path, **(environment or {})})
    try:
        answer = found.run(Line(f"llamactl serve --config {os.devnull}", ""))
        assert "listens on" in answer.text
        yield found
    finally:
        found.close()


def stub(folder: Path) -> Path:
    """A folder whose llama-server is the stub backend."""
    folder.mkdir()
    program = folder / "llama-server"
    words = shlex.join((sys.executable, "-S", "-E", str(ROOT / "tests" / "support" / "stubd.py")))
    program.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    program.chmod(0o755)
    return folder
