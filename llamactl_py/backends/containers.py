"""The words of `docker run`: which of them are flags and their values, what the daemon decides itself, what is kept.

Pasted command lines and the `docker.args` of instances and settings are read by the same code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from msgspec import Struct, field

from llamactl_py.ground.errors import BadCommand, Problem
from llamactl_py.ground.masking import SECRET_NAME

ENGINES = ("docker", "podman", "nerdctl")

_SWITCHES = frozenset(
    re.findall(
        r"\S+",
        "--detach --disable-content-trust --env-host --help --http-proxy --init --interactive --no-healthcheck --no-hostname "
        "--no-hosts --oom-kill-disable --passwd --privileged --publish-all --quiet --read-only --read-only-tmpfs --replace --rm "
        "--rmi --rootfs --sig-proxy --tls-verify --tty --unsetenv-all --use-api-socket",
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
    "--rm": "the daemon removes it",
    "--init": "the daemon gives it an init",
    "--replace": "the daemon names it and removes it",
    "--name": "the daemon names it and removes it",
    "--cidfile": "the daemon names it and removes it",
    "--restart": "the daemon restarts it",
    "--sig-proxy": "the daemon ends it",
    "--publish": "the daemon publishes its port, on this machine only",
    "--publish-all": "the daemon publishes its port, on this machine only",
}
"""What the daemon decides for a container, and what it does instead."""
_JUST_THE_SAME = frozenset(("--rm", "--init"))
"""Those of them that it gives too: nothing is said about them unless they are switched off."""


class RunFlag(Struct, frozen=True):
    """One flag of `docker run`, taken out of a cluster (`-it`) where it stood in one."""

    name: str
    """As it was written, without its value."""
    words: tuple[str, ...]
    """As it is to be written for the engine, with its value."""
    value: str | None
    """None for a switch that says no more than its name."""

    @property
    def long(self) -> str:
        """Its long name, where it is a flag that concerns us; else its name."""
        return _LONG_NAMES.get(self.name, self.name)

    @property
    def is_ours(self) -> bool:
        """Does the daemon decide it?"""
        return self.long in _OURS

    @property
    def objection(self) -> str:
        """What the daemon does instead; empty where it does the same, or leaves it to the user."""
        is_same = self.long in _JUST_THE_SAME and (self.value or "true").lower() in ("true", "1", "t")
        return "" if is_same else _OURS.get(self.long, "")

    @property
    def variable(self) -> tuple[str, str | None] | None:
        """The environment variable that it sets, without a value where that is handed on; None for any other flag."""
        if self.long != "--env" or self.value is None:
            return None
        name, equals, value = self.value.partition("=")
        return name, value if equals else None


class Container(Struct):
    """The parts of a `docker run`."""

    engine: str
    image: str = ""
    args: list[str] = field(default_factory=list)
    """Words for the engine, verbatim and in order, without those that the daemon decides."""
    environment: dict[str, str] = field(default_factory=dict)
    rest: tuple[str, ...] = ()
    """The words behind the image."""
    entrypoint: str = ""
    """The program that --entrypoint names; empty where the image's own is run."""
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
    flags, at = read_flags(engine, words, at)
    for flag in flags:
        _keep(container, flag)
    if at >= len(words):
        raise _bad(f"'{engine} run' names no image")
    container.image, container.rest = words[at], tuple(words[at + 1 :])
    return container


def read_flags(engine: str, words: Sequence[str], at: int = 0) -> tuple[list[RunFlag], int]:
    """The flags from *at* on, and the place of the first word that is none. Raises BadCommand where a value is missing."""
    flags: list[RunFlag] = []
    while at < len(words) and words[at].startswith("-") and words[at] != "-":
        following = words[at + 1] if at + 1 < len(words) else None
        found = list(_flags(words[at], following))
        flags += found
        at += 1
        if found[-1].value is None and found[-1].long not in _SWITCHES:
            raise _bad(f"{found[-1].name} of {engine} run needs a value, and nothing follows it")
        at += len(found[-1].words) - 1
    return flags, at


def own_flags(words: Sequence[str]) -> list[RunFlag]:
    """*words* of `docker.args` as flags; llamactl's own begin with `run`. Raises BadCommand for a word that belongs to none."""
    flags, at = read_flags("docker", words, 1 if tuple(words[:1]) == ("run",) else 0)
    if at < len(words):
        raise _bad(f"{words[at][:60]!r} is no flag, and would be taken for the image; give that as docker.image")
    return flags


def objections(words: Sequence[str]) -> Iterator[str]:
    """What an instance may not say in its `docker.args`, and where it belongs instead. No value is repeated."""
    try:
        flags = own_flags(words)
    except BadCommand as error:
        yield from (problem.what for problem in error.problems)
        return
    for flag in flags:
        if flag.objection:
            yield f"{flag.name} is not for an instance to say: {flag.objection}; leave it out"
        elif flag.variable and flag.variable[1] is not None:
            name = flag.variable[0]
            yield f"{flag.name} {name}=... would stand in the list of processes; put {name} into environment"


def kept_words(words: Sequence[str]) -> tuple[str, ...]:
    """*words* of `docker.args`, of settings or of long ago, less what the daemon decides. Raises BadCommand for a secret."""
    flags = own_flags(words)
    for flag in flags:
        if flag.variable and flag.variable[1] is not None and SECRET_NAME.search(flag.variable[0]):
            raise _bad(f"hold the secret {flag.variable[0]}, for all to see in the list of processes; put it into environment")
    return tuple(word for flag in flags if not flag.is_ours for word in flag.words)


def _flags(word: str, following: str | None) -> Iterator[RunFlag]:
    """The flags in *word*: one, or a cluster of short ones. The last may have a value, behind it or as the *following* word."""
    name, equals, value = word.partition("=")
    if word.startswith("--"):
        yield RunFlag(name, (word,), value) if equals else _with_following(name, following)
        return
    at = 1
    while at < len(word):  # -it, -dp 8080:80, -p8080:80, -iteX=1, -d=true
        name, rest = f"-{word[at]}", word[at + 1 :]
        if rest and (rest[0] == "=" or name[1] not in _SHORT_SWITCHES):
            yield RunFlag(name, (name + rest,), rest.removeprefix("="))
            return
        yield RunFlag(name, (name,), None) if rest else _with_following(name, following)
        at += 1


def _with_following(name: str, following: str | None) -> RunFlag:
    """A flag behind which its value is the next word, unless it is a switch or there is none."""
    if following is None or _LONG_NAMES.get(name, name) in _SWITCHES:
        return RunFlag(name, (name,), None)
    return RunFlag(name, (name, following), following)


def _keep(container: Container, flag: RunFlag) -> None:
    """Put *flag* where it belongs."""
    if flag.is_ours:
        container.warnings += [f"{container.engine} {flag.name} was left out: {flag.objection}"] if flag.objection else []
        return
    if flag.long == "--entrypoint":
        container.entrypoint = flag.value or ""
    name, value = flag.variable or ("", None)
    if value is not None:
        container.environment[name] = value
        return
    if name:
        said = f"{container.engine} {flag.name} {name} takes its value from the daemon's environment, which is filtered"
        container.warnings.append(f"{said}; to be sure, put {name} and its value into environment")
    container.args += flag.words


def _bad(what: str) -> BadCommand:
    return BadCommand([Problem("command", what)])
