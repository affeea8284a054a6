"""Which program a command line starts: assignments and wrappers before it, its own words, and the arguments after it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from llamactl_py.backends.backend import Backend
from llamactl_py.ground.errors import Invalid, Problem

_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.ASCII | re.DOTALL)
_PYTHON = re.compile(r"python(\d(\.\d+)?)?", re.ASCII)
_DROPPED = {"exec": "", "nohup": "", "env": "", "time": "", "sudo": "sudo was left out: the server runs as the daemon's user"}
_RUNNERS = {"uv", "uvx", "pipx", "numactl", "taskset", "nice", "ionice", "chrt", "stdbuf", "caffeinate"}
"""Programs that start another one in their own place, with arguments of their own before it: they stay part of the command."""
_RUNNER_WORDS = 20
"""How far behind a runner the server's program is looked for."""


@dataclass
class Start:
    """How a command line begins."""

    environment: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    """The words that start the server; empty when the line holds arguments only."""
    backend: Backend | None = None
    arguments: tuple[str, ...] = ()
    warnings: list[str] = field(default_factory=list)


def recognise(words: Sequence[str], backends: Iterable[Backend]) -> Start:
    """Split *words* into their parts. Raises Invalid when the program is none that we know."""
    known = tuple(backends)
    start = Start()
    rest = words[_leading(words, start) :]
    if not rest:
        raise Invalid([Problem("command", "names no program and no option; paste the line that starts the server")])
    if rest[0].startswith("-"):
        start.arguments = tuple(rest)
        return start
    reach = min(len(rest), _RUNNER_WORDS) if _base(rest[0]) in _RUNNERS else 1
    for skip in range(reach):
        if match := _match(rest[skip:], known):
            start.backend, taken = match
            start.command, start.arguments = tuple(rest[: skip + taken]), tuple(rest[skip + taken :])
            _complete(start, tuple(rest[skip : skip + taken]))
            return start
    raise _unknown(rest[0], known)


def _leading(words: Sequence[str], start: Start) -> int:
    """Take assignments, and words that only prepare the start, into *start*; gives the number of words taken."""
    for at, word in enumerate(words):
        if assignment := _ASSIGNMENT.fullmatch(word):
            start.environment[assignment[1]] = assignment[2]
        elif (name := _base(word)) in _DROPPED:
            if len(words) > at + 1 and words[at + 1].startswith("-"):
                raise Invalid(
                    [Problem("command", f"{name} with options of its own ({words[at + 1]}) is not understood; leave {name} out")]
                )
            start.warnings += [_DROPPED[name]] if _DROPPED[name] else []
        else:
            return at
    return len(words)


def _match(words: Sequence[str], backends: Iterable[Backend]) -> tuple[Backend, int] | None:
    """The backend whose program *words* begin with, and how many words name it; the longest name wins."""
    best: tuple[Backend, int] | None = None
    python = _python_module(words)
    for backend in backends:
        taken = max((len(e) for e in backend.executables if _is_program(words, e)), default=0)
        if python and any(tuple(words[python : python + len(m)]) == m for m in backend.modules):
            taken = python + max(len(m) for m in backend.modules if tuple(words[python : python + len(m)]) == m)
        if taken and (best is None or taken > best[1]):
            best = backend, taken
    return best


def _is_program(words: Sequence[str], executable: tuple[str, ...]) -> bool:
    """Builds carry names such as llama-server-cuda or ik-llama-server; so a name may have more before or after a dash."""
    base, name = _base(words[0]), executable[0]
    is_named = base == name or (len(executable) == 1 and (base.startswith(f"{name}-") or base.endswith(f"-{name}")))
    return is_named and tuple(words[1 : len(executable)]) == executable[1:]


def _python_module(words: Sequence[str]) -> int:
    """The place of NAME in `python -m NAME`; 0 if that is not how *words* begin."""
    if not _PYTHON.fullmatch(_base(words[0])):
        return 0
    at = 1
    while at < len(words) and re.fullmatch(r"-[A-Za-ln-z]+", words[at]):  # -u, -O and the like; -m ends them
        at += 1
    return at + 1 if at + 1 < len(words) and words[at] == "-m" else 0


def _complete(start: Start, program: tuple[str, ...]) -> None:
    """`vllm --port 1` forgot its sub-command: add it; `vllm bench` means another one: refuse it."""
    assert start.backend is not None
    default = start.backend.command
    if len(program) == 1 and len(default) > 1 and _base(program[0]) == default[0]:
        wanted = " ".join(default[1:])
        if start.arguments and not start.arguments[0].startswith("-"):
            raise Invalid(
                [
                    Problem(
                        "command", f"'{default[0]} {start.arguments[0]}' starts no server; did you mean '{default[0]} {wanted}'?"
                    )
                ]
            )
        start.command += default[1:]
        start.warnings.append(f"{wanted!r} was added: {default[0]} alone starts no server")


def _unknown(word: str, backends: Sequence[Backend]) -> Invalid:
    names = sorted({" ".join(e) for b in backends for e in b.executables})
    close = get_close_matches(_base(word), names, n=1, cutoff=0.7)  # ollama is as far from vllm as any other program
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    commands = ", ".join(" ".join(b.command) for b in backends)
    return Invalid(
        [
            Problem(
                "command",
                f"{word[:60]!r} is no server program that is known here{hint}; known are {commands}; "
                "or give the options alone and name the backend_type",
            )
        ]
    )


def _base(word: str) -> str:
    """A program's name without its directory (either kind of slash), in lower case and without .exe."""
    return re.split(r"[/\\]", word)[-1].lower().removesuffix(".exe")
