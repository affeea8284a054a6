"""What the server programs of this machine say about themselves: version, help, devices.

Each is asked at most once for as long as it does not change (path, size and modification time), one question at a time, and in
the background where nobody waits for the answer: vLLM takes 15 s to tell its help. A program that hangs, floods or crashes is a
note beside what is known, never a failure.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec
from msgspec import Struct

from llamactl_py.backends import Backend, recognises
from llamactl_py.ground.errors import StorageFailed
from llamactl_py.ground.private import Private
from llamactl_py.launchers.errands import Outcome

if TYPE_CHECKING:  # reading helps is for later: no start of a daemon needs it
    from llamactl_py.backends.installed import Installed

log = logging.getLogger(__name__)

Question = Literal["version", "help", "devices"]
IN_ADVANCE: tuple[Question, ...] = ("version", "help")
Ask = Callable[[Sequence[str], Mapping[str, str], float], Awaitable[Outcome]]
"""Runs a short program: `launchers.errands.Errands.run`."""

FIRST_QUESTION_AFTER = 1.0
"""Seconds after the start of the daemon in which it asks nobody of its own accord: what its users ask for goes first."""
MOST_WAITING = 100
MOST_KNOWN = 50
"""Programs whose answers are kept in memory; a help text has up to 130 kB."""
MOST_NOTED = 1000
TELLS_VERSION = """
import sys; sys.path.pop(0)
from importlib.metadata import PackageNotFoundError, version
for name in sys.argv[1:]:
    try: print(version(name)); break
    except PackageNotFoundError: pass
else: sys.exit("no package is installed there that is named " + " or ".join(sys.argv[1:]))
"""


class AnswerStore(Protocol):
    """Where answers are kept (`storage.programs`)."""

    async def get(self, key: str) -> str | None: ...
    async def put(self, key: str, answer: str) -> None: ...


class Program(Private, frozen=True):
    """A server's program: the words that start it (a full path first) and the environment that it gets."""

    kind: Backend
    words: tuple[str, ...]
    environment: Mapping[str, str]

    @property
    def key(self) -> tuple[str, tuple[str, ...]]:
        return self.kind.type, self.words

    @property
    def is_known_by_name(self) -> bool:
        """Does its name say that it is this server? Any other could start whatever it likes when it is asked for its help."""
        return recognises(self.kind, self.words)


class Answer(Struct, frozen=True):
    """*text*: what it said. *trouble*: why that is not what was asked for, in words for people; empty if it is."""

    text: str
    trouble: str = ""


class _Known(Struct):
    """What one program has told so far; *identity* names the file that told it."""

    identity: str = ""
    answers: dict[Question, Answer] = {}
    installed: Installed | None = None
    asking: asyncio.Lock = msgspec.field(default_factory=asyncio.Lock)


