"""Every setting of the daemon, with its default, its environment variable and its description.

A frozen tree: `load` makes it once, everything else is handed the part it needs. Adding a setting is one field here and its
line in apidocs/configuration.md (a test asks for it).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from llamactl_py.config import paths
from llamactl_py.ground.durations import Minutes, Seconds
from llamactl_py.ground.names import GroupName
from llamactl_py.ground.validation import Frozen

Port = Annotated[int, Field(ge=1, le=65535)]
ListenPort = Annotated[int, Field(ge=0, le=65535)]


def _local_path(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not value.strip() or b"\0" in os.fsencode(value):
        raise ValueError("is empty or holds a NUL character")
    return os.path.expanduser(value)  # noqa: PTH111 Path's raises on ~nobody


LocalPath = Annotated[Path, BeforeValidator(_local_path)]
"""A path of this machine; ~ is the home directory."""


def setting(default: Any, env: str | None, description: str, **rules: Any) -> Any:
    """A field with its environment variable (None where a list or a map does not fit into one) and its description."""
    return Field(default=default, description=description, json_schema_extra={"env": env}, **rules)


class Server(Frozen):
    """The front door."""

    host: str = setting(
        "127.0.0.1", "LLAMACTL_HOST", "Address to listen on. Anything but loopback needs both kinds of keys required."
    )
    port: ListenPort = setting(8080, "LLAMACTL_PORT", "Port to listen on; 0 takes a free one.")
    allowed_hosts: tuple[str, ...] = setting(
        (),
        "LLAMACTL_ALLOWED_HOSTS",
        "Names, beside the listen address and loopback, that requests may carry in their Host header.",
    )
    max_body_size: int = setting(
        134_217_728, "LLAMACTL_MAX_BODY_SIZE", "Largest request body in bytes; larger ones get 413.", ge=1024
    )
    max_buffered_bodies: int = setting(
        1_073_741_824,
        "LLAMACTL_MAX_BUFFERED_BODIES",
        "Bytes of memory that the bodies of all requests in flight may take together; more are refused with 503 until some end.",
        ge=1 << 20,
    )
    spool_size: int = setting(
        4_194_304, "LLAMACTL_SPOOL_SIZE", "Uploads (multipart/form-data) over this many bytes go to a temporary file.", ge=0
    )
    header_timeout: Seconds = setting(
        30.0, "LLAMACTL_HEADER_TIMEOUT", "Longest time that a new client may take to send the head of a request.", gt=0
    )
    body_timeout: Seconds = setting(
        300.0, "LLAMACTL_BODY_TIMEOUT", "Longest time that a client may take to send its request body.", gt=0
    )
    keepalive_timeout: Seconds = setting(75.0, "LLAMACTL_KEEPALIVE_TIMEOUT", "How long an idle client connection is kept open.")
    shutdown_timeout: Seconds = setting(
        10.0,
        "LLAMACTL_SHUTDOWN_TIMEOUT",
        "How long requests in flight may take to end after SIGTERM or Ctrl-C; a second signal ends them at once.",
    )
    connect_timeout: Seconds = setting(5.0, "LLAMACTL_CONNECT_TIMEOUT", "Longest time to connect to a running backend.", gt=0)
    response_timeout: Seconds = setting(
        0.0, "LLAMACTL_RESPONSE_TIMEOUT", "Longest silence of a backend, before and between bytes of an answer; 0 waits for ever."
    )
    config_watch_interval: Seconds = setting(
        0.0,
        "LLAMACTL_CONFIG_WATCH_INTERVAL",
        "How often the configuration file and .env are looked at, to be read again when they have changed; 0 means never.",
    )
    fast_path: bool = setting(
        True,
        "LLAMACTL_FAST_PATH",
        "Answer plain inference requests past the web framework; off, all go through it.",
    )
    compiled_path: bool = setting(
        True,
        "LLAMACTL_COMPILED_PATH",
        "Pass on the chunks of streams in compiled code, where it could be compiled at the installation; off, Python does it.",
    )
    max_watchers: int = setting(
        100, "LLAMACTL_MAX_WATCHERS", "How many clients may follow events and logs at once; more get 503.", ge=0
    )
    event_history: int = setting(
        1000,
        "LLAMACTL_EVENT_HISTORY",
        "How many events are kept for clients that come back for those that they missed.",
        ge=0,
        le=100_000,
    )
    access_log: bool = setting(
        False, "LLAMACTL_ACCESS_LOG", "Log a line for each request (method, path without query, status, bytes, time)."
    )
    request_history: int = setting(
        1000,
        "LLAMACTL_REQUEST_HISTORY",
        "How many of the newest requests are remembered for the API, without prompts and answers; 0 means none.",
        ge=0,
        le=100_000,
    )


class Docker(Frozen):
    """How one kind of server is run in a container."""

    enabled: bool = setting(
        False,
        "LLAMACTL_{KIND}_DOCKER_ENABLED",
        "Run its instances in containers, unless their own docker_enabled says otherwise.",
    )
    engine: str = setting("docker", "LLAMACTL_{KIND}_DOCKER_ENGINE", "Program that runs containers: docker, podman, or a path.")
    image: str = setting(
        "", "LLAMACTL_{KIND}_DOCKER_IMAGE", "Image to run; empty takes the one that the server's makers publish."
    )
    args: tuple[str, ...] | None = setting(
        None,
        "LLAMACTL_{KIND}_DOCKER_ARGS",
        "Further words for `run`, before the image; unset takes what the usual image needs (vLLM: --gpus all --shm-size 1g).",
    )
    environment: dict[str, str] = setting({}, "LLAMACTL_{KIND}_DOCKER_ENV", "Environment variables inside the container.")


class Backend(Frozen):
    """How one kind of server is run."""

    command: str = setting(
        "", "LLAMACTL_{KIND}_COMMAND", "Executable, a name on PATH or a path; empty takes the backend's usual one."
    )
    args: tuple[str, ...] | None = setting(
        None, "LLAMACTL_{KIND}_ARGS", "Arguments put before all others; unset takes the backend's usual ones (vLLM: serve)."
    )
    environment: dict[str, str] = setting({}, "LLAMACTL_{KIND}_ENV", "Environment variables for every instance of this backend.")
    docker: Docker = Field(default=Docker(), description="How it is run in a container.")


class Backends(Frozen):
    """One entry for each kind of server."""

    model_config = ConfigDict(populate_by_name=True)

    llama_cpp: Backend = Field(
        default=Backend(),
        alias="llama-cpp",
        description="llama-server of llama.cpp.",
        json_schema_extra={"env": "LLAMACPP"},  # llamactl's word in variables; the others are called by their slug
    )
    llama_cpp_python: Backend = Field(
        default=Backend(),
        alias="llama-cpp-python",
        description="llama_cpp.server of llama-cpp-python; its command is the python that it is installed for.",
    )
    lmdeploy: Backend = Field(default=Backend(), description="lmdeploy serve api_server.")
    mlx: Backend = Field(default=Backend(), description="mlx_lm.server of mlx-lm.")
    sglang: Backend = Field(default=Backend(), description="sglang serve.")
    vllm: Backend = Field(default=Backend(), description="vllm serve.")
    custom: Backend = Field(default=Backend(), description="Any command; only environment means something here.")

    def of(self, slug: str) -> Backend:
        """The entry of the backend with that slug ('llama-cpp', 'mlx')."""
        found: Backend = getattr(self, slug.replace("-", "_"))
        return found


class Instances(Frozen):
    """Limits of the fleet, and what an instance gets where its own options are silent."""

    port_range: tuple[Port, Port] = setting(
        (8000, 9000), "LLAMACTL_INSTANCE_PORT_RANGE", "First and last port that backends may be given; each is tried before use."
    )
    sockets_dir: LocalPath | None = setting(
        None,
        "LLAMACTL_SOCKETS_DIR",
        "Private directory for the sockets of instances with unix_socket; unset means sockets in data_dir. "
        "The kernel takes no path over 107 bytes.",
    )
    program_timeout: Seconds = setting(
        60.0,
        "LLAMACTL_PROGRAM_TIMEOUT",
        "Longest time that a server's program may take to tell its version, its help or its devices; then it is ended.",
        gt=0,
    )
    max_instances: int = setting(-1, "LLAMACTL_MAX_INSTANCES", "How many instances may exist; -1 means any number.", ge=-1)
    max_running_instances: int = setting(
        -1, "LLAMACTL_MAX_RUNNING_INSTANCES", "How many instances may be up at once; -1 means any number.", ge=-1
    )
    group_limits: dict[GroupName, Annotated[int, Field(ge=-1)]] = setting(
        {}, "LLAMACTL_GROUP_LIMITS", "How many instances of a group may be up at once, by the group's name; -1 means any number."
    )
    enable_lru_eviction: bool = setting(
        True, "LLAMACTL_ENABLE_LRU_EVICTION", "When a limit is reached, stop the idle instance that was used longest ago."
    )
    default_auto_restart: bool = setting(True, "LLAMACTL_DEFAULT_AUTO_RESTART", "Restart an instance whose backend died.")
    default_max_restarts: int = setting(
        3,
        "LLAMACTL_DEFAULT_MAX_RESTARTS",
        "Restarts within restart_window before an instance has failed; 0 means none.",
        ge=0,
        le=1000,
    )
    default_restart_delay: Seconds = setting(
        1.0, "LLAMACTL_DEFAULT_RESTART_DELAY", "Pause before the first restart; it doubles with each further one."
    )
    max_restart_delay: Seconds = setting(300.0, "LLAMACTL_MAX_RESTART_DELAY", "Longest pause before a restart.")
    restart_window: Seconds = setting(600.0, "LLAMACTL_RESTART_WINDOW", "How far back restarts are counted.")
    failed_cooldown: Seconds = setting(
        60.0,
        "LLAMACTL_FAILED_COOLDOWN",
        "How long requests to a failed instance are refused before one may try to start it again.",
    )
    default_on_demand_start: bool = setting(
        True, "LLAMACTL_DEFAULT_ON_DEMAND_START", "Start a stopped instance on its first request."
    )
    on_demand_start_timeout: Seconds = setting(
        120.0,
        "LLAMACTL_ON_DEMAND_START_TIMEOUT",
        "Longest time that a request waits for its instance; the start itself goes on.",
        gt=0,
    )
    max_queued_requests: int = setting(
        1024, "LLAMACTL_MAX_QUEUED_REQUESTS", "How many requests may wait for instances at once.", ge=1
    )
    default_start_timeout: Seconds = setting(
        600.0, "LLAMACTL_DEFAULT_START_TIMEOUT", "Longest time from a backend's start until it is ready; then it is ended.", gt=0
    )
    default_stop_timeout: Seconds = setting(
        10.0, "LLAMACTL_DEFAULT_STOP_TIMEOUT", "How long a backend may take to end after SIGTERM; then its whole tree is killed."
    )
    drain_timeout: Seconds = setting(
        30.0, "LLAMACTL_DRAIN_TIMEOUT", "How long a stop waits for the requests in flight of that instance before it goes on."
    )
    default_idle_timeout: Minutes = setting(
        1800.0,
        "LLAMACTL_DEFAULT_IDLE_TIMEOUT",
        "Stop an instance that had no request for this long; 0 means never, and never evicted.",
    )
    logs_dir: LocalPath | None = setting(
        None, "LLAMACTL_LOGS_DIR", "Where backends' logs are written; unset means logs in data_dir."
    )
    log_rotation_max_size: float = setting(
        100, "LLAMACTL_LOG_ROTATION_MAX_SIZE", "Size in megabytes at which a log is rotated; 0 means never.", ge=0, le=1e6
    )
    log_rotation_backups: int = setting(
        3, "LLAMACTL_LOG_ROTATION_BACKUPS", "How many rotated logs are kept for each instance.", ge=0, le=100
    )

    @field_validator("group_limits")
    @classmethod
    def _named(cls, limits: dict[str, int]) -> dict[str, int]:
        if "" in limits:
            raise ValueError("a group needs a name; for all instances together there is max_running_instances")
        return limits

    @field_validator("port_range")
    @classmethod
    def _ascending(cls, port_range: tuple[int, int]) -> tuple[int, int]:
        if port_range[0] > port_range[1]:
            raise ValueError(f"{list(port_range)} must be ascending")
        return port_range


class Auth(Frozen):
    """Who may ask."""

    require_inference_auth: bool = setting(True, "LLAMACTL_REQUIRE_INFERENCE_AUTH", "Ask for a key on /v1.")
    require_management_auth: bool = setting(True, "LLAMACTL_REQUIRE_MANAGEMENT_AUTH", "Ask for a management key on /api/v1.")
    management_keys: tuple[str, ...] = setting(
        (), "LLAMACTL_MANAGEMENT_KEYS", "Management keys, beside the one in the data directory; each needs 16 characters or more."
    )

    @field_validator("management_keys", mode="before")
    @classmethod
    def _usable(cls, keys: Any) -> Any:
        """Before anything else looks at them: its message would show the value."""
        if not isinstance(keys, list | tuple) or not all(
            isinstance(k, str) and re.fullmatch(r"[\x21-\x7e]{16,512}", k) for k in keys
        ):
            raise ValueError(
                "takes a list of keys, each of 16 to 512 visible ASCII characters; make one with: openssl rand -hex 32"
            )
        return keys


class Settings(Frozen):
    """The whole tree."""

    server: Server = Field(default=Server(), description="The front door.")
    data_dir: LocalPath = setting(None, "LLAMACTL_DATA_DIRECTORY", "Where the database, the management key and logs live.")
    backends: Backends = Field(default=Backends(), description="How each kind of server is run.")
    instances: Instances = Field(default=Instances(), description="Limits of the fleet and defaults of instances.")
    auth: Auth = Field(default=Auth(), description="Who may ask.")

    @model_validator(mode="before")
    @classmethod
    def _default_data_dir(cls, raw: Any) -> Any:
        return {"data_dir": paths.default_data_dir(), **raw} if isinstance(raw, dict) else raw

    @property
    def logs_dir(self) -> Path:
        """Where backends' logs are written."""
        return self.instances.logs_dir or self.data_dir / "logs"

    @property
    def sockets_dir(self) -> Path:
        """Where the sockets of backends are."""
        return self.instances.sockets_dir or self.data_dir / "sockets"
