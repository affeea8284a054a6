"""Every setting of the daemon, with its default, its environment variable and its description.

A frozen tree: `load` makes it once, everything else is handed the part it needs. Adding a setting is one field here and its
line in apidocs/configuration.md (a test asks for it). Its variable is LLAMACTL_ and its name in capitals, unless it says another.
"""

import os
import re
from pathlib import Path
from typing import Annotated

from msgspec import Meta, field

from llamactl_py.config import paths
from llamactl_py.ground.durations import Minutes, Seconds
from llamactl_py.ground.fields import Form, Frozen, Rule, about
from llamactl_py.ground.names import GroupName
from llamactl_py.ground.readers import kind

# No `from __future__ import annotations`: every start looks at each field, and to compile eighty texts takes long.

Port = Annotated[int, Meta(ge=1, le=65535)]
ListenPort = Annotated[int, Meta(ge=0, le=65535)]


def _local_path(value: object) -> Path:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str):
        raise ValueError(f"expected a path, got {kind(value)}")  # noqa: TRY004 one of several things that are wrong with a value
    if not value.strip() or b"\0" in os.fsencode(value):
        raise ValueError("is empty or holds a NUL character")
    return Path(os.path.expanduser(value))  # noqa: PTH111 Path's raises on ~nobody


LocalPath = Annotated[Path, Form(_local_path, schema={"type": "string", "format": "path"})]
"""A path of this machine; ~ is the home directory."""


def setting(variable: str, description: str) -> Meta:
    """What a setting means whose environment variable has another name."""
    return about(description, variable=variable)


def _named(limits: dict[str, int]) -> None:
    if "" in limits:
        raise ValueError("a group needs a name; for all instances together there is max_running_instances")


def _ascending(port_range: tuple[int, int]) -> None:
    if port_range[0] > port_range[1]:
        raise ValueError(f"{list(port_range)} must be ascending")


def _usable(keys: object) -> tuple[str, ...]:
    """Nothing else looks at them: its message would show the value."""
    if not isinstance(keys, list | tuple) or not all(
        isinstance(k, str) and re.fullmatch(r"[\x21-\x7e]{16,512}", k) for k in keys
    ):
        raise ValueError("takes a list of keys, each of 16 to 512 visible ASCII characters; make one with: openssl rand -hex 32")
    return tuple(keys)


PortRange = Annotated[tuple[Port, Port], Rule(_ascending)]
GroupLimits = Annotated[dict[GroupName, Annotated[int, Meta(ge=-1)]], Rule(_named)]
Keys = Annotated[tuple[str, ...], Form(_usable)]


class Server(Frozen):
    """The front door."""

    host: Annotated[str, about("Address to listen on. Anything but loopback needs both kinds of keys required.")] = "127.0.0.1"
    port: Annotated[ListenPort, about("Port to listen on; 0 takes a free one.")] = 8080
    allowed_hosts: Annotated[
        tuple[str, ...], about("Names, beside the listen address and loopback, that requests may carry in their Host header.")
    ] = ()
    max_body_size: Annotated[int, about("Largest request body in bytes; larger ones get 413.", ge=1024)] = 134_217_728
    max_buffered_bodies: Annotated[
        int,
        about(
            "Bytes of memory that the bodies of all requests in flight may take together; more are refused with 503 until "
            "some end.",
            ge=1 << 20,
        ),
    ] = 1_073_741_824
    spool_size: Annotated[int, about("Uploads (multipart/form-data) over this many bytes go to a temporary file.", ge=0)] = (
        4_194_304
    )
    header_timeout: Annotated[Seconds, about("Longest time that a new client may take to send the head of a request.", gt=0)] = (
        30.0
    )
    body_timeout: Annotated[Seconds, about("Longest time that a client may take to send its request body.", gt=0)] = 300.0
    keepalive_timeout: Annotated[Seconds, about("How long an idle client connection is kept open.")] = 75.0
    shutdown_timeout: Annotated[
        Seconds, about("How long requests in flight may take to end after SIGTERM or Ctrl-C; a second signal ends them at once.")
    ] = 10.0
    connect_timeout: Annotated[Seconds, about("Longest time to connect to a running backend.", gt=0)] = 5.0
    response_timeout: Annotated[
        Seconds, about("Longest silence of a backend, before and between bytes of an answer; 0 waits for ever.")
    ] = 0.0
    config_watch_interval: Annotated[
        Seconds,
        about("How often the configuration file and .env are looked at, to be read again when they have changed; 0 means never."),
    ] = 0.0
    fast_path: Annotated[bool, about("Answer plain inference requests past the web framework; off, all go through it.")] = True
    compiled_path: Annotated[
        bool,
        about(
            "Pass on the chunks of streams in compiled code, where it could be compiled at the installation; off, Python does it."
        ),
    ] = True
    max_watchers: Annotated[int, about("How many clients may follow events and logs at once; more get 503.", ge=0)] = 100
    event_history: Annotated[
        int, about("How many events are kept for clients that come back for those that they missed.", ge=0, le=100_000)
    ] = 1000
    access_log: Annotated[bool, about("Log a line for each request (method, path without query, status, bytes, time).")] = False
    request_history: Annotated[
        int,
        about(
            "How many of the newest requests are remembered for the API, without prompts and answers; 0 means none.",
            ge=0,
            le=100_000,
        ),
    ] = 1000


