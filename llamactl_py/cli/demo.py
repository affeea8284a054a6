"""`llamactl demo`: everything at work in a minute, on a model made on the spot. Leaves nothing behind."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import click
from msgspec import Struct

from llamactl_py.cli import render, say
from llamactl_py.client import Client
from llamactl_py.config import paths
from llamactl_py.ground.errors import DaemonRefused

NAME = "tiny"
PROMPT = "Count, please."
DAEMON_TIMEOUT = 30.0


class Candidate(Struct, frozen=True):
    """A server that the demo can use: the program to look for, and the command that a person would paste."""

    program: str
    command: Callable[[Path], list[str]]
    modules: tuple[str, ...] = ()
    """What our own Python must have where the program is one of its modules; they are looked up, not imported."""

    def is_here(self, search: str) -> bool:
        """True when this machine has it; *search* is a PATH."""
        if self.modules:
            return all(find_spec(module) for module in self.modules)
        return shutil.which(self.program, path=search) is not None


def _gguf(folder: Path) -> Path:
    from llamactl_py.demo import tiny_gguf

    return tiny_gguf.write(folder / "tiny.gguf")


def _hf(folder: Path) -> Path:
    from llamactl_py.demo import tiny_hf

    return tiny_hf.write(folder / "tiny-hf")


CANDIDATES = (
    Candidate(
        "llama-server", lambda folder: ["llama-server", "--model", str(_gguf(folder)), "--ctx-size", "2048", "--threads", "1"]
    ),
    Candidate("mlx_lm.server", lambda folder: ["mlx_lm.server", "--model", str(_hf(folder))]),
    Candidate(
        "llama_cpp.server",
        lambda folder: [sys.executable, "-m", "llama_cpp.server", "--model", str(_gguf(folder))],
        modules=("llama_cpp", "starlette_context"),  # the second only comes with its [server] extra
    ),
    Candidate("vllm", lambda folder: ["vllm", "serve", str(_hf(folder)), "--enforce-eager", "--max-model-len", "1024"]),
)


@click.command(short_help="See it work: a tiny model, a real backend, a streamed answer.")
@click.option("--once", is_flag=True, help="End after the first answer instead of staying up until Ctrl-C.")
@click.option("--port", type=int, default=0, help="Port to listen on. [default: a free one]")
def demo(once: bool, port: int) -> None:
    """See it work: a tiny model, a real backend, a streamed answer.

    Makes a tiny model (no download), starts a daemon in a temporary directory, creates an instance from a pasted command
    line, and sends it a chat while it is still stopped. Everything is removed at the end.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):  # they end us as Ctrl-C does: cleaning up
        signal.signal(number, signal.default_int_handler)
    candidate = find_backend()
    with tempfile.TemporaryDirectory(prefix="llamactl-demo-") as name:
        folder = Path(name)
        with render.spinner("writing a tiny model"):
            command = candidate.command(folder)
        with running_daemon(folder, port) as client:
            show(client, command, once)


def find_backend() -> Candidate:
    """The first of our candidates that this machine has. Raises DaemonRefused with what to install."""
    search = os.pathsep.join((os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)))
    for candidate in CANDIDATES:
        if candidate.is_here(search):
            return candidate
    raise DaemonRefused(
        f"no backend found ({', '.join(c.program for c in CANDIDATES)}); "
        "the smallest is, from a checkout: pip install '.[mlx,demo]'"
    )


@contextmanager
def running_daemon(folder: Path, port: int) -> Iterator[Client]:
    """A daemon of its own process on *folder*, ended with the block. Raises DaemonRefused when it does not come up."""
    log = folder / "daemon.log"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LLAMACTL_")}
    with log.open("wb") as output:
        daemon = subprocess.Popen(
            (sys.executable, "-m", "llamactl_py", "serve", "--port", str(port), "--data-dir", str(folder / "data")),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C is for us; we tell it
        )
    try:
        yield _connect(daemon, folder / "data", log)
    finally:
        _end(daemon)


def _end(daemon: subprocess.Popen[bytes]) -> None:
    """Ask it to stop, and wait until it has; another Ctrl-C is passed on, and has it hurry."""
    with render.spinner("stopping everything"):
        while True:
            try:
                daemon.send_signal(signal.SIGTERM)
                daemon.wait()
            except KeyboardInterrupt:
                continue
            return


def _connect(daemon: subprocess.Popen[bytes], data: Path, log: Path) -> Client:
    deadline = time.monotonic() + DAEMON_TIMEOUT
    with render.spinner("starting a daemon"):
        while not (data / paths.ADDRESS).exists():
            if daemon.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(errors="replace").strip().replace("llamactl: ", "")
                raise DaemonRefused(f"the daemon did not start: {said}")
            time.sleep(0.02)
    return Client((data / paths.ADDRESS).read_text().strip(), (data / paths.MANAGEMENT_KEY).read_text().strip())


def show(client: Client, command: list[str], once: bool) -> None:
    """The tour."""
    tell = render.out.print
    tell(f"\n[bold]1.[/] A daemon listens on [bold]{client.url}[/]. An instance is made by pasting its command line:\n")
    tell(f"   [cyan]llamactl create {NAME} -- {render.escape(shlex.join(command))}[/]\n")
    parsed = client.parse_command(shlex.join(command))
    say.warnings(parsed.pop("warnings", []))
    client.create(NAME, {**parsed, "idle_timeout": "10m"})
    render.instances(client.instances())
    tell("\n[bold]2.[/] It is stopped. A chat is sent to it all the same, and wakes it:\n")
    tell(f"   [dim]user>[/] {PROMPT}\n   [dim]{NAME}>[/] ", end="")
    waited = stream_answer(client)
    tell(f"\n\n   [dim](first word {waited:.2f} s after the request: the backend was started for it)[/]\n")
    render.instances(client.instances())
    tell("\n[bold]3.[/] Any OpenAI client can do the same, and so can curl:\n")
    key = client.create_key("demo")["key"]
    body = {"model": NAME, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 20, "stream": True}
    tell(f"   curl -N {client.url}/v1/chat/completions \\", markup=False)
    tell(f"     -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\", markup=False)
    tell(f"     -d '{json.dumps(body)}'", markup=False)
    tell(f"\n   Web page: {client.url}/\n")
    if not once:
        tell("[bold]Ctrl-C[/] stops everything and removes it.")
        with suppress(KeyboardInterrupt):
            while True:
                signal.pause()


def stream_answer(client: Client) -> float:
    """Print the words of a chat as they come; the seconds from the request to the first one. Raises DaemonRefused."""
    begun = time.monotonic()
    words = client.chat(NAME, [{"role": "user", "content": PROMPT}], max_tokens=20)
    with render.spinner(f"{NAME} is starting"):
        first = next(words, None)
    if first is None:
        raise DaemonRefused("the backend answered without a word; run the demo again, and report it if that happens twice")
    waited = time.monotonic() - begun
    for word in (first.lstrip(), *words):
        render.out.print(word, end="", markup=False)
    return waited
