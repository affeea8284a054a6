"""An instance in a container: which image, which words for `docker run`, and what takes the container away again.

Composes only. The client runs in the foreground and stands for the container: what is written comes through it, and so does
SIGTERM. Killed, it leaves the container behind; hence the name, and `removal`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from msgspec import Struct

from llamactl_py.backends import Backend
from llamactl_py.backends.containers import kept_words
from llamactl_py.config.settings import Docker
from llamactl_py.ground import chance
from llamactl_py.ground.errors import BadCommand, StartFailed
from llamactl_py.instances.options import Container, InstanceOptions
from llamactl_py.instances.ports import LOOPBACK

EVERYWHERE = "0.0.0.0"  # noqa: S104 of the container's own network; the port is published on loopback only


class Box(Struct, frozen=True):
    """One container that is to be run. *engine*: the program's full path, once it is looked up."""

    engine: str
    name: str
    image: str
    args: tuple[str, ...]
    command: tuple[str, ...]

    @property
    def shares_our_network(self) -> bool:
        """Has it no network of its own? Then no port can be published, and what it listens on is this machine's."""
        words = {*self.args, *(f"{flag}={value}" for flag, value in pairwise(self.args))}
        return not words.isdisjoint(("--network=host", "--net=host"))

    @property
    def host(self) -> str:
        """The address that the server in it has to listen on."""
        return LOOPBACK if self.shares_our_network else EVERYWHERE

    def run(self, port: int, variables: Iterable[str], argv: Sequence[str]) -> tuple[str, ...]:
        """The words that run *argv* in it. Of *variables* only the names are told: the client reads their values from its own
        environment, where nobody sees them."""
        published = () if self.shares_our_network else ("--publish", f"{LOOPBACK}:{port}:{port}")
        named = [word for name in sorted(set(variables)) for word in ("--env", name)]
        words = (
            "run",
            "--rm",
            "--init",
            "--name",
            self.name,
            *published,
            *self.args,
            *named,
        )  # of a variable that is named twice the last wins: ours
        return (self.engine, *words, self.image, *argv)

    @property
    def removal(self) -> tuple[str, ...]:
        """The words that end and remove it, whatever has become of its client."""
        return (self.engine, "rm", "--force", self.name)


def is_boxed(settings: Docker, options: InstanceOptions) -> bool:
    """Does an instance with these options run in a container?"""
    return settings.enabled if options.docker_enabled is None else options.docker_enabled


def box(kind: Backend, settings: Docker, name: str, options: InstanceOptions) -> Box | None:
    """The container of instance *name*, or None where it runs without one. Raises StartFailed."""
    if not is_boxed(settings, options):
        return None
    own = options.docker or Container()
    image = own.image or settings.image or kind.docker_image
    if not image:
        raise StartFailed(f"it is to run in a container, and {kind.title} has no usual image: set docker.image")
    if options.unix_socket:
        raise StartFailed("a container is reached over a port: leave out unix_socket, or set docker_enabled to false")
    usual = kind.docker_arguments if settings.args is None else settings.args
    given = usual if own.args is None else own.args
    try:
        words = kept_words(given)
    except BadCommand as error:
        raise StartFailed(f"the words of docker.args: {'; '.join(problem.what for problem in error.problems)}") from None
    return Box(own.engine or settings.engine, f"llamactl-{name}-{chance.token(4)}", image, words, own.command)
