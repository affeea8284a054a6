"""`llamactl logs`: of one instance or several, what is there and what comes."""

from __future__ import annotations

import codecs
import queue
import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial

import click

from llamactl_py.cli import complete, say
from llamactl_py.cli.main import Connection, json_option
from llamactl_py.cli.progress import Background
from llamactl_py.client import BrokenOff, Client, Refused, Unreachable

_COLOURS = re.compile(r"(\x1b\[[0-9;]*m)")
_UNFINISHED = re.compile(r"\x1b(\[[0-9;]*)?\Z|\r\Z")


@click.command(short_help="Show the logs of instances.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete.instances)
@click.option(
    "-n",
    "--lines",
    "--tail",
    "lines",
    type=click.IntRange(1, 1_000_000),
    default=100,
    show_default=True,
    help="How many lines from the end.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@click.option("--since-start", is_flag=True, help="Only what was written since its last start.")
@click.option("--stream", default="all", show_default=True, help="Only 'all': servers write both streams into one log.")
@json_option
@click.pass_obj
def logs(
    connection: Connection, names: tuple[str, ...], lines: int, follow: bool, since_start: bool, stream: str, as_json: bool
) -> None:
    """Show the log of an instance, or of several: then each line begins with its name.

    On a terminal colours are shown, and other control characters made visible; a program gets every byte as it is. --json
    gives an object with name and line for each line.
    """
    client = connection.client()

    def pieces(name: str) -> Iterator[bytes]:
        return client.logs(name, lines, follow=follow, newest_run=since_start, stream=stream)

    names = tuple(dict.fromkeys(names))
    if len(names) == 1 and not as_json:
        _one(client, names[0], pieces(names[0]), follow)
    else:
        _several(client, names, [pieces(name) for name in names], follow, as_json)


def _one(client: Client, name: str, pieces: Iterator[bytes], follow: bool) -> None:
    shown = harmless(pieces) if say.is_watched(sys.stdout) else pieces
    stdout = sys.stdout.buffer
    last = b"\n"
    broke_off = None
    is_empty = True
    try:
        for piece in shown:
            stdout.write(piece)
            stdout.flush()
            last = piece[-1:] or last
            is_empty = is_empty and not piece
    except BrokenOff as error:
        broke_off = error
    if is_empty and not follow and not broke_off:
        _say_why_it_is_empty(client, name)
    if last != b"\n":
        stdout.write(b"\n")
        stdout.flush()
    if follow:
        _say_why_it_ended(client, name)
    if broke_off:
        raise broke_off


def harmless(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The log for a terminal: as text, colours as they are, other control characters visible. What overwrites its line, as
    progress bars do, gets lines of its own."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    for piece in pieces:
        text = rest + decoder.decode(piece)
        unfinished = _UNFINISHED.search(text)
        rest = unfinished[0] if unfinished else ""
        yield _visible(text.removesuffix(rest)).encode()
    yield _visible(rest + decoder.decode(b"", final=True)).encode()


def _visible(text: str) -> str:
    parts = _COLOURS.split(text.replace("\r\n", "\n").replace("\r", "\n"))
    return "".join(part if at % 2 else say.safe(part) for at, part in enumerate(parts))


def _several(client: Client, names: Sequence[str], many: Sequence[Iterator[bytes]], follow: bool, as_json: bool) -> None:
    """Whole lines, one log after the other, or all at once as they come. Goes on when one cannot be shown."""
    width = max(map(len, names))
    told: queue.Queue[tuple[str, str | BaseException | None]] = queue.Queue(10_000)
    code = 0
    workers = [partial(_pass_on, name, pieces, told) for name, pieces in zip(names, many, strict=True)]
    waiting = list(names)
    running = [Background(work) for work in workers] if follow else [Background(workers[0])]
    while waiting:
        name, line = told.get()
        if isinstance(line, str):
            _show_line(name, line, width if len(names) > 1 else 0, as_json)
            continue
        if isinstance(line, Refused):
            code = 4
            say.complaint(str(line))
        elif isinstance(line, BaseException) and not isinstance(line, BrokenOff):
            raise line
        elif follow:
            _say_why_it_ended(client, name)
        waiting.remove(name)
        if waiting and not follow:
            running.append(Background(workers[len(running)]))
    sys.exit(code)


def _pass_on(name: str, pieces: Iterator[bytes], told: queue.Queue[tuple[str, str | BaseException | None]]) -> None:
    """Put its lines into *told*, then None or what ended it."""
    rest = b""
    try:
        for piece in pieces:
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                told.put((name, line.decode(errors="replace").rstrip("\r")))
        if rest:
            told.put((name, rest.decode(errors="replace")))
        told.put((name, None))
    except (Refused, Unreachable) as error:
        told.put((name, error))


def _show_line(name: str, line: str, width: int, as_json: bool) -> None:
    if as_json:
        say.as_json({"name": name, "line": line}, on_one_line=True)
        return
    shown = _visible(line).replace("\n", " ") if say.is_watched(sys.stdout) else line
    sys.stdout.write(f"{say.safe(name):<{width}} | {shown}\n")
    sys.stdout.flush()


def _say_why_it_is_empty(client: Client, name: str) -> None:
    """Nothing at all is no answer to who looks for what went wrong."""
    instance = client.instance(name)
    why = instance.get("reason") or "nothing was written yet"
    say.err(f"the log of {name} is empty; it is {instance['state']}: {why}")


def _say_why_it_ended(client: Client, name: str) -> None:
    """A log that is followed ends with its instance, or with the daemon. Raises Unreachable for the second."""
    try:
        client.instance(name)
    except Unreachable:
        raise Unreachable(f"the daemon at {client.url} has ended, and the log of {name} with it") from None
    except Refused as error:
        if error.status != 404:
            raise
        say.complaint(f"{name} was deleted, and its log with it")