class Programs:
    """See the module. `run` must be running for what is `want`ed to be asked."""

    def __init__(self, ask: Ask, store: AnswerStore, timeout: float) -> None:
        self._ask, self._store, self._timeout = ask, store, timeout
        self._known: dict[tuple[str, tuple[str, ...]], _Known] = {}
        self._noted: dict[tuple[str, tuple[str, ...], str], tuple[str, tuple[str, ...]]] = {}
        self._wanted: asyncio.Queue[Program] = asyncio.Queue(MOST_WAITING)

    def installed(self, program: Program) -> Installed | None:
        """What it takes, as far as it has told already; asks nobody."""
        known = self._known.get(program.key)
        return known.installed if known else None

    def told(self, program: Program, question: Question) -> Answer | None:
        """What it has answered already; asks nobody."""
        known = self._known.get(program.key)
        return known.answers.get(question) if known else None

    def note(self, words: tuple[str, ...], search: str, program: Program) -> None:
        """*words*, looked up on *search*, are *program*: remembered so that nobody need look it up to know what it takes."""
        if len(self._noted) > MOST_NOTED:
            self._noted.clear()
        self._noted[program.kind.type, words, search] = program.key

    def noted(self, kind: Backend, words: tuple[str, ...], search: str) -> Installed | None:
        """What those words' program takes, as far as it was looked up and has told already."""
        key = self._noted.get((kind.type, words, search))
        known = self._known.get(key) if key else None
        return known.installed if known else None

    def want(self, program: Program) -> None:
        """Have it asked, some time, for version and help. With more waiting than anybody has servers, some are not."""
        if program.is_known_by_name and not self._wanted.full():
            self._wanted.put_nowait(program)

    async def run(self) -> None:
        """Ask for what is wanted, one after the other, until cancelled."""
        await asyncio.sleep(FIRST_QUESTION_AFTER)
        while True:
            program = await self._wanted.get()
            for question in IN_ADVANCE:
                answer = await self.answer(program, question)
                if answer.trouble:
                    log.info("the %s of %s is not known: it %s", question, program.words[0], answer.trouble)

    async def answer(self, program: Program, question: Question, *, afresh: bool = False) -> Answer:
        """What it says, asked now if that is not known of this very file. *afresh*: asked in any case."""
        from llamactl_py.backends.installed import installed

        known = self._remember(program)
        async with known.asking:
            identity = await asyncio.to_thread(identify, program)
            if identity != known.identity:
                known.identity, known.answers, known.installed = identity, {}, None
            if afresh or question == "devices" or question not in known.answers:
                known.answers[question] = await self._find(program, identity, question, afresh)
                if (said := known.answers.get("help")) and not said.trouble:
                    version = known.answers.get("version", Answer("", "?"))
                    number = version_of(version.text) if not version.trouble else ""
                    known.installed = await asyncio.to_thread(installed, program.kind.catalogue, number, said.text)
                    if known.installed is None:
                        known.answers["help"] = Answer(said.text, f"gave a help that is not that of {program.kind.title}")
            return known.answers[question]

    def _remember(self, program: Program) -> _Known:
        known = self._known.pop(program.key, None) or _Known()
        self._known[program.key] = known  # the newest last
        while len(self._known) > MOST_KNOWN:
            del self._known[next(iter(self._known))]
        return known

    async def _find(self, program: Program, identity: str, question: Question, afresh: bool) -> Answer:
        """In the store, or by asking; only good answers are kept there: trouble may be over the next time."""
        key = hashlib.sha256(f"{identity}\0{question}".encode()).hexdigest()
        is_kept = question != "devices"
        try:
            if is_kept and not afresh and (kept := await self._store.get(key)) is not None:
                return Answer(kept)
            answer = await self._put(program, question)
            if is_kept and not answer.trouble:
                await self._store.put(key, answer.text)
        except StorageFailed as error:
            log.warning("what %s says about itself is not kept: %s", program.words[0], error)
            answer = await self._put(program, question)
        return answer

    async def _put(self, program: Program, question: Question) -> Answer:
        """Put the question; several ways are tried, the quick ones first."""
        answer = Answer("", f"cannot be asked for its {question}")
        for words in await asyncio.to_thread(ways, program, question):
            outcome = await self._ask(words, program.environment, self._timeout)
            if outcome.is_good:
                return Answer(outcome.text)
            last = outcome.text.strip().splitlines()[-1:] or [""]
            answer = Answer(outcome.text, f"{outcome}" + (f": {last[0][:200]}" if last[0] else ""))
        return answer


def ways(program: Program, question: Question) -> list[tuple[str, ...]]:
    """The commands that may tell. Blocks: reads the beginning of the program's file."""
    kind, words = program.kind, program.words
    match question:
        case "help":
            return [(*words, *kind.help_arguments)] if kind.help_arguments else []
        case "devices":
            return [(*words, *kind.devices_arguments)] if kind.devices_arguments else []
        case "version":
            found = []
            if kind.distributions and (python := interpreter(words[0])):
                found.append((python, "-c", TELLS_VERSION, *kind.distributions))
            if kind.version_arguments:
                sub_command = kind.command[1:]
                bare = words[: -len(sub_command)] if sub_command and words[-len(sub_command) :] == sub_command else words
                found.append((*bare, *kind.version_arguments))
            return found


def interpreter(program: str) -> str | None:
    """The Python that runs *program*: itself, or what the first lines of its file name. Blocks."""
    if re.fullmatch(r"python[\d.]*", Path(program).name):
        return program
    try:
        with open(program, "rb") as file:
            beginning = file.read(1024)
    except OSError:
        return None
    # pip writes `#!/path/python`, and where that is too long or has a blank: `#!/bin/sh` and `'''exec' "/path/python" "$0" ...`
    found = re.match(rb"#!(/\S*python[\d.]*)\s*\n|#!/bin/sh\n'''exec' \"?(/[^\"\n]*?python[\d.]*)\"? ", beginning)
    return (found[1] or found[2]).decode(errors="surrogateescape") if found else None


def identify(program: Program) -> str:
    """Changes when the program may say something else: its words, its file, and the packages of its environment. Blocks."""
    parts: list[object] = [program.kind.type, program.words]
    for word in program.words:
        if word.startswith("/"):
            parts += _stamps(Path(word))
    return json.dumps(parts)


def _stamps(path: Path) -> list[object]:
    """Size and time of a file, and of the packages beside it: an upgrade of a Python package need not touch its script."""
    try:
        real = path.resolve()
        found = real.stat()
        home = path.parent.parent
        packages = [*home.glob("lib/python3*/site-packages"), *real.parent.parent.glob("lib/python3*/site-packages")]
        return [str(real), found.st_size, found.st_mtime_ns, *sorted({folder.stat().st_mtime_ns for folder in packages})]
    except OSError:
        return [str(path), "is gone"]


def version_of(text: str) -> str:
    """The version in what a program says: `version: 0.6.0-dev (build 0, ...)` of llama.cpp, a bare number of the others."""
    named = re.search(r"^version: (.+)$", text, re.MULTILINE)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (named[1].strip() if named else lines[-1] if lines else "")[:100]
