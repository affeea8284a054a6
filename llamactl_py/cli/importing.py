"""`llamactl import`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from llamactl_py.cli import render

if TYPE_CHECKING:
    from llamactl_py.importers import Imported

MAX_BYTES = 16 << 20
SQLITE = b"SQLite format 3\0"


@click.command(name="import", short_help="Turn a file of llama-swap or llamactl into one of ours.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="Write it there, not to stdout.")
@click.option("--force", is_flag=True, help="Replace what is there.")
def import_(file: Path, output: Path | None, force: bool) -> None:
    """Turn FILE (- reads stdin) into a configuration file that declares its models as instances.

    FILE is llama-swap's configuration, or llamactl's database (llamactl.db in its data directory), or its instances as JSON, as
    its GET /api/v1/instances answers them. llamactl's own configuration file needs no import: llamactl serve reads it.

    What is other than it was is told on stderr, line by line, and at the head of the new file.
    """
    from llamactl_py.ground.errors import BadRequest

    try:
        made = _imported(file)
    except (OSError, UnicodeDecodeError, BadRequest) as error:
        raise click.UsageError(f"{file}: {getattr(error, 'strerror', None) or error}") from None
    if output is None:
        click.echo(made.text(), nl=False)
    else:
        try:
            with output.open("w" if force else "x", encoding="utf-8") as opened:
                opened.write(made.text())
        except FileExistsError:
            raise click.UsageError(f"{output} exists; replace it with --force") from None
        except OSError as error:
            raise click.UsageError(f"{output} cannot be written: {error.strerror}") from None
    for note in made.sorted_notes():
        render.err.print(f"[yellow]note:[/] {escape(str(note))}")
    count = len(made.instances)
    render.err.print(
        f"{count} instance{'' if count == 1 else 's'} carried over" + (f" to {escape(str(output))}" if output else "")
    )


def _imported(file: Path) -> Imported:
    from llamactl_py.importers import read, read_database

    if str(file) == "-":
        return read(sys.stdin.buffer.read(MAX_BYTES).decode("utf-8-sig"))
    with file.open("rb") as opened:
        data = opened.read(MAX_BYTES)
    return read_database(file) if data.startswith(SQLITE) else read(data.decode("utf-8-sig"))
