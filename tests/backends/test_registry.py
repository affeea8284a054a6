"""What a new backend must bring besides its own file: each test asks every backend for one part."""

from __future__ import annotations

from importlib.resources import files

import pytest

from llamactl_py.backends import BACKENDS, Backend, parse_command
from llamactl_py.config.settings import Backends
from llamactl_py.ground.validation import parse

each_backend = pytest.mark.parametrize("backend", BACKENDS.values(), ids=list(BACKENDS))


@each_backend
def test_it_has_a_place_in_the_settings(backend: Backend) -> None:
    configured = parse(Backends, {backend.slug: {"command": "/opt/it"}})
    assert configured.of(backend.slug).command == "/opt/it"


@each_backend
def test_its_catalogue_is_its_own(backend: Backend) -> None:
    assert backend.catalogue.backend == backend.type
    assert {"model", backend.name_key or "model"} <= backend.catalogue.flags.keys()


@each_backend
def test_its_own_command_is_recognised(backend: Backend) -> None:
    if not backend.takes_any_command:
        assert parse_command([*backend.command, "--x"]).backend_type == backend.type
    for part in backend.images:
        assert parse_command(["docker", "run", f"registry.example/{part}:latest"]).backend_type == backend.type


def test_types_and_slugs_are_all_different() -> None:
    assert len({name for b in BACKENDS.values() for name in {b.type, b.slug}}) == sum(
        len({b.type, b.slug}) for b in BACKENDS.values()
    )


def test_no_catalogue_is_left_over() -> None:
    data = files("llamactl_py.backends").joinpath("data").iterdir()
    assert {entry.name for entry in data} == {f"{name}.json" for name, b in BACKENDS.items() if not b.takes_any_command}
