"""One kind of server: its facts, and what can be done with its options. A new kind is one object of this class."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from msgspec import Struct

from llamactl_py.backends.arguments import EXTRA, arguments
from llamactl_py.backends.catalogue import Catalogue, load
from llamactl_py.backends.options import Normalised, normalise
from llamactl_py.backends.values import Value
from llamactl_py.ground.errors import Problem

Options = Mapping[str, Value]

_LOCAL_PATH = re.compile(r"/|~|\.{1,2}[/\\]|[A-Za-z]:[/\\]|\\\\")


class StopRule(Struct, frozen=True):
    """How this kind of server wants to be stopped."""

    repeat_term_after: float | None = None
    """Seconds after which SIGTERM is sent a second time; None where one is enough."""


class Served(Struct, frozen=True):
    """Which model names a server answers to."""

    default: str | None
    """What `model` must be when a client used the instance's own name; None: leave the request as it is."""
    names: tuple[str, ...]
    """Further names that the server answers to, without the instance's own: they become aliases in routing."""
    open: bool
    """True where the server itself resolves names (llama.cpp's router): requests are `instance/model`."""


class CommandLine(Struct, frozen=True):
    """What is started: words (never a shell string) and the variables that go with them. Secrets are in the variables only."""

    argv: tuple[str, ...]
    environment: dict[str, str]


