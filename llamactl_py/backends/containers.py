"""`docker run ... image args` in a pasted command line: what is kept for the container, and what the daemon decides itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from llamactl_py.ground.errors import BadCommand, Problem

ENGINES = ("docker", "podman", "nerdctl")

_SWITCHES = frozenset(
    re.findall(
        r"\S+",
        "--detach --disable-content-trust --env-host --help --http-proxy --init --interactive --no-healthcheck --no-hostname "
        "--no-hosts --oom-kill-disable --privileged --publish-all --quiet --read-only --read-only-tmpfs --replace --rm --rmi "
        "--rootfs --sig-proxy --tls-verify --tty --use-api-socket",
    )
)
"""Flags of `docker run`, podman's and nerdctl's among them, that take no value; every other one does (docker 28, podman 5)."""
_SHORT_SWITCHES = frozenset("ditPq")
_LONG_NAMES = {
    "-d": "--detach",
    "-i": "--interactive",
    "-t": "--tty",
    "-P": "--publish-all",
    "-q": "--quiet",
    "-e": "--env",
    "-p": "--publish",
    "-a": "--attach",
}

_OURS = {
    "--detach": "the daemon keeps it in the foreground",
    "--interactive": "it has no terminal",
    "--tty": "it has no terminal",
    "--attach": "the daemon keeps its log",
    "--rm": "",
    "--init": "",
    "--replace": "the daemon names it and removes it",
    "--name": "the daemon names it and removes it",
    "--cidfile": "the daemon names it and removes it",
    "--restart": "the daemon restarts it",
    "--sig-proxy": "the daemon ends it",
    "--publish": "the daemon publishes its port, on this machine only",
    "--publish-all": "the daemon publishes its port, on this machine only",
}
"""What the daemon decides for a container, and why; nothing is said about what it does just the same."""


@dataclass
class Container:
    """The parts of a `docker run`."""

    engine: str
    image: str = ""
    args: list[str] = field(default_factory=list)
    """Words for the engine, verbatim and in order, without those that the daemon decides."""
    environment: dict[str, str] = field(default_factory=dict)
    rest: tuple[str, ...] = ()
    """The words behind the image."""
    warnings: list[str] = field(default_factory=list)

    def context(self, command: Sequence[str]) -> dict[str, object]:
        """The `docker` option of an instance; *command* are the words behind the image that name the program."""
        return {"engine": self.engine, "image": self.image, "args": list(self.args), "command": list(command)}


def read_run(engine: str, words: Sequence[str]) -> Container:
    """*words* behind the engine's name: `run`, its flags, the image, and the rest. Raises BadCommand."""
    at = 2 if tuple(words[:2]) == ("container", "run") else 1
    if tuple(words[at - 1 : at]) != ("run",):
        said = " ".join([engine, *words[:1]])
        raise _bad(f"{said!r} starts no server; '{engine} run ... IMAGE ...' is understood")
    container = Container(engine)
    while at < len(words) and words[at].startswith("-") and words[at] != "-":
        at = _flag(container, words, at)
    if at >= len(words):
        raise _bad(f"'{engine} run' names no image")
    container.image, container.rest = words[at], tuple(words[at + 1 :])
    return container


def _flag(container: Container, words: Sequence[str], at: int) -> int:
    """Take the flag at *at*, with its value; gives the place behind it."""
    word = words[at]
    if re.fullmatch(r"-[A-Za-z]{2,}", word) and word[1] in _SHORT_SWITCHES:  # -it, -dp 8080:80
        for letter in word[1:-1]:
            _keep(container, f"-{letter}", [f"-{letter}"], None)
        return _flag(container, [*words[:at], f"-{word[-1]}", *words[at + 1 :]], at)
    name, equals, value = word.partition("=")
    if not name.startswith("--") and len(name) > 2:  # -p8080:80, -eX=1
        name, equals, value = word[:2], "=", word[2:]
    if _LONG_NAMES.get(name, name) in _SWITCHES or equals:
        _keep(container, name, [word], value if equals else None)
        return at + 1
    if at + 1 >= len(words):
        raise _bad(f"{name} of {container.engine} run needs a value, and nothing follows it")
    _keep(container, name, [word, words[at + 1]], words[at + 1])
    return at + 2


def _keep(container: Container, name: str, words: list[str], value: str | None) -> None:
    """Put *words*, a flag and its value, where they belong."""
    long = _LONG_NAMES.get(name, name)
    if long in _OURS:
        container.warnings += [f"{container.engine} {name} was left out: {_OURS[long]}"] if _OURS[long] else []
    elif long == "--env" and value is not None and "=" in value:
        variable, _, content = value.partition("=")
        container.environment[variable] = content
    else:
        container.args += words


def _bad(what: str) -> BadCommand:
    return BadCommand([Problem("command", what)])
