"""Where a command reads the configuration from: the flags that `llamactl serve` and `llamactl config` share."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from llamactl_py.cli.main import Connection

if TYPE_CHECKING:
    from llamactl_py.config.load import Sources

Function = TypeVar("Function", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Configuration file (YAML). [default: LLAMACTL_CONFIG_PATH, else as llamactl config path shows]",
    ),
    click.option("--host", help="Address to listen on. [default: 127.0.0.1]"),
    click.option("--port", type=int, help="Port to listen on; 0 takes a free one. [default: 8080]"),
    click.option("--data-dir", help="Where the database, the management key and logs live."),
    click.option("--max-running-instances", type=int, help="How many instances may be up at once; -1 means any number."),
)


def reads_configuration(command: Function) -> Callable[..., Any]:
    """*command* gets `sources` in place of these flags, and the connection first."""

    @click.pass_obj
    @wraps(command)
    def gather(
        connection: Connection,
        /,
        *arguments: Any,
        config: Path | None,
        host: str | None,
        port: int | None,
        data_dir: str | None,
        max_running_instances: int | None,
        **others: Any,
    ) -> Any:
        from llamactl_py.config.load import Sources

        flags = {
            "server.host": host,
            "server.port": port,
            "data_dir": data_dir or _global_data_dir(),
            "instances.max_running_instances": max_running_instances,
        }
        return command(connection, *arguments, sources=Sources(config, os.environ, flags), **others)

    for option in reversed(_OPTIONS):
        gather = option(gather)
    return gather


def _global_data_dir() -> str | None:
    """The --data-dir that stands before the command; where it comes from the environment it is no flag."""
    root = click.get_current_context().find_root()
    given = root.get_parameter_source("data_dir") is ParameterSource.COMMANDLINE
    return str(root.params["data_dir"]) if given else None


def with_file(sources: Sources, file: Path | None) -> Sources:
    """*sources*, of *file* where one is given."""
    return type(sources)(file, sources.environ, sources.flags) if file else sources
