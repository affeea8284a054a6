"""What llamactl's configuration has and ours has no use for: understood, left out, and said what to do instead.

A key that has become a setting of ours is one, whatever stands here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from llamactl_py.config.settings import Settings
from llamactl_py.ground.fields import fields_of

KEYS: Mapping[str, str] = {
    "server.allowed_origins": "pages of other origins are refused; put them behind the same origin with a reverse proxy",
    "server.allowed_headers": "pages of other origins are refused, so there are no headers to allow them",
    "server.enable_swagger": "the API is always described, at /api/v1/openapi.json and /docs; it asks for a management key",
    "server.response_headers": "it never had an effect; a reverse proxy can add headers",
    "backends.*.response_headers": "answers keep their backend's headers; a reverse proxy can add more",
    "backends.*.cache_dir": "set LLAMA_CACHE in this backend's environment",
    "backends.*.download_timeout": "nothing is downloaded here; what a server downloads counts into default_start_timeout",
    "instances.auto_create_dirs": "missing directories are always made",
    "instances.timeout_check_interval": "nothing is polled: an idle instance is stopped at the moment when its time is up",
    "instances.instances_dir": "instances are kept in the database in data_dir",
    "instances.configs_dir": "instances are kept in the database in data_dir",
    "instances.log_rotation_enabled": "log_rotation_max_size: 0 switches rotation off",
    "instances.log_rotation_compress": "rotated logs are not compressed; log_rotation_backups says how many are kept",
    "auth.inference_keys": "keys of clients are made, not configured: llamactl keys create NAME",
    "database": "the database is llamactl.db in data_dir, with one connection",
    "local_node": "there are no remote nodes",
    "nodes": "there are no remote nodes",
}
"""Dotted key (`*` is any one name) and what replaces it; with a key goes everything below it."""

VARIABLES: Mapping[str, str] = {
    "LLAMACTL_ALLOWED_ORIGINS": KEYS["server.allowed_origins"],
    "LLAMACTL_ENABLE_SWAGGER": KEYS["server.enable_swagger"],
    **{f"LLAMACTL_{kind}_RESPONSE_HEADERS": KEYS["backends.*.response_headers"] for kind in ("LLAMACPP", "VLLM", "MLX")},
    "LLAMACTL_LLAMACPP_CACHE_DIR": "set LLAMA_CACHE in the environment of the daemon",
    "LLAMACTL_LLAMACPP_DOWNLOAD_TIMEOUT": KEYS["backends.*.download_timeout"],
    "LLAMACTL_AUTO_CREATE_DATA_DIR": KEYS["instances.auto_create_dirs"],
    "LLAMACTL_TIMEOUT_CHECK_INTERVAL": KEYS["instances.timeout_check_interval"],
    "LLAMACTL_INSTANCES_DIR": KEYS["instances.instances_dir"],
    "LLAMACTL_LOG_ROTATION_ENABLED": "LLAMACTL_LOG_ROTATION_MAX_SIZE=0 switches rotation off",
    "LLAMACTL_LOG_ROTATION_COMPRESS": KEYS["instances.log_rotation_compress"],
    **{
        f"LLAMACTL_{what}": KEYS["database"]
        for what in (
            "DATABASE_PATH",
            "DATABASE_MAX_OPEN_CONNECTIONS",
            "DATABASE_MAX_IDLE_CONNECTIONS",
            "DATABASE_CONN_MAX_LIFETIME",
        )
    },
    "LLAMACTL_INFERENCE_KEYS": KEYS["auth.inference_keys"],
    "LLAMACTL_LOCAL_NODE": KEYS["local_node"],
    "LLAMACTL_DATA_DIR": "llamactl has it in an example and never reads it; LLAMACTL_DATA_DIRECTORY sets the data directory",
    "LLAMACTL_LOG_LEVEL": "llamactl serve --log-level says what is logged",
}
"""Environment variable and what replaces it."""


def take_out(tree: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Take every key of KEYS that is no setting out of *tree*; gives (dotted key, what replaces it) for each."""
    for pattern, instead in KEYS.items():
        yield from _take(tree, pattern.split("."), "", instead, Settings)


def _take(tree: dict[str, Any], steps: list[str], prefix: str, instead: str, model: type[Struct]) -> Iterator[tuple[str, str]]:
    step, *rest = steps
    known = {name: field for field in fields_of(model) for name in (field.name, field.key)}
    for key in [step] if step != "*" else list(tree):
        if key not in tree:
            continue
        if not rest:
            if key not in known:
                del tree[key]
                yield f"{prefix}{key}", instead
            continue
        below = known[key].section if key in known else None
        if isinstance(tree[key], dict) and below:
            yield from _take(tree[key], rest, f"{prefix}{key}.", instead, below)