class Docker(Frozen):
    """How one kind of server is run in a container."""

    enabled: Annotated[
        bool,
        setting(
            "LLAMACTL_{KIND}_DOCKER_ENABLED", "Run its instances in containers, unless their own docker_enabled says otherwise."
        ),
    ] = False
    engine: Annotated[
        str, setting("LLAMACTL_{KIND}_DOCKER_ENGINE", "Program that runs containers: docker, podman, or a path.")
    ] = "docker"
    image: Annotated[
        str, setting("LLAMACTL_{KIND}_DOCKER_IMAGE", "Image to run; empty takes the one that the server's makers publish.")
    ] = ""
    args: Annotated[
        tuple[str, ...] | None,
        setting(
            "LLAMACTL_{KIND}_DOCKER_ARGS",
            "Further words for `run`, before the image; unset takes what the usual image needs (vLLM: --gpus all --shm-size 1g).",
        ),
    ] = None
    environment: Annotated[
        dict[str, str], setting("LLAMACTL_{KIND}_DOCKER_ENV", "Environment variables inside the container.")
    ] = field(default_factory=dict)


class Backend(Frozen):
    """How one kind of server is run."""

    command: Annotated[
        str, setting("LLAMACTL_{KIND}_COMMAND", "Executable, a name on PATH or a path; empty takes the backend's usual one.")
    ] = ""
    args: Annotated[
        tuple[str, ...] | None,
        setting("LLAMACTL_{KIND}_ARGS", "Arguments put before all others; unset takes the backend's usual ones (vLLM: serve)."),
    ] = None
    environment: Annotated[
        dict[str, str], setting("LLAMACTL_{KIND}_ENV", "Environment variables for every instance of this backend.")
    ] = field(default_factory=dict)
    docker: Annotated[Docker, about("How it is run in a container.")] = Docker()


class Backends(Frozen):
    """One entry for each kind of server."""

    llama_cpp: Annotated[Backend, about("llama-server of llama.cpp.", variable="LLAMACPP")] = field(
        default=Backend(), name="llama-cpp"
    )
    llama_cpp_python: Annotated[
        Backend, about("llama_cpp.server of llama-cpp-python; its command is the python that it is installed for.")
    ] = field(default=Backend(), name="llama-cpp-python")
    lmdeploy: Annotated[Backend, about("lmdeploy serve api_server.")] = Backend()
    mlx: Annotated[Backend, about("mlx_lm.server of mlx-lm.")] = Backend()
    sglang: Annotated[Backend, about("sglang serve.")] = Backend()
    vllm: Annotated[Backend, about("vllm serve.")] = Backend()
    custom: Annotated[Backend, about("Any command; only environment means something here.")] = Backend()

    def of(self, slug: str) -> Backend:
        """The entry of the backend with that slug ('llama-cpp', 'mlx')."""
        found: Backend = getattr(self, slug.replace("-", "_"))
        return found


