"""Ports for backends: tried before use, never given twice, and resting after use. Real sockets, nothing listens for long.

`free_range` finds ports in a row that nobody uses; `listener` takes one as another program would.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from llamactl_py.ground.errors import StartFailed
from llamactl_py.instances.ports import Ports, is_free


@pytest.fixture
def first() -> int:
    """The first of five free ports in a row, below the range that outgoing connections use."""
    return next(port for port in range(23000, 24000, 5) if all(map(is_untouched, range(port, port + 5))))


def is_untouched(port: int) -> bool:
    """Free, and with no connection that lingers there: those of an earlier test need a minute."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


Listen = Callable[..., socket.socket]


@pytest.fixture
def listen() -> Iterator[Listen]:
    with ExitStack() as sockets:

        def listen(port: int, host: str = "127.0.0.1", option: int | None = None) -> socket.socket:
            listener = sockets.enter_context(socket.socket())
            if option is not None:
                listener.setsockopt(socket.SOL_SOCKET, option, 1)
            listener.bind((host, port))
            listener.listen(1)
            return listener

        yield listen


def test_ports_are_given_round_the_range_so_that_one_just_freed_rests(first: int) -> None:
    ports = Ports(first, first + 2)
    assert ports.take() == first
    ports.give_back(first)
    assert [ports.take() for _ in range(3)] == [first + 1, first + 2, first]


def test_no_port_is_given_twice(first: int) -> None:
    ports = Ports(first, first + 4)
    assert sorted(ports.take() for _ in range(5)) == [*range(first, first + 5)]
    with pytest.raises(StartFailed) as caught:
        ports.take()
    said = f"no free port between {first} and {first + 4}, 5 are held by instances; widen instances.port_range"
    assert str(caught.value) == said
    ports.give_back(first + 3)
    assert ports.take() == first + 3
    assert repr(ports) == f"<Ports {first}-{first + 4} held={[*range(first, first + 5)]}>"


def test_a_range_of_one_works(first: int) -> None:
    ports = Ports(first, first)
    for _ in range(3):
        assert ports.take() == first
        ports.give_back(first)


def test_the_daemons_own_port_is_left_alone(first: int) -> None:
    assert Ports(first, first + 1, exclude=(first,)).take() == first + 1
    with pytest.raises(StartFailed, match="no free port"):
        Ports(first, first, exclude=(first,)).take()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("option", [None, socket.SO_REUSEADDR, socket.SO_REUSEPORT])
def test_a_port_on_which_a_stranger_listens_is_passed_over(first: int, listen: Listen, host: str, option: int | None) -> None:
    listen(first, host, option)
    assert not is_free(first)
    assert Ports(first, first + 1).take() == first + 1


def test_a_port_taken_by_a_stranger_later_is_found_out_when_its_turn_comes(first: int, listen: Listen) -> None:
    ports = Ports(first, first + 2)
    assert ports.take() == first
    listen(first + 1)
    assert ports.take() == first + 2


def test_closed_connections_that_linger_do_not_make_a_port_taken(first: int, listen: Listen) -> None:
    listener = listen(first, option=socket.SO_REUSEADDR)  # as servers do
    with socket.create_connection(("127.0.0.1", first)) as client:
        accepted, _ = listener.accept()
        accepted.close()  # the side that closes first lingers
        assert client.recv(1) == b""
    listener.close()
    assert is_free(first)


def test_giving_back_what_was_not_taken_is_harmless(first: int) -> None:
    ports = Ports(first, first + 1)
    ports.give_back(first)
    ports.give_back(1)
    assert ports.take() == first
