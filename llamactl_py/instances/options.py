"""What an instance is asked to be: parsed and checked once at the edge, frozen from then on."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, field
from msgspec.json import encode
from msgspec.structs import replace

from llamactl_py.backends import BACKEND_NAMES, BACKENDS, backend
from llamactl_py.backends.containers import objections
from llamactl_py.config.settings import Instances
from llamactl_py.ground.durations import Minutes, Seconds, show
from llamactl_py.ground.errors import Invalid, Problem
from llamactl_py.ground.fields import Frozen, about
from llamactl_py.ground.masking import MASK, SECRET_NAME
from llamactl_py.ground.merge_patch import merged
from llamactl_py.ground.names import GroupName, ModelName
from llamactl_py.ground.validation import parse, plain, restorer
from llamactl_py.instances.foreign import without_foreign

VariableName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=256)]
VariableValue = Annotated[str, Meta(pattern=r"^[^\x00]*$", max_length=131_072)]
Word = Annotated[str, Meta(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]


class Container(Frozen):
    """Where an instance runs in a container: what differs from the settings of its backend."""

    engine: Annotated[
        Word | Literal[""], about("Program that runs containers: docker, podman, or a path; empty takes the settings' one.")
    ] = ""
    image: Annotated[
        str,
        about(
            "Image to run; empty takes the one of the backend's settings.", max_length=1024, pattern=r"^([^-\s\x00][^\s\x00]*)?$"
        ),
    ] = ""
    args: Annotated[
        tuple[Word, ...] | None,
        about("Further words for `run`, before the image (volumes, devices); null takes those of the backend's settings."),
    ] = None
    command: Annotated[
        tuple[Word, ...], about("Words behind the image that name the program; empty where the image's entrypoint is the server.")
    ] = ()


class InstanceOptions(Frozen, kw_only=True):
    """The options of one instance. What the caller left out was filled in from the settings when it was created."""

    backend_type: Annotated[
        str, about(f"Kind of server: {', '.join(BACKENDS)}.", schema={"enum": [*BACKEND_NAMES], "examples": ["llama_cpp"]})
    ]
    backend_options: Annotated[
        dict[str, Any],
        about("The server's own options, by name; what the catalogue does not know goes into extra_args, in order."),
    ] = field(default_factory=dict)
    auto_restart: Annotated[bool, about("Start it again when its backend dies.")]
    max_restarts: Annotated[int, about("Restarts within restart_window before it has failed; 0 means none.", ge=0, le=1000)]
    restart_delay: Annotated[Seconds, about("Pause before the first restart (seconds); it doubles with each further one.")]
    on_demand_start: Annotated[bool, about("Start it on its first request.")]
    autostart: Annotated[bool, about("Start it when the daemon starts, as far as there is room.")] = False
    idle_timeout: Annotated[
        Minutes, about("Stop it after so long without a request (minutes); 0 means never, and never evicted.")
    ]
    start_timeout: Annotated[
        Seconds,
        about(
            "Longest time from its start until it is ready (seconds).",
            schema={"not": {"anyOf": [{"const": 0}, {"type": "string", "pattern": "^[^1-9]*$"}]}},
            gt=0,
        ),
    ]
    stop_timeout: Annotated[Seconds, about("Time it may take to end after SIGTERM (seconds); then its whole tree is killed.")]
    environment: Annotated[dict[VariableName, VariableValue], about("Environment variables for its process.")] = field(
        default_factory=dict
    )
    command_override: Annotated[
        Word | Annotated[tuple[Word, ...], Meta(min_length=1)] | None,
        about("Executable to run instead of the backend's configured one: a path or name, or a list of words."),
    ] = None
    unix_socket: Annotated[
        bool, about("Reach its backend over a Unix socket in a private directory instead of a port: llama.cpp and vLLM can.")
    ] = False
    docker_enabled: Annotated[
        bool | None, about("Run it in a container; null takes docker.enabled of the backend's settings.")
    ] = None
    docker: Annotated[Container | None, about("How its container differs from the backend's settings.")] = None
    group: Annotated[GroupName, about("Name of the group that it belongs to.")] = ""
    aliases: Annotated[tuple[ModelName, ...], about("Further model names that it answers to.", max_length=100)] = ()

    def public(self) -> dict[str, Any]:
        """As JSON values, for anybody to see: secrets are masked."""
        shown = self.whole()
        shown["environment"] = {name: MASK if is_secret(name) else value for name, value in self.environment.items()}
        secret = {flag.key for flag in backend(self.backend_type).catalogue if flag.secret}
        shown["backend_options"] = {name: MASK if name in secret else value for name, value in shown["backend_options"].items()}
        return {name: value for name, value in shown.items() if value not in ("", {}, []) or name == "backend_options"}

    def whole(self) -> dict[str, Any]:
        """As JSON values, secrets included: never for showing."""
        whole = _given(plain(self))
        return whole | {"docker": _given(whole["docker"])} if "docker" in whole else whole

    def stored(self) -> str:
        """As JSON text, for the database."""
        return encode(self.whole()).decode()


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are not null."""
    return {name: value for name, value in values.items() if value is not None}


def is_secret(variable: str) -> bool:
    """Does the name of that environment variable say that its value is nobody's business?"""
    return SECRET_NAME.search(variable) is not None