class Instances(Frozen):
    """Limits of the fleet, and what an instance gets where its own options are silent."""

    port_range: Annotated[
        PortRange,
        setting("LLAMACTL_INSTANCE_PORT_RANGE", "First and last port that backends may be given; each is tried before use."),
    ] = (8000, 9000)
    sockets_dir: Annotated[
        LocalPath | None,
        about(
            "Private directory for the sockets of instances with unix_socket; unset means sockets in data_dir. "
            "The kernel takes no path over 107 bytes."
        ),
    ] = None
    program_timeout: Annotated[
        Seconds,
        about(
            "Longest time that a server's program may take to tell its version, its help or its devices; then it is ended.", gt=0
        ),
    ] = 60.0
    max_instances: Annotated[int, about("How many instances may exist; -1 means any number.", ge=-1)] = -1
    max_running_instances: Annotated[int, about("How many instances may be up at once; -1 means any number.", ge=-1)] = -1
    group_limits: Annotated[
        GroupLimits, about("How many instances of a group may be up at once, by the group's name; -1 means any number.")
    ] = field(default_factory=dict)
    enable_lru_eviction: Annotated[bool, about("When a limit is reached, stop the idle instance that was used longest ago.")] = (
        True
    )
    default_auto_restart: Annotated[bool, about("Restart an instance whose backend died.")] = True
    default_max_restarts: Annotated[
        int, about("Restarts within restart_window before an instance has failed; 0 means none.", ge=0, le=1000)
    ] = 3
    default_restart_delay: Annotated[Seconds, about("Pause before the first restart; it doubles with each further one.")] = 1.0
    max_restart_delay: Annotated[Seconds, about("Longest pause before a restart.")] = 300.0
    restart_window: Annotated[Seconds, about("How far back restarts are counted.")] = 600.0
    failed_cooldown: Annotated[
        Seconds, about("How long requests to a failed instance are refused before one may try to start it again.")
    ] = 60.0
    default_on_demand_start: Annotated[bool, about("Start a stopped instance on its first request.")] = True
    on_demand_start_timeout: Annotated[
        Seconds, about("Longest time that a request waits for its instance; the start itself goes on.", gt=0)
    ] = 120.0
    max_queued_requests: Annotated[int, about("How many requests may wait for instances at once.", ge=1)] = 1024
    default_start_timeout: Annotated[
        Seconds, about("Longest time from a backend's start until it is ready; then it is ended.", gt=0)
    ] = 600.0
    default_stop_timeout: Annotated[
        Seconds, about("How long a backend may take to end after SIGTERM; then its whole tree is killed.")
    ] = 10.0
    drain_timeout: Annotated[
        Seconds, about("How long a stop waits for the requests in flight of that instance before it goes on.")
    ] = 30.0
    default_idle_timeout: Annotated[
        Minutes, about("Stop an instance that had no request for this long; 0 means never, and never evicted.")
    ] = 1800.0
    logs_dir: Annotated[LocalPath | None, about("Where backends' logs are written; unset means logs in data_dir.")] = None
    log_rotation_max_size: Annotated[
        float, about("Size in megabytes at which a log is rotated; 0 means never.", ge=0, le=1_000_000)
    ] = 100
    log_rotation_backups: Annotated[int, about("How many rotated logs are kept for each instance.", ge=0, le=100)] = 3


class Auth(Frozen):
    """Who may ask."""

    require_inference_auth: Annotated[bool, about("Ask for a key on /v1.")] = True
    require_management_auth: Annotated[bool, about("Ask for a management key on /api/v1.")] = True
    management_keys: Annotated[
        Keys, about("Management keys, beside the one in the data directory; each needs 16 characters or more.")
    ] = ()


class Settings(Frozen):
    """The whole tree."""

    server: Annotated[Server, about("The front door.")] = Server()
    data_dir: Annotated[
        LocalPath, setting("LLAMACTL_DATA_DIRECTORY", "Where the database, the management key and logs live.")
    ] = field(default_factory=paths.default_data_dir)
    backends: Annotated[Backends, about("How each kind of server is run.")] = Backends()
    instances: Annotated[Instances, about("Limits of the fleet and defaults of instances.")] = Instances()
    auth: Annotated[Auth, about("Who may ask.")] = Auth()

    @property
    def logs_dir(self) -> Path:
        """Where backends' logs are written."""
        return self.instances.logs_dir or self.data_dir / "logs"

    @property
    def sockets_dir(self) -> Path:
        """Where the sockets of backends are."""
        return self.instances.sockets_dir or self.data_dir / "sockets"
