"""Which program a command line starts: what stands before it (variables, wrappers, a container), its own words, its arguments."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from msgspec import Struct, field

from llamactl_py.backends.backend import Backend
from llamactl_py.backends.containers import ENGINES, Container, read_run
from llamactl_py.backends.wrappers import WRAPPERS, own_words
from llamactl_py.ground.errors import BadCommand, Problem

_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.ASCII | re.DOTALL)
_PYTHON = re.compile(r"python(\d(\.\d+)?)?", re.ASCII)
_SHELLS = {"sh", "bash", "zsh", "dash", "fish", "cmd", "powershell", "pwsh"}
_REACH = 20
"""How far behind a wrapper with flags that we do not know the server's program is looked for."""


class Start(Struct):
    """How a command line begins."""

    environment: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    """The words that start the server (in the container, where there is one); empty when the line does not name them."""
    backend: Backend | None = None
    arguments: tuple[str, ...] = ()
    container: Container | None = None
    warnings: list[str] = field(default_factory=list)


def recognise(words: Sequence[str], backends: Iterable[Backend], wanted: Backend | None = None) -> Start:
    """Split *words* into their parts; *wanted* is the backend that the caller named. Raises BadCommand for an unknown program."""
    known = tuple(backends)
    start = Start()
    at, kept = _leading(words, start)
    rest = words[at:]
    if not rest:
        raise _bad("names no program and no option; paste the line that starts the server")
    if wanted and wanted.takes_any_command:
        start.backend, start.arguments = wanted, (*kept, *rest)
    elif _base(rest[0]) in ENGINES:
        if kept:
            start.warnings.append(
                f"{kept[0]} was left out: it would hold for the engine's client, not for the server in the container"
            )
        _containered(start, read_run(_base(rest[0]), rest[1:]), known)
    elif rest[0].startswith("-") and not kept:
        start.arguments = tuple(rest)
    elif wanted and wanted.command[1:] and tuple(rest[: len(wanted.command) - 1]) == wanted.command[1:] and not kept:
        start.arguments = tuple(rest[len(wanted.command) - 1 :])  # `serve MODEL` without the program
    else:
        _program(start, kept, rest, known)
    return start


def _leading(words: Sequence[str], start: Start) -> tuple[int, list[str]]:
    """Take assignments and wrappers into *start*; gives the number of words taken, and those of wrappers that stay."""
    at, kept = 0, list[str]()
    while at < len(words):
        name = _base(words[at])
        if (assignment := _ASSIGNMENT.fullmatch(words[at])) and not kept:
            start.environment[assignment[1]] = assignment[2]
            at += 1
        elif name == "env":
            at = _env(words, at + 1, start)
        elif name in WRAPPERS:
            taken = own_words(name, words[at:])
            if WRAPPERS[name].is_kept:
                kept += words[at : at + taken]
            elif WRAPPERS[name].why:
                start.warnings.append(f"{name} was left out: {WRAPPERS[name].why}")
            at += taken
        else:
            break
    return at, kept


def _env(words: Sequence[str], at: int, start: Start) -> int:
    """The flags and assignments of env; gives the place of the program behind them."""
    while at < len(words):
        word = words[at]
        if assignment := _ASSIGNMENT.fullmatch(word):
            start.environment[assignment[1]] = assignment[2]
        elif word in ("-i", "-", "--ignore-environment"):
            start.warnings.append(f"env {word} was left out: the server gets a small part of the daemon's environment anyway")
        elif word in ("-u", "--unset") or word.startswith("--unset="):
            at += word in ("-u", "--unset")
            start.warnings.append("env -u was left out: a variable that the daemon hands down cannot be taken away here")
        elif word == "--":
            return at + 1
        elif word.startswith("-"):
            raise _bad(f"env {word} is not understood; leave it out")
        else:
            break
        at += 1
    return at


def _program(start: Start, kept: Sequence[str], rest: Sequence[str], known: Sequence[Backend]) -> None:
    """The program at the beginning of *rest*, or, behind a wrapper whose flags we may not know all, a little later."""
    for skip in range(min(len(rest), _REACH) if kept else 1):
        if match := _match(rest[skip:], known):
            start.backend, taken = match
            start.command = (*kept, *rest[: skip + taken])
            start.arguments = tuple(rest[skip + taken :])
            _complete(start, tuple(rest[skip : skip + taken]))
            return
    raise _unknown(rest[0], known)


def _containered(start: Start, container: Container, known: Sequence[Backend]) -> None:
    """The server in a container: named behind the image, by --entrypoint, or by the image itself."""
    start.container = container
    start.environment |= container.environment
    start.warnings += container.warnings
    entry = (container.entrypoint,) if container.entrypoint else ()
    inner = (*entry, *container.rest)
    if inner and _base(inner[0]) in _SHELLS:
        raise _bad(f"{inner[0]!r} in the container would run a shell's script; give the server's own command behind the image")
    if match := _match(inner, known) if inner and not inner[0].startswith("-") else None:
        start.backend, taken = match
        start.command, start.arguments = inner[len(entry) : taken], inner[taken:]
        return
    named = [(len(part), b) for b in known for part in b.images if part in container.image.lower()]
    start.backend = max(named, key=lambda pair: pair[0])[1] if named else None
    start.arguments = container.rest
    if start.backend and container.rest[:1] and container.rest[0] in start.backend.image_commands:
        start.command, start.arguments = container.rest[:1], container.rest[1:]


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
            raise _bad(f"'{default[0]} {start.arguments[0]}' starts no server; did you mean '{default[0]} {wanted}'?")
        start.command += default[1:]
        start.warnings.append(f"{wanted!r} was added: {default[0]} alone starts no server")


def _unknown(word: str, backends: Sequence[Backend]) -> BadCommand:
    names = sorted({" ".join(e) for b in backends for e in b.executables})
    close = get_close_matches(_base(word), names, n=1, cutoff=0.7)  # ollama is as far from vllm as any other program
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    commands = ", ".join(" ".join(b.command) for b in backends if b.command)
    return _bad(
        f"{word[:60]!r} is no server program that is known here{hint}; known are {commands}; "
        "give the backend_type custom to run any other program, or the options alone with their backend_type"
    )


def _bad(what: str) -> BadCommand:
    return BadCommand([Problem("command", what)])


def _base(word: str) -> str:
    """A program's name without its directory (either kind of slash), in lower case, without .exe and uvx's @version."""
    return re.split(r"[/\\]", word)[-1].lower().removesuffix(".exe").partition("@")[0]
