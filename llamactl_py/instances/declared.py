"""Instances that the configuration file declares: from what the file says to options, and from one state of it to the next."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from llamactl_py.backends import parse_command
from llamactl_py.config.document import DECLARED
from llamactl_py.config.load import Configuration
from llamactl_py.ground.errors import BadConfiguration, Invalid, Problem
from llamactl_py.ground.names import InstanceName, instance_name
from llamactl_py.ground.readers import kind
from llamactl_py.instances.instance import Instance
from llamactl_py.instances.options import InstanceOptions, model_names, parse_options

if TYPE_CHECKING:
    from llamactl_py.backends.parse import Parsed

COMMAND = "command"
"""Beside the options of an instance: the line that starts its server, as one would paste it."""


class Declaration(Struct, frozen=True):
    """One declared instance. *where*: FILE:LINE."""

    name: InstanceName
    options: InstanceOptions
    where: str
    warnings: tuple[str, ...] = ()


class Difference(Struct, frozen=True):
    """From the declared instances that there are to those that there should be."""

    declared: tuple[Declaration, ...]
    """All that there should be."""
    added: tuple[Declaration, ...] = ()
    changed: tuple[Declaration, ...] = ()
    removed: tuple[str, ...] = ()


def read_declared(configuration: Configuration) -> tuple[Declaration, ...]:
    """The declared instances, in the order of the file. Raises BadConfiguration with every problem found."""
    found: list[Declaration] = []
    problems: list[Problem] = []
    for name, raw in configuration.declared.items():
        where = f"{DECLARED}.{name}"
        try:
            checked = instance_name(name)
            said, odd = _options(raw)
            options, warnings = parse_options(said, configuration.settings.instances, from_text=True)
            found.append(Declaration(checked, options, str(configuration.origins[where]), (*odd, *warnings)))
        except Invalid as error:
            problems += [Problem(f"{where}.{p.where}" if p.where else where, p.what) for p in error.problems]
    problems += _clashes(found)
    if problems:
        raise BadConfiguration(map(configuration.located, problems))
    return tuple(found)


def _options(raw: object) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What the API would be sent for it, and what is odd about its command. Raises Invalid."""
    if isinstance(raw, str):
        raw = {COMMAND: raw}
    if not isinstance(raw, Mapping):
        raise Invalid([Problem("", f"expected options, or the command line of a server, got {kind(raw)}")])
    given = dict(raw)
    command = given.pop(COMMAND, None)
    if command is None:
        return given, ()
    if not isinstance(command, str) and not (isinstance(command, list) and all(isinstance(word, str) for word in command)):
        raise Invalid([Problem(COMMAND, f"expected a command line or a list of its words, got {kind(command)}")])
    parsed = parse_command(command, given.get("backend_type"))
    said = _said(parsed)
    for name in ("backend_options", "environment"):
        if isinstance(beside := given.get(name, {}), Mapping):
            if twice := sorted(set(beside) & set(said.get(name, {}))):
                raise Invalid([Problem(f"{name}.{twice[0]}", f"is given by {COMMAND} too; say it in one of the two")])
            said[name] = {**said.get(name, {}), **beside}
    if twice := sorted(set(given) & set(said) - {"backend_type", "backend_options", "environment"}):
        raise Invalid([Problem(twice[0], f"is given by {COMMAND} too; say it in one of the two")])
    return {**given, **said}, parsed.warnings


def _said(parsed: Parsed) -> dict[str, Any]:
    """A parsed command line as options; whatever else one may come to say is an option of the same name."""
    said = {name: getattr(parsed, name) for name in parsed.__struct_fields__ if name != "warnings"}
    if said.get("docker"):
        said["docker_enabled"] = True
    return {name: value for name, value in said.items() if value}


def _clashes(declared: Iterable[Declaration]) -> Iterator[Problem]:
    """Names and aliases are one space."""
    taken: dict[str, str] = {}
    for one in declared:
        for name in {name.casefold() for name in (one.name, *model_names(one.options))}:
            other = taken.setdefault(name, one.name)
            if other != one.name:
                yield Problem(
                    f"{DECLARED}.{one.name}", f"the name {name!r} is taken by {other!r} (names and aliases share one space)"
                )


def compare(fleet: Iterable[Instance], declared: Collection[Declaration], damaged: Collection[str], limit: int) -> Difference:
    """What has to happen until exactly *declared* is declared; *damaged* are names of rows that cannot be read.

    Raises BadConfiguration when a name belongs to an instance made through the API, or there are more than *limit* (-1: any).
    """
    there = list(fleet)
    made = [instance for instance in there if not instance.declared_at]
    before = {instance.name: instance for instance in there if instance.declared_at}
    problems = [problem for one in declared for problem in _taken(one, made, damaged)]
    if 0 <= limit < len(made) + len(declared):
        what = f"{len(declared)} instances are declared and {len(made)} were made through the API; max_instances is {limit}"
        problems.append(Problem("", what))
    if problems:
        raise BadConfiguration(problems)
    return Difference(
        tuple(declared),
        tuple(one for one in declared if one.name not in before),
        tuple(one for one in declared if one.name in before and before[one.name].options != one.options),
        tuple(name for name in before if name not in {one.name for one in declared}),
    )


def _taken(one: Declaration, made: Collection[Instance], damaged: Collection[str]) -> Iterator[Problem]:
    wanted = {name.casefold() for name in (one.name, *model_names(one.options))}
    for other in made:
        if taken := wanted & {name.casefold() for name in (other.name, *model_names(other.options))}:
            what = (
                f"{DECLARED}.{one.name}: the name {sorted(taken)[0]!r} is taken by instance {other.name!r}, made through the API"
            )
            yield Problem(one.where, f"{what}; delete that one (llamactl rm {other.name}), or rename this one")
    if wanted & {name.casefold() for name in damaged}:
        yield Problem(one.where, f"{DECLARED}.{one.name}: a damaged instance of that name is stored; rename this one")
