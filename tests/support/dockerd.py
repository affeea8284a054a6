"""A stand-in for docker: containers are processes of the engine, not of the client, and outlive the client's kill.

    python dockerd.py engine SOCKET                     the engine, until it is killed; its containers die with it
    DOCKER_HOST=unix://SOCKET docker run ... IMAGE ARGS  the client, as `install` puts it on a PATH

An image is the path of a Python program. There are no namespaces here, so "publishing" a port is letting the program listen on
the published address; and of the client's environment a container sees only what --env names, as in life.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

WITH_VALUE = {"--name", "--publish", "--env", "--volume", "--gpus", "--network", "--shm-size"}


class Engine:
    """Containers by name."""

    def __init__(self) -> None:
        self.containers: dict[str, subprocess.Popen[bytes]] = {}

    def serve(self, path: str) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        listener.listen(64)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self.answer, args=(connection.makefile("rwb", 0),), daemon=True).start()

    def answer(self, client: Any) -> None:
        wish = json.loads(client.readline())
        with suppress(OSError):
            match wish["do"]:
                case "run":
                    self.run(wish, client)
                case "signal":
                    with suppress(KeyError):
                        self.containers[wish["name"]].send_signal(wish["number"])
                case "rm":
                    self.remove(wish["name"], client)
        client.close()

    def run(self, wish: dict[str, Any], client: Any) -> None:
        name = wish["name"]
        if name in self.containers:
            client.write(json.dumps({"error": f"the container name {name!r} is already in use", "code": 125}).encode() + b"\n")
            return
        child = subprocess.Popen(
            wish["argv"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=wish["environment"],
            start_new_session=True,
        )
        self.containers[name] = child
        assert child.stdout
        for line in child.stdout:
            with suppress(OSError):  # without its client it runs on
                client.write(json.dumps({"said": line.decode(errors="replace")}).encode() + b"\n")
        code = child.wait()
        self.containers.pop(name, None)
        client.write(json.dumps({"code": code if code >= 0 else 128 - code}).encode() + b"\n")

    def remove(self, name: str, client: Any) -> None:
        child = self.containers.pop(name, None)
        if child is None:
            client.write(
                json.dumps({"error": f"Error response from daemon: No such container: {name}", "code": 1}).encode() + b"\n"
            )
            return
        child.kill()
        child.wait()
        client.write(json.dumps({"said": f"{name}\n", "code": 0}).encode() + b"\n")


def client(words: list[str]) -> int:
    match words:
        case ["run", *rest]:
            wish = understand(rest)
        case ["rm", "--force", name]:
            wish = {"do": "rm", "name": name}
        case _:
            sys.stderr.write(f"docker: unknown command {words}\n")
            return 125
    if wish["do"] == "run":
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: ask({"do": "signal", "name": wish["name"], "number": number}).close())
    with ask(wish) as answer:
        for line in answer:
            told = json.loads(line)
            sys.stdout.write(told.get("said", ""))
            sys.stdout.flush()
            if "error" in told:
                sys.stderr.write(told["error"] + "\n")
            if "code" in told:
                return int(told["code"])
    sys.stderr.write("docker: the engine is gone\n")
    return 125


def understand(rest: list[str]) -> dict[str, Any]:
    """The words behind `run`."""
    name, published, environment = "", "", {"PATH": os.defpath}
    words = iter(rest)
    image = ""
    for word in words:
        if not word.startswith("-"):
            image = word
            break
        value = next(words) if word in WITH_VALUE else ""
        match word:
            case "--name":
                name = value
            case "--publish":
                published = value.partition(":")[0]
            case "--env":
                variable, equals, given = value.partition("=")
                environment[variable] = given if equals else os.environ[variable]
    argv = [published if published and argument == "0.0.0.0" else argument for argument in words]
    return {"do": "run", "name": name, "environment": environment, "argv": [sys.executable, "-S", "-E", image, *argv]}


def ask(wish: dict[str, Any]) -> Any:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(os.environ["DOCKER_HOST"].removeprefix("unix://"))
    connection.sendall(json.dumps(wish).encode() + b"\n")
    return connection.makefile("rb", 0)


@contextmanager
def engine(folder: Path) -> Iterator[dict[str, str]]:
    """A running engine, and a `docker` that talks to it; what to add to a daemon's environment."""
    path = folder / "engine.sock"
    programs = folder / "docker-bin"
    programs.mkdir()
    (programs / "docker").write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {__file__} "$@"\n')
    (programs / "docker").chmod(0o755)
    process = subprocess.Popen((sys.executable, "-S", "-E", __file__, "engine", str(path)), start_new_session=True)
    try:
        while not path.exists():
            assert process.poll() is None
        yield {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "DOCKER_HOST": f"unix://{path}"}
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    if sys.argv[1] == "engine":
        served = Engine()

        def end(*_: object) -> None:
            for child in list(served.containers.values()):
                child.kill()
            os._exit(0)

        signal.signal(signal.SIGTERM, end)
        served.serve(sys.argv[2])
    sys.exit(client(sys.argv[1:]))


if __name__ == "__main__":
    main()
