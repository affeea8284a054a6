"""Any command at all: what is no backend of its own is run by saying how.

The command is a list of words; nothing is appended to it, so the address goes where `${HOST}` and `${PORT}` stand. The same
placeholders are filled in where the instance's environment holds them, as some servers take their address there only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from llamactl_py.backends.arguments import EXTRA
from llamactl_py.backends.backend import Backend, CommandLine, Options, Served
from llamactl_py.backends.catalogue import Catalogue, Flag
from llamactl_py.backends.options import Normalised
from llamactl_py.backends.placeholders import MEANING, STOP_MEANING, UnknownPlaceholder, fill, has_placeholder
from llamactl_py.backends.values import Value
from llamactl_py.ground.errors import Invalid, Problem

_COMMANDS = {"command": MEANING, "stop_command": STOP_MEANING}
_FLAGS = (
    Flag(
        "command",
        "",
        "str",
        "many",
        group="custom",
        help=f"The command and its arguments, a list of words or one text; may hold {', '.join(f'${{{n}}}' for n in MEANING)}",
    ),
    Flag(
        "health_path",
        "",
        "str",
        "one",
        default="/health",
        group="custom",
        help='It is ready when a GET of this path answers 200; "" when a connection to its port succeeds',
    ),
    Flag(
        "model", "", "str", "one", group="custom", help="What ${MODEL} stands for; a local path is looked for before each start"
    ),
    Flag(
        "served_model_name", "", "str", "one", group="custom", help="What `model` becomes in requests; unset leaves it as it is"
    ),
    Flag(
        "stop_command",
        "",
        "str",
        "many",
        group="custom",
        help="Run first when the instance is stopped, then SIGTERM as ever; the same placeholders, and ${PID}",
    ),
)


class Custom(Backend, frozen=True):
    """The backend whose program stands in its options."""

    @property
    def catalogue(self) -> Catalogue:
        """What can be said about a custom command; no server's flags."""
        return _CATALOGUE

    def normalise(self, raw: Mapping[str, object]) -> Normalised:
        """*raw* checked and in its one form; a command given as text is split as a shell would. Raises Invalid."""
        given = {name: _split(name, value) if name in _COMMANDS else value for name, value in raw.items()}
        normal = super().normalise(given)
        problems = list(_problems(normal.options))
        if problems:
            raise Invalid(problems)
        return normal

    def environment_problems(self, environment: Mapping[str, str]) -> Iterator[Problem]:
        """Placeholders in the instance's own environment that do not exist."""
        for name, value in environment.items():
            yield from _unknown(f"environment.{name}", [value], MEANING)

    def doubts(self, environment: Mapping[str, str], options: Options) -> Iterator[str]:
        """A command that is never told its port: nobody can find it there."""
        texts = (*self.arguments(options), *environment.values())
        if not any("${PORT}" in text.replace("$${PORT}", "") for text in texts):
            yield "neither the command nor the environment says ${PORT}: who is not told where to listen never gets ready"

    def arguments(self, options: Options) -> list[str]:
        """The words of the command, with its placeholders."""
        return [*_words(options, "command"), *_words(options, EXTRA)]

    def words(self, options: Options) -> tuple[str, ...]:
        """The words that start it are the command itself."""
        return tuple(self.arguments(options))

    def health(self, options: Options) -> str:
        """The path that it says, or /health."""
        return str(options.get("health_path", self.health_path))

    def command_line(
        self,
        options: Options,
        *,
        command: Sequence[str],
        name: str,
        host: str,
        port: int,
        api_key: str | None,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> CommandLine:
        """*command* with its placeholders filled in, and those variables of *environment* that hold some. It gets no key."""
        values = _values(options, name, host, port)
        filled = {variable: fill(value, values) for variable, value in environment.items() if has_placeholder(value)}
        return CommandLine(tuple(fill(word, values) for word in command), filled)

    def stop_argv(self, options: Options, *, host: str, port: int, name: str = "", pid: int = 0) -> tuple[str, ...]:
        """The stop command with its placeholders filled in; empty where there is none."""
        values = {**_values(options, name, host, port), "PID": str(pid)}
        return tuple(fill(word, values) for word in _words(options, "stop_command"))


def _split(name: str, value: object) -> object:
    """A command that is one text, as words. Raises Invalid."""
    if not isinstance(value, str):
        return value
    try:
        from llamactl_py.backends import lexer  # it knows the shells: only a line that a person wrote needs it

        return list(lexer.split(value, placeholders=_COMMANDS[name]).words)
    except Invalid as invalid:
        raise Invalid(Problem(f"backend_options.{name}", p.what) for p in invalid.problems) from None


def _problems(options: Mapping[str, Value]) -> Iterator[Problem]:
    command = _words(options, "command")
    if not command or not command[0]:
        yield Problem("backend_options.command", "is needed: the program and its arguments, with ${PORT} where its port belongs")
    elif has_placeholder(command[0]):
        yield Problem("backend_options.command", f"begins with {command[0]!r}: the program itself can be no placeholder")
    for key, known in _COMMANDS.items():
        yield from _unknown(f"backend_options.{key}", _words(options, key), known)
    path = str(options.get("health_path", "/"))
    if path and not (path.startswith("/") and path.isprintable() and " " not in path):
        yield Problem("backend_options.health_path", f"takes a path such as /health, or nothing, got {path[:60]!r}")


def _unknown(where: str, words: Sequence[str], known: Mapping[str, str]) -> Iterator[Problem]:
    for word in words:
        try:
            fill(word, known)
        except UnknownPlaceholder as unknown:
            yield Problem(where, str(unknown))


def _words(options: Mapping[str, Value], key: str) -> list[str]:
    value = options.get(key, [])
    return [str(word) for word in value] if isinstance(value, list) else []


def _values(options: Options, name: str, host: str, port: int) -> dict[str, str]:
    return {"HOST": host, "PORT": str(port), "MODEL": str(options.get("model", "")), "NAME": name}


def _serves(_kind: Backend, options: Options, _name: str) -> Served:
    return Served(default=str(options["served_model_name"]) if options.get("served_model_name") else None, names=(), open=False)


_CATALOGUE = Catalogue(
    backend="custom",
    program="the command",
    version="",
    grammar="llama.cpp",
    flags_in_help=0,
    spellings_in_help=0,
    flags=MappingProxyType({flag.key: flag for flag in _FLAGS}),
    _hits=MappingProxyType({}),
)

CUSTOM = Custom(
    type="custom",
    slug="custom",
    title="any command",
    command=(),
    executables=(),
    modules=(),
    install_hint="check the first word of backend_options.command.",
    serves=_serves,
    takes_any_command=True,
    help_arguments=(),
    version_arguments=(),
)