class Backend(Struct, frozen=True):
    """The facts of one kind of server, and options to words."""

    type: str
    """Its name in the API: `llama_cpp`."""
    slug: str
    """Its name in URLs: `llama-cpp`."""
    title: str
    command: tuple[str, ...]
    """The words that start it when nothing else is configured."""
    executables: tuple[tuple[str, ...], ...]
    """Program names (lower case) with their sub-commands, as they may stand in a pasted command line."""
    modules: tuple[tuple[str, ...], ...]
    """The same after `python -m`."""
    install_hint: str
    serves: Callable[[Backend, Options, str], Served]
    """See `served`."""
    model_keys: tuple[str, ...] = ("model",)
    """Options that each name a model."""
    has_router: bool = False
    """Without a model, the server finds models by the names in requests."""
    name_key: str | None = None
    """The option that tells the server under which name it serves; None where there is no such flag."""
    api_key_variable: str | None = None
    health_path: str = "/health"
    stop: StopRule = StopRule()
    resting_connections: int = 64
    """How many idle connections it can bear. A server with a thread for each has none left for others when they rest."""
    connection_threads: str = ""
    """The option that sets how many threads there are, each of them held by a connection; half of them may rest."""
    positional_model: bool = False
    """The model stands bare behind the sub-command (`vllm serve MODEL`)."""
    address_flags: tuple[str, str] = ("--host", "--port")
    """The flags for host and port."""
    images: tuple[str, ...] = ()
    """Parts of the names of container images whose entrypoint is this server, lower case."""
    image_commands: tuple[str, ...] = ()
    """First words that make an image of many programs run this server."""
    takes_any_command: bool = False
    """Any program is its program: nothing in a pasted line is looked up."""
    default_environment: tuple[tuple[str, str], ...] = ()
    socket_flag: str | None = None
    """The flag that makes it listen on a Unix socket, whose path is its value; None where it cannot."""
    docker_image: str = ""
    """The image that its makers publish; its entrypoint is the server."""
    docker_arguments: tuple[str, ...] = ()
    """What `docker run` needs for that image to be of use."""
    help_arguments: tuple[str, ...] = ("--help",)
    """What makes the program tell all its flags and end; empty where nothing does."""
    version_arguments: tuple[str, ...] = ("--version",)
    """What makes it tell its version, put behind the program without its sub-command; empty where nothing does."""
    devices_arguments: tuple[str, ...] = ()
    """What makes it list the devices that it can use; empty where nothing does."""
    distributions: tuple[str, ...] = ()
    """The Python packages, one of which it comes from: their version is its own, and is known without starting it."""
    address_variables: tuple[str, str] | None = None
    """Variables for host and port that the server believes more than its command line; None where the command line wins."""

    @property
    def catalogue(self) -> Catalogue:
        """Every flag; read from the package's data at the first use."""
        return load(self.type)

    @property
    def has_api_key(self) -> bool:
        """True when the server can be made to ask for a key."""
        return self.api_key_variable is not None

    def normalise(self, raw: Mapping[str, object]) -> Normalised:
        """*raw* checked and in its one form. Raises Invalid."""
        return normalise(self.catalogue, raw)

    def arguments(self, options: Options) -> list[str]:
        """Normalised *options* as words, secrets included: the inverse of parsing. What is to be started is `command_line`."""
        return arguments(self.catalogue, options, positional_model=self.positional_model)

    def may_rest(self, options: Options) -> int:
        """How many idle connections a server with *options* can bear."""
        threads = options.get(self.connection_threads)
        return max(self.resting_connections, threads // 2) if isinstance(threads, int) else self.resting_connections

    def environment_problems(self, environment: Mapping[str, str]) -> Iterable[Problem]:
        """What is wrong with an instance's own variables."""
        return ()

    def doubts(self, environment: Mapping[str, str], options: Options) -> Iterable[str]:
        """What is allowed, and probably not what was meant."""
        return ()

    def words(self, options: Options) -> tuple[str, ...] | None:
        """The words that start it, where the options themselves say them; None: settings and the instance do."""
        return None

    def health(self, options: Options) -> str:
        """The path that answers 200 when it is ready; empty where an open port is enough."""
        return self.health_path

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
        """What starts instance *name*: *command*, then the options (see `arguments` for their order), then host and port, or
        the Unix socket where *host* is its path.

        Unless the options name the served model, the instance's name is passed where the server takes one. The API key and
        other secrets go into the environment. *environment* is the instance's own; only a custom command changes it.
        """
        flags = self.catalogue.flags
        given = dict(options)
        variables = dict(self.default_environment)
        for key, value in options.items():
            if key != EXTRA and flags[key].secret and flags[key].env and isinstance(value, str):
                variables[flags[key].env] = value
                del given[key]
        if self.name_key and self.name_key not in given and not self.is_router(options):
            given[self.name_key] = [name] if flags[self.name_key].takes_list else name
        if api_key is not None and self.api_key_variable:
            variables[self.api_key_variable] = api_key
        if self.address_variables:
            variables |= zip(self.address_variables, (host, str(port)), strict=True)
        # `python -m vllm.entrypoints...` and wrapper scripts know no bare model: only the sub-command does.
        bare = self.positional_model and tuple(command[-1:]) == self.command[-1:]
        words = arguments(self.catalogue, given, positional_model=bare)
        # Last, so that they win over anything that extra_args could hold.
        if host.startswith("/") and self.socket_flag:
            return CommandLine((*command, *words, self.socket_flag, host), variables)
        host_flag, port_flag = self.address_flags
        return CommandLine((*command, *words, host_flag, host, port_flag, str(port)), variables)

    def stop_argv(self, options: Options, *, host: str, port: int, name: str = "", pid: int = 0) -> tuple[str, ...]:
        """A command that asks a running server to end, before it is sent any signal; empty where signals are all it needs."""
        return ()

    def served(self, options: Options, name: str) -> Served:
        """Which model names instance *name* will answer to when it runs with *options*."""
        return self.serves(self, options, name)

    def is_router(self, options: Options) -> bool:
        """True when the server gets no model of its own and finds models by the names in requests."""
        return self.has_router and not any(map(options.get, self.model_keys)) and not self._extra_names_a_model(options)

    def _extra_names_a_model(self, options: Options) -> bool:
        """True when a flag among the words in extra_args is one of *model_keys*."""
        extra = options.get(EXTRA)
        for word in extra if isinstance(extra, list) else ():
            hit = self.catalogue.by_word(str(word).partition("=")[0])
            if hit is not None and hit.flag.key in self.model_keys:
                return True
        return False

    def model_path(self, options: Options) -> str | None:
        """The model, where it is meant as a path of this machine: absolute, or beginning with ./ ../ or ~."""
        model = options.get("model")
        return model if isinstance(model, str) and _LOCAL_PATH.match(model) else None