WITHOUT_PROCESS = (
    "auto_restart", "max_restarts", "restart_delay", "on_demand_start", "autostart", "idle_timeout", "start_timeout",
    "stop_timeout", "group", "aliases",
)  # fmt: skip
"""Options that a running process does not see: the daemon alone acts on them."""


def is_same_process(one: InstanceOptions, other: InstanceOptions) -> bool:
    """Would both be run by the very same command, in the same environment?"""
    return replace(one, **{name: getattr(other, name) for name in WITHOUT_PROCESS}) == other


def model_names(options: InstanceOptions) -> tuple[str, ...]:
    """Every model name that these options give an instance beside its own name: its aliases, and those the server answers to."""
    return (*options.aliases, *backend(options.backend_type).served(options.backend_options, "").names)


def parse_options(
    raw: object, defaults: Instances, old: InstanceOptions | None = None, *, from_text: bool = False
) -> tuple[InstanceOptions, tuple[str, ...]]:
    """Check *raw* (parsed JSON) and fill in defaults; gives the options and warnings for the caller.

    A masked secret, as `public` shows it, means the one that *old* has. *from_text*: see `parse`. Raises Invalid with every
    problem found.
    """
    ours, left_out = without_foreign(raw) if isinstance(raw, Mapping) else (raw, ())
    filled = _with_defaults(ours, defaults) if isinstance(ours, Mapping) else ours
    unmasked = _unmask(filled, old) if old and isinstance(filled, Mapping) else filled
    try:
        options = parse(InstanceOptions, unmasked, from_text=from_text)
    except Invalid as invalid:
        raise Invalid(_placed(problem, unmasked) for problem in invalid.problems) from None
    kind = backend(options.backend_type)
    normal = kind.normalise(options.backend_options)
    problems = [
        Problem(f"environment.{name}", "holds only the mask; send the value itself")
        for name, v in options.environment.items()
        if v == MASK
    ]
    problems += [
        Problem(f"backend_options.{k}", "holds only the mask; send the value itself")
        for k, v in normal.options.items()
        if v == MASK
    ]
    problems += kind.environment_problems(options.environment)
    if options.docker and options.docker.args:
        problems += [Problem("docker.args", what) for what in objections(options.docker.args)]
    if options.unix_socket and kind.socket_flag is None:
        problems.append(Problem("unix_socket", f"{kind.title} listens on ports only; leave it out"))
    if options.unix_socket and options.docker_enabled:
        problems.append(Problem("unix_socket", "a container is reached over a port; give one of unix_socket and docker_enabled"))
    if problems:
        raise Invalid(problems)
    options = replace(options, backend_type=kind.type, backend_options=dict(normal.options))
    return options, (*left_out, *normal.warnings, *kind.doubts(options.environment, normal.options))


def _placed(problem: Problem, raw: object) -> Problem:
    """*problem* with options *raw*, or where it belongs if it is an option of the server among those of the instance."""
    kind = raw.get("backend_type") if isinstance(raw, Mapping) else None
    if not problem.what.startswith("unknown key") or kind not in BACKEND_NAMES:
        return problem
    flag = backend(kind).catalogue.flags.get(problem.where)
    if flag is None or flag.owned:
        return problem
    return Problem(problem.where, f"is an option of the server: write backend_options.{problem.where}")


def patched(options: InstanceOptions, patch: object) -> object:
    """*options* as a JSON Merge Patch wants them, for `parse_options`. A name that is not known stays in, to be refused, even
    with null: who misspells what is to be taken back has to hear of it."""
    wanted = merged(options.whole(), patch)
    if isinstance(patch, Mapping):
        wanted |= {name: value for name, value in patch.items() if name not in InstanceOptions.__struct_fields__}
    return wanted


def restore_options(text: str) -> InstanceOptions:
    """What `stored` wrote. Raises Invalid when it is not that (edited by hand, damaged)."""
    try:
        options: InstanceOptions = restorer(InstanceOptions)(text)
    except (ValueError, RecursionError) as error:
        raise Invalid([Problem("options", f"stored options are not JSON: {error}")]) from None
    if options.backend_type not in BACKENDS:
        backend(options.backend_type)  # says what is wrong with it
    return options


def _with_defaults(raw: Mapping[str, Any], defaults: Instances) -> dict[str, Any]:
    known = InstanceOptions.__struct_fields__
    given = {name: value for name, value in raw.items() if value is not None or name not in known}  # null means: the default
    return {
        "auto_restart": defaults.default_auto_restart,
        "max_restarts": defaults.default_max_restarts,
        "restart_delay": show(defaults.default_restart_delay),
        "on_demand_start": defaults.default_on_demand_start,
        "idle_timeout": show(defaults.default_idle_timeout),
        "start_timeout": show(defaults.default_start_timeout),
        "stop_timeout": show(defaults.default_stop_timeout),
        **given,
    }


def _unmask(raw: Mapping[str, Any], old: InstanceOptions) -> dict[str, Any]:
    full = dict(raw)
    for name, known in (("environment", old.environment), ("backend_options", old.backend_options)):
        if isinstance(values := raw.get(name), Mapping):
            full[name] = {key: known.get(key, value) if value == MASK else value for key, value in values.items()}
    return full
