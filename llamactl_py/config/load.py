"""Where the configuration comes from: defaults < .env < YAML file < LLAMACTL_* variables < command line.

Whatever is wrong refuses the whole in one message that names the file and line, the variable, or the flag: a daemon that
half understood its configuration would run on defaults that nobody chose.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct, field
from msgspec.structs import replace

from llamactl_py.config import legacy
from llamactl_py.config.document import DECLARED, Document
from llamactl_py.config.door import refuse_open_door
from llamactl_py.config.dotenv import DotEnv, read_dotenv
from llamactl_py.config.paths import config_files
from llamactl_py.config.settings import Backends, Settings
from llamactl_py.config.variables import KNOWN_VARIABLES, SECTIONS, from_text, variables
from llamactl_py.ground.errors import BadConfiguration, Invalid, Problem, nearest
from llamactl_py.ground.fields import fields_of
from llamactl_py.ground.readers import kind
from llamactl_py.ground.validation import parse


class Origin(Struct, frozen=True):
    """Who says a setting: *where* is FILE:LINE, a variable, a flag, or empty for a default."""

    source: Literal["default", ".env", "file", "environment", "flag"]
    where: str = ""

    def __str__(self) -> str:
        return self.where or self.source


class Sources(Struct, frozen=True):
    """Where to read from. *flags* maps dotted names ('server.port') to values given on the command line, None where not given."""

    file: Path | None
    environ: Mapping[str, str]
    flags: Mapping[str, object]

    def find(self) -> Path | None:
        """The file: the one that was named, by flag or by LLAMACTL_CONFIG_PATH, or the first that is where one is looked for."""
        if named := self.file or self.environ.get("LLAMACTL_CONFIG_PATH"):
            return Path(os.path.expanduser(named)).absolute()  # noqa: PTH111 Path's raises on ~nobody
        return next((file.absolute() for file in config_files(self.environ) if os.path.exists(file)), None)  # noqa: PTH110 Path's raises where we may not look

    def dotenv(self) -> Path:
        """Where `.env` is read: beside the configuration file, or in the working directory where there is none."""
        file = self.find()
        return file.with_name(".env") if file else Path(".env")

    def look(self) -> tuple[object, ...]:
        """What tells one version of the files from another: name, size, time, and inode, as editors replace files."""
        try:
            return tuple(_version(file) for file in (self.find(), self.dotenv()))
        except OSError:  # the working directory is gone, to which their names are relative
            return ()


def _version(file: Path | None) -> tuple[object, ...]:
    try:
        found = file.stat() if file else None
    except OSError:
        found = None
    return (file, found.st_size, found.st_mtime_ns, found.st_ino) if found else (file,)


class Configuration(Struct, frozen=True):
    """What was read: the settings, the instances that the file declares, and where each thing is said."""

    settings: Settings
    environ: Mapping[str, str]
    """The real environment, and below it what `.env` says: what backends may inherit from."""
    sources: Sources | None = None
    file: Path | None = None
    dotenv: Path | None = None
    origins: Mapping[str, Origin] = field(default_factory=dict)
    """By dotted name, of everything that is not a default. A section has one too: where the file begins it."""
    declared: Mapping[str, object] = field(default_factory=dict)
    """Instances as the file has them, by name."""
    warnings: tuple[str, ...] = ()
    looked: tuple[object, ...] = ()
    """The version of the files that was read (`Sources.look`)."""

    def again(self) -> Configuration:
        """What the same sources say now. Raises BadConfiguration."""
        return load(self.sources) if self.sources else self

    def located(self, problem: Problem) -> Problem:
        """*problem*, its dotted name replaced or preceded by the place that said it, or what stands above it."""
        name = problem.where
        while name and name not in self.origins:
            name = name.rpartition(".")[0]
        origin = self.origins.get(name, Origin("default"))
        if origin.source == "default":
            return problem
        if origin.source == "file":
            return Problem(origin.where, str(problem))
        return Problem(f"environment variable {origin.where}" if origin.source == "environment" else origin.where, problem.what)


def load(sources: Sources) -> Configuration:
    """Read everything and check it. Raises BadConfiguration with every problem found."""
    looked = sources.look()  # first: what changes while we read is new
    file = sources.find()
    dotenv = read_dotenv(sources.dotenv())
    environ = {**dotenv.variables, **sources.environ}
    document = _read(file, environ) if file else Document(Path())
    reading = _Reading()
    reading.problems += [*dotenv.problems, *document.problems]
    reading.dotenv(dotenv)
    reading.document(document)
    reading.environment(sources.environ)
    for name, value in sources.flags.items():
        if value is not None:
            reading.put(name.split("."), value, Origin("flag", f"--{name.rpartition('.')[2].replace('_', '-')}"))
    found = Configuration(
        Settings(),
        environ,
        sources,
        file,
        dotenv.file,
        reading.origins,
        reading.declared,
        tuple(reading.warnings),
        looked,
    )
    try:
        found = replace(found, settings=parse(Settings, reading.tree, from_text=True))
    except Invalid as error:
        reading.problems += map(found.located, error.problems)
    if reading.problems:
        raise BadConfiguration(reading.problems)
    refuse_open_door(found.settings)
    return found


def _read(file: Path, environ: Mapping[str, str]) -> Document:
    from llamactl_py.config.yaml_file import read_yaml  # a daemon without a file starts without it

    return read_yaml(file, environ)


class _Reading(Struct):
    """The layers so far, the lower ones first."""

    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    declared: dict[str, object] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def put(self, steps: Sequence[str], value: object, origin: Origin) -> None:
        """*value* as the setting that *steps* lead to, over whatever a lower layer says."""
        name = ".".join(steps)
        self._forget(name)
        tree = self.tree
        *parents, last = steps
        for parent in parents:
            below = tree.setdefault(parent, {})
            if not isinstance(below, dict):
                return  # the file is wrong there, which `parse` will tell
            tree = below
        tree[last] = value
        self.origins[name] = origin

    def dotenv(self, said: DotEnv) -> None:
        def place(variable: str) -> Origin:
            return Origin(".env", f"{said.file}:{said.lines[variable]}: {variable}")

        if "LLAMACTL_CONFIG_PATH" in said.variables:
            what = "cannot be set here: which .env is read depends on it; set it in the environment, or use --config"
            self.problems.append(Problem(place("LLAMACTL_CONFIG_PATH").where, what))
        self._variables(said.variables, {variable: place(variable) for variable in said.variables})

    def environment(self, environ: Mapping[str, str]) -> None:
        self._variables(environ, {variable: Origin("environment", variable) for variable in environ})

    def _variables(self, said: Mapping[str, str], origins: Mapping[str, Origin]) -> None:
        for name, variable in variables():
            if not said.get(variable):
                continue
            try:
                self.put(name.split("."), from_text(name, said[variable]), origins[variable])
            except ValueError as error:
                self.problems.append(Problem(_called(origins[variable]), str(error)))
        for variable in sorted(said):
            if not variable.startswith("LLAMACTL_") or variable in KNOWN_VARIABLES:
                continue
            if instead := legacy.VARIABLES.get(variable):
                self.warnings.append(f"{_called(origins[variable])}: is not used: {instead}")
            else:
                self.problems.append(Problem(_called(origins[variable]), f"unknown{nearest(variable, KNOWN_VARIABLES)}"))

    def document(self, document: Document) -> None:
        """Its settings are put over what there is, one by one, so that one layer does not hide what another says beside it."""
        places = {name: Origin("file", f"{document.file}:{line}") for name, line in document.lines.items() if name}
        declared = document.tree.pop(DECLARED, None)
        if declared is not None and not isinstance(declared, dict):
            what = f"{DECLARED}: expected instances by name, got {kind(declared)}"
            self.problems.append(Problem(places[DECLARED].where, what))
        self.declared = declared if isinstance(declared, dict) else {}
        for name, instead in legacy.take_out(document.tree):
            self.warnings.append(f"{places[name]}: {name} is not used: {instead}")
        _spell_alike(document.tree, places)
        self._lay(document.tree, ())
        self.origins |= places

    def _lay(self, tree: Mapping[str, Any], above: tuple[str, ...]) -> None:
        for key, value in tree.items():
            steps = (*above, key)
            if isinstance(value, dict) and ".".join(steps) in SECTIONS and isinstance(self._at(steps), dict):
                self._lay(value, steps)
            else:
                self.put(steps, value, Origin("file"))

    def _at(self, steps: Sequence[str]) -> Any:
        """What the lower layers say there; an empty section where they say nothing."""
        found: Any = self.tree
        for step in steps:
            found = found.setdefault(step, {}) if isinstance(found, dict) else None
        return found

    def _forget(self, name: str) -> None:
        """A layer replaces a list or a map as a whole: who said its parts before does not matter any more."""
        for below in [known for known in self.origins if known.startswith(f"{name}.")]:
            del self.origins[below]


def _called(origin: Origin) -> str:
    return f"environment variable {origin.where}" if origin.source == "environment" else origin.where


def _spell_alike(tree: dict[str, Any], places: dict[str, Origin]) -> None:
    """A backend may be written as its slug or as its type; layers meet under the slug. Both in one file are told by `parse`."""
    backends = tree.get("backends")
    if not isinstance(backends, dict):
        return
    for one in fields_of(Backends):
        if one.name in backends and one.key not in backends:
            backends[one.key] = backends.pop(one.name)
            old, new = f"backends.{one.name}", f"backends.{one.key}"
            places |= {new + place.removeprefix(old): at for place, at in places.items() if f"{place}.".startswith(f"{old}.")}
